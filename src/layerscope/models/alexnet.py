"""AlexNet for small images."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from torch import nn

from layerscope.config import Initialisation, ModelConfig
from layerscope.errors import LayerscopeError
from layerscope.models.initialisation import ChannelsLast, check_images, initialise, scaled

CHANNELS = (64, 192, 384, 256, 256)
POOLED = (1, 2, 5)
"""Convolutions after which the original pools."""
UNITS = 4096
SMALLEST = 16


@dataclass(frozen=True)
class AlexNet(ModelConfig, name="alexnet", builder="layerscope.models.alexnet:alexnet"):
    """An AlexNet for images of about 32 pixels: five convolutions, three linear layers.

    Attributes:
        width: Multiplies every number of channels and units.
        dropout: Share of activations dropped before the first two linear layers in training.
        initialisation: How weights are drawn.
    """

    width: float = 1.0
    dropout: float = 0.5
    initialisation: Initialisation = "torch"

    @property
    def unit(self) -> tuple[str, ...]:
        """A convolution or linear layer."""
        return ("conv*", "fc*", "final_linear")


def alexnet(
    input_shape: tuple[int, ...],
    outputs: int,
    width: float = 1.0,
    dropout: float = 0.5,
    initialisation: Initialisation = "torch",
) -> nn.Sequential:
    """AlexNet: ``conv1`` to ``conv5``, ``fc1``, ``fc2``, ``final_linear``; no normalisation.

    "ImageNet classification with deep convolutional neural networks" on 32x32 pixels. Relative
    weight change was measured on such a network, which "Investigating Learning in Deep Neural
    Networks using Layer-Wise Weight Change" does not describe further. Read here as: 3x3
    convolutions of 64 (stride 2), 192, 384, 256 and 256 channels, each with its ReLU; 2x2 max
    pooling after the first, second and fifth, where the original pools; 1024-4096-4096-classes
    with dropout before the first two linear layers, as in torchvision; no local response
    normalisation.

    Args:
        input_shape: (channels, height, width) of an image, at least 16x16.
        outputs: Number of classes.
        width: Multiplies every number of channels and units.
        dropout: Share of activations dropped before the first two linear layers in training.
        initialisation: See `initialise`.

    Returns:
        The network, from (batch, channels, height, width) to (batch, outputs).

    Raises:
        LayerscopeError: A choice is unknown, a size is not positive or the image too small.
    """
    check_images(input_shape, outputs, width)
    channels, *sides = input_shape
    if min(sides) < SMALLEST:
        raise LayerscopeError(
            f"images of {sides[0]}x{sides[1]} pixels are too small for an AlexNet, which halves "
            "them four times.",
            f"Use images of at least {SMALLEST}x{SMALLEST} pixels, e.g. image_size=32.",
        )
    parts: OrderedDict[str, nn.Module] = OrderedDict(layout=ChannelsLast())
    for number, wide in enumerate(CHANNELS, 1):
        stride, wider = 2 if number == 1 else 1, scaled(wide, width)
        convolution = nn.Conv2d(channels, wider, 3, stride, padding=1)
        parts[f"conv{number}"] = nn.Sequential(
            OrderedDict(conv=convolution, activation=nn.ReLU(inplace=True))
        )
        if number in POOLED:
            parts[f"pool{number}"] = nn.MaxPool2d(2)
        channels = wider
    parts["flatten"] = nn.Flatten()
    size, units = channels, scaled(UNITS, width)
    for side in sides:
        size *= (side + 1) // 2 // 2 // 2 // 2
    parts["fc1"] = _fully_connected(size, units, dropout)
    parts["fc2"] = _fully_connected(units, units, dropout)
    parts["final_linear"] = nn.Linear(units, outputs)
    model = nn.Sequential(parts)
    initialise(model, initialisation)
    return model


def _fully_connected(inputs: int, outputs: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            dropout=nn.Dropout(dropout),
            linear=nn.Linear(inputs, outputs),
            activation=nn.ReLU(inplace=True),
        )
    )
