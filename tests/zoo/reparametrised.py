"""Modules whose weight is computed from other tensors at every call."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from tests.cases import CLASSIFY, classes
from tests.zoo.specimen import Specimen, anew
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune


def _network(first: Callable[[nn.Linear], nn.Module]) -> nn.Module:
    return nn.Sequential(first(nn.Linear(4, 6)), nn.Tanh(), nn.Linear(6, 3))


def _old_weight_norm(module: nn.Linear) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(module)


class Scaled(nn.Module):
    """A parametrisation with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, weight):
        return self.scale * weight


def _scaled(module: nn.Linear) -> nn.Module:
    parametrize.register_parametrization(module, "weight", Scaled())
    return module


def _specimen(name: str, first: Callable[[nn.Linear], nn.Module], factory: bool) -> Specimen:
    def build() -> nn.Module:
        return _network(first)

    return Specimen(name, build, classes(4), CLASSIFY, factory=factory, twin=anew(build))


REPARAMETRISED = (
    _specimen("old weight_norm", _old_weight_norm, False),
    _specimen("old spectral_norm", nn.utils.spectral_norm, False),
    _specimen("prune", lambda m: prune.random_unstructured(m, "weight", amount=0.5), True),
    _specimen("weight_norm", parametrizations.weight_norm, False),
    _specimen("spectral_norm", parametrizations.spectral_norm, False),
    _specimen("orthogonal", parametrizations.orthogonal, True),
    _specimen("own parametrisation", _scaled, True),
)
