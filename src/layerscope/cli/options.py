"""What every command accepts; field documentation is the help text."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import AvoidSubcommands, Positional, arg

from layerscope.config import FCN, DataConfig, Digits, ModelConfig, RunConfig

Kind = Literal["recipes", "probes", "models", "data", "sites"]
SinkName = Literal["tensorboard", "wandb", "mlflow", "trackio"]
TaskName = Literal["classification", "regression", "language_model"]


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
    """List recipes, probes, models or data sets; all of these without an argument.

    The sites of a model, where activation functions act, are listed for one model:
    layerscope list sites --model NAME; its options are in layerscope list sites --help.

    Attributes:
        kind: What to list.
    """

    kind: Positional[Kind | None] = None


@dataclass(frozen=True)
class Sites:
    """List the sites of a model: where activation functions act, in order of execution.

    Positions and names are what --linear of train takes. The model is built, not trained; choose it
    with --model and --data, each with its own settings, e.g. --model resnet --model.depth 18. A
    model of one's own is --model package.module:function.

    Attributes:
        linear: Activation functions to leave out, as for train: all, first:9, last:20, positions
            from 0 or patterns of names. Positions stay what they are.
        removed: Patterns of residual blocks to leave out, as for train, before sites are counted.
        data_root: Folder of local data sets in hub layout; LAYERSCOPE_DATA where not given. Read
            only for data whose shape is not known.
    """

    model: ModelConfig = field(default_factory=FCN)
    data: DataConfig = field(default_factory=Digits)
    linear: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    data_root: str | None = None


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
        sinks: Where verdicts and figures go as well: tensorboard (in the folder tensorboard below
            out), wandb, mlflow, trackio (project or experiment layerscope).
    """

    recipe: Positional[str]
    scale: Literal["paper", "small", "smoke"] = "small"
    out: Path = Path("results")
    seeds: tuple[int, ...] | None = None
    processes: int | None = None
    threads: int | None = None
    sinks: tuple[SinkName, ...] = ()
    config: Annotated[AvoidSubcommands[RunConfig], arg(name="")] = field(default_factory=RunConfig)
    machine: Annotated[Machine, arg(name="")] = field(default_factory=Machine)


@dataclass(frozen=True)
class Import:
    """Make a run of checkpoints that exist already, which stay where they are.

    Formats: safetensors, torch.save, shards with an index, folders of Transformers, its Trainer and
    Accelerate, Lightning checkpoints, torch.distributed.checkpoint. Nothing in them is executed.

    Attributes:
        checkpoints: A pattern in quotes such as 'out/checkpoint-*', a folder of checkpoints, paths,
            or revisions on the Hugging Face hub: 'hub:owner/name@step*'. Names say the steps.
        out: Folder of the run.
        model: package.module:function that builds the model; without one layers come from names.
        arguments: Arguments of that function as a JSON object.
        key: Where in each file the weights are, e.g. state_dict or app.model; by default the
            outermost dictionary of nothing but tensors.
        copy: Copy the weights into the run.
        steps_per_epoch: Optimiser steps per epoch.
    """

    checkpoints: Positional[tuple[str, ...]]
    out: Path = Path("runs/imported")
    model: str | None = None
    arguments: str = "{}"
    key: str | None = None
    copy: bool = False
    steps_per_epoch: int | None = None


@dataclass(frozen=True)
class Measure:
    """Measure a run from its checkpoints and print one row per layer.

    Attributes:
        probe: Name of the probe; layerscope list probes shows them.
        run: Folder of the run.
        model: package.module:function that builds the model of a run recorded elsewhere; with
            --data NAME, e.g. --data cifar10 --data.test-limit 1000, it is tested on that set.
        arguments: Arguments of that function as a JSON object.
        task: What its batches mean, where no data set says so.
        recompute: Measure again even if the result is there.
    """

    probe: Positional[str]
    run: Positional[Path]
    model: str | None = None
    arguments: str = "{}"
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


@dataclass(frozen=True)
class Watch:
    """Watch a run that is still going: in the terminal, and in the browser with --open.

    Shows what the run has written: measured values of every layer, with their course, and how far
    the training is. Nothing is measured, so that the training is not slowed down. Ends with the
    run, or with Ctrl-C.

    Attributes:
        run: Folder of the run.
        open: Serve the report of the run on this machine and open it in the browser; it keeps
            itself up to date.
        port: Port of that page; any free one where 0.
        refresh: Seconds between two looks.
    """

    run: Positional[Path]
    open: bool = False
    port: int = 0
    refresh: float = 2.0
