"""Norms of layers: many tensors, each owned by one layer, reduced to one number per layer.

A layer is a set of tensors. Its norm is that of all its entries taken together,

    ||theta_l||_p = (sum over tensors i of l, sum over entries j, |theta_ij|^p)^(1/p).

The sums inside one tensor run in its own precision, at least float32, pairwise on the CPU and in
the fused multi-tensor kernel elsewhere; sums over tensors run in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

Total = Callable[[Tensor, bool], Tensor]
"""Sums, or largest values where the second argument says so, over all that hold entries."""


def here(sums: Tensor, largest: bool = False) -> Tensor:
    """The sums themselves: all entries are in this process."""
    del largest
    return sums


def owners(counts: Sequence[int], device: torch.device | str = "cpu") -> Int64[Tensor, " tensors"]:
    """The layer index of every tensor in a flat list, from the number of tensors per layer."""
    return torch.repeat_interleave(
        torch.arange(len(counts), device=device), torch.tensor(list(counts), device=device)
    )


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor itself, or its float32 copy where it has half precision or integers."""
    exact = (tensor.is_floating_point() and tensor.element_size() > 2) or tensor.is_complex()
    return tensor if exact else tensor.float()


def _power_sum(magnitudes: Tensor, p: float) -> Tensor:
    """Sum of ``x^p``, or the largest ``x``, over one CPU tensor, which is overwritten.

    ``sum`` is pairwise, ``vector_norm`` and ``dot`` are not; ``amax`` is vectorised, unlike
    ``vector_norm`` of infinite order.
    """
    if math.isinf(p):
        return magnitudes.amax() if magnitudes.numel() else magnitudes.sum()
    return (magnitudes if p == 1 else magnitudes.pow_(p)).sum()


def power_sums(tensors: Sequence[Tensor], p: float) -> Float64[Tensor, " tensors"]:
    """``sum_j |x_ij|^p`` for every tensor ``i``, or ``max_j |x_ij|`` where ``p`` is infinite.

    Args:
        tensors: Tensors of any shape on one device.
        p: Order of the norm, at least 1.

    Returns:
        One float64 number per tensor, on the tensors' device.
    """
    if tensors[0].device.type == "cpu":
        sums = [_power_sum(at_least_float32(tensor).abs(), p) for tensor in tensors]
        return torch.stack(sums).double()
    if not all(tensor.numel() for tensor in tensors):  # the kernel knows no largest of none
        zero = torch.zeros(1, device=tensors[0].device)
        tensors = [tensor if tensor.numel() else zero for tensor in tensors]
    norms = torch.stack(torch._foreach_norm([at_least_float32(t) for t in tensors], p)).double()
    return norms if math.isinf(p) else norms.pow(p)


def _magnitudes(difference: Tensor) -> Tensor:
    """Absolute values, in place where they have the type of the numbers."""
    return difference.abs() if difference.is_complex() else difference.abs_()


def _distance_power_sums(
    before: Sequence[Tensor], after: Sequence[Tensor], p: float
) -> Float64[Tensor, " tensors"]:
    """`power_sums` of ``after - before``."""
    if before[0].device.type != "cpu":
        wide = [[at_least_float32(tensor) for tensor in side] for side in (after, before)]
        return power_sums(torch._foreach_sub(*wide), p)
    # One tensor at a time: its difference is summed while it is still in the cache.
    differences = (
        torch.sub(at_least_float32(a), at_least_float32(b))
        for a, b in zip(after, before, strict=True)
    )
    return torch.stack([_power_sum(_magnitudes(one), p) for one in differences]).double()


def layer_sums(
    sums: Float64[Tensor, " tensors"], owner: Int64[Tensor, " tensors"], n_layers: int
) -> Float64[Tensor, " layers"]:
    """Sums over the tensors of every layer."""
    total = torch.zeros(n_layers, dtype=torch.float64, device=sums.device)
    return total.index_add_(0, owner, sums)


def _per_layer(
    sums: Float64[Tensor, " tensors"],
    owner: Int64[Tensor, " tensors"],
    n_layers: int,
    p: float,
    total: Total,
) -> Float64[Tensor, " layers"]:
    """One norm per layer from the power sums of its tensors."""
    if math.isinf(p):
        layers = torch.arange(n_layers, device=sums.device)
        return total(torch.where(owner == layers[:, None], sums, 0.0).amax(1), True)
    return total(layer_sums(sums, owner, n_layers), False).pow(1.0 / p)


def layer_norms(
    tensors: Sequence[Tensor],
    owner: Int64[Tensor, " tensors"],
    n_layers: int,
    p: float = 2.0,
    total: Total = here,
) -> Float64[Tensor, " layers"]:
    """p-norm of every layer.

    Args:
        tensors: All tensors of all layers, flat.
        owner: Index of the layer that each tensor belongs to.
        n_layers: Number of layers.
        p: Order of the norm, at least 1; infinity gives the largest magnitude.
        total: Adds up over processes of which each holds some of the entries, none of them twice;
            a tensor of which it holds none is there and empty.

    Returns:
        One float64 norm per layer.
    """
    return _per_layer(power_sums(tensors, p), owner, n_layers, p, total)


def layer_distances(
    before: Sequence[Tensor],
    after: Sequence[Tensor],
    owner: Int64[Tensor, " tensors"],
    n_layers: int,
    p: float = 2.0,
    total: Total = here,
) -> Float64[Tensor, " layers"]:
    """``||after_l - before_l||_p`` for every layer; arguments as in `layer_norms`."""
    return _per_layer(_distance_power_sums(before, after, p), owner, n_layers, p, total)


def spectral_norms(
    tensors: Sequence[Tensor], owner: Int64[Tensor, " tensors"], n_layers: int
) -> Float64[Tensor, " layers"]:
    r"""Largest singular value of every layer, over its matrices.

    The root of the largest eigenvalue of the smaller of :math:`W W^T` and :math:`W^T W`, float64.

    Args:
        tensors: Matrices, or filters of two or more dimensions, the first of which are outputs.
        owner: Index of the layer that each tensor belongs to.
        n_layers: Number of layers.

    Returns:
        One number per layer; NaN where values are not finite.
    """
    found = torch.zeros(n_layers, dtype=torch.float64, device=owner.device)
    for layer, tensor in zip(owner.tolist(), tensors, strict=True):
        matrix = tensor.detach().flatten(1)
        matrix = matrix.to(torch.complex128 if matrix.is_complex() else torch.float64)
        gram = matrix @ matrix.mH if matrix.shape[0] <= matrix.shape[1] else matrix.mH @ matrix
        finite = bool(gram.isfinite().all())
        top = torch.linalg.eigvalsh(gram.cpu())[-1].clamp_min(0).sqrt() if finite else torch.nan
        found[layer] = torch.maximum(found[layer], torch.as_tensor(top).to(found))
    return found
