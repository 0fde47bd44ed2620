r"""Generalisation bounds from the number of parameters, with and without those that can be reset.

Source: Zhang, Bengio and Singer, "Are All Layers Created Equal?" (Section 4), with the VC dimension
of Anthony and Bartlett, "Neural Network Learning: Theoretical Foundations" (Theorem 8.8), and the
bound of Vapnik, "Statistical Learning Theory" (1998).

Both are statements about two classes. For a network with more outputs they are the "naive parameter
counting" of the paper: an order of magnitude, not a certificate.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from layerscope.errors import LayerscopeError


class ParameterCountingBound(NamedTuple):
    """Upper bounds on the risk, of the trained model and of the one with its layers reset."""

    plain: float
    reset: float


def vc_dimension(weights: int, units: int, layers: int, pieces: int = 2, degree: int = 1) -> float:
    r"""Upper bound on the VC dimension of a feed-forward network with one threshold output.

    .. math:: 2 W L \log_2 \frac{4 W L p k}{\ln 2} + 2 W L^2 \log_2 (l + 1) + 2 L

    It follows from a growth function of at most :math:`2^L (2 e m p k (l + 1)^{L-1})^{W L}` on m
    points (``tests/reference/bounds.py`` counts it out). Without weights the network is a single
    function, of dimension 0.

    Args:
        weights: W, parameters that are learned.
        units: k, units that compute (hidden and output ones).
        layers: L, layers that those units stand in.
        pieces: p, pieces of the activation; 2 for ReLU.
        degree: l, largest degree of a piece; 1 for ReLU.

    Raises:
        LayerscopeError: A number is out of range.
    """
    _check("weights", weights, 0)
    _check("degree", degree, 0)
    for name, value in {"units": units, "layers": layers, "pieces": pieces}.items():
        _check(name, value, 1)
    if weights == 0:
        return 0.0
    each = math.log2(4 * weights * layers * pieces * units / math.log(2))
    return 2 * weights * layers * (each + layers * math.log2(degree + 1)) + 2 * layers


def generalisation_gap(dimension: float, n: int, delta: float = 0.05, guesses: int = 1) -> float:
    r"""How far the risk of a two-class classifier may lie above its empirical risk.

    With probability at least :math:`1 - \delta` over n training examples, for K classes of
    functions of VC dimension h chosen beforehand (union bound), at most

    .. math:: \sqrt{\frac{G + \ln (4 K / \delta)}{n}}, \quad
        G = \min \left( h \left( \ln \frac{2 n}{h} + 1 \right), 2 n \ln 2 \right),

    where G bounds the logarithm of the growth function on 2n points: Sauer's bound, and all
    labellings where h is larger. A gap above 1 is vacuous: it says nothing of a risk between 0
    and 1. That is usual for networks with more parameters than examples, for which it is
    :math:`\sqrt{2 \ln 2} = 1.18` and slightly more, whatever else.

    Args:
        dimension: h, or an upper bound on it: 0 for a single function, else at least 1.
        n: Training examples.
        delta: Probability that the bound fails.
        guesses: K.

    Returns:
        The gap, as a share of the examples (0 to 1 where it is not vacuous).

    Raises:
        LayerscopeError: A number is out of range.
    """
    if dimension:
        _check("dimension", dimension, 1)
    _check("n", n, 1)
    _check("guesses", guesses, 1)
    if not 0 < delta < 1:
        raise LayerscopeError(f"delta is {delta}.", "It must lie between 0 and 1, e.g. 0.05.")
    growth = 2 * n * math.log(2)
    if 0 < dimension <= 2 * n:
        growth = min(growth, dimension * (math.log(2 * n / dimension) + 1))
    elif dimension == 0:
        growth = 0.0
    return math.sqrt((growth + math.log(4 * guesses / delta)) / n)


def parameter_counting_bound(
    risk: float,
    rise: float,
    parameters: int,
    ambient_share: float,
    units: int,
    layers: int,
    n: int,
    delta: float = 0.05,
    guesses: int = 1,
) -> ParameterCountingBound:
    r"""Bounds on the risk of a ReLU network and of the same with its ambient layers reset.

    With :math:`\mathcal B(m, n)` the `generalisation_gap` at the `vc_dimension` of m weights:

    .. math:: \hat R_n + \mathcal B(m, n), \qquad
        \hat R_n + \varepsilon + \mathcal B((1 - \rho) m, n).

    The second holds for the reset model, and where :math:`\rho` was known before the data: the
    weights that are reset must not depend on them. Units and layers stay, as the reset ones still
    compute. Where all weights are reset, one function is left, of dimension 0. Only the second pays
    for guesses.

    Args:
        risk: Empirical risk :math:`\hat R_n` of the trained model, from 0 to 1.
        rise: :math:`\varepsilon`, what the reset adds to it, from -1 to 1.
        parameters: m.
        ambient_share: :math:`\rho`, share of the parameters that are reset, from 0 to 1.
        units: Units that compute.
        layers: Layers that those units stand in.
        n: Training examples.
        delta: Probability that a bound fails.
        guesses: K, sets of ambient layers that were considered; the best may be reported.

    Returns:
        Both bounds; above 1 they are vacuous.

    Raises:
        LayerscopeError: A number is out of range.
    """
    _check("risk", risk, 0, 1)
    _check("rise", rise, -1, 1)
    _check("ambient_share", ambient_share, 0, 1)
    kept = round((1 - ambient_share) * parameters)
    plain, reset = (vc_dimension(m, units, layers) for m in (parameters, kept))
    return ParameterCountingBound(
        risk + generalisation_gap(plain, n, delta),
        risk + rise + generalisation_gap(reset, n, delta, guesses),
    )


def _check(name: str, value: float, low: float, high: float = math.inf) -> None:
    if not low <= value <= high or math.isinf(value):
        upper = "" if math.isinf(high) else f" and at most {high:g}"
        raise LayerscopeError(f"{name} is {value}.", f"It must be at least {low:g}{upper}.")
