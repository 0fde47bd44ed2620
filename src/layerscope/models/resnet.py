"""Residual networks of versions 1 and 2, and version 1 without its residual connections."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from layerscope.config import Initialisation, Stem
from layerscope.errors import LayerscopeError
from layerscope.models.initialisation import (
    ChannelsLast,
    check_choice,
    check_images,
    initialise,
    scaled,
)

STAGES = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
SHALLOWEST_BOTTLENECK = 50
EXPANSION = 4
"""Channels that leave a bottleneck for every one inside."""


class PostactivationBlock(nn.Module):
    """A block of version 1: ``relu(body(x) + shortcut(x))``."""

    def __init__(
        self, inputs: int, channels: int, stride: int, bottleneck: bool, batch_norm: bool
    ) -> None:
        super().__init__()
        outputs = channels * EXPANSION if bottleneck else channels
        self.body = nn.Sequential(_body(inputs, channels, stride, bottleneck, batch_norm))
        self.shortcut = nn.Identity()
        if (inputs, stride) != (outputs, 1):
            projection = _convolution(inputs, outputs, 1, stride, batch_norm)
            self.shortcut = nn.Sequential(OrderedDict(conv=projection))
            if batch_norm:
                self.shortcut.add_module("norm", nn.BatchNorm2d(outputs))
        if batch_norm:
            self.body.add_module(f"norm{3 if bottleneck else 2}", nn.BatchNorm2d(outputs))
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, height, width) to (batch, outputs, height / stride, width / stride)."""
        return self.activation(self.body(x) + self.shortcut(x))


class PreactivationBlock(nn.Module):
    """A block of version 2: ``x + body(z)`` with ``z = relu(norm(x))``.

    Where the shape changes it is ``projection(z) + body(z)``.
    """

    def __init__(
        self, inputs: int, channels: int, stride: int, bottleneck: bool, batch_norm: bool
    ) -> None:
        super().__init__()
        outputs = channels * EXPANSION if bottleneck else channels
        self.preactivation = nn.Sequential(_preactivation(inputs, batch_norm))
        self.body = nn.Sequential(_body(inputs, channels, stride, bottleneck, batch_norm))
        self.shortcut = nn.Identity()
        if (inputs, stride) != (outputs, 1):
            self.shortcut = _convolution(inputs, outputs, 1, stride, batch_norm)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, height, width) to (batch, outputs, height / stride, width / stride)."""
        z = self.preactivation(x)
        if isinstance(self.shortcut, nn.Identity):
            return x + self.body(z)
        return self.shortcut(z) + self.body(z)


def resnet(
    input_shape: tuple[int, ...],
    outputs: int,
    depth: int = 18,
    version: Literal[1, 2] = 2,
    batch_norm: bool = True,
    width: float = 1.0,
    stem: Stem = "cifar",
    stages: tuple[int, ...] = (),
    downsampling: Literal["block", "layer"] = "block",
    initialisation: Initialisation = "he",
    residual: bool = True,
) -> nn.Sequential:
    """A ResNet: ``stage0``, stages of blocks such as ``stage1.resblk1``, then ``final_linear``.

    Version 1 is "Deep residual learning for image recognition" (Table 1; the stride of a
    bottleneck is in its 3x3 convolution, as in torchvision), version 2 "Identity mappings in deep
    residual networks" (Fig. 1b), where ``final_norm`` follows the last stage. Stage i has
    ``64 * 2**(i - 1)`` channels, 4 times as many between bottlenecks, and halves the image if
    i > 1. Blocks with shortcuts are those of "Are all layers created equal?" (Fig. 7);
    ``downsampling="layer"`` is the variant of its Section 6, where only the layers ``downsample2``
    (``downsample1`` too for bottlenecks) and so on, which the paper does not specify, change the
    shape: here a 3x3 convolution of stride 2 (1x1 and 1 before the first stage), activated
    as the version does. With ``batch_norm`` no convolution has a bias; without it all have one.

    ``residual=False`` leaves out the shortcuts of version 1, projections included: what was
    ``activation(body(x) + shortcut(x))`` is ``activation(body(x))``, and a stage is a chain of
    convolutions, ``stage1.conv1`` and so on, each with its normalisation and ReLU. With depth 18
    this is the BaseNet18 of "Exploring the development of complexity over depth and time in deep
    neural networks": 17 such layers and a linear classifier. Its Fig. 5 says that filters are
    always 3x3, its text that it is ResNet18 with the max pooling; here ``stem="imagenet"``
    follows the text, so that the first filter is 7x7, and ``stem="cifar"`` has 3x3 filters
    throughout and no max pooling.

    Args:
        input_shape: (channels, height, width) of an image.
        outputs: Number of classes.
        depth: 18 or 34 (basic blocks), 50, 101 or 152 (bottleneck blocks).
        version: 1 activates after the addition, 2 before the convolutions.
        batch_norm: Normalise.
        width: Multiplies every number of channels.
        stem: ``"cifar"``: a 3x3 convolution; ``"imagenet"``: a 7x7 convolution and 3x3 max
            pooling, both of stride 2.
        stages: Blocks in each stage where not the depth's own, e.g. ``(4, 4)``.
        downsampling: ``"block"``: the first block of a stage has a projection as its shortcut;
            ``"layer"``: a layer of its own stands between stages, and every block has an identity.
        initialisation: See `initialise`.
        residual: Keep the shortcuts; without them for version 1 only.

    Returns:
        The network, from (batch, channels, height, width) to (batch, outputs).

    Raises:
        LayerscopeError: A choice is unknown or a size not positive, or version 2 is to have no
            shortcuts.
    """
    check_images(input_shape, outputs, width)
    check_choice("depth of a ResNet", depth, STAGES)
    check_choice("version of a ResNet", version, (1, 2))
    check_choice("stem", stem, ("cifar", "imagenet"))
    check_choice("downsampling", downsampling, ("block", "layer"))
    if not residual and version == 2:
        raise LayerscopeError(
            "a ResNet of version 2 is to have no residual connections.",
            "Choose version=1, whose blocks without them are convolutions that are activated.",
        )
    repeats = tuple(stages) or STAGES[depth]
    if min(repeats) < 1:
        raise LayerscopeError(f"stages is {repeats}.", "Every stage has at least 1 block.")
    bottleneck = depth >= SHALLOWEST_BOTTLENECK
    block = PostactivationBlock if version == 1 else PreactivationBlock
    inputs = scaled(64, width)
    parts: OrderedDict[str, nn.Module] = OrderedDict(layout=ChannelsLast())
    parts["stage0"] = _stem(input_shape[0], inputs, stem, version, batch_norm)
    for i, blocks in enumerate(repeats, start=1):
        channels = scaled(64 * 2 ** (i - 1), width)
        wider = channels * EXPANSION if bottleneck else channels
        stride = 1 if i == 1 else 2
        if downsampling == "layer" and (inputs, stride) != (wider, 1):
            parts[f"downsample{i}"] = _downsample(inputs, wider, stride, version, batch_norm)
            inputs, stride = wider, 1
        stage: OrderedDict[str, nn.Module] = OrderedDict()
        for j in range(1, blocks + 1):
            if residual:
                stage[f"resblk{j}"] = block(inputs, channels, stride, bottleneck, batch_norm)
            else:
                for shape in _shapes(inputs, channels, stride, bottleneck):
                    stage[f"conv{len(stage) + 1}"] = _activated(*shape, batch_norm)
            inputs, stride = wider, 1
        parts[f"stage{i}"] = nn.Sequential(stage)
    if version == 2:
        last = _preactivation(inputs, batch_norm)
        parts |= {f"final_{name}": module for name, module in last.items()}
    parts["average"] = nn.AdaptiveAvgPool2d(1)
    parts["flatten"] = nn.Flatten()
    parts["final_linear"] = nn.Linear(inputs, outputs)
    model = nn.Sequential(parts)
    initialise(model, initialisation)
    return model


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


def _convolution(inputs: int, outputs: int, size: int, stride: int, batch_norm: bool) -> nn.Module:
    if size == 1 and stride > 1:
        return StridedPointwise(inputs, outputs, 1, stride, bias=not batch_norm)
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=not batch_norm)


def _activation(channels: int, batch_norm: bool, inplace: bool = True) -> dict[str, nn.Module]:
    norm: dict[str, nn.Module] = {"norm": nn.BatchNorm2d(channels)} if batch_norm else {}
    return norm | {"activation": nn.ReLU(inplace)}


def _preactivation(channels: int, batch_norm: bool) -> OrderedDict[str, nn.Module]:
    """Its input is also the shortcut, so that only what a normalisation made changes in place."""
    return OrderedDict(_activation(channels, batch_norm, inplace=batch_norm))


def _shapes(
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


def _body(
    inputs: int, channels: int, stride: int, bottleneck: bool, batch_norm: bool
) -> OrderedDict[str, nn.Module]:
    """The convolutions of a block, activated between them but not before or after."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for i, shape in enumerate(_shapes(inputs, channels, stride, bottleneck)):
        if i > 0:
            between = _activation(channels, batch_norm)
            parts |= {f"{name}{i}": module for name, module in between.items()}
        parts[f"conv{i + 1}"] = _convolution(*shape, batch_norm)
    return parts


def _activated(
    inputs: int, outputs: int, size: int, stride: int, batch_norm: bool
) -> nn.Sequential:
    """A convolution with its normalisation and ReLU."""
    parts = OrderedDict(conv=_convolution(inputs, outputs, size, stride, batch_norm))
    return nn.Sequential(parts | _activation(outputs, batch_norm))


def _stem(
    inputs: int, outputs: int, stem: Stem, version: Literal[1, 2], batch_norm: bool
) -> nn.Sequential:
    size, stride = (7, 2) if stem == "imagenet" else (3, 1)
    parts = OrderedDict(conv=_convolution(inputs, outputs, size, stride, batch_norm))
    if version == 1:
        parts |= _activation(outputs, batch_norm)
    if stem == "imagenet":
        parts["pool"] = nn.MaxPool2d(3, stride=2, padding=1)
    return nn.Sequential(parts)


def _downsample(
    inputs: int, outputs: int, stride: int, version: Literal[1, 2], batch_norm: bool
) -> nn.Sequential:
    size = 1 if stride == 1 else 3
    if version == 1:
        return _activated(inputs, outputs, size, stride, batch_norm)
    parts = OrderedDict(conv=_convolution(inputs, outputs, size, stride, batch_norm))
    return nn.Sequential(_preactivation(inputs, batch_norm) | parts)
