r"""By what signals and gradients change where the weights of every layer are scaled.

A network is a chain of linear maps :math:`h_k = W_k x_k`, with rectifiers and perhaps a
normalisation between each and the next. With :math:`W_k \to a_k W_k`, :math:`a_k > 0`, what enters
layer k is multiplied by :math:`c_k`,

.. math:: c_1 = 1, \quad c_{k+1} = 1 \text{ where a normalisation follows layer k, else } a_k c_k,

and the outputs by :math:`C = c_{K+1}`. Outputs are positively homogeneous in every
:math:`h_k`, so that for a given gradient at the outputs

.. math:: \partial L / \partial h_k \to \frac{C}{a_k c_k} \partial L / \partial h_k, \qquad
          \partial L / \partial W_k \to \frac{C}{a_k} \partial L / \partial W_k.

Without any normalisation that is Theorem 4.1, :math:`\prod_{i<k} a_i`, :math:`\prod_{i>k} a_i` and
:math:`\prod_{i \ne k} a_i`; with one after every layer, the last included, Theorem 4.2: 1,
:math:`1/a_k` and :math:`1/a_k`. Networks with some are between both.

Source: Huang, Qin, Liu, Zhu and Shao, "Layer-wise Conditioning Analysis in Exploring the Learning
Dynamics of DNNs", Section 4.1; in between beyond the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from layerscope.errors import LayerscopeError

Decades = Float64[Tensor, "layers"]
"""Logarithms to base 10 of factors."""


class Scaled(NamedTuple):
    """By how many decades three things change in every layer.

    Attributes:
        input: What enters.
        gradient: The gradient at what leaves.
        weight: The gradient of the weights.
    """

    input: Decades
    gradient: Decades
    weight: Decades


def scaled_signals(decades: Decades, normalised: Sequence[bool]) -> Scaled:
    """What scaling the weights of a chain does, by the formulas above.

    Args:
        decades: :math:`log_10 a_k` of every layer in order.
        normalised: Whether a normalisation follows it, before the next one.

    Returns:
        Decades of every layer.

    Raises:
        LayerscopeError: There are not as many of both.
    """
    if len(decades) != len(normalised):
        raise LayerscopeError(
            f"{len(decades)} factors for {len(normalised)} layers.", "Give one for every layer."
        )
    entering = [torch.zeros((), dtype=torch.float64)]
    for own, follows in zip(decades, normalised, strict=True):
        entering.append(torch.zeros_like(own) if follows else entering[-1] + own)
    before, outputs = torch.stack(entering[:-1]), entering[-1]
    return Scaled(before, outputs - decades - before, outputs - decades)
