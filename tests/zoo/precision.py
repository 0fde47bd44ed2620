"""Types other than float32."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tests.cases import CLASSIFY, classes, cnn
from tests.zoo.specimen import Specimen
from torch import nn


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def _cast(draw: Callable, dtype: torch.dtype) -> Callable:
    def batch(seed: int):
        inputs, labels = draw(seed)
        return inputs.to(dtype), labels

    return batch


class Complex(nn.Module):
    """A complex matrix between real ones."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 6)
        self.rotate = nn.Linear(6, 6, dtype=torch.complex64)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        hidden = torch.fft.fft(torch.tanh(self.embed(x)))
        return self.head(self.rotate(hidden).abs())


class Quantised(nn.Module):
    """Frozen weights of eight bits with a scale, and a buffer of eight bits."""

    def __init__(self) -> None:
        super().__init__()
        codes = torch.randint(-100, 100, (6, 4), dtype=torch.int8)
        self.codes = nn.Parameter(codes, requires_grad=False)
        self.scale = nn.Parameter(torch.tensor(0.01))
        self.register_buffer("zero", torch.ones(6, dtype=torch.int8))
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        weight = self.scale * (self.codes - self.zero[:, None])
        return self.head(torch.tanh(x @ weight.T))


PRECISION = (
    Specimen(
        "float64",
        lambda: cnn().double(),
        _cast(classes(1, 8, 8), torch.float64),
        CLASSIFY,
        ruled=True,
    ),
    Specimen(
        "bfloat16",
        lambda: _mlp().bfloat16(),
        _cast(classes(4), torch.bfloat16),
        CLASSIFY,
        tolerance=2e-2,
    ),
    Specimen(
        "complex",
        Complex,
        classes(4),
        CLASSIFY,
        refused={"weight_scaling": "Complex does not run in float64"},
    ),
    Specimen("int8", Quantised, classes(4), CLASSIFY),
)
