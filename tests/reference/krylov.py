"""Slow, obvious twins of Krylov methods: powers written out, loops over points."""

from __future__ import annotations

import math

import numpy as np


def quadratic_form(matrix, vector, power):
    """``v^T A^k v``, one product after the other."""
    product = np.array(vector)
    for _ in range(power):
        product = np.array(
            [sum(a * x for a, x in zip(row, product, strict=True)) for row in matrix]
        )
    return float(sum(a * b for a, b in zip(vector, product, strict=True)))


def spread(matrix, vector):
    """Distinct eigenvalues and the share of a unit vector in each eigenspace, from LAPACK."""
    values, basis = np.linalg.eigh(matrix)
    nodes, shares = [], []
    for value, column in zip(values, basis.T, strict=True):
        share = float(column @ vector) ** 2
        if nodes and value - nodes[-1] < 1e-9 * max(1.0, abs(values).max()):
            shares[-1] += share
        else:
            nodes.append(value)
            shares.append(share)
    return np.array(nodes), np.array(shares)


def smoothed(eigenvalues, weights, grid, width):
    """Sum of normal densities, point by point."""
    found = []
    for x in grid:
        total = 0.0
        for value, weight in zip(eigenvalues, weights, strict=True):
            normal = math.exp(-((x - value) ** 2) / (2 * width**2)) / math.sqrt(
                2 * math.pi * width**2
            )
            total += weight * normal
        found.append(total)
    return np.array(found)
