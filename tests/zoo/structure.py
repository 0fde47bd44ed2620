"""How modules are put together, and which of their parameters train."""

from __future__ import annotations

import torch
from tests.cases import CLASSIFY, TIED, UNUSED, classes
from tests.zoo.specimen import NO_ATTACK, NO_CLASSES, Specimen, specimen
from torch import nn

from layerscope.models.fcn import residual_fcn


class LoRA(nn.Module):
    """A frozen matrix and one of low rank that starts at zero."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.base = nn.Linear(n_in, n_out).requires_grad_(False)
        self.a = nn.Linear(n_in, 2, bias=False)
        self.b = nn.Linear(2, n_out, bias=False)
        nn.init.zeros_(self.b.weight)

    def forward(self, x):
        return self.base(x) + self.b(self.a(x))


class DenseLayer(nn.Sequential):
    """Adds channels to those that it is given."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__(
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, growth, 3, padding=1),
        )

    def forward(self, x):
        return torch.cat([x, super().forward(x)], 1)


class DenseNet(nn.Module):
    """Two dense blocks in the layout of torchvision."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential()
        self.features.add_module("conv0", nn.Conv2d(3, 4, 3, padding=1))
        channels = 4
        for block in (1, 2):
            layers = nn.Sequential()
            for index in (1, 2):
                layers.add_module(f"denselayer{index}", DenseLayer(channels, 2))
                channels += 2
            self.features.add_module(f"denseblock{block}", layers)
            self.features.add_module(f"transition{block}", nn.Conv2d(channels, 4, 1))
            channels = 4
        self.classifier = nn.Linear(4, 3)

    def forward(self, x):
        return self.classifier(torch.relu(self.features(x)).mean((2, 3)))


class NoParameters(nn.Module):
    """Nothing to train."""

    def forward(self, x):
        return x.cumsum(1)[:, :3]


def _lora() -> nn.Module:
    return nn.Sequential(LoRA(4, 6), nn.Tanh(), LoRA(6, 3))


STRUCTURE = (
    Specimen(
        "residual",
        lambda: residual_fcn((1,), 3, blocks=2, width=6),
        classes(1),
        CLASSIFY,
        blocks=True,
    ),
    specimen(UNUSED),
    specimen(TIED, refused=NO_ATTACK | NO_CLASSES),
    Specimen("LoRA", _lora, classes(4), CLASSIFY),
    Specimen("DenseNet", DenseNet, classes(3, 8, 8), CLASSIFY),
    Specimen(
        "no parameters",
        NoParameters,
        classes(4),
        CLASSIFY,
        unrecordable="NoParameters has no parameters",
    ),
)
