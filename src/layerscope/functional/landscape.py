"""Directions through weight space that are as long as the weights they start from."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

TINY = 1e-10


def scaled_direction(
    weights: Mapping[str, Tensor], generator: torch.Generator
) -> dict[str, Tensor]:
    r"""A Gaussian direction as long as the weights, filter by filter.

    With :math:`d` drawn from N(0, I): a matrix gets :math:`d\,\|\theta\| / \|d\|`, every filter
    :math:`k` of a tensor of three or more dimensions
    :math:`d^k \|\theta^k\| / (\|d^k\| + 10^{-10})`, Euclidean norms, and a tensor of fewer
    dimensions (a bias, the affine part of a normalisation) no direction, zeros. Source: Section 4
    of "Which Layer is Learning Faster?", after Li et al., "Visualizing the Loss Landscape of Neural
    Nets".

    Args:
        weights: Tensors by name.
        generator: Source of the draws, on the CPU, so that devices agree.

    Returns:
        A tensor of the same shape for every name.
    """
    return {name: _scaled(tensor, generator) for name, tensor in weights.items()}


def _scaled(weights: Tensor, generator: torch.Generator) -> Tensor:
    if weights.dim() < 2:
        return torch.zeros_like(weights)
    drawn = torch.randn(weights.shape, generator=generator).to(weights)
    filters = drawn.flatten(1) if weights.dim() > 2 else drawn.reshape(1, -1)
    length = weights.reshape(filters.shape).norm(dim=1, keepdim=True)
    scale = length / (filters.norm(dim=1, keepdim=True) + TINY)
    return (filters * scale).reshape(weights.shape)


def displaced(
    weights: Mapping[str, Tensor],
    directions: tuple[Mapping[str, Tensor], ...],
    steps: tuple[float, ...],
) -> dict[str, Tensor]:
    r""":math:`\theta + \sum_i \beta_i d_i` for every tensor.

    Args:
        weights: Tensors by name.
        directions: Directions with the same names.
        steps: One coefficient per direction.
    """
    moved = {}
    for name, tensor in weights.items():
        total = tensor.clone()
        for direction, step in zip(directions, steps, strict=True):
            total.add_(direction[name], alpha=step)
        moved[name] = total
    return moved
