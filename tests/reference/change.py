"""Slow, obvious twins of norms and relative change: one layer after the other, in float64."""

from __future__ import annotations

import numpy as np


def layers_of(tensors, owner, n_layers):
    """Every layer's entries as one float64 array."""
    return [
        np.concatenate(
            [
                tensor.double().numpy().ravel()
                for tensor, index in zip(tensors, owner.tolist(), strict=True)
                if index == layer
            ]
        )
        for layer in range(n_layers)
    ]


def norm(values, p):
    """``(sum |x|^p)^(1/p)``, or the largest magnitude."""
    values = np.abs(values)
    return values.max() if np.isinf(p) else (values**p).sum() ** (1 / p)


def norms(tensors, owner, n_layers, p):
    return np.array([norm(layer, p) for layer in layers_of(tensors, owner, n_layers)])


def distances(before, after, owner, n_layers, p):
    pairs = zip(layers_of(before, owner, n_layers), layers_of(after, owner, n_layers), strict=True)
    return np.array([norm(b - a, p) for b, a in pairs])


def quotients(before, after):
    """``|after - before| / |before|`` entry by entry; no movement is 0, from zero is infinite."""
    found = []
    for b, a in zip(before.tolist(), after.tolist(), strict=True):
        moved = abs(a - b)
        found.append(0.0 if moved == 0 else float("inf") if b == 0 else moved / abs(b))
    return np.array(found)


def angle(before, after):
    """Angle between two vectors, from the sides of the rhombus that their unit vectors span."""
    if not before.any():
        return np.pi / 2 if after.any() else 0.0
    u, v = (x / np.sqrt((x**2).sum()) for x in (before, after))
    return 2 * np.arctan2(np.sqrt(((u - v) ** 2).sum()), np.sqrt(((u + v) ** 2).sum()))


def one_change(before, after, p, reduction):
    if reduction == "angle":
        return angle(before, after)
    if reduction == "elementwise":
        return quotients(before, after).mean()
    if reduction == "median":  # the lower one of two middle values
        found = np.sort(quotients(before, after))
        return found[(len(found) - 1) // 2]
    moved, size = norm(after - before, p), norm(before, p)
    return 0.0 if moved == 0 else float("inf") if size == 0 else moved / size


def relative_change(before, after, owner, n_layers, p, reduction):
    pairs = zip(layers_of(before, owner, n_layers), layers_of(after, owner, n_layers), strict=True)
    return np.array([one_change(b, a, p, reduction) for b, a in pairs])


def distance_from_initialisation(initial, now, owner, n_layers):
    """RMS, largest and relative distance of every layer."""
    l2 = distances(initial, now, owner, n_layers, 2)
    sizes = [len(layer) for layer in layers_of(now, owner, n_layers)]
    start = norms(initial, owner, n_layers, 2)
    return {
        "rms_distance": l2 / np.sqrt(sizes),
        "max_distance": distances(initial, now, owner, n_layers, np.inf),
        "relative_distance": np.array(
            [0.0 if d == 0 else d / s for d, s in zip(l2, start, strict=True)]
        ),
    }
