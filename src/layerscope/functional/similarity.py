"""How alike two directions are, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from layerscope.functional.norms import at_least_float32, layer_norms


def layer_cosines(
    first: Sequence[Tensor],
    second: Sequence[Tensor],
    owner: Int64[Tensor, " tensors"],
    n_layers: int,
) -> Float64[Tensor, " layers"]:
    r"""Cosine of the angle between two vectors, for every layer.

    :math:`\langle a_l, b_l \rangle / (\|a_l\| \|b_l\|)`, all tensors of the layer taken together,
    complex numbers as pairs of real ones; 0 where one of them vanishes: it has no direction.

    Args:
        first: All tensors of all layers, flat.
        second: Likewise, with the same shapes.
        owner: Index of the layer that each tensor belongs to.
        n_layers: Number of layers.

    Returns:
        One number per layer, between -1 and 1; NaN where a tensor is not finite.
    """
    pairs = [(at_least_float32(a), at_least_float32(b)) for a, b in zip(first, second, strict=True)]
    products = [(a * b.conj()).sum().real.double() for a, b in pairs]
    inner = torch.zeros(n_layers, dtype=torch.float64, device=owner.device)
    inner.index_add_(0, owner, torch.stack(products))
    size = layer_norms(first, owner, n_layers) * layer_norms(second, owner, n_layers)
    return torch.where(size == 0, 0.0, inner / size).clamp(-1.0, 1.0)
