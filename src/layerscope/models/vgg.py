"""VGG networks."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

from torch import nn

from layerscope.config import Initialisation, Stem
from layerscope.errors import LayerscopeError, check_choice
from layerscope.models.initialisation import (
    ChannelsLast,
    check_images,
    initialise,
    scaled,
)

CHANNELS = (64, 128, 256, 512, 512)
CONVOLUTIONS = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
SMALLEST = 2 ** len(CHANNELS)
"""Side of the smallest image that can be halved after every group."""


def vgg(
    input_shape: tuple[int, ...],
    outputs: int,
    depth: int = 16,
    batch_norm: bool = False,
    width: float = 1.0,
    stem: Stem = "cifar",
    initialisation: Initialisation = "he",
    classifier: Literal["connected", "linear"] = "connected",
) -> nn.Sequential:
    """VGG: ``conv1`` to ``conv<depth - 3>`` in five groups, ``fc1``, ``fc2``, ``final_linear``.

    Configurations A, B, D and E of "Very deep convolutional networks for large-scale image
    recognition" (Table 1): 3x3 convolutions, each with its ReLU, and 2x2 max pooling after each
    group, ``pool1`` to ``pool5``. "Are all layers created equal?" (Appendix A) leaves the fully
    connected layers of its CIFAR10 networks open ("multiple"); here they are two of 512 units,
    so that the depths are those of the original. A convolution that is normalised has no bias.

    Args:
        input_shape: (channels, height, width) of an image, at least 32x32.
        outputs: Number of classes.
        depth: 11, 13, 16 or 19 layers with weights.
        batch_norm: Normalise after every convolution.
        width: Multiplies every number of channels and units.
        stem: ``"cifar"``: fully connected layers of 512 units on all that the last pooling
            leaves, one pixel of 32x32; ``"imagenet"``: of 4096 units with dropout 0.5, on an
            average over 7x7 areas.
        initialisation: See `initialise`.
        classifier: ``"linear"`` leaves out ``fc1`` and ``fc2``, as networks for CIFAR often do.

    Returns:
        The network, from (batch, channels, height, width) to (batch, outputs).

    Raises:
        LayerscopeError: A choice is unknown, a size is not positive or the image too small.
    """
    check_images(input_shape, outputs, width)
    check_choice("depth of a VGG", depth, CONVOLUTIONS)
    check_choice("stem", stem, ("cifar", "imagenet"))
    check_choice("classifier", classifier, ("connected", "linear"))
    channels, *sides = input_shape
    if min(sides) < SMALLEST:
        raise LayerscopeError(
            f"images of {sides[0]}x{sides[1]} pixels are too small for a VGG, which halves them "
            f"{len(CHANNELS)} times.",
            f"Use images of at least {SMALLEST}x{SMALLEST} pixels, e.g. image_size={SMALLEST}.",
        )
    parts: OrderedDict[str, nn.Module] = OrderedDict(layout=ChannelsLast())
    number = 0
    for group, repeats in enumerate(CONVOLUTIONS[depth]):
        for _ in range(repeats):
            number += 1
            wider = scaled(CHANNELS[group], width)
            parts[f"conv{number}"] = _convolution(channels, wider, batch_norm)
            channels = wider
        parts[f"pool{group + 1}"] = nn.MaxPool2d(2)
    if stem == "imagenet":
        sides = [7 * SMALLEST, 7 * SMALLEST]
        parts["average"] = nn.AdaptiveAvgPool2d(7)
    parts["flatten"] = nn.Flatten()
    size = channels * (sides[0] // SMALLEST) * (sides[1] // SMALLEST)
    if classifier == "connected":
        units = scaled(4096 if stem == "imagenet" else 512, width)
        parts["fc1"] = _fully_connected(size, units, dropout=stem == "imagenet")
        parts["fc2"] = _fully_connected(units, units, dropout=stem == "imagenet")
        size = units
    parts["final_linear"] = nn.Linear(size, outputs)
    model = nn.Sequential(parts)
    initialise(model, initialisation)
    return model


def _convolution(inputs: int, outputs: int, batch_norm: bool) -> nn.Sequential:
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    parts["conv"] = nn.Conv2d(inputs, outputs, 3, padding=1, bias=not batch_norm)
    if batch_norm:
        parts["norm"] = nn.BatchNorm2d(outputs)
    parts["activation"] = nn.ReLU(inplace=True)
    return nn.Sequential(parts)


def _fully_connected(inputs: int, outputs: int, dropout: bool) -> nn.Sequential:
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    parts["linear"] = nn.Linear(inputs, outputs)
    parts["activation"] = nn.ReLU(inplace=True)
    if dropout:
        parts["dropout"] = nn.Dropout(0.5)
    return nn.Sequential(parts)
