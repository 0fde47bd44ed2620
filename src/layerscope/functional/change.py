"""Relative change of weights between two moments.

Source: Agrawal et al., "Investigating Learning in Deep Neural Networks using Layer-Wise Weight
Change" (Eq. 1) for p = 1; Chen, Yuille and Zhou, "Which Layer is Learning Faster?" (Appendix A.2)
for p = 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from layerscope.functional.norms import (
    Total,
    at_least_float32,
    here,
    layer_distances,
    layer_norms,
    layer_sums,
    power_sums,
)

Reduction = Literal["ratio", "elementwise", "median", "angle"]


def _quotients(before: Tensor, after: Tensor) -> Tensor:
    """``|after - before| / |before|`` per entry: 0 where nothing moved, inf where 0 moved."""
    before, after = at_least_float32(before), at_least_float32(after)
    moved = (after - before).abs()
    return torch.where(moved == 0, 0.0, moved / before.abs())


def _by_layer(tensors: Sequence[Tensor], owner: Tensor, n_layers: int) -> list[Tensor]:
    """The entries of every layer as one flat tensor."""
    members: list[list[Tensor]] = [[] for _ in range(n_layers)]
    for index, tensor in zip(owner.tolist(), tensors, strict=True):
        members[index].append(tensor.flatten())
    return [torch.cat(parts) for parts in members]


def relative_change(
    before: Sequence[Tensor],
    after: Sequence[Tensor],
    owner: Int64[Tensor, " tensors"],
    n_layers: int,
    p: float = 1.0,
    reduction: Reduction = "ratio",
    total: Total = here,
) -> Float64[Tensor, " layers"]:
    r"""Relative change of every layer's weights.

    * ``ratio``: :math:`\|w_t - w_{t-1}\|_p / \|w_{t-1}\|_p`, the definition of the paper.
    * ``elementwise``: :math:`\mathrm{mean}_i\, |w^t_i - w^{t-1}_i| / |w^{t-1}_i|`. Heavy-tailed,
      since 1/|w| has no mean where the density of w is positive at zero: it grows with the number
      of entries at equal relative change and is infinite where a zero moves. Compare layers of
      different size with ``ratio``, and summarise over time or seeds by the median.
    * ``median``: the (lower) median over entries of the same quotient, stable in layer size.
    * ``angle``: how far the weights turn, see `angles`.

    Unitless; ``angle`` in rad. Scaling both arguments by one factor changes nothing; no movement
    gives 0, also for a layer of zeros; a layer of zeros that moves gives infinity (a right
    angle).

    Args:
        before: Weights at the earlier moment, all layers' tensors in one flat list.
        after: Weights at the later moment, same order and shapes.
        owner: Index of the layer that each tensor belongs to.
        n_layers: Number of layers.
        p: Order of the norm for ``ratio``; the other reductions do not use it.
        reduction: How the entries of a layer become one number.
        total: Adds up over processes that share the entries, as in `layer_norms`; a median is no
            sum, and is that of the entries that are here.

    Returns:
        One float64 number per layer.
    """
    if reduction == "ratio":
        distance = layer_distances(before, after, owner, n_layers, p, total)
        size = layer_norms(before, owner, n_layers, p, total)
        return torch.where(distance == 0, 0.0, distance / size)
    if reduction == "angle":
        return angles(before, after, owner, n_layers, total)
    if reduction not in ("elementwise", "median"):
        raise ValueError(f"unknown reduction {reduction!r}")
    quotients = [_quotients(b, a) for b, a in zip(before, after, strict=True)]
    layers = [layer.double() for layer in _by_layer(quotients, owner, n_layers)]
    if reduction == "median":
        return torch.stack([torch.median(layer) for layer in layers])
    counts = torch.tensor([layer.numel() for layer in layers], device=layers[0].device)
    sums = torch.stack([layer.sum() for layer in layers])
    return total(sums, False) / total(counts.double(), False)


def angles(
    before: Sequence[Tensor],
    after: Sequence[Tensor],
    owner: Int64[Tensor, " tensors"],
    n_layers: int,
    total: Total = here,
) -> Float64[Tensor, " layers"]:
    r"""Angle between every layer's weights at two moments, in rad.

    .. math:: \arccos \frac{\langle w_t, w_{t-1} \rangle}{\|w_t\| \, \|w_{t-1}\|}

    What a change means where a normalisation makes the length of the weights arbitrary. The
    cosine of a small angle is 1 to all digits; here the angle comes from the parts of the change
    across and along the weights, so that its relative error stays that of the change itself.
    A layer that leaves zero, which has no direction, turns by a right angle.

    Args:
        before: Weights at the earlier moment, all layers' tensors in one flat list.
        after: Weights at the later moment, same order and shapes.
        owner: Index of the layer that each tensor belongs to.
        n_layers: Number of layers.
        total: Adds up over processes that share the entries, as in `layer_norms`.

    Returns:
        One float64 angle per layer, between 0 and pi.
    """
    pairs = list(zip(before, after, strict=True))
    dots = torch.stack([_dot(b, a) for b, a in pairs]).double()
    squares = total(layer_sums(power_sums(before, 2.0), owner, n_layers), False)
    along = total(layer_sums(dots, owner, n_layers), False) / squares  # in lengths of the weights
    share = torch.nan_to_num(along, nan=0.0)
    across = [
        power_sums([_across(b, a, share[layer])], 2.0)
        for layer, (b, a) in zip(owner.tolist(), pairs, strict=True)
    ]
    distance = total(layer_sums(torch.cat(across), owner, n_layers), False).sqrt()
    return torch.atan2(distance, squares.sqrt() * (1 + share))


def _dot(before: Tensor, after: Tensor) -> Tensor:
    """Inner product of the weights and their change."""
    before, after = at_least_float32(before), at_least_float32(after)
    return (before.conj() * (after - before)).real.sum()


def _across(before: Tensor, after: Tensor, share: Tensor) -> Tensor:
    """The change without its part along the weights, which is ``share`` of them."""
    before, after = at_least_float32(before), at_least_float32(after)
    return (after - before) - share * before


def zero_counts(
    tensors: Sequence[Tensor],
    owner: Int64[Tensor, " tensors"],
    n_layers: int,
    total: Total = here,
) -> Int64[Tensor, " layers"]:
    """Number of entries of every layer that are exactly zero; arguments as in `layer_norms`."""
    counts = torch.stack([tensor.numel() - torch.count_nonzero(tensor) for tensor in tensors])
    none = torch.zeros(n_layers, dtype=torch.int64, device=counts.device)
    return total(none.index_add_(0, owner, counts), False)


def size_matched_indices(sizes: Sequence[int], seed: int) -> list[Int64[Tensor, " smallest"]]:
    """A random choice of entries per layer, as many as the smallest layer has, sorted.

    The control for measures that depend on layer size: reduce only these entries.

    Args:
        sizes: Number of entries of every layer.
        seed: Seed of the draw, without replacement.

    Returns:
        For every layer the indices into its flattened entries.
    """
    generator = torch.Generator().manual_seed(seed)
    smallest = min(sizes)
    return [torch.randperm(n, generator=generator)[:smallest].sort().values for n in sizes]


def subsample(tensors: Sequence[Tensor], owner: Tensor, indices: Sequence[Tensor]) -> list[Tensor]:
    """The chosen entries of every layer, one flat tensor per layer."""
    flat = _by_layer(tensors, owner, len(indices))
    return [layer[index.to(layer.device)] for layer, index in zip(flat, indices, strict=True)]
