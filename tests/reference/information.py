"""Slow, obvious twins of mutual information: occurrences counted in dictionaries."""

from __future__ import annotations

import math
from collections import Counter


def entropy(values, corrected):
    n, counts = len(values), Counter(values)
    bits = sum(-k / n * math.log2(k / n) for k in counts.values())
    return bits + corrected * (len(counts) - 1) / (2 * n) / math.log(2)


def mutual(x, y, corrected):
    both = list(zip(x, y, strict=True))
    return entropy(x, corrected) + entropy(y, corrected) - entropy(both, corrected)


def plug_in_conditional(x, y, given):
    """Mean over the values of ``given`` of what is mutual among the examples that have it."""
    total = 0.0
    for value, count in Counter(given).items():
        some = [i for i, z in enumerate(given) if z == value]
        total += count / len(given) * mutual([x[i] for i in some], [y[i] for i in some], False)
    return total


def conditional(x, y, given, corrected):
    joint = [list(zip(a, given, strict=True)) for a in (x, y, list(zip(x, y, strict=True)))]
    xz, yz, xyz = (entropy(pairs, corrected) for pairs in joint)
    return xz + yz - entropy(given, corrected) - xyz


def explained(main, labels, partial, corrected):
    return mutual(main, labels, corrected) - conditional(main, labels, partial, corrected)
