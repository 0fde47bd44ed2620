"""Make numbers small enough for a page: fewer digits, fewer points, none of it visible."""

from __future__ import annotations

import numpy as np

POINTS = 2000


def significant(values: np.ndarray, digits: int = 5) -> list[float | None]:
    """Flat list of the values rounded to so many significant digits; ``None`` where not finite."""
    flat = np.asarray(values, dtype=float).ravel()
    return [_rounded(value, digits) if np.isfinite(value) else None for value in flat]


def _rounded(value: float, digits: int) -> float:
    number = float(f"{value:.{digits}g}")
    return int(number) if number.is_integer() and abs(number) < 1e15 else number


def extremes(y: np.ndarray, points: int = POINTS) -> np.ndarray:
    """Indices of at most ``points`` values that keep the shape of a line.

    The line is cut into equal stretches and of each its smallest and its largest value are kept, so
    no spike is lost; the first and last points are kept too. A stretch without finite values keeps
    its first point, so gaps stay gaps.

    Args:
        y: One-dimensional values.
        points: Largest number of indices to return, at least 4.

    Returns:
        Increasing indices into ``y``; all of them if there are no more than ``points``.
    """
    if len(y) <= points:
        return np.arange(len(y))
    stretches = np.array_split(np.arange(len(y)), points // 2 - 1)
    kept = {0, len(y) - 1}
    for stretch in stretches:
        finite = stretch[np.isfinite(y[stretch])]
        if finite.size:
            kept |= {int(finite[y[finite].argmin()]), int(finite[y[finite].argmax()])}
        else:
            kept.add(int(stretch[0]))
    return np.array(sorted(kept))


def runs(finite: np.ndarray) -> list[np.ndarray]:
    """Indices of each unbroken stretch of ``True``."""
    at = np.flatnonzero(finite)
    return np.split(at, np.flatnonzero(np.diff(at) > 1) + 1) if at.size else []


def apart(wanted: np.ndarray, gap: float) -> np.ndarray:
    """Positions nearest to those wanted (least squares) that lie at least ``gap`` from each other.

    Neighbours that are too close are pooled and spread evenly around their mean, repeatedly (the
    pool-adjacent-violators algorithm on ``wanted - rank * gap``).
    """
    order = np.argsort(wanted, kind="stable")
    pools: list[list[float]] = []
    for rank, value in enumerate(np.asarray(wanted, dtype=float)[order]):
        pools.append([value - rank * gap, 1.0])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            mean, size = pools.pop()
            before, count = pools.pop()
            pools.append([(before * count + mean * size) / (count + size), count + size])
    placed = np.concatenate([np.full(int(size), mean) for mean, size in pools] or [np.empty(0)])
    result = np.empty(len(placed))
    result[order] = placed + gap * np.arange(len(placed))
    return result
