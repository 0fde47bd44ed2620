r"""What the filters of a convolution see at every place, and second moments of it.

A patch is a row of :math:`c\,k_1 \cdots k_n` numbers: c channels of a group, at every position of
the filter. Written out they are as many times the image as the filter has positions. Where the
stride along the first dimension is 1 their outer products need not be written out: those of filter
rows i and i' depend on :math:`\delta = i' - i` but for the rows at the edges of the image,

.. math:: S_{i,\,i+\delta} = \sum_{r \in [i d,\, i d + o)} y_r^T\, y_{r + \delta d},

where d is the dilation, o the height of the output, and :math:`y_r` has what filters of height 1
see along row r of the padded image. The rows that all i share are multiplied once for each
:math:`\delta`, in place of once for each i and i'.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Float64
from torch import Tensor


@dataclass(frozen=True)
class Patches:
    """Rows (groups, examples places, channels of a group times size) of a convolution's input.

    Attributes:
        images: (examples, channels, *places), already padded.
        size: Of the filter, along every dimension of places.
        stride: Of the convolution.
        dilation: Of the filter.
        groups: Of channels.
    """

    images: Tensor
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1

    @property
    def dtype(self) -> torch.dtype:
        """Type of the images."""
        return self.images.dtype

    @property
    def places(self) -> tuple[int, ...]:
        """Shape of the convolution's output, without examples and channels."""
        spans = zip(self.images.shape[2:], self._reach(), self.stride, strict=True)
        return tuple((length - reach) // stride + 1 for length, reach, stride in spans)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Groups, rows in each, entries of a row."""
        channels = self.images.shape[1] // self.groups
        rows = len(self.images) * math.prod(self.places)
        return self.groups, rows, channels * math.prod(self.size)

    def rows(self) -> Float[Tensor, "groups rows features"]:
        """The patches, written out."""
        seen = self._seen(range(len(self.size)))  # (examples, channels, *places, *size)
        n = len(self.size)
        apart = seen.movedim(1, 1 + n).reshape(-1, self.groups, self.shape[2])
        return apart.transpose(0, 1)

    def squares(self) -> Float64[Tensor, ""]:
        """Sum of the squares of all entries of all rows."""
        squared = Patches(self.images.double().square(), self.size, self.stride, self.dilation)
        return squared._seen(range(len(self.size))).sum()

    @property
    def shared(self) -> bool:
        """Whether `outer_sum` has products to share."""
        return self.stride[0] == 1 and self.size[0] > 1

    def outer_sum(self) -> Float64[Tensor, "groups features features"]:
        """Sum over rows of their outer products, where these are `shared`."""
        groups, _, features = self.shape
        lines = self._lines()
        height, step, out = self.size[0], self.dilation[0], self.places[0]
        channels, rest = self.images.shape[1] // groups, math.prod(self.size[1:])
        found = lines.new_zeros(groups, channels, height, rest, channels, height, rest)

        def product(start: int, end: int, ahead: int) -> Tensor:
            one, other = lines[:, start:end], lines[:, start + ahead : end + ahead]
            return one.flatten(1, 2).mT @ other.flatten(1, 2)

        for apart in range(height):
            first = (height - 1 - apart) * step  # row from which all windows have begun
            ahead = apart * step
            common = product(first, out, ahead) if first < out else None
            for i in range(height - apart):
                start, end = i * step, i * step + out
                if common is None:
                    total = product(start, end, ahead)
                else:
                    total = common + product(start, first, ahead) + product(out, end, ahead)
                total = total.view(groups, channels, rest, channels, rest)
                found[:, :, i, :, :, i + apart] = total
                found[:, :, i + apart, :, :, i] = total.permute(0, 3, 4, 1, 2)
        return found.view(groups, features, features)

    def _lines(self) -> Float64[Tensor, "groups lines positions entries"]:
        """What filters of height 1 see, by rows of the image."""
        n = len(self.size)
        seen = self._seen(range(1, n))  # (examples, channels, lines, *places, *size), no height
        examples, channels, lines = seen.shape[:3]
        apart = seen.unflatten(1, (self.groups, channels // self.groups))
        order = (1, 3, 0, *range(4, 3 + n), 2, *range(3 + n, apart.ndim))
        moved = apart.permute(order)
        written = torch.empty(moved.shape, dtype=torch.float64, device=moved.device).copy_(moved)
        positions = examples * math.prod(self.places[1:])
        return written.view(self.groups, lines, positions, -1)

    def _seen(self, dims: Sequence[int]) -> Tensor:
        """A view with windows along some dimensions of places, their entries last."""
        x = self.images
        for dim in dims:
            reach, stride, dilation = self._reach()[dim], self.stride[dim], self.dilation[dim]
            x = x.unfold(2 + dim, reach, stride)[..., ::dilation]
        return x

    def _reach(self) -> tuple[int, ...]:
        """Places that the filter spans along every dimension."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.size, self.dilation, strict=True))


def padded(
    images: Float[Tensor, "examples channels *places"],
    padding: str | Sequence[int],
    size: Sequence[int],
    dilation: Sequence[int],
) -> Float[Tensor, "examples channels *around"]:
    """Images with zeros around them; a copy.

    Args:
        images: To surround.
        padding: As convolutions take it: along every dimension, ``"valid"`` or ``"same"``.
        size: Of the filter.
        dilation: Of the filter.
    """
    if padding == "valid":
        around = [0] * 2 * len(size)
    elif padding == "same":
        spans = [(k - 1) * d for k, d in zip(size, dilation, strict=True)]
        around = [side for span in reversed(spans) for side in (span // 2, span - span // 2)]
    else:
        assert not isinstance(padding, str), padding  # convolutions know no other name
        around = [side for p in reversed(padding) for side in (p, p)]
    return F.pad(images, around) if any(around) else images.clone()
