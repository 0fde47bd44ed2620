"""What residual networks consist of: convolutions, blocks of both versions, the classifier."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from layerscope.config import LastNorm
from layerscope.errors import LayerscopeError, check_choice
from layerscope.models.initialisation import check_dropout

EXPANSION = 4
"""Channels that leave a bottleneck for every one inside."""
Norm = Callable[[int], nn.Module] | None
"""Makes the normalisation of so many channels; None where there is none."""


class PostactivationBlock(nn.Module):
    """A block of version 1: ``relu(body(x) + shortcut(x))``.

    By default the shortcut is the identity, or a projection where the shape changes.
    """

    def __init__(
        self,
        inputs: int,
        channels: int,
        stride: int,
        bottleneck: bool,
        norm: Norm,
        shortcut: nn.Module | None = None,
    ) -> None:
        super().__init__()
        outputs = channels * EXPANSION if bottleneck else channels
        self.body = nn.Sequential(_body(inputs, channels, stride, bottleneck, norm))
        self.shortcut = nn.Identity() if shortcut is None else shortcut
        if shortcut is None and (inputs, stride) != (outputs, 1):
            projection = convolution(inputs, outputs, 1, stride, norm)
            self.shortcut = nn.Sequential(OrderedDict(conv=projection))
            if norm is not None:
                self.shortcut.add_module("norm", norm(outputs))
        if norm is not None:
            self.body.add_module(f"norm{3 if bottleneck else 2}", norm(outputs))
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, height, width) to (batch, outputs, height / stride, width / stride)."""
        return self.activation(self.body(x) + self.shortcut(x))


class PreactivationBlock(nn.Module):
    """A block of version 2: ``x + body(z)`` with ``z = relu(norm(x))``.

    With a shortcut other than the identity it is ``shortcut(z) + body(z)``; by default that is a
    projection where the shape changes.
    """

    def __init__(
        self,
        inputs: int,
        channels: int,
        stride: int,
        bottleneck: bool,
        norm: Norm,
        shortcut: nn.Module | None = None,
    ) -> None:
        super().__init__()
        outputs = channels * EXPANSION if bottleneck else channels
        self.preactivation = nn.Sequential(preactivation(inputs, norm))
        self.body = nn.Sequential(_body(inputs, channels, stride, bottleneck, norm))
        self.shortcut = nn.Identity() if shortcut is None else shortcut
        if shortcut is None and (inputs, stride) != (outputs, 1):
            self.shortcut = convolution(inputs, outputs, 1, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, height, width) to (batch, outputs, height / stride, width / stride)."""
        z = self.preactivation(x)
        if isinstance(self.shortcut, nn.Identity):
            return x + self.body(z)
        return self.shortcut(z) + self.body(z)


class StridedPointwise(nn.Conv2d):
    """A 1x1 convolution that takes every ``stride``-th pixel first, then has stride 1.

    The function of ``nn.Conv2d``. With a stride, fewer than 8 (AVX2) or 16 (AVX-512) channels and
    channels last, oneDNN writes beyond its workspace when it computes the gradient of the weights
    (https://github.com/uxlfoundation/oneDNN/issues/6035): wrong gradients, or a crash.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(batch, inputs, height, width) to (batch, outputs, height / stride, width / stride)."""
        down, across = self.stride
        return F.conv2d(input[:, :, ::down, ::across], self.weight, self.bias)


class Divided(nn.Module):
    """Its input divided by a constant."""

    def __init__(self, divisor: float) -> None:
        super().__init__()
        self.divisor = divisor

    def forward(self, x: Tensor) -> Tensor:
        """Any shape, and the same."""
        return x / self.divisor

    def extra_repr(self) -> str:
        """The constant."""
        return str(self.divisor)


def convolution(inputs: int, outputs: int, size: int, stride: int, norm: Norm) -> nn.Module:
    """A convolution of ``size`` x ``size`` that keeps the image's size over ``stride``.

    It has a bias only without normalisation.
    """
    if size == 1 and stride > 1:
        return StridedPointwise(inputs, outputs, 1, stride, bias=norm is None)
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=norm is None)


def activated(inputs: int, outputs: int, size: int, stride: int, norm: Norm) -> nn.Sequential:
    """A convolution with its normalisation and ReLU."""
    parts = OrderedDict(conv=convolution(inputs, outputs, size, stride, norm))
    return nn.Sequential(parts | _activation(outputs, norm))


def preactivation(channels: int, norm: Norm) -> OrderedDict[str, nn.Module]:
    """Normalisation and ReLU of what others use too, e.g. the shortcut of a block.

    Only what a normalisation made changes in place.
    """
    return OrderedDict(_activation(channels, norm, inplace=norm is not None))


def shapes(
    inputs: int, channels: int, stride: int, bottleneck: bool
) -> list[tuple[int, int, int, int]]:
    """Inputs, outputs, size and stride of the convolutions of a block."""
    if not bottleneck:
        return [(inputs, channels, 3, stride), (channels, channels, 3, 1)]
    return [
        (inputs, channels, 1, 1),
        (channels, channels, 3, stride),
        (channels, channels * EXPANSION, 1, 1),
    ]


def classifier(
    channels: int,
    outputs: int,
    last_norm: LastNorm = "none",
    dropout: float = 0.0,
    divisor: float = 1.0,
) -> OrderedDict[str, nn.Module]:
    """Average pooling and a linear layer, with what may stand between them; see `cifar_resnet`.

    Raises:
        LayerscopeError: There is no such ``last_norm``, ``dropout`` is no share, or ``divisor``
            not positive and finite.
    """
    check_choice("last_norm", last_norm, ("none", "pooling", "linear"))
    check_dropout(dropout)
    if not 0 < divisor < math.inf:
        raise LayerscopeError(f"divisor is {divisor}.", "divisor must be positive and finite.")
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    if last_norm == "pooling":
        parts["last_norm"] = nn.BatchNorm2d(channels)
    parts["average"] = nn.AdaptiveAvgPool2d(1)
    parts["flatten"] = nn.Flatten()
    if last_norm == "linear":
        parts["last_norm"] = nn.BatchNorm1d(channels)
    if divisor != 1:
        parts["divided"] = Divided(divisor)
    if dropout > 0:
        parts["dropout"] = nn.Dropout(dropout)
    parts["final_linear"] = nn.Linear(channels, outputs)
    return parts


def _activation(channels: int, norm: Norm, inplace: bool = True) -> dict[str, nn.Module]:
    normalised: dict[str, nn.Module] = {} if norm is None else {"norm": norm(channels)}
    return normalised | {"activation": nn.ReLU(inplace)}


def _body(
    inputs: int, channels: int, stride: int, bottleneck: bool, norm: Norm
) -> OrderedDict[str, nn.Module]:
    """The convolutions of a block, activated between them but not before or after."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for i, shape in enumerate(shapes(inputs, channels, stride, bottleneck)):
        if i > 0:
            between = _activation(channels, norm)
            parts |= {f"{name}{i}": module for name, module in between.items()}
        parts[f"conv{i + 1}"] = convolution(*shape, norm)
    return parts
