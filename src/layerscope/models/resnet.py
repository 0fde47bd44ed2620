"""Residual networks of versions 1 and 2, and version 1 without its residual connections."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

from torch import nn

from layerscope.config import Initialisation, LastNorm, Stem
from layerscope.errors import LayerscopeError, check_choice
from layerscope.models.blocks import (
    EXPANSION,
    Norm,
    PostactivationBlock,
    PreactivationBlock,
    activated,
    classifier,
    convolution,
    preactivation,
    shapes,
)
from layerscope.models.initialisation import (
    ChannelsLast,
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
    last_norm: LastNorm = "none",
    dropout: float = 0.0,
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
        last_norm: A further batch normalisation ``last_norm``, before the average ``"pooling"`` or
            before the last ``"linear"`` layer; the latter is ResNetLastBN of "Layer-wise
            conditioning analysis" (Section 5.1), on ImageNet in its Table A1.
        dropout: Share of what enters the last linear layer that is dropped in training.

    Returns:
        The network, from (batch, channels, height, width) to (batch, outputs).

    Raises:
        LayerscopeError: A choice is unknown, a size not positive, dropout no share, or version 2
            is to have no shortcuts.
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
    norm: Norm = nn.BatchNorm2d if batch_norm else None
    inputs = scaled(64, width)
    parts: OrderedDict[str, nn.Module] = OrderedDict(layout=ChannelsLast())
    parts["stage0"] = _stem(input_shape[0], inputs, stem, version, norm)
    for i, blocks in enumerate(repeats, start=1):
        channels = scaled(64 * 2 ** (i - 1), width)
        wider = channels * EXPANSION if bottleneck else channels
        stride = 1 if i == 1 else 2
        if downsampling == "layer" and (inputs, stride) != (wider, 1):
            parts[f"downsample{i}"] = _downsample(inputs, wider, stride, version, norm)
            inputs, stride = wider, 1
        stage: OrderedDict[str, nn.Module] = OrderedDict()
        for j in range(1, blocks + 1):
            if residual:
                stage[f"resblk{j}"] = block(inputs, channels, stride, bottleneck, norm)
            else:
                for shape in shapes(inputs, channels, stride, bottleneck):
                    stage[f"conv{len(stage) + 1}"] = activated(*shape, norm)
            inputs, stride = wider, 1
        parts[f"stage{i}"] = nn.Sequential(stage)
    if version == 2:
        last = preactivation(inputs, norm)
        parts |= {f"final_{name}": module for name, module in last.items()}
    model = nn.Sequential(parts | classifier(inputs, outputs, last_norm, dropout))
    initialise(model, initialisation)
    return model


def _stem(
    inputs: int, outputs: int, stem: Stem, version: Literal[1, 2], norm: Norm
) -> nn.Sequential:
    size, stride = (7, 2) if stem == "imagenet" else (3, 1)
    if version == 1:
        made = activated(inputs, outputs, size, stride, norm)
    else:
        made = nn.Sequential(OrderedDict(conv=convolution(inputs, outputs, size, stride, norm)))
    if stem == "imagenet":
        made.add_module("pool", nn.MaxPool2d(3, stride=2, padding=1))
    return made


def _downsample(
    inputs: int, outputs: int, stride: int, version: Literal[1, 2], norm: Norm
) -> nn.Sequential:
    size = 1 if stride == 1 else 3
    if version == 1:
        return activated(inputs, outputs, size, stride, norm)
    parts = OrderedDict(conv=convolution(inputs, outputs, size, stride, norm))
    return nn.Sequential(preactivation(inputs, norm) | parts)
