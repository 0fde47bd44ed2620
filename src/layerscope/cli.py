"""The command line. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import dataclasses
import shlex
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro
from rich.console import Console
from tyro.conf import AvoidSubcommands, Positional, arg

from layerscope.config import (
    FCN,
    MODELS,
    OPTIMIZERS,
    SGD,
    CustomModel,
    DataConfig,
    Digits,
    Images,
    ModelConfig,
    RunConfig,
    Sine,
)
from layerscope.errors import LayerscopeError, unknown

T = TypeVar("T")
Kind = Literal["recipes", "probes", "models", "data"]
TaskName = Literal["classification", "regression", "language_model"]
out = Console()


@dataclass(frozen=True)
class Machine:
    """Where data are found and runs execute.

    Attributes:
        data_root: Folder of local data sets in hub layout; LAYERSCOPE_DATA where not given.
        accelerator: Device, as Lightning Fabric names it: auto, cpu, cuda, mps.
    """

    data_root: str | None = None
    accelerator: str = "auto"


@dataclass(frozen=True)
class Quickstart:
    """Train a small network on handwritten digits, measure every layer and write a report.

    Attributes:
        out: Folder for runs and report.
        seeds: Seeds to train; with two or more, figures show intervals.
        epochs: Passes over the 1,437 training digits.
    """

    out: Path = Path("layerscope-quickstart")
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: int = 40


@dataclass(frozen=True)
class Listing:
    """List recipes, probes, models or data sets; everything without an argument.

    Attributes:
        kind: What to list.
    """

    kind: Positional[Kind | None] = None


@dataclass(frozen=True)
class Train:
    """Train and record one network: checkpoints, live probes, figures and a report.

    Choose with --model, --data and --optimizer; each choice brings its own settings, e.g.
    --model fcn --model.depth 3. A model of one's own is --model package.module:function.

    Attributes:
        out: Folder of the run; a finished run there is read back, an interrupted one resumes.
        probes: Probes to measure live, at every checkpoint.
    """

    out: Path = Path("runs/train")
    probes: tuple[str, ...] = (
        "weight_change",
        "distance_from_initialisation",
        "gradient_magnitude",
    )
    config: Annotated[AvoidSubcommands[RunConfig], arg(name="")] = field(default_factory=RunConfig)
    machine: Annotated[Machine, arg(name="")] = field(default_factory=Machine)


@dataclass(frozen=True)
class RunRecipe:
    """Reproduce a figure or table: train what is missing, measure, decide claims, report.

    Any setting of the recipe's runs can be replaced, e.g. --epochs 50 or --model.width 64.

    Attributes:
        recipe: Name of the recipe; layerscope list recipes shows them.
        scale: paper (the paper's own settings), small (minutes on two cores), smoke (seconds).
        out: Folder for runs and results.
        seeds: Seeds in place of the recipe's own.
        processes: Runs to train at once; one per core by default.
        threads: Threads of each process; a fair share of the cores by default.
    """

    recipe: Positional[str]
    scale: Literal["paper", "small", "smoke"] = "small"
    out: Path = Path("results")
    seeds: tuple[int, ...] | None = None
    processes: int | None = None
    threads: int | None = None
    config: Annotated[AvoidSubcommands[RunConfig], arg(name="")] = field(default_factory=RunConfig)
    machine: Annotated[Machine, arg(name="")] = field(default_factory=Machine)


@dataclass(frozen=True)
class Measure:
    """Measure a run from its checkpoints and print one row per layer.

    Attributes:
        probe: Name of the probe; layerscope list probes shows them.
        run: Folder of the run.
        model: package.module:function that builds the model of a run recorded elsewhere.
        task: What its batches mean.
        recompute: Measure again even if the result is there.
    """

    probe: Positional[str]
    run: Positional[Path]
    model: str | None = None
    task: TaskName | None = None
    recompute: bool = False
    data_root: str | None = None


@dataclass(frozen=True)
class DrawFigures:
    """Draw the figures of a run as PNG and PDF.

    Attributes:
        runs: Folders of one run, or of several seeds of it.
        out: Folder for the files; figures/ in the first run by default.
    """

    runs: Positional[tuple[Path, ...]]
    out: Path | None = None


@dataclass(frozen=True)
class Report:
    """Write the interactive report on a run, or on several seeds of it.

    Attributes:
        runs: Folders of the runs.
        out: The page; report.html in the first run by default.
    """

    runs: Positional[tuple[Path, ...]]
    out: Path | None = None


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


# Choices


def _take(words: list[str], option: str) -> str | None:
    """Remove ``option VALUE`` or ``option=VALUE`` from the words and return the value."""
    for i, word in enumerate(words):
        if word == option and i + 1 < len(words):
            value = words[i + 1]
            del words[i : i + 2]
            return value
        if word.startswith(f"{option}="):
            del words[i]
            return word.partition("=")[2]
    return None


def _model(name: str | None) -> ModelConfig:
    if name is None:
        return FCN()
    if ":" in name:
        return CustomModel(factory=name)
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    return MODELS[name]()


def _data(name: str | None) -> DataConfig:
    if name in (None, "digits"):
        return Digits()
    return Sine() if name == "sine" else Images(name=str(name))


def _given(words: Sequence[str], config: RunConfig) -> list[str]:
    """Dotted names of the run settings that the words set, e.g. ``model.depth``."""
    options = [word.partition("=")[0] for word in words if word.startswith("--")]
    names = {
        option.removeprefix("--no-").removeprefix("--").replace("-", "_") for option in options
    }
    return sorted(name for name in names if name in set(_paths(config)))


def _paths(config: Any, prefix: str = "") -> Iterator[str]:
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            yield from _paths(value, f"{prefix}{f.name}.")
        else:
            yield f"{prefix}{f.name}"


def _get(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = getattr(config, name)
    return config


def _set(config: Any, path: str, value: Any) -> Any:
    name, _, rest = path.partition(".")
    if not any(f.name == name for f in dataclasses.fields(config)):
        raise LayerscopeError(
            f"{type(config).__name__} has no setting {name!r}, which not every run of this recipe "
            "knows.",
            "Leave the option out.",
        )
    inner = _set(getattr(config, name), rest, value) if rest else value
    return replace(config, **{name: inner})


# Commands


def _quickstart(words: list[str]) -> None:
    options = _parse(Quickstart, words, "quickstart")
    from layerscope.probes import GradientMagnitude, Reinitialisation, measure
    from layerscope.publish import stacked, write_report
    from layerscope.training import restore, train

    config = RunConfig(
        model=FCN(depth=3, width=256), data=Digits(), optimizer=SGD(0.1), epochs=options.epochs
    )
    runs = []
    with _bar("training", options.epochs * len(options.seeds)) as advance:
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
            for probe in (GradientMagnitude(), Reinitialisation()):
                measure(probe, run, **made.given)
            runs.append(run)
            advance(before + options.epochs)
    _print_table(stacked(runs))
    title, command = "How each layer learned to read digits", _command("quickstart", words)
    _print_path("report", write_report(runs, options.out / "report.html", title, command))


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
    model, data = _model(_take(rest, "--model")), _data(_take(rest, "--data"))
    name = _take(rest, "--optimizer") or "sgd"
    if name not in OPTIMIZERS:
        raise unknown("optimizer", name, OPTIMIZERS)
    default = Train(config=RunConfig(model=model, data=data, optimizer=OPTIMIZERS[name]()))
    options = _parse(Train, rest, "train", default=default)
    from layerscope.probes import MomentProbe
    from layerscope.publish import stacked, write_report
    from layerscope.schedule import parse
    from layerscope.training import train

    probes = [_probe(name)() for name in options.probes]
    for probe in probes:
        if not isinstance(probe, MomentProbe):
            raise LayerscopeError(
                f"{type(probe).__name__} needs the finished run.",
                "Leave it out of --probes; it is measured when the run is complete.",
            )
    with _bar("training") as advance:
        run = train(
            options.config,
            options.out,
            probes=probes,
            measure=parse(options.config.checkpoints),
            data_root=options.machine.data_root,
            accelerator=options.machine.accelerator,
            advance=advance,
        )
    _print_table(stacked([run]))
    notes = run.manifest["notes"]
    for key in ("test_error", "test_loss"):
        if key in notes:
            out.print(f"{key.replace('_', ' ')}: {notes[key]:.4g}")
    _print_path("run", run.path)
    report = write_report(run, run.path / "report.html", command=_command("train", words))
    _print_path("report", report)


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
    for path in _given(words, default):
        if path == "seed":
            raise LayerscopeError("a recipe has several seeds.", "Use --seeds 0 1 2.")
        value = _get(options.config, path)
        variants = {name: _set(config, path, value) for name, config in study.variants.items()}
        study = replace(study, variants=variants)
    with _bar(f"{len(study.runs())} runs") as advance:
        result = reproduce(
            study,
            options.out,
            processes=options.processes,
            threads=options.threads,
            data_root=options.machine.data_root,
            accelerator=options.machine.accelerator,
            command=_command("run", words),
            advance=advance,
        )
    _print_verdicts(result.verdicts)
    for path in result.files:
        _print_path(path.name if path.is_file() else "figures", path)


def _parse_scale(words: Sequence[str]) -> Any:
    rest = list(words)
    scale = _take(rest, "--scale") or "small"
    return scale if scale in ("paper", "small", "smoke") else "small"


def _measure(words: list[str]) -> None:
    rest = list(words)
    names = [word for word in words if not word.startswith("-")]
    wants_help = not names or (len(names) < 2 and "--help" in words)
    if wants_help:
        _parse(Measure, rest, "measure")
        return
    probe_type = _probe(names[0])
    combined = dataclasses.make_dataclass(
        "Measure",
        [("settings", Annotated[probe_type, arg(name="")], field(default_factory=probe_type))],  # pyright: ignore
        bases=(Measure,),
        frozen=True,
    )
    combined.__doc__ = Measure.__doc__
    options: Any = _parse(combined, rest, "measure")
    from layerscope.probes import measure
    from layerscope.store import Run

    run = Run.open(options.run)
    with _bar(options.probe) as advance:
        dataset = measure(
            options.settings,
            run,
            **_context(run, options),
            recompute=options.recompute,
            advance=advance,
        )
    _print_measurement(dataset)
    out.print(f"kept in {run.path / 'results'}")


def _context(run: Any, options: Any) -> dict[str, Any]:
    """Model and task for probes that need them."""
    from layerscope.models import custom
    from layerscope.task import Task
    from layerscope.training import restore

    if options.model is not None:
        task = getattr(Task, options.task)() if options.task else None
        return {"model": custom(CustomModel(factory=options.model)), "task": task}
    if run.manifest["config"] is None or not {"model", "data"} & options.settings.needs:
        return {}
    made = restore(run, options.data_root)
    return made.given


def _probe(name: str) -> Any:
    from layerscope.probes import PROBES

    if name not in PROBES:
        raise unknown("probe", name, PROBES)
    return PROBES[name]


def _figure(words: list[str]) -> None:
    options = _parse(DrawFigures, words, "figure")
    from layerscope.publish import run_page, save_figures

    runs = _open(options.runs)
    figures = run_page(runs).figures()
    for path in save_figures(figures, options.out or runs[0].path / "figures"):
        out.print(str(path), soft_wrap=True)


def _report(words: list[str]) -> None:
    options = _parse(Report, words, "report")
    from layerscope.publish import write_report

    runs = _open(options.runs)
    path = options.out or runs[0].path / "report.html"
    _print_path("report", write_report(runs, path, command=_command("report", words)))


def _open(paths: Sequence[Path]) -> list[Any]:
    from layerscope.store import Run

    if not paths:
        raise LayerscopeError("no run was given.", "Name the folder of at least one run.")
    return [Run.open(path) for path in paths]


# Output


@contextmanager
def _bar(label: str, total: int | None = None) -> Iterator[Callable[..., None]]:
    """A progress bar with time left; ``advance(done, total)`` or ``advance(done)`` moves it."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=out, transient=True) as progress:
        task = progress.add_task(label, total=total)

        def advance(done: int, of: int | None = None) -> None:
            progress.update(task, completed=done, total=of if of is not None else total)

        yield advance


def _command(name: str, words: Sequence[str]) -> str:
    return shlex.join(["layerscope", name, *words])


def _print_path(label: str, path: Path) -> None:
    out.print(f"[bold]{label}[/]: {path}", soft_wrap=True)


def _print_table(measurements: Any) -> None:
    from layerscope.publish import layer_table

    _print_cells(layer_table(measurements))


def _print_cells(table: Any) -> None:
    from rich.table import Table

    shown = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    shown.add_column(table.rows)
    for column in table.resolved():
        unit = f" ({column.unit})" if column.unit not in (None, "", "1") else ""
        header = "\n".join(textwrap.wrap(column.header + unit, 12))
        shown.add_column(header, justify="right", no_wrap=True)
    for name, cells in zip(table.row_names(), table.cells(), strict=True):
        texts = [f"{c.text} [dim]{c.margin}[/]" if c.margin else c.text for c in cells]
        shown.add_row(name, *texts)
    out.print(shown)


def _print_measurement(dataset: Any) -> None:
    """Every variable over layers, at the last step where it has steps.

    Of variables with one more dimension (intervals, checkpoints) the first follows in a table of
    its own, a column for each value.
    """
    from layerscope.figures.table import Column, Table

    last = dataset.isel(step=-1, drop=True) if "step" in dataset.dims else dataset
    flat = {name: values for name, values in last.items() if values.dims == ("layer",)}
    if flat:
        columns = tuple(Column(name) for name in flat)
        _print_cells(Table(last[list(flat)], key="measurement", title="", columns=columns))
    for values in last.data_vars.values():
        others = [dim for dim in values.dims if dim != "layer"]
        if "layer" in values.dims and len(others) == 1:
            wide = values.reset_coords(drop=True).to_dataset(others[0])
            columns = tuple(Column(name, str(name), "") for name in wide)
            units = values.attrs["units"]
            out.print(f"\n[bold]{values.attrs['long_name']} ({units}), by {others[0]}[/]")
            _print_cells(Table(wide, key="measurement", title="", columns=columns))
            break


def _print_verdicts(verdicts: Sequence[tuple[Any, Any]]) -> None:
    from rich.table import Table

    colours = {"holds": "green", "fails": "red", "inconclusive": "yellow"}
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for header in ("claim", "verdict", "statistic", "value", "95% interval", "seeds"):
        table.add_column(header)
    for claim, verdict in verdicts:
        interval = "" if verdict.interval is None else "{:.3g} .. {:.3g}".format(*verdict.interval)
        table.add_row(
            claim.id,
            f"[{colours[verdict.outcome]}]{verdict.outcome}[/]",
            verdict.statistic,
            f"{verdict.value:.3g}",
            interval,
            str(verdict.n_seeds),
        )
    out.print(table)


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


if __name__ == "__main__":
    sys.exit(main())
