"""Patches of images, number by number."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np


def patches(
    images: np.ndarray,
    size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> np.ndarray:
    """Rows (groups, examples places, features) of what the filters see; images are padded."""
    examples, channels, *around = images.shape
    own = channels // groups
    spans = [(k - 1) * d for k, d in zip(size, dilation, strict=True)]
    starts = [
        range(0, length - span, step)
        for length, span, step in zip(around, spans, stride, strict=True)
    ]
    found = []
    for group in range(groups):
        rows = []
        for image, *corner in product(range(examples), *starts):
            row = []
            for channel, *at in product(range(own), *map(range, size)):
                place = tuple(c + a * d for c, a, d in zip(corner, at, dilation, strict=True))
                row.append(images[(image, group * own + channel, *place)])
            rows.append(row)
        found.append(rows)
    return np.asarray(found)


def outer_sum(rows: np.ndarray) -> np.ndarray:
    """Sum over rows of every group of their outer products."""
    total = np.zeros((len(rows), rows.shape[2], rows.shape[2]))
    for group, own in enumerate(rows):
        for row in own:
            total[group] += np.outer(row, row)
    return total
