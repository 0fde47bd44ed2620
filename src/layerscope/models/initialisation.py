"""What the families share: checked sizes and choices, and initial weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from layerscope.config import Initialisation
from layerscope.errors import LayerscopeError, check_choice


def check_sizes(**sizes: int) -> None:
    """Refuse sizes below 1.

    Raises:
        LayerscopeError: Which of them it is.
    """
    for name, size in sizes.items():
        if size < 1:
            raise LayerscopeError(f"{name} is {size}.", f"{name} must be at least 1.")


def check_groups(groups: int, **sizes: int) -> None:
    """Refuse groups of units, or of channels, that are not equally large.

    Raises:
        LayerscopeError: There are less than 1, or they do not divide a size.
    """
    check_sizes(groups=groups)
    for name, size in sizes.items():
        if size % groups:
            raise LayerscopeError(
                f"{name} {size} is not a multiple of groups, {groups}.",
                f"Choose groups that divide the {name}.",
            )


def check_dropout(dropout: float) -> None:
    """Refuse a share of dropped activations that is none.

    Raises:
        LayerscopeError: It is below 0, or not below 1.
    """
    if not 0 <= dropout < 1:
        raise LayerscopeError(f"dropout is {dropout}.", "dropout must be at least 0 and below 1.")


def check_images(input_shape: tuple[int, ...], outputs: int, width: float) -> None:
    """Refuse examples that are no images, and sizes that are not positive.

    Raises:
        LayerscopeError: Which of them it is.
    """
    if len(input_shape) != 3 or min(input_shape) < 1:
        raise LayerscopeError(
            f"the examples have the shape {tuple(input_shape)}.",
            "This family takes images: (channels, height, width).",
        )
    check_sizes(outputs=outputs)
    if not 0 < width < math.inf:
        raise LayerscopeError(f"width is {width}.", "width must be positive and finite.")


def scaled(channels: int, width: float) -> int:
    """``max(1, round(channels * width))``."""
    return max(1, round(channels * width))


def initialise(model: nn.Module, how: Initialisation, read_out: str = "final_linear") -> None:
    """Draw the weights of all convolutions and linear layers from the global random state.

    Normalisations keep weight 1 and bias 0, which PyTorch gives them.

    Args:
        model: The network.
        how: ``"he"``: N(0, 2 / fan_in), without the 2 in the read-out ("Delving Deep into
            Rectifiers", Section 2.2), and zero biases; ``"he_uniform"``: U(-a, a) of the same
            variances, ``a = sqrt(6 / fan_in)``, ``sqrt(3 / fan_in)`` in the read-out, and zero
            biases; ``"glorot"``: U(-a, a) with
            ``a = sqrt(6 / (fan_in + fan_out))`` ("Understanding the difficulty of training deep
            feedforward neural networks", Eq. 16), and zero biases; ``"fan_out"``: convolutions of
            k x k N(0, 2 / (k^2 c_out)), linear layers as PyTorch left their weights, and zero
            biases, as https://github.com/facebookarchive/fb.resnet.torch begins (whose linear
            layers Torch draws from the same U(-1/sqrt(fan_in), 1/sqrt(fan_in))); ``"torch"``: as
            PyTorch left them, U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for weights and biases.
        read_out: Name of the last layer, which nothing activates.

    Raises:
        LayerscopeError: There is no such initialisation.
    """
    check_choice("initialisation", how, ("torch", "he", "he_uniform", "glorot", "fan_out"))
    if how == "torch":
        return
    for name, module in model.named_modules():
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        if how == "glorot":
            nn.init.xavier_uniform_(module.weight)
        elif how == "fan_out":
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        else:
            draw = nn.init.kaiming_normal_ if how == "he" else nn.init.kaiming_uniform_
            draw(module.weight, nonlinearity="linear" if name == read_out else "relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class ChannelsLast(nn.Module):
    """Lays images out with their channels last in memory, as convolutions on processors like it.

    Values and shape are the same; what follows keeps the layout.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width), the same values."""
        return x.contiguous(memory_format=torch.channels_last)
