"""Models whose backward pass is not the plain one."""

from __future__ import annotations

import torch
from tests.cases import CLASSIFY, classes
from tests.zoo.specimen import Specimen
from torch import nn


class Detached(nn.Module):
    """A straight-through estimate by ``detach``, and a part without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.fixed = nn.Linear(4, 4)
        self.embed = nn.Linear(4, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        with torch.no_grad():
            x = torch.tanh(self.fixed(x))
        hidden = self.embed(x)
        return self.head(hidden + (hidden.round() - hidden).detach())


class InnerGradient(nn.Module):
    """Takes a gradient inside its forward pass, as models of forces do."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 6)
        self.energy = nn.Linear(6, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            energy = self.energy(torch.tanh(self.embed(x))).sum()
            (force,) = torch.autograd.grad(energy, x, create_graph=True)
        return self.head(force)


_NO_DERIVATIVE = {"adversarial_accuracy": "has no derivative with respect to its inputs"}
GRADIENTS = (
    Specimen("detached", Detached, classes(4), CLASSIFY, refused=_NO_DERIVATIVE),
    Specimen("inner gradient", InnerGradient, classes(4), CLASSIFY, refused=_NO_DERIVATIVE),
)
