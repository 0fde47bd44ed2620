"""Slow, obvious twins of the bounds: growth functions counted out."""

from __future__ import annotations

import math


def sauer(points, dimension):
    """Most labellings of so many points by a class of this VC dimension (Sauer's lemma)."""
    return sum(math.comb(points, i) for i in range(min(dimension, points) + 1))


def gap(dimension, n, delta, guesses):
    return math.sqrt((math.log(sauer(2 * n, dimension)) + math.log(4 * guesses / delta)) / n)


def log2_labellings(points, weights, units, layers, pieces, degree):
    """Logarithm of the growth function of a layered network, one layer after the other.

    In every layer, while the weights move, the parts of space in which all units below stay on one
    piece are cut by at most ``points * pieces * units`` polynomials.
    """
    total = 0.0
    for _ in range(layers):
        total += 1 + weights * math.log2(2 * math.e * points * pieces * units)
        total += weights * (layers - 1) * math.log2(degree + 1)
    return total


def vc_dimension(*network):
    """The largest number of points of which that allows every labelling."""
    points = 1
    while log2_labellings(points + 1, *network) >= points + 1:
        points += 1
    return points
