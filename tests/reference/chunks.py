"""A tensor in chunks put together number by number."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np


def assembled(
    size: Sequence[int], chunks: Sequence[tuple[Sequence[int], np.ndarray]], dtype: np.dtype
) -> np.ndarray:
    """Every number of every chunk at its own place plus the chunk's offsets."""
    whole = np.zeros(tuple(size), dtype)
    for offsets, part in chunks:
        for place in product(*(range(n) for n in part.shape)):
            whole[tuple(o + i for o, i in zip(offsets, place, strict=True))] = part[place]
    return whole
