"""Other people's tools: the only place that imports optional libraries, each when it is used.

The names below are loaded when they are first used, as those of `layerscope` are.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layerscope.integrations.mlflow import MLflow
    from layerscope.integrations.tensorboard import TensorBoard
    from layerscope.integrations.trackio import Trackio
    from layerscope.integrations.wandb import WandB

_HOMES = {
    "MLflow": "mlflow",
    "TensorBoard": "tensorboard",
    "Trackio": "trackio",
    "WandB": "wandb",
}

__all__ = ["MLflow", "TensorBoard", "Trackio", "WandB"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'layerscope.integrations' has no attribute {name!r}")
    return getattr(importlib.import_module(f"layerscope.integrations.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
