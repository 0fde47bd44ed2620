"""First and second derivatives: gradients, and the largest eigenvalue of a Hessian."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from torch import Tensor

from layerscope.errors import DivergedError, LayerscopeError
from layerscope.networks.names import Weights

Differentiable = Callable[[Weights], tuple[Tensor, list[Tensor]]]
"""From tensors by name to a scalar and the tensors, in that order, it can be differentiated by."""
TOLERANCE = 1e-4


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

    Lanczos iteration (scipy's ``eigsh``) on products of the Hessian with vectors, each one more
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

    def product(vector: np.ndarray) -> np.ndarray:
        direction = torch.as_tensor(vector.reshape(-1), dtype=slope.dtype, device=slope.device)
        try:
            parts = torch.autograd.grad(
                slope, leaves, direction, retain_graph=True, materialize_grads=True
            )
        except NotImplementedError as error:
            raise LayerscopeError(
                f"the loss has no second derivative: {error}",
                "Leave the Hessian out, e.g. LossLandscape(hessian=False), or the layer.",
            ) from error
        return torch.cat([_dense(p).reshape(-1) for p in parts]).double().cpu().numpy()

    n = slope.numel()
    first = np.random.default_rng(0).standard_normal(n)
    if not slope.requires_grad:  # linear in these weights
        return 0.0
    if not np.isfinite(once := product(first)).all():
        raise DivergedError(
            "the Hessian is not finite.", "The model has diverged: measure an earlier checkpoint."
        )
    if not once.any():
        return 0.0
    if n == 1:
        return float(product(np.ones(1))[0])
    operator = LinearOperator((n, n), matvec=product, dtype=np.float64)  # pyright: ignore
    try:
        values = eigsh(
            operator,
            1,
            which="LA",
            tol=TOLERANCE,  # pyright: ignore
            v0=first,
            return_eigenvectors=False,
        )
    except ArpackError as error:
        raise LayerscopeError(
            f"the Hessian's largest eigenvalue was not found: {error}",
            "Leave it out, e.g. LossLandscape(hessian=False).",
        ) from error
    return float(values[0])
