"""layerscope: see how every layer of a neural network learns.

The names below are loaded when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layerscope.config import RunConfig
    from layerscope.errors import LayerscopeError
    from layerscope.networks.layers import LayerMap
    from layerscope.networks.task import Task
    from layerscope.probes import (
        Convergence,
        DistanceFromInitialisation,
        GradientMagnitude,
        PathAndProgress,
        WeightChange,
        measure,
        measure_all,
    )
    from layerscope.probes.parts import Keep
    from layerscope.recording.recorder import Recorder
    from layerscope.report.publish import write_report
    from layerscope.runs.store import Run
    from layerscope.schedule import epochs, every, log_spaced, never
    from layerscope.studies.claims import Claim, Verdict
    from layerscope.studies.study import Study
    from layerscope.training import train

_HOMES = {
    "Claim": "studies.claims",
    "Convergence": "probes",
    "DistanceFromInitialisation": "probes",
    "GradientMagnitude": "probes",
    "Keep": "probes.parts",
    "LayerMap": "networks.layers",
    "LayerscopeError": "errors",
    "PathAndProgress": "probes",
    "Recorder": "recording.recorder",
    "Run": "runs.store",
    "RunConfig": "config",
    "Study": "studies.study",
    "Task": "networks.task",
    "Verdict": "studies.claims",
    "WeightChange": "probes",
    "epochs": "schedule",
    "every": "schedule",
    "log_spaced": "schedule",
    "measure": "probes",
    "measure_all": "probes",
    "never": "schedule",
    "train": "training",
    "write_report": "report.publish",
}

__all__ = [
    "Claim",
    "Convergence",
    "DistanceFromInitialisation",
    "GradientMagnitude",
    "Keep",
    "LayerMap",
    "LayerscopeError",
    "PathAndProgress",
    "Recorder",
    "Run",
    "RunConfig",
    "Study",
    "Task",
    "Verdict",
    "WeightChange",
    "epochs",
    "every",
    "log_spaced",
    "measure",
    "measure_all",
    "never",
    "train",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'layerscope' has no attribute {name!r}")
    return getattr(importlib.import_module(f"layerscope.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
