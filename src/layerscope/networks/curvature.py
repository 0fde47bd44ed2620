"""First and second derivatives: gradients, and the largest eigenvalue of a Hessian."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from layerscope.errors import LayerscopeError
from layerscope.functional.krylov import largest
from layerscope.networks.names import Weights

Differentiable = Callable[[Weights], tuple[Tensor, list[Tensor]]]
"""From tensors by name to a scalar and the tensors, in that order, it can be differentiated by."""


def gradients(
    value: Tensor, leaves: Sequence[Tensor], *, create_graph: bool = False
) -> tuple[Tensor, ...]:
    """Derivatives of a scalar, dense; zeros for what it does not depend on.

    Args:
        value: The scalar.
        leaves: With respect to these; of those that do not require a gradient it is zero.
        create_graph: Whether the result can be differentiated again.
    """
    wanted = [leaf for leaf in leaves if leaf.requires_grad] if value.requires_grad else []
    found: dict[int, Tensor] = {}
    if wanted:
        slopes = torch.autograd.grad(
            value, wanted, create_graph=create_graph, materialize_grads=True
        )
        found = {id(leaf): _dense(slope) for leaf, slope in zip(wanted, slopes, strict=True)}
    return tuple(found[id(x)] if id(x) in found else torch.zeros_like(x) for x in leaves)


def _dense(slope: Tensor) -> Tensor:
    return slope if slope.layout == torch.strided else slope.to_dense()


def top_eigenvalue(loss: Differentiable, weights: Weights) -> float:
    r"""Largest (algebraic) eigenvalue of :math:`\partial^2 L / \partial\theta^2`.

    By `layerscope.functional.krylov.largest` on products of the Hessian with vectors, each one more
    backward pass; relative tolerance 1e-4, the first vector fixed, so that it repeats.

    Args:
        loss: A function of tensors by name that can be differentiated twice, as
            `layerscope.networks.sharing.shared_loss` gives it.
        weights: Where; every tensor of a floating type.

    Returns:
        The eigenvalue, in units of the loss over squared units of the weights.

    Raises:
        DivergedError: The Hessian is not finite.
        LayerscopeError: The iteration did not converge, or an operator has no second derivative.
    """
    with torch.inference_mode(False), torch.enable_grad():
        value, leaves = loss(weights)
        slope = torch.cat([g.reshape(-1) for g in gradients(value, leaves, create_graph=True)])

    def product(vector: Tensor) -> Tensor:
        direction = vector.to(slope)
        try:
            parts = torch.autograd.grad(
                slope, leaves, direction, retain_graph=True, materialize_grads=True
            )
        except NotImplementedError as error:
            raise LayerscopeError(
                f"the loss has no second derivative: {error}",
                "Leave the Hessian out, e.g. LossLandscape(hessian=False), or the layer.",
            ) from error
        return torch.cat([_dense(p).reshape(-1) for p in parts])

    if not slope.requires_grad:  # linear in these weights
        return 0.0
    first = torch.from_numpy(np.random.default_rng(0).standard_normal(slope.numel()))
    return largest(product, first.to(slope.device), what="the Hessian")
