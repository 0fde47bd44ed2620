"""How much a changed model loses, and whether the layer that changed matters.

Source: Zhang, Bengio and Singer, "Are All Layers Created Equal?" (JMLR 2022), Section 2. The paper
gives no threshold for "negligible"; the rule here is stated with every label.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

LABELS = ("ambient", "between", "critical")
FROZEN = "frozen"
"""Label of a layer that was never trained: it is as it was, whatever it is set back to."""
Z95 = 1.959963984540054


def degradation(
    base: Bool[Tensor, " examples"] | Float64[Tensor, " examples"],
    changed: Bool[Tensor, "variants examples"] | Float64[Tensor, "variants examples"],
) -> tuple[Float64[Tensor, " variants"], Float64[Tensor, " variants"]]:
    r"""Rise of the error when a model is changed, with its standard error over test examples.

    With :math:`d_i \in [-1, 1]` the change of the 0-1 loss on example i, the degradation is
    :math:`\bar d` and its standard error :math:`s_d / \sqrt n`: both models see the same
    examples, so the errors are paired and the standard error is that of the differences.

    Args:
        base: Whether the unchanged model is right on each example.
        changed: Whether each changed model is, or the share of several models that are.

    Returns:
        Degradation and standard error, as shares of the examples (0 to 1).
    """
    difference = base.double() - changed.double()
    n = difference.shape[-1]
    return difference.mean(-1), difference.std(-1, correction=1) / n**0.5


def labels(
    value: Float64[Tensor, " variants"],
    error: Float64[Tensor, " variants"],
    ambient_below: float,
    critical_above: float,
) -> Int64[Tensor, " variants"]:
    """Index into `LABELS` by the upper and lower 95% bound of the degradation.

    Ambient where ``value + 1.96 error < ambient_below``, critical where
    ``value - 1.96 error > critical_above``, between otherwise.

    Args:
        value: Degradation.
        error: Its standard error.
        ambient_below: Bound for ambient layers, in the unit of ``value``.
        critical_above: Bound for critical layers.
    """
    found = torch.ones(len(value), dtype=torch.int64)
    found[value + Z95 * error < ambient_below] = 0
    found[value - Z95 * error > critical_above] = 2
    return found
