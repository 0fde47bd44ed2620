"""Residual networks for small images, of any depth, and the same without residual connections."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from layerscope.config import Initialisation, LastNorm, ModelConfig
from layerscope.errors import LayerscopeError, check_choice
from layerscope.models.blocks import (
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
    check_groups,
    check_images,
    initialise,
    scaled,
)

Kind = Literal["resnet", "preresnet", "preresnet_v1", "plain"]
ChannelNormalisation = Literal["none", "batch", "layer", "group", "instance"]
Block = type[PostactivationBlock] | type[PreactivationBlock]
CHANNELS = (16, 32, 64)
KINDS: dict[Kind, Block | None] = {
    "resnet": PostactivationBlock,
    "preresnet": PreactivationBlock,
    "preresnet_v1": PreactivationBlock,
    "plain": None,
}
NORMALISATIONS: dict[ChannelNormalisation, Callable[[int, int], nn.Module]] = {
    "batch": lambda channels, groups: nn.BatchNorm2d(channels),
    "layer": lambda channels, groups: nn.GroupNorm(1, channels),
    "group": lambda channels, groups: nn.GroupNorm(groups, channels),
    "instance": lambda channels, groups: nn.InstanceNorm2d(channels, affine=True),
}


@dataclass(frozen=True)
class CifarResNet(
    ModelConfig, name="cifar_resnet", builder="layerscope.models.cifar_resnet:cifar_resnet"
):
    """A residual network for small images: 6n + 2 layers, shortcuts without parameters.

    Attributes:
        depth: Layers with weights: 8, 14, 20, ..., 110, ..., 1202.
        kind: ``"resnet"`` activates after the addition, ``"preresnet"`` before the convolutions
            and once more, normalised, before the pooling; ``"preresnet_v1"`` is the latter without
            that last normalisation, ``"plain"`` the first without residual connections.
        normalisation: Normalise over the ``"batch"``, or in every image over all channels
            (``"layer"``), over groups of channels (``"group"``) or over each (``"instance"``).
        groups: Groups of ``"group"`` normalisation.
        last_norm: A further batch normalisation, before the average ``"pooling"`` or before the
            last ``"linear"`` layer.
        divisor: What enters the last linear layer is divided by it.
        dropout: Share of what enters the last linear layer that is dropped in training.
        width: Multiplies every number of channels.
        initialisation: How weights are drawn.
    """

    depth: int = 20
    kind: Kind = "resnet"
    normalisation: ChannelNormalisation = "batch"
    groups: int = 8
    last_norm: LastNorm = "none"
    divisor: float = 1.0
    dropout: float = 0.0
    width: float = 1.0
    initialisation: Initialisation = "fan_out"

    @property
    def unit(self) -> tuple[str, ...]:
        """A residual block; without residual connections a convolution with its normalisation."""
        normalised = self.kind == "preresnet" and self.normalisation != "none"
        return (
            "stage0",
            "stage*.conv*" if self.kind == "plain" else "stage*.resblk*",
            *(("final_norm",) if normalised else ()),
            *(("last_norm",) if self.last_norm != "none" else ()),
            "final_linear",
        )


class PaddedShortcut(nn.Module):
    """A shortcut without parameters: every ``stride``-th pixel, then channels of zeros.

    Option A of "Deep residual learning for image recognition" (Section 4.1).
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.added, self.stride = outputs - inputs, stride

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, height, width) to (batch, outputs, height / stride, width / stride)."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))

    def extra_repr(self) -> str:
        """What it adds and leaves out."""
        return f"added={self.added}, stride={self.stride}"


def cifar_resnet(
    input_shape: tuple[int, ...],
    outputs: int,
    depth: int = 20,
    kind: Kind = "resnet",
    normalisation: ChannelNormalisation = "batch",
    groups: int = 8,
    last_norm: LastNorm = "none",
    divisor: float = 1.0,
    dropout: float = 0.0,
    width: float = 1.0,
    initialisation: Initialisation = "fan_out",
) -> nn.Sequential:
    """A network of 6n + 2 layers: ``stage0``, three stages of n blocks, ``final_linear``.

    "Deep residual learning for image recognition" (Section 4.2): a 3x3 convolution, stages of 16,
    32 and 64 channels, of which the second and third begin with stride 2, basic blocks
    ``stage1.resblk1`` and so on, shortcuts without parameters, average pooling, a linear layer.
    ResNet-20 has 0.27M parameters, ResNet-110 1.7M. Convolutions have a bias only without
    normalisation.

    "Layer-wise conditioning analysis in exploring the learning dynamics of DNNs" (Section 5) has
    ResNet, PreResNet and PreResNetv1 of depth 56, 110, 230 and 1202. In the latter two the first
    block of every stage, that of the first stage too, activates before it splits: its shortcut
    carries ``relu(norm(x))``. PreResNetv1 is PreResNet "without the extra BN layer" (Section 5.2).
    That leaves open whether the ReLU after this layer goes too; in the authors' code
    (https://github.com/huangleiBuaa/LayerwiseCA), which settles both questions, and here it stays.
    ``"plain"`` is the paper's VGG-style network (Appendix C.1.2): what was
    ``relu(body(x) + shortcut(x))`` is ``relu(body(x))``, and a stage is a chain of convolutions,
    ``stage1.conv1`` and so on, each with its normalisation and ReLU.

    Before ``final_linear`` come, in this order: ``last_norm`` if it stands before the pooling, the
    average pooling, ``last_norm`` if it stands before the linear layer (ResNetLastBN, Section 5.1;
    its weights begin at 1, in the authors' code as U(0, 1)), the division by a constant (Section
    5.1), dropout (Table A1).

    Args:
        input_shape: (channels, height, width) of an image.
        outputs: Number of classes.
        depth: 6n + 2 with n at least 1.
        kind: Where to activate, and whether there are residual connections; see above.
        normalisation: Of the body: ``"none"``, ``"batch"``, or in every image over all channels
            and places (``"layer"``), over those of each group of channels (``"group"``) or over
            the places of each channel (``"instance"``). Without it PreResNetv1 is PreResNet.
        groups: Groups of ``"group"`` normalisation.
        last_norm: A further batch normalisation ``last_norm``, before the average ``"pooling"`` or
            before the last ``"linear"`` layer.
        divisor: What enters the last linear layer is divided by it.
        dropout: Share of what enters the last linear layer that is dropped in training.
        width: Multiplies every number of channels.
        initialisation: See `initialise`.

    Returns:
        The network, from (batch, channels, height, width) to (batch, outputs).

    Raises:
        LayerscopeError: A choice is unknown, a size not positive, the depth not 6n + 2, dropout no
            share, or a normalisation does not fit the channels or the images.
    """
    check_images(input_shape, outputs, width)
    check_choice("kind of a CifarResNet", kind, KINDS)
    if depth < 8 or depth % 6 != 2:
        raise LayerscopeError(
            f"the depth of a CifarResNet is {depth}.",
            "Choose 6n + 2 layers: 8, 14, 20, 32, 44, 56, 110, 1202.",
        )
    widths = [scaled(channels, width) for channels in CHANNELS]
    norm = _normalisation(normalisation, groups, widths, input_shape)
    block, inputs = KINDS[kind], widths[0]
    parts: OrderedDict[str, nn.Module] = OrderedDict(layout=ChannelsLast())
    if block is PreactivationBlock:
        first = convolution(input_shape[0], inputs, 3, 1, norm)
        parts["stage0"] = nn.Sequential(OrderedDict(conv=first))
    else:
        parts["stage0"] = activated(input_shape[0], inputs, 3, 1, norm)
    for i, channels in enumerate(widths, start=1):
        stride = 1 if i == 1 else 2
        parts[f"stage{i}"] = _stage(block, depth // 6, inputs, channels, stride, norm)
        inputs = channels
    if block is PreactivationBlock:
        last = preactivation(inputs, norm if kind == "preresnet" else None)
        parts |= {f"final_{name}": module for name, module in last.items()}
    model = nn.Sequential(parts | classifier(inputs, outputs, last_norm, dropout, divisor))
    initialise(model, initialisation)
    return model


def _stage(
    block: Block | None, blocks: int, inputs: int, channels: int, stride: int, norm: Norm
) -> nn.Sequential:
    """Blocks, or the convolutions of their bodies; the first one may change the shape."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for j in range(1, blocks + 1):
        if block is None:
            for shape in shapes(inputs, channels, stride, bottleneck=False):
                parts[f"conv{len(parts) + 1}"] = activated(*shape, norm)
        else:
            splits_late = j == 1 and block is PreactivationBlock
            padded = PaddedShortcut(inputs, channels, stride)
            shortcut = padded if stride == 2 or splits_late else nn.Identity()
            parts[f"resblk{j}"] = block(inputs, channels, stride, False, norm, shortcut)
        inputs, stride = channels, 1
    return nn.Sequential(parts)


def _normalisation(
    normalisation: ChannelNormalisation,
    groups: int,
    widths: list[int],
    input_shape: tuple[int, ...],
) -> Norm:
    check_choice("normalisation", normalisation, ("none", *NORMALISATIONS))
    if normalisation == "none":
        return None
    if normalisation == "group":
        for channels in widths:
            check_groups(groups, channels=channels)
    if normalisation == "instance" and max(input_shape[1:]) <= 4:
        raise LayerscopeError(
            f"images of {input_shape[1]}x{input_shape[2]} pixels leave single pixels, which "
            "instance normalisation makes all 0.",
            "Use images larger than 4x4 pixels, or another normalisation.",
        )
    return lambda channels: NORMALISATIONS[normalisation](channels, groups)
