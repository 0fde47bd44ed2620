"""Slow, obvious twins of response frequency, and what it must be for linear maps.

Chen, Yuille and Zhou, "Which Layer is Learning Faster?", Section 5 (after Xu et al., 2019): a
function with high frequencies changes much when its input changes little. The paper does not say
by what the change is divided; both readings are here.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.integrate import quad


def mean_length(values):
    """``mean_i |v_i|_2`` over examples, each flattened, in float64."""
    lengths = [math.sqrt(float((value.double() ** 2).sum())) for value in values]
    return sum(lengths) / len(lengths)


def response(function, inputs, perturbations):
    """Response of ``function`` at ``inputs`` (examples, ...) to ``perturbations`` dx.

    With ``dy = f(x + dx) - f(x)`` and means over examples: ``mean|dy| / mean|dx|``, and the same
    of relative changes, ``(mean|dy| / mean|y|) / (mean|dx| / mean|x|)``.
    """
    y = function(inputs)
    dy = function(inputs + perturbations) - y
    plain = mean_length(dy) / mean_length(perturbations)
    relative = (mean_length(dy) / mean_length(y)) / (
        mean_length(perturbations) / mean_length(inputs)
    )
    return plain, relative


def gaussian_length(n, sigma=1.0):
    """``E|x| = sigma sqrt(2) Gamma((n + 1) / 2) / Gamma(n / 2)`` for x ~ N(0, sigma^2 I_n)."""
    return sigma * math.sqrt(2) * math.exp(math.lgamma((n + 1) / 2) - math.lgamma(n / 2))


def linear_closed_form(weight, sigma=1.0):
    """``(E|W dx|, E|dx|)`` for dx ~ N(0, sigma^2 I), where it has an elementary form.

    - W orthogonal times c (or c times orthonormal columns): ``E|W dx| = |c| E|dx|``.
    - W = u v^T: W dx = u N(0, sigma^2 |v|^2), so ``E|W dx| = |u| |v| sigma sqrt(2 / pi)``.

    Raises:
        ValueError: W (outputs, inputs) is neither.
    """
    weight = np.asarray(weight, dtype=np.float64)
    n = weight.shape[1]
    largest = np.abs(weight).max()
    squares = (weight**2).sum()
    if np.allclose(weight.T @ weight, squares / n * np.eye(n), rtol=0, atol=1e-9 * squares):
        return math.sqrt(squares / n) * gaussian_length(n, sigma), gaussian_length(n, sigma)
    row, column = np.argwhere(np.abs(weight) == largest)[0]
    u, v = weight[:, column] / weight[row, column], weight[row]
    if np.allclose(weight, np.outer(u, v), rtol=0, atol=1e-9 * largest):
        size = math.sqrt((u**2).sum()) * math.sqrt((v**2).sum())
        return size * sigma * math.sqrt(2 / math.pi), gaussian_length(n, sigma)
    raise ValueError("neither a multiple of an orthogonal matrix nor of rank one")


def linear_by_integral(weight, sigma=1.0):
    """``(E|W dx|, E|dx|)`` for dx ~ N(0, sigma^2 I) and any W, to the precision of quadrature.

    For ``q >= 0``: ``sqrt(q) = 1 / sqrt(pi) int_0^inf (1 - exp(-u^2 q)) / u^2 du``. With q =
    |W dx|^2 and the singular values s_i of W, ``E exp(-u^2 q) = prod_i (1 + 2 u^2 sigma^2
    s_i^2)^(-1/2)``.
    """
    weight = np.asarray(weight, dtype=np.float64)
    s = np.linalg.svd(weight, compute_uv=False)
    scale = s.max()  # u in units of 1 / (sigma scale), where the integrand lives

    def integrand(u):
        return -math.expm1(-0.5 * sum(math.log1p(2 * (u * s_i / scale) ** 2) for s_i in s)) / u**2

    near, _ = quad(integrand, 0, 1, epsabs=1e-12, epsrel=1e-12)
    far, _ = quad(integrand, 1, math.inf, epsabs=1e-12, epsrel=1e-12)
    return sigma * scale * (near + far) / math.sqrt(math.pi), gaussian_length(
        weight.shape[1], sigma
    )
