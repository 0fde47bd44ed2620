"""A random choice of entries that stands for a layer, the same wherever it is drawn."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor


def layer_seed(seed: int, name: str, sizes: Sequence[int]) -> int:
    """Seed of one layer's draw: that of the choice, the layer's name and its tensors' sizes.

    Args:
        seed: Seed of the whole choice.
        name: The layer.
        sizes: Number of entries of each of its tensors.
    """
    text = json.dumps([seed, name, list(sizes)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def draw(population: int, size: int, seed: int) -> Int64[Tensor, " sampled"]:
    """A simple random sample without replacement, sorted; every choice is equally likely.

    Draws with replacement are added until enough are distinct, so that memory and time grow with
    the sample, never with what it is drawn from. That is uniform: which ``size`` values come first
    does not depend on what they are called. Of few entries the first of a permutation are taken.

    Args:
        population: Number of entries to choose from, numbered from 0.
        size: Number of entries to choose; all where there are not more.
        seed: Seed of the draw.

    Returns:
        Ascending places.
    """
    if population <= size:
        return torch.arange(population)
    generator = torch.Generator().manual_seed(seed)
    if population <= 4 * size:
        return torch.randperm(population, generator=generator)[:size].sort().values
    found = torch.empty(0, dtype=torch.int64)
    while (lacking := size - len(found)) > 0:
        more = torch.randint(population, (lacking,), generator=generator)
        found = torch.cat([found, more]).unique()
    return found


def split(chosen: Int64[Tensor, " sampled"], sizes: Sequence[int]) -> list[Tensor]:
    """Places in a layer as places in each of its tensors, which follow one another.

    Args:
        chosen: Ascending places in all entries of the layer.
        sizes: Number of entries of each tensor.

    Returns:
        Ascending places in each tensor flattened.
    """
    ends = torch.tensor([0, *sizes]).cumsum(0)
    cuts = torch.searchsorted(chosen, ends).tolist()
    return [
        chosen[begin:end] - first
        for begin, end, first in zip(cuts, cuts[1:], ends.tolist(), strict=False)
    ]
