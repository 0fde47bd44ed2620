"""``layerscope measure``."""

from __future__ import annotations

import dataclasses
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from layerscope.cli.choices import data_config, find_probe, parse, take, take_known, take_name
from layerscope.cli.options import Measure
from layerscope.cli.output import bar, out, print_measurement
from layerscope.config import CustomModel
from layerscope.errors import LayerscopeError


def measure(words: list[str]) -> None:
    """Measure a run from its checkpoints and print one row per layer."""
    from layerscope.probes import PROBES

    rest = list(words)
    name = take_name(rest, PROBES.__contains__, Measure)
    if name is None:  # says what is missing, or helps
        parse(Measure, rest, "measure")
        return
    probe_type = find_probe(name)
    folder = take_known(rest, lambda word: (Path(word) / "run.json").exists(), Measure)
    rest = [name, *([] if folder is None else [folder]), *rest]
    data = data_config(name) if (name := take(rest, "--data")) else None
    combined = dataclasses.make_dataclass(
        "Measure",
        [
            ("settings", Annotated[probe_type, arg(name="")], field(default_factory=probe_type)),  # pyright: ignore
            ("data", type(data), field(default=data)),
        ],
        bases=(Measure,),
        frozen=True,
    )
    combined.__doc__ = Measure.__doc__
    options: Any = parse(combined, rest, "measure")
    from layerscope.probes import driver
    from layerscope.runs.store import Run

    run = Run.open(options.run)
    with bar(options.probe) as advance:
        dataset = driver.measure(
            options.settings,
            run,
            **_context(run, options),
            recompute=options.recompute,
            advance=advance,
        )
    print_measurement(dataset)
    out.print(f"kept in {run.path / 'results'}")


def _context(run: Any, options: Any) -> dict[str, Any]:
    """Model, task and data for probes that need them."""
    from layerscope.training.problem import restore

    if options.model is not None:
        return _foreign(run, options)
    given = {"data": options.data, "task": options.task}
    if alone := [name for name, value in given.items() if value is not None]:
        raise LayerscopeError(
            f"--{alone[0]} is given without --model.",
            "Name the model's factory too: --model package.module:function.",
        )
    if run.config is None or not {"model", "data"} & options.settings.needed:
        return {}
    made = restore(run, options.data_root)
    return made.given


def _foreign(run: Any, options: Any) -> dict[str, Any]:
    """Model, task and data of a run that was recorded around another training loop."""
    from layerscope.data.dataset import load
    from layerscope.models.factory import custom
    from layerscope.networks.task import Task
    from layerscope.training.problem import foreign

    config = CustomModel(factory=options.model, arguments=options.arguments)
    if options.data is None:
        task = getattr(Task, options.task)() if options.task else None
        return {"model": custom(config), "task": task}
    if options.task is not None:
        raise LayerscopeError(
            "--task is given with --data.", "The data set says what a batch means."
        )
    return foreign(run, config, load(options.data, options.data_root))
