"""Slow, obvious twins of divergence points: one model, one resample and one step at a time."""

from __future__ import annotations

import math

import numpy as np


def smoothed(curve, window, order):
    """Savitzky-Golay: at every step the value of the polynomial fitted to the window around it.

    Within half a window of an end it is the polynomial of the first or last whole window.
    """
    half, found = window // 2, []
    for step in range(len(curve)):
        begin = min(max(step - half, 0), len(curve) - window)
        places = np.arange(begin, begin + window)
        fit = np.polyfit(places - step, curve[begin : begin + window], order)
        found.append(float(np.polyval(fit, 0)))
    return found


def mean(runs):
    return [sum(values) / len(values) for values in zip(*runs, strict=True)]


def first(full, partial, times, threshold, window, order, floor, never):
    """Time at which the mean of the partial runs falls behind that of the full ones."""
    rounding = 1e-12 * max(abs(a) for run in full for a in run)
    full, partial = (smoothed(mean(runs), window, order) for runs in (full, partial))
    for time, reached, kept in zip(times, full, partial, strict=True):
        if reached > floor + rounding and kept < threshold * reached - rounding:
            return time
    return never


def points(full, partial, times, threshold, window, order, floor):
    rule = (times, threshold, window, order, floor, math.nan)
    return np.array([first(full, model, *rule) for model in partial])


def interval(full, partial, times, threshold, window, order, floor, level, resamples, seed):
    """Percentile bootstrap: which runs make up a resample is drawn as in the fast one."""
    rng = np.random.default_rng(seed)
    of_full = rng.integers(len(full), size=(resamples, len(full))).tolist()
    of_partial = rng.integers(len(partial[0]), size=(resamples, len(partial[0]))).tolist()
    rule = (times, threshold, window, order, floor, math.inf)
    left_out, ends = int(resamples * (1 - level) / 2), []
    for model in partial:
        found = sorted(
            first([full[i] for i in some], [model[i] for i in others], *rule)
            for some, others in zip(of_full, of_partial, strict=True)
        )
        ends.append((found[left_out], found[-1 - left_out]))
    return np.array(ends).T
