"""The optimisers and their settings, as torch calls them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from layerscope.config.base import Config


class OptimizerConfig(Config):
    """What describes an optimiser; every one has these two settings."""

    learning_rate: float
    weight_decay: float


@dataclass(frozen=True)
class SGD(OptimizerConfig):
    """Stochastic gradient descent with optional momentum."""

    learning_rate: float = 0.1
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Adam(OptimizerConfig):
    """Adam."""

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.0


@dataclass(frozen=True)
class AdamW(OptimizerConfig):
    """Adam with weight decay apart from the gradient."""

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.01


@dataclass(frozen=True)
class Adagrad(OptimizerConfig):
    """Adagrad."""

    learning_rate: float = 0.01
    weight_decay: float = 0.0


@dataclass(frozen=True)
class RMSprop(OptimizerConfig):
    """RMSprop."""

    learning_rate: float = 0.01
    smoothing: float = 0.99
    momentum: float = 0.0
    weight_decay: float = 0.0


OPTIMIZERS: Mapping[str, type[OptimizerConfig]] = {
    "sgd": SGD,
    "adam": Adam,
    "adamw": AdamW,
    "adagrad": Adagrad,
    "rmsprop": RMSprop,
}
