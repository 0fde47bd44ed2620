"""Slow, obvious twin of a layer's sharpness: its whole Hessian, row by row."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from reference.landscape import mean_loss


def as_double(batch):
    """A batch, a tuple or dict of tensors, with every floating-point tensor in float64."""

    def convert(value):
        return value.double() if value.is_floating_point() else value

    if isinstance(batch, dict):
        return {key: convert(value) for key, value in batch.items()}
    return tuple(convert(value) for value in batch)


def flat_gradient(value, parameters, **options):
    """Gradient of a scalar as one vector; what it does not depend on gives zeros."""
    if not value.requires_grad:
        return torch.cat([torch.zeros_like(p).flatten() for p in parameters])
    found = torch.autograd.grad(value, parameters, allow_unused=True, **options)
    return torch.cat(
        [
            torch.zeros_like(p).flatten() if g is None else g.flatten()
            for g, p in zip(found, parameters, strict=True)
        ]
    )


def hessian(model, loss, names, batches):
    """``H_ij = d^2 L / d theta_i d theta_j``, L the mean loss over all examples, in float64.

    Every row is the gradient of one entry of the gradient. Entries in the order of the names. A
    rectifier counts as the linear map that it is around the weights.
    """
    twin = copy.deepcopy(model).double().eval().requires_grad_(True)
    tensors = dict(twin.named_parameters(remove_duplicate=False))
    parameters = [tensors[name] for name in names]
    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
        value = mean_loss(twin, loss, [as_double(batch) for batch in batches])
        gradient = flat_gradient(value, parameters, create_graph=True)
        rows = [flat_gradient(g, parameters, retain_graph=True).numpy() for g in gradient]
    return np.stack(rows)


def top_eigenvalue(model, loss, names, batches):
    """The largest eigenvalue with its sign, not the largest in magnitude, of `hessian`.

    A parameter the loss does not depend on adds an eigenvalue 0, so that the answer is then never
    negative.
    """
    h = hessian(model, loss, names, batches)
    return float(np.linalg.eigvalsh((h + h.T) / 2)[-1])
