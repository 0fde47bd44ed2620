"""Slow, obvious twins of the loss landscape of one layer: a fresh copy of the model per point.

Chen, Yuille and Zhou, "Which Layer is Learning Faster?", Section 4:
``f(b1, b2) = L(theta_l + b1 d1 + b2 d2)``, all other layers fixed. Filters as in Li et al.,
"Visualizing the Loss Landscape of Neural Nets" (2018).
"""

from __future__ import annotations

import copy
import math

import numpy as np
import torch


def length(tensor):
    """``sqrt(sum x^2)`` in float64."""
    return math.sqrt(float((tensor.double() ** 2).sum()))


def normalised(theta, d):
    """One Gaussian draw ``d`` brought to the size of the parameter ``theta``.

    - 2 dimensions: ``d / |d| * |theta|``, with the norm of the matrix. For a layer of one linear
      map this is the paper's norm of the layer; in a block each matrix is scaled on its own.
    - 3 and more: ``d_k / (|d_k| + 1e-10) * |theta_k|`` for every k along the first dimension, a
      filter of a convolution.
    - fewer (bias, normalisation): zero.
    """
    if theta.ndim < 2:
        return torch.zeros_like(theta)
    if theta.ndim == 2:
        return d / length(d) * length(theta)
    filters = [
        d_k / (length(d_k) + 1e-10) * length(theta_k) for d_k, theta_k in zip(d, theta, strict=True)
    ]
    return torch.stack(filters)


def directions(weights, names, generator):
    """One normalised Gaussian direction per name.

    Draws in the order of the names, in the type of each tensor; tensors whose direction is zero
    draw too, so what the others get does not depend on it.
    """
    found = {}
    for name in names:
        theta = weights[name].detach()
        d = torch.randn(theta.shape, generator=generator, dtype=theta.dtype)
        found[name] = normalised(theta, d)
    return found


def examples(batch):
    """How many examples a batch has: a tuple of tensors, or a dict of them."""
    first = next(iter(batch.values())) if isinstance(batch, dict) else batch[0]
    return len(first)


def mean_loss(model, loss, batches):
    """``sum_b n_b loss_b / sum_b n_b``: over all examples, where a batch's loss is its mean."""
    total, n = 0.0, 0
    for batch in batches:
        total = total + loss(model, batch).double() * examples(batch)
        n += examples(batch)
    return total / n


def moved(model, names, steps):
    """A copy of the model in eval mode with ``theta + sum_k b_k d_k``; ``steps``: ``(b, d)``."""
    twin = copy.deepcopy(model).eval()
    tensors = dict(twin.named_parameters(remove_duplicate=False))
    for name in names:
        theta = tensors[name]
        step = sum(b * d[name].double() for b, d in steps)
        theta.data = (theta.data.double() + step).to(theta.dtype)
    return twin


def surface(model, loss, names, d1, d2, grid, batches):
    """``f(b1, b2)`` for all b1, b2 of the grid: row i has ``b1 = grid[i]``, column j ``b2``."""
    found = np.zeros((len(grid), len(grid)))
    for i, b1 in enumerate(grid):
        for j, b2 in enumerate(grid):
            twin = moved(model, names, [(float(b1), d1), (float(b2), d2)])
            found[i, j] = float(mean_loss(twin, loss, batches).detach())
    return found


def mean_increase(model, loss, names, directions, radius, batches):
    """Sharpness: the mean over directions d of ``L(theta + r d) - L(theta)``.

    ``directions`` is a list of them, each a mapping by name. The radius is relative, since every
    d has the size of what it moves.
    """
    start = float(mean_loss(moved(model, [], []), loss, batches).detach())
    increases = []
    for d in directions:
        twin = moved(model, names, [(radius, d)])
        increases.append(float(mean_loss(twin, loss, batches).detach()) - start)
    return sum(increases) / len(increases)
