"""``layerscope train``."""

from __future__ import annotations

import inspect
from dataclasses import replace

from layerscope.cli.choices import data_config, find_probe, model_config, parse, take
from layerscope.cli.options import Train
from layerscope.cli.output import bar, command_line, out, print_path, print_table
from layerscope.config import MODELS, OPTIMIZERS, RunConfig, Start
from layerscope.errors import LayerscopeError, unknown


def train(words: list[str]) -> None:
    """Train and record one network, and write its report."""
    rest = list(words)
    model, data = model_config(take(rest, "--model")), data_config(take(rest, "--data"))
    name = take(rest, "--optimizer") or "sgd"
    if name not in OPTIMIZERS:
        raise unknown("optimizer", name, OPTIMIZERS)
    config = RunConfig(model=model, data=data, optimizer=OPTIMIZERS[name](), start=Start())
    about = inspect.cleandoc(Train.__doc__ or "").partition("\n\nAttributes:")[0]
    about += f"\n\nModels: {', '.join(MODELS)}. Optimisers: {', '.join(OPTIMIZERS)}."
    options = parse(Train, rest, "train", default=Train(config=config), description=about)
    config = options.config
    if config.start == Start():  # none of its settings was given
        config = replace(config, start=None)
    from layerscope import schedule
    from layerscope.probes import MomentProbe
    from layerscope.report.measurements import stacked
    from layerscope.report.publish import write_report
    from layerscope.training import loop

    probes = [find_probe(name)() for name in options.probes]
    for probe in probes:
        if not isinstance(probe, MomentProbe):
            raise LayerscopeError(
                f"{type(probe).__name__} needs the finished run.",
                "Leave it out of --probes; it is measured when the run is complete.",
            )
    with bar("training") as advance:
        run = loop.train(
            config,
            options.out,
            probes=probes,
            measure=schedule.parse(config.checkpoints),
            data_root=options.machine.data_root,
            accelerator=options.machine.accelerator,
            advance=advance,
        )
    if run.status == "diverged":
        raise LayerscopeError(f"{run.path} {run.missing}.", "Lower the learning rate.")
    print_table(stacked([run]))
    notes = run.manifest["notes"]
    for key in ("test_error", "test_loss"):
        if key in notes:
            out.print(f"{key.replace('_', ' ')}: {notes[key]:.4g}")
    print_path("run", run.path)
    report = write_report(run, run.path / "report.html", command=command_line("train", words))
    print_path("report", report)
