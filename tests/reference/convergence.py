"""Slow, obvious twins of convergence: one layer and one step at a time, plain floats."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np


def curve(distance):
    """``distance[t] / distance[0]``; NaN where a layer ends where it began."""
    return np.array(
        [
            [d / s if s else math.nan for d, s in zip(row, distance[0], strict=True)]
            for row in distance
        ]
    )


def rate(distance, times, t1, t2):
    """Definition 2.1 between two of the times."""
    first, last = times.index(t1), times.index(t2)
    return np.array(
        [
            (distance[first][k] - distance[last][k]) / ((t2 - t1) * start) if start else math.nan
            for k, start in enumerate(distance[0])
        ]
    )


def path(weights):
    """Length walked up to every step; ``weights`` holds one list of layers per step."""
    rows = [[0.0] * len(weights[0])]
    for before, after in pairwise(weights):
        legs = [np.sqrt(((a - b) ** 2).sum()) for b, a in zip(before, after, strict=True)]
        rows.append([walked + leg for walked, leg in zip(rows[-1], legs, strict=True)])
    return np.array(rows)


def distance_to_final(weights):
    """L2 distance of every layer to its last weights, one row per step."""
    return np.array(
        [
            [np.sqrt(((w - end) ** 2).sum()) for w, end in zip(now, weights[-1], strict=True)]
            for now in weights
        ]
    )


def directness(path, progress):
    return np.array(
        [
            [g / w if w else math.nan for w, g in zip(walked, gained, strict=True)]
            for walked, gained in zip(path, progress, strict=True)
        ]
    )


def settling_time(curve, times, share):
    """Walk back from the end to the last step above ``share``; interpolate to the next step."""
    found = []
    for layer in np.asarray(curve).T:
        t = len(times) - 1
        while t >= 0 and layer[t] <= share:
            t -= 1
        if np.isnan(layer).any():
            found.append(math.nan)
            continue
        slope = (layer[t + 1] - layer[t]) / (times[t + 1] - times[t])
        found.append(times[t] + (share - layer[t]) / slope)
    return np.array(found)
