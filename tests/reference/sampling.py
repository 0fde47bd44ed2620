"""Slow, obvious twins of sampling: one entry after the other."""

from __future__ import annotations


def split(chosen, sizes):
    """Where in each tensor the chosen entries of a layer are."""
    places = [(tensor, entry) for tensor, size in enumerate(sizes) for entry in range(size)]
    found = [[] for _ in sizes]
    for index in chosen:
        tensor, entry = places[index]
        found[tensor].append(entry)
    return found


def chosen_values(layer, tensors, chosen):
    """The chosen entries of a layer out of its tensors, one list."""
    every = [value for name in layer.parameters for value in tensors[name].flatten().tolist()]
    return [every[index] for index in chosen]


def ratio(before, after, p):
    """``||after - before||_p / ||before||_p`` of two lists of numbers."""
    moved = sum(abs(a - b) ** p for a, b in zip(after, before, strict=True)) ** (1 / p)
    return moved / sum(abs(b) ** p for b in before) ** (1 / p)


def rms(before, after):
    """Root mean square of the differences of two lists of numbers."""
    return (sum((a - b) ** 2 for a, b in zip(after, before, strict=True)) / len(before)) ** 0.5
