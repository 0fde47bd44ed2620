"""Eigenvalues of symmetric operators that are known by their products with vectors only.

The largest one is found by ARPACK, the distribution of all by stochastic Lanczos quadrature: Golub
& Meurant, "Matrices, moments and quadrature" (1994); Lin, Saad & Yang, "Approximating spectral
densities of large matrices" (SIAM Review 2016).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float64
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from torch import Tensor

from layerscope.errors import DivergedError, LayerscopeError

Product = Callable[[Tensor], Tensor]
"""Of a symmetric operator with a vector (size,) of float64; the result has any floating type."""


class Tridiagonal(NamedTuple):
    """A symmetric tridiagonal matrix: its diagonal (steps,), and what is beside it (steps - 1,)."""

    alpha: Float64[Tensor, " steps"]
    beta: Float64[Tensor, " beside"]


class SpectralDensity(NamedTuple):
    """Where eigenvalues are, ascending, and which share of all is there; shares sum to 1."""

    eigenvalues: Float64[Tensor, " nodes"]
    weights: Float64[Tensor, " nodes"]


def random_direction(size: int, seed: int | torch.Generator = 0) -> Float64[Tensor, " size"]:
    """A vector of length 1, uniform over the sphere; of a seed, or the next of a generator.

    Raises:
        LayerscopeError: The size is not positive.
    """
    _check_positive("size", size)
    generator = torch.Generator().manual_seed(seed) if isinstance(seed, int) else seed
    vector = torch.randn(size, generator=generator, dtype=torch.float64)
    return vector / vector.norm()


def lanczos(product: Product, start: Float64[Tensor, " size"], steps: int) -> Tridiagonal:
    r"""Tridiagonal matrix :math:`T = Q^T A Q` of a symmetric operator A and a vector v.

    The columns of Q are an orthonormal basis of :math:`v, Av, A^2 v, \ldots` that begins with
    v / |v|. Recurrences are in float64, every new vector is made orthogonal to all before, twice,
    and all are kept.

    Args:
        product: A.
        start: v, on the device where the basis is kept.
        steps: Rows of T at most; fewer where these vectors span, to rounding, fewer dimensions, and
            then the eigenvalues of T are among those of A.

    Raises:
        LayerscopeError: There are no steps, or v is zero.
        DivergedError: A product is not finite.
    """
    _check_positive("steps", steps)
    _check_positive("the first vector's length", float(start.norm()))
    basis = start.new_zeros(min(steps, len(start)), len(start))
    vector, alpha, beta, scale = start / start.norm(), [], [], 0.0
    for k in range(len(basis)):
        basis[k] = vector
        rest = _finite(product(vector).to(start), "the operator")
        alpha.append(float(vector @ rest))
        for _ in range(2):
            rest = rest - (basis[: k + 1] @ rest) @ basis[: k + 1]
        length = float(rest.norm())
        scale = max(scale, abs(alpha[-1]) + length)
        if length <= len(start) * torch.finfo(torch.float64).eps * scale:
            break
        vector = rest / length
        beta.append(length)
    double = torch.float64
    return Tridiagonal(
        torch.tensor(alpha, dtype=double), torch.tensor(beta[: len(alpha) - 1], dtype=double)
    )


def spectral_density(
    product: Product,
    size: int,
    vectors: int = 10,
    steps: int = 50,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> SpectralDensity:
    r"""Distribution of the eigenvalues of a symmetric operator A, by Lanczos quadrature.

    Eigenvalues of the tridiagonal matrix T of a random direction v, with the squared first entries
    of the eigenvectors of T, are the Gauss quadrature of :math:`v^T f(A) v`: exact for polynomials
    f of degree up to 2 ``steps`` - 1, and for all f where ``steps`` is at least the number of
    distinct eigenvalues. The mean over v is :math:`\mathrm{tr} f(A) / n`.

    Args:
        product: A.
        size: n, its rows.
        vectors: Random directions that are averaged over.
        steps: Products for each of them, and nodes at most.
        seed: Of the directions.
        device: Where the vectors are kept.

    Raises:
        LayerscopeError: Size, vectors or steps are not positive.
        DivergedError: A product is not finite.
    """
    _check_positive("vectors", vectors)
    generator = torch.Generator().manual_seed(seed)
    nodes, weights = [], []
    for _ in range(vectors):
        alpha, beta = lanczos(product, random_direction(size, generator).to(device), steps)
        values, basis = torch.linalg.eigh(torch.diag(alpha) + torch.diag(beta, -1))  # reads below
        nodes.append(values)
        weights.append(basis[0].square() / vectors)
    order = torch.cat(nodes).argsort()
    return SpectralDensity(torch.cat(nodes)[order], torch.cat(weights)[order])


def smoothed(
    density: SpectralDensity, grid: Float64[Tensor, " points"], width: float
) -> Float64[Tensor, " points"]:
    r"""A density on a grid: :math:`\sum_k w_k\, N(x; \lambda_k, \mathrm{width}^2)`.

    Args:
        density: Nodes and weights; for a logarithmic axis logarithms of nodes.
        grid: Where, in the units of the nodes.
        width: Standard deviation in the same units.

    Returns:
        Shares of the eigenvalues per unit.

    Raises:
        LayerscopeError: The width is not positive.
    """
    _check_positive("width", width)
    z = (grid[:, None] - density.eigenvalues) / width
    return torch.exp(-z.square() / 2) @ density.weights / (width * math.sqrt(2 * math.pi))


def largest(
    product: Product,
    start: Float64[Tensor, " size"],
    tolerance: float = 1e-4,
    what: str = "the operator",
) -> float:
    r"""Largest (algebraic) eigenvalue of a symmetric operator A.

    Restarted Lanczos iteration on 20 vectors (scipy's ``eigsh``), until
    :math:`|A x - \lambda x| \le \mathrm{tolerance}\,|\lambda|` for the unit vector x.

    Args:
        product: A.
        start: The first vector, on the device where products are formed.
        tolerance: Relative.
        what: A in words, for errors.

    Raises:
        DivergedError: The operator is not finite.
        LayerscopeError: The iteration did not converge.
    """
    if not _finite(product(start), what).any():
        return 0.0
    n, first = len(start), start.cpu().numpy()
    if n == 1:
        return float(product(torch.ones_like(start))[0])

    def multiply(vector: object) -> object:
        return product(torch.tensor(vector).reshape(-1).to(start)).double().cpu().numpy()

    operator = LinearOperator((n, n), matvec=multiply, dtype="float64")  # pyright: ignore
    try:
        found = eigsh(operator, 1, which="LA", tol=tolerance, v0=first, return_eigenvectors=False)  # pyright: ignore
    except ArpackError as error:
        raise LayerscopeError(
            f"the largest eigenvalue of {what} was not found: {error}", f"Leave {what} out."
        ) from error
    return float(found[0])


def _finite(vector: Tensor, what: str) -> Tensor:
    if not vector.isfinite().all():
        raise DivergedError(
            f"{what} is not finite.", "The model has diverged: measure an earlier checkpoint."
        )
    return vector


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise LayerscopeError(f"{name} is {value}.", "Give a positive number.")
