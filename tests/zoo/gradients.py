"""Models whose backward pass is not the plain one."""

from __future__ import annotations

import torch
from tests.cases import CLASSIFY, classes
from tests.zoo.specimen import Specimen
from torch import nn
from torch.utils.checkpoint import checkpoint


class Checkpointed(nn.Module):
    """The middle is computed again in the backward pass."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 6)
        self.middle = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.2), nn.Tanh())
        self.head = nn.Linear(6, 3)
        self.reentrant = reentrant

    def forward(self, x):
        hidden = checkpoint(self.middle, self.embed(x), use_reentrant=self.reentrant)
        return self.head(hidden)


class Sign(torch.autograd.Function):
    """The sign, with the derivative of the identity."""

    @staticmethod
    def forward(context, x):
        return x.sign()

    @staticmethod
    def backward(context, gradient):
        return gradient


class StraightThrough(nn.Module):
    """Binary activations that are trained all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(Sign.apply(self.embed(x)))


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


GRADIENTS = (
    Specimen("checkpointed", lambda: Checkpointed(False), classes(4), CLASSIFY),
    Specimen("checkpointed, reentrant", lambda: Checkpointed(True), classes(4), CLASSIFY),
    Specimen("straight-through", StraightThrough, classes(4), CLASSIFY),
    Specimen("no_grad", Detached, classes(4), CLASSIFY),
    Specimen("inner gradient", InnerGradient, classes(4), CLASSIFY),
)
