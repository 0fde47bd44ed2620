r"""What labels say about each other, in bits, from how often they occur together.

The plug-in estimate takes shares of examples for probabilities,
:math:`H(X) = -\sum_x \hat p_x \log_2 \hat p_x`. Over N examples it is too low by about
:math:`(K - 1) / (2 N \ln 2)` bits, with K the number of values that can occur, so that mutual
information comes out too high, by about :math:`(K_X - 1)(K_Y - 1) / (2 N \ln 2)` bits for
independent labels, and conditional information by more. ``correction="miller_madow"`` adds the term
to every entropy, with K the number of values that were observed. What it corrects may come out
below 0.

Both need many more examples than there are cells, :math:`K_X K_Y K_Z`; the correction takes most of
the bias away where there are, and does not help, or harms, where there are not. Of three unrelated
labels :math:`\mu` (see `explained_information`) is 0. Estimated, plug-in and corrected:

=======  ========  =======  =========
classes  examples  plug-in  corrected
=======  ========  =======  =========
10       10,000    -0.05    0.00
10       2,000     -0.32    -0.11
100      10,000    -4.2     -4.8
1,000    50,000    -1.2     -2.6
=======  ========  =======  =========

Sources: Miller, "Note on the bias of information estimates" (1955); Kalimeris et al., "SGD on
neural networks learns functions of increasing complexity" (NeurIPS 2019); Pinson, Boland, Ginis and
Pechenizkiy, "Exploring the development of complexity over depth and time in deep neural networks"
(HiLD workshop, ICML 2024), Appendix B.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch
from jaxtyping import Int64, Integer
from torch import Tensor

from layerscope.errors import LayerscopeError, unknown

Correction: TypeAlias = Literal["miller_madow"]
CORRECTIONS = ("miller_madow",)


def mutual_information(
    x: Integer[Tensor, " examples"],
    y: Integer[Tensor, " examples"],
    correction: Correction | None = None,
) -> float:
    """I(X; Y) = H(X) + H(Y) - H(X, Y) of two labels of the same examples, in bits.

    Between 0 for independent labels and the smaller one of H(X) and H(Y); the numbers that stand
    for classes do not matter.

    Args:
        x: One label of every example, such as predicted classes.
        y: Another one, such as true classes.
        correction: Correction of the entropies; ``None`` for the plug-in estimate.

    Raises:
        LayerscopeError: Labels are not whole numbers in one dimension, there are none, their
            numbers differ, or the correction is unknown.
    """
    codes = _coded({"x": x, "y": y}, correction)
    return _information(codes["x"], codes["y"], None, correction)


def conditional_mutual_information(
    x: Integer[Tensor, " examples"],
    y: Integer[Tensor, " examples"],
    given: Integer[Tensor, " examples"],
    correction: Correction | None = None,
) -> float:
    """I(X; Y | Z) = H(X, Z) + H(Y, Z) - H(Z) - H(X, Y, Z), in bits.

    What X still says about Y once Z is known: 0 where Z says all that X could.

    Args:
        x: One label of every example.
        y: Another one.
        given: The label Z that is known.
        correction: Correction of the entropies; ``None`` for the plug-in estimate.

    Raises:
        LayerscopeError: As in `mutual_information`.
    """
    codes = _coded({"x": x, "y": y, "given": given}, correction)
    return _information(codes["x"], codes["y"], codes["given"], correction)


def explained_information(
    main: Integer[Tensor, " examples"],
    labels: Integer[Tensor, " examples"],
    partial: Integer[Tensor, " examples"],
    correction: Correction | None = None,
) -> float:
    r"""How much of what one model knows of the labels another one explains, in bits.

    .. math:: \mu(M; P) = I(M; Y) - I(M; Y \mid P)

    Equal to I(M; Y) where the predictions P say all that M says about Y, as :math:`\mu(M; M)` does.
    To know what to expect of a model that is as good, compare with another seed of M.

    It is negative where M and P together say more about Y than each alone adds up to (for Y the
    exclusive or of M and P: -1), that is where the predictions of two models differ in a way that
    itself tells classes apart, as they may early in training. With few examples the bias of
    I(M; Y | P) alone makes it negative. It is the same in whatever order the three are given.

    Args:
        main: Classes that the main model M predicts.
        labels: True classes Y of the same examples.
        partial: Classes that the other model P predicts.
        correction: Correction of the entropies; ``None`` for the plug-in estimate.

    Raises:
        LayerscopeError: As in `mutual_information`.
    """
    codes = _coded({"main": main, "labels": labels, "partial": partial}, correction)
    m, y, p = codes.values()
    return _information(m, y, None, correction) - _information(m, y, p, correction)


def _information(x: Tensor, y: Tensor, given: Tensor | None, correction: str | None) -> float:
    known = () if given is None else (given,)
    apart = _entropy((x, *known), correction) + _entropy((y, *known), correction)
    return apart - _entropy((x, y, *known), correction) - _entropy(known, correction)


def _entropy(codes: tuple[Tensor, ...], correction: str | None) -> float:
    """Joint entropy in bits; 0 of nothing."""
    if not codes:
        return 0.0
    joint = codes[0]
    for code in codes[1:]:  # compressed after each, so that empty cells take no memory
        joint = (joint * (code.max() + 1) + code).unique(return_inverse=True)[1]
    counts = joint.bincount().double()
    n = counts.sum()
    bits = float(n.log2() - (counts * counts.log2()).sum() / n)
    if correction is None:
        return bits
    return bits + (len(counts) - 1) / (2 * float(n) * math.log(2))


def _coded(labels: dict[str, Tensor], correction: str | None) -> dict[str, Int64[Tensor, " n"]]:
    """Every label as 0, 1, ... without gaps."""
    if correction is not None and correction not in CORRECTIONS:
        raise unknown("correction", correction, CORRECTIONS)
    for name, label in labels.items():
        if label.is_floating_point() or label.is_complex() or label.dim() != 1:
            raise LayerscopeError(
                f"{name} is {label.dtype} of shape {tuple(label.shape)}, not a list of labels.",
                "Give one whole number per example; of outputs take .argmax(1).",
            )
    sizes = {name: len(label) for name, label in labels.items()}
    if len(set(sizes.values())) > 1 or 0 in sizes.values():
        raise LayerscopeError(
            f"numbers of labels: {', '.join(f'{name} {n}' for name, n in sizes.items())}.",
            "Each must have one label for each of the same examples, at least one.",
        )
    return {name: torch.unique(label, return_inverse=True)[1] for name, label in labels.items()}
