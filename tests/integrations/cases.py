"""Every sink as data: how to make it, how to read its files, and how exact they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.integrations import readers
from tests.integrations.readers import Found

from layerscope.integrations import MLflow, TensorBoard, Trackio, WandB
from layerscope.recording.sinks import Sink

WARNINGS = (
    "ignore:.*implicitly cleaning up:ResourceWarning",
    "ignore:unclosed database:ResourceWarning",
)


@dataclass(frozen=True)
class Case:
    """A sink that writes below a folder."""

    name: str
    make: Callable[[Path], Sink]
    make_user: Callable[[Path], tuple[Sink, Callable[[str, float], None], Callable[[], None]]]
    """One in a run of the user's own, with how the user logs to it and how it is closed."""
    read: Callable[[Path], Found]
    module: str
    """What breaks where the library is not installed."""
    package: str
    tolerance: float = 0.0
    """Relative; that of single precision where numbers are kept so."""
    ended: str = ""
    """What the library says of a complete run."""


def _user_tensorboard(folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / "tb"))
    return TensorBoard(writer=writer), writer.add_scalar, writer.close


def _user_wandb(folder: Path) -> Any:
    import wandb

    run = wandb.init(project="tests", dir=folder, mode="offline", reinit="create_new")
    return WandB(run=run), lambda name, value: run.log({name: value}), run.finish


def _user_mlflow(folder: Path) -> Any:
    import mlflow

    uri = str(folder / "mlflow")
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("tests")
    run = mlflow.start_run()
    return MLflow(run=run, tracking_uri=uri), mlflow.log_metric, mlflow.end_run


def _user_trackio(folder: Path) -> Any:
    import trackio

    del folder
    run = trackio.init("tests", auto_log_cpu=False, auto_log_gpu=False)
    return Trackio(run=run), lambda name, value: run.log({name: value}), trackio.finish


SINKS = [
    Case(
        "tensorboard",
        lambda folder: TensorBoard(folder / "tb"),
        _user_tensorboard,
        readers.read_tensorboard,
        "torch.utils.tensorboard",
        "tensorboard",
        tolerance=1e-6,
    ),
    Case(
        "wandb",
        lambda folder: WandB("tests", dir=folder, mode="offline"),
        _user_wandb,
        readers.read_wandb,
        "wandb",
        "wandb",
        ended="0",
    ),
    Case(
        "mlflow",
        lambda folder: MLflow("tests", tracking_uri=str(folder / "mlflow")),
        _user_mlflow,
        readers.read_mlflow,
        "mlflow",
        "mlflow",
        ended="FINISHED",
    ),
    Case(
        "trackio",
        lambda folder: Trackio("tests", auto_log_cpu=False, auto_log_gpu=False),
        _user_trackio,
        readers.read_trackio,
        "trackio",
        "trackio",
    ),
]
each_sink = pytest.mark.parametrize("case", SINKS, ids=lambda case: case.name)
SLOW = {"wandb"}
"""Those that start a process of their own."""
each_sink_in_time = pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.name, marks=[pytest.mark.slow] if case.name in SLOW else [])
        for case in SINKS
    ],
)
