"""The command line. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
from rich.console import Console
from tyro.conf import arg

from layerscope.cli.choices import (
    data_config,
    get_path,
    given_paths,
    model_config,
    set_path,
    take,
)
from layerscope.cli.options import (
    DrawFigures,
    Listing,
    Measure,
    Quickstart,
    Report,
    RunRecipe,
    Train,
)
from layerscope.cli.output import (
    bar,
    command_line,
    out,
    print_measurement,
    print_path,
    print_table,
    print_verdicts,
)
from layerscope.config import (
    FCN,
    MODELS,
    OPTIMIZERS,
    SGD,
    CustomModel,
    Digits,
    RunConfig,
    Sine,
    Start,
)
from layerscope.errors import LayerscopeError, unknown

__all__ = ["COMMANDS", "main"]

T = TypeVar("T")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Words after the program's name; those of the process by default.

    Returns:
        The exit code: 0, or 2 after an error that the user can mend.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        _overview()
        return 0
    try:
        if words[0] not in COMMANDS:
            raise unknown("command", words[0], COMMANDS)
        COMMANDS[words[0]][1](words[1:])
    except LayerscopeError as error:
        message = Console(stderr=True, soft_wrap=True, highlight=False)
        message.print("[bold red]error:[/]", end=" ")
        message.print(str(error), markup=False)
        return 2
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted; what was recorded is kept.")
        return 130
    return 0


def _overview() -> None:
    from rich.table import Table

    out.print("[bold]layerscope[/]: see how every layer of a neural network learns\n")
    table = Table(box=None, show_header=False, padding=(0, 3, 0, 2))
    for name, (summary, _) in COMMANDS.items():
        table.add_row(f"[bold]{name}[/]", summary)
    out.print(table)
    out.print("\nlayerscope COMMAND --help shows a command's options.")


def _parse(kind: Callable[..., T], words: Sequence[str], command: str, **defaults: Any) -> T:
    return tyro.cli(
        kind,
        args=list(words),
        prog=f"layerscope {command}",
        **defaults,
    )


def _quickstart(words: list[str]) -> None:
    options = _parse(Quickstart, words, "quickstart")
    from layerscope.probes import (
        GeneralisationBound,
        GradientMagnitude,
        Reinitialisation,
        measure_all,
    )
    from layerscope.report.publish import stacked, write_report
    from layerscope.training.loop import train
    from layerscope.training.problem import restore

    config = RunConfig(
        model=FCN(depth=3, width=256), data=Digits(), optimizer=SGD(0.1), epochs=options.epochs
    )
    runs = []
    with bar("training", options.epochs * len(options.seeds)) as advance:
        for index, seed in enumerate(options.seeds):
            chosen = replace(config, seed=seed)
            before = index * options.epochs
            run = train(
                chosen,
                options.out / "runs" / chosen.hash,
                accelerator="cpu",
                advance=lambda done, total, b=before: advance(b + options.epochs * done // total),
            )
            made = restore(run)
            probes = (GradientMagnitude(), Reinitialisation(), GeneralisationBound())
            measure_all(probes, run, **made.given)
            runs.append(run)
            advance(before + options.epochs)
    print_table(stacked(runs))
    title, command = "How each layer learned to read digits", command_line("quickstart", words)
    print_path("report", write_report(runs, options.out / "report.html", title, command))


def _list(words: list[str]) -> None:
    from rich.table import Table

    kind = _parse(Listing, words, "list").kind
    for name, rows in _LISTS.items():
        if kind in (None, name):
            table = Table(title=name, title_justify="left", box=None, show_header=False)
            for first, second in rows():
                table.add_row(f"[bold]{first}[/]", second)
            out.print(table)


def _train(words: list[str]) -> None:
    rest = list(words)
    model, data = model_config(take(rest, "--model")), data_config(take(rest, "--data"))
    name = take(rest, "--optimizer") or "sgd"
    if name not in OPTIMIZERS:
        raise unknown("optimizer", name, OPTIMIZERS)
    config = RunConfig(model=model, data=data, optimizer=OPTIMIZERS[name](), start=Start())
    about = inspect.cleandoc(Train.__doc__ or "").partition("\n\nAttributes:")[0]
    about += f"\n\nModels: {', '.join(MODELS)}. Optimisers: {', '.join(OPTIMIZERS)}."
    options = _parse(Train, rest, "train", default=Train(config=config), description=about)
    config = options.config
    if config.start == Start():  # none of its settings was given
        config = replace(config, start=None)
    from layerscope.probes import MomentProbe
    from layerscope.report.publish import stacked, write_report
    from layerscope.schedule import parse
    from layerscope.training.loop import train

    probes = [_probe(name)() for name in options.probes]
    for probe in probes:
        if not isinstance(probe, MomentProbe):
            raise LayerscopeError(
                f"{type(probe).__name__} needs the finished run.",
                "Leave it out of --probes; it is measured when the run is complete.",
            )
    with bar("training") as advance:
        run = train(
            config,
            options.out,
            probes=probes,
            measure=parse(config.checkpoints),
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


def _run(words: list[str]) -> None:
    from layerscope.recipes import find

    first = next((word for word in words if not word.startswith("-")), None)
    wants_help = first is None or "-h" in words or "--help" in words
    default = RunConfig()
    if not wants_help:
        probing = _parse_scale(words)
        default = next(iter(find(str(first))(probing).variants.values()))
    start = RunRecipe(recipe=tyro.MISSING, config=default)
    options = _parse(RunRecipe, words, "run", default=start)
    from layerscope.reproduce import reproduce

    study = find(options.recipe)(options.scale)
    if options.seeds:
        study = replace(study, seeds=options.seeds)
    for path in given_paths(words, default):
        if path == "seed":
            raise LayerscopeError("a recipe has several seeds.", "Use --seeds 0 1 2.")
        value = get_path(options.config, path)
        variants = {name: set_path(config, path, value) for name, config in study.variants.items()}
        study = replace(study, variants=variants, changes=(*study.changes, f"{path}={value}"))
    with bar(f"{len(study.runs())} runs") as advance:
        result = reproduce(
            study,
            options.out,
            processes=options.processes,
            threads=options.threads,
            data_root=options.machine.data_root,
            accelerator=options.machine.accelerator,
            command=command_line("run", words),
            advance=advance,
        )
    print_verdicts(result.verdicts)
    for path in result.files:
        print_path(path.name if path.is_file() else "figures", path)


def _parse_scale(words: Sequence[str]) -> Any:
    rest = list(words)
    scale = take(rest, "--scale") or "small"
    return scale if scale in ("paper", "small", "smoke") else "small"


def _measure(words: list[str]) -> None:
    from layerscope.probes import PROBES

    rest = list(words)
    names = [word for word in words if not word.startswith("-")]
    wants_help = not names or (len(names) < 2 and "--help" in words)
    if wants_help:
        _parse(Measure, rest, "measure")
        return
    probe_type = _probe(next((name for name in names if name in PROBES), names[0]))
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
    options: Any = _parse(combined, rest, "measure")
    from layerscope.probes import measure
    from layerscope.runs.store import Run

    run = Run.open(options.run)
    with bar(options.probe) as advance:
        dataset = measure(
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
    if run.config is None or not {"model", "data"} & options.settings.needs:
        return {}
    made = restore(run, options.data_root)
    return made.given


def _foreign(run: Any, options: Any) -> dict[str, Any]:
    """Model, task and data of a run that was recorded around another training loop."""
    from layerscope.data.dataset import load
    from layerscope.models import custom
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


def _probe(name: str) -> Any:
    from layerscope.probes import PROBES

    if name not in PROBES:
        raise unknown("probe", name, PROBES)
    return PROBES[name]


def _figure(words: list[str]) -> None:
    options = _parse(DrawFigures, words, "figure")
    from layerscope.report.publish import run_page, save_figures

    runs = _open(options.runs)
    figures = run_page(runs).figures()
    for path in save_figures(figures, options.out or runs[0].path / "figures"):
        out.print(str(path), soft_wrap=True)


def _report(words: list[str]) -> None:
    options = _parse(Report, words, "report")
    from layerscope.report.publish import write_report

    runs = _open(options.runs)
    path = options.out or runs[0].path / "report.html"
    print_path("report", write_report(runs, path, command=command_line("report", words)))


def _open(paths: Sequence[Path]) -> list[Any]:
    from layerscope.runs.store import Run

    if not paths:
        raise LayerscopeError("no run was given.", "Name the folder of at least one run.")
    return [Run.open(path) for path in paths]


def _recipes() -> Iterator[tuple[str, str]]:
    from layerscope.recipes import headline, recipes

    return ((name, headline(recipe)) for name, recipe in recipes().items())


def _probes() -> Iterator[tuple[str, str]]:
    from layerscope.probes import PROBES

    return ((name, probe.summary) for name, probe in PROBES.items())


def _models() -> Iterator[tuple[str, str]]:
    return ((name, (cls.__doc__ or "").partition("\n")[0]) for name, cls in MODELS.items())


def _datasets() -> Iterator[tuple[str, str]]:
    from layerscope.data import IMAGE_SETS

    yield "digits", (Digits.__doc__ or "").partition("\n")[0]
    yield "sine", (Sine.__doc__ or "").partition("\n")[0]
    for name, row in IMAGE_SETS.items():
        yield name, f"{row.classes} classes, {row.hub} on the Hugging Face hub"


_LISTS = {"recipes": _recipes, "probes": _probes, "models": _models, "data": _datasets}
COMMANDS: dict[str, tuple[str, Callable[[list[str]], None]]] = {
    "quickstart": ("train on digits, measure every layer, write a report: start here", _quickstart),
    "list": ("show recipes, probes, models and data sets", _list),
    "train": ("train and record one network", _train),
    "run": ("reproduce a figure or table of a paper and decide its claims", _run),
    "measure": ("measure a run from its checkpoints", _measure),
    "figure": ("draw the figures of a run as PNG and PDF", _figure),
    "report": ("write the interactive report on one or more runs", _report),
}
