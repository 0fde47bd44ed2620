"""Slow, obvious twins of effective linearity: one node, one example, one pairing at a time."""

from __future__ import annotations

import itertools
import math

import numpy as np


def values_of(node_first):
    """Values of every node over samples and places, from (samples, nodes, ...)."""
    samples, nodes = node_first.shape[:2]
    return [[v for s in range(samples) for v in node_first[s, k].ravel()] for k in range(nodes)]


def node_shares(before):
    """Counted node by node: always on, always off, the rest."""
    counts = [0, 0, 0]
    for values in values_of(before):
        on = sum(v > 0 for v in values)
        counts[0 if on == len(values) else 1 if on == 0 else 2] += 1
    return [count / before.shape[1] for count in counts]


def preactivation(before):
    """The mean over nodes of their means, and the root of the mean square about it."""
    nodes = values_of(before)
    mean = sum(sum(values) / len(values) for values in nodes) / len(nodes)
    squares = [(v - mean) ** 2 for values in nodes for v in values]
    return mean, math.sqrt(sum(squares) / len(squares))


def straight_line(x, y):
    """Slope, intercept and R^2 by least squares in two unknowns."""
    if max(x) == min(x):
        return 0.0, sum(y) / len(y), 1.0 if max(y) == min(y) else 0.0
    rows = np.array([[v, 1.0] for v in x])
    (slope, intercept), *_ = np.linalg.lstsq(rows, np.array(y), rcond=None)
    if max(y) == min(y):
        return slope, intercept, 1.0
    mean = sum(y) / len(y)
    residual = sum((b - slope * a - intercept) ** 2 for a, b in zip(x, y, strict=True))
    return slope, intercept, 1 - residual / sum((b - mean) ** 2 for b in y)


def straight_lines(before, after):
    """Slopes, intercepts and R^2, each an array over nodes."""
    pairs = zip(values_of(before), values_of(after), strict=True)
    return np.array([straight_line(x, y) for x, y in pairs]).T


def ridge_map(x, y, ridge):
    """Weight, intercept and degrees of freedom: least squares on rows that ask for small weights.

    The penalty is the ridge times the mean variance of an input, times the squared weights; as n
    times that it stands beside the sum of squares over examples.
    """
    n, d = x.shape
    x_mean, y_mean = x.mean(0), y.mean(0)
    penalty = n * ridge * np.mean([np.var(x[:, k]) for k in range(d)])
    rows = np.vstack([x - x_mean, math.sqrt(penalty) * np.eye(d)])
    zeros = np.zeros((d, y.shape[1]))
    weight, *_ = np.linalg.lstsq(rows, np.vstack([y - y_mean, zeros]), rcond=1e-12)
    # Column i of the hat matrix: what all examples are given where the outputs are 1 at i, else 0.
    hats, *_ = np.linalg.lstsq(rows, np.vstack([np.eye(n) - 1 / n, np.zeros((d, n))]), rcond=1e-12)
    freedom = 1 + np.trace((x - x_mean) @ hats)
    return weight, y_mean - x_mean @ weight, freedom


def generalised_cross_validation(x, y, ridge):
    weight, intercept, freedom = ridge_map(x, y, ridge)
    left = len(x) - freedom
    return len(x) * ((y - x @ weight - intercept) ** 2).sum() / left**2 if left > 1e-9 else math.inf


def r2(weight, intercept, y_fit, x_test, y_test):
    """One test example after the other, against the mean of the fitted ones."""
    mean, residual, total = y_fit.mean(0), 0.0, 0.0
    for x, y in zip(x_test, y_test, strict=True):
        residual += ((y - (x @ weight + intercept)) ** 2).sum()
        total += ((y - mean) ** 2).sum()
    return 1 - residual / total


def root(matrix, inverse=False):
    """Square root of a symmetric matrix, or that of its pseudo-inverse."""
    vectors, values, _ = np.linalg.svd(matrix)
    found = np.zeros_like(matrix)
    for value, vector in zip(values, vectors.T, strict=True):
        if value > 1e-12 * values[0]:
            found += value ** (-0.5 if inverse else 0.5) * np.outer(vector, vector)
    return found


def covariance(x):
    mean = x.mean(0)
    return sum(np.outer(row - mean, row - mean) for row in x) / len(x)


def ledoit_wolf(x):
    """Lemmas 3.2 to 3.4 of Ledoit and Wolf (2004), with their norm: tr(A A^T) / d."""
    n, d = x.shape
    sample, centred = covariance(x), x - x.mean(0)
    level = np.trace(sample) / d
    spread = ((sample - level * np.eye(d)) ** 2).sum() / d
    if spread == 0:
        return sample
    error = sum(((np.outer(row, row) - sample) ** 2).sum() / d for row in centred) / n**2
    error = min(error, spread)
    return error / spread * level * np.eye(d) + (spread - error) / spread * sample


def affinity_score(x, y, estimate=covariance):
    """The formula as it stands, with the best of all pairings; 1 where y is constant."""
    if (y == y[0]).all():
        return 1.0
    target = root(estimate(y))
    transport = target @ root(target @ estimate(x) @ target, inverse=True) @ target
    moved = (x - x.mean(0)) @ transport.T + y.mean(0)
    pairings = itertools.permutations(range(len(y)))
    best = min(sum(((moved[i] - y[j]) ** 2).sum() for i, j in enumerate(p)) for p in pairings)
    return 1 - math.sqrt(best / len(y) / (2 * np.trace(estimate(y))))
