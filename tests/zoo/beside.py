"""Models that keep something with a history beside parameters and buffers."""

from __future__ import annotations

import torch
from tests.cases import CLASSIFY, classes
from tests.zoo.specimen import Specimen, anew
from torch import nn
from torch.nn.utils import parametrize


class History(nn.Module):
    """A running mean in a plain attribute, together with the graph of the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 6)
        self.head = nn.Linear(6, 3)
        self.mean = torch.zeros(6)

    def forward(self, x):
        hidden = self.embed(x)
        self.mean = 0.9 * self.mean.detach() + 0.1 * hidden.mean(0)
        return self.head(torch.tanh(hidden - self.mean))


class Remembering(nn.Module):
    """Keeps its last activations in a list, by a hook."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 6)
        self.head = nn.Linear(6, 3)
        self.seen: list[torch.Tensor] = []
        self.embed.register_forward_hook(self.remember)

    def remember(self, _, __, output):
        self.seen.append(output.detach())

    def forward(self, x):
        return self.head(torch.tanh(self.embed(x)))


class Scaled(nn.Module):
    """A parametrisation with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, weight):
        return self.scale * weight


def _scaled() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    parametrize.register_parametrization(model[0], "weight", Scaled())
    return model


def _with_mean(model: nn.Module) -> nn.Module:
    twin = History()
    twin.mean = model.mean.detach().clone()  # pyright: ignore
    return twin


BESIDE = (
    Specimen("history", History, classes(4), CLASSIFY, twin=_with_mean, carried=True),
    Specimen("remembering", Remembering, classes(4), CLASSIFY),
    Specimen("own parametrisation", _scaled, classes(4), CLASSIFY, twin=anew(_scaled)),
)
