"""Vision transformers."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from layerscope.errors import LayerscopeError
from layerscope.models.initialisation import check_dropout, check_images, check_sizes

DEVIATION = 0.02
"""Standard deviation of the initial class token and positions."""


class PatchEmbedding(nn.Module):
    """Tokens of an image: a class token, then one for every patch, each plus its position."""

    def __init__(
        self, channels: int, patches: int, patch_size: int, width: int, dropout: float
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, patch_size, stride=patch_size)
        self.class_token = nn.Parameter(torch.empty(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, 1 + patches, width))
        self.dropout = nn.Dropout(dropout)
        for tokens in (self.class_token, self.positions):
            nn.init.trunc_normal_(tokens, std=DEVIATION)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width of the image) to (batch, 1 + patches, width)."""
        patches = self.conv(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(x), -1, -1), patches], 1)
        return self.dropout(tokens + self.positions)


class FirstToken(nn.Module):
    """What the encoders made of the class token."""

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, tokens, width) to (batch, width)."""
        return tokens[:, 0]


def vit(
    input_shape: tuple[int, ...],
    outputs: int,
    patch_size: int = 4,
    width: int = 256,
    heads: int = 8,
    expansions: tuple[int, ...] = (4,) * 12,
    dropout: float = 0.0,
) -> nn.Sequential:
    """A ViT: ``patch_embedding``, ``encoders.0`` and so on, ``final_norm``, ``final_linear``.

    "An image is worth 16x16 words" (Eqs. 1 to 4), with a linear classifier on the class token:
    ``z_0 = [class token; patches E] + positions``, ``a_l = z_{l-1} + attention(norm(z_{l-1}))``,
    ``z_l = a_l + feed_forward(norm(a_l))``, ``y = T(norm(z_L)[0])``; the feed-forward part is
    linear, GELU, linear, ``expansions[l] * width`` units wide inside.

    The ViT of "Which layer is learning faster?" (Table 2: 9.9M parameters) is width 256 with twelve
    encoders on 224 pixels: 9,982,184 parameters for patches of 16 pixels, expansion 4 and 1000
    classes, 9,931,496 of them outside class token and positions. The encoders of "width 2/4/8" of
    its Fig. 9 are read as expansions, for which its three variants have as many parameters each.

    Class token and positions begin as N(0, 0.02^2), everything else as PyTorch's modules do:
    the matrix of all queries, keys and values as Glorot's uniform (see `initialise`) with zero
    biases, the output of attention with zero biases, normalisations with weight 1 and bias 0, else
    U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for weights and biases.

    Args:
        input_shape: (channels, height, width) of an image.
        outputs: Number of classes.
        patch_size: Side of a square patch in pixels.
        width: Length of a token's vector.
        heads: Attention heads of every encoder block.
        expansions: For every encoder block the width of its feed-forward part over ``width``.
        dropout: Share of activations dropped in training: of the tokens that enter the encoders,
            the attention weights, inside the feed-forward parts and at the end of every branch.

    Returns:
        The network, from (batch, channels, height, width) to (batch, outputs).

    Raises:
        LayerscopeError: A size is not positive, there are no encoders, patches do not tile the
            image, heads do not divide the width, or dropout is no share.
    """
    check_images(input_shape, outputs, width)
    check_sizes(patch_size=patch_size, width=width, heads=heads)
    _check_fit(input_shape, patch_size, width, heads)
    if not expansions or min(expansions) < 1:
        raise LayerscopeError(
            f"expansions is {tuple(expansions)}.",
            "Give every encoder block an expansion of at least 1, e.g. (4, 4) for two blocks.",
        )
    check_dropout(dropout)
    channels, *sides = input_shape
    patches = (sides[0] // patch_size) * (sides[1] // patch_size)
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    parts["patch_embedding"] = PatchEmbedding(channels, patches, patch_size, width, dropout)
    parts["encoders"] = nn.Sequential(
        *(_encoder(width, heads, expansion, dropout) for expansion in expansions)
    )
    parts["first_token"] = FirstToken()
    parts["final_norm"] = nn.LayerNorm(width)
    parts["final_linear"] = nn.Linear(width, outputs)
    return nn.Sequential(parts)


def _encoder(width: int, heads: int, expansion: int, dropout: float) -> nn.Module:
    return nn.TransformerEncoderLayer(
        width,
        heads,
        dim_feedforward=expansion * width,
        dropout=dropout,
        activation="gelu",
        batch_first=True,
        norm_first=True,
    )


def _check_fit(input_shape: tuple[int, ...], patch_size: int, width: int, heads: int) -> None:
    _, *sides = input_shape
    if any(side % patch_size for side in sides):
        raise LayerscopeError(
            f"patches of {patch_size} pixels do not tile images of {sides[0]}x{sides[1]} pixels.",
            "Choose a patch_size that divides both sides, or another image_size.",
        )
    if width % heads:
        raise LayerscopeError(
            f"width {width} is not a multiple of heads, {heads}.",
            "Choose heads that divide the width.",
        )
