"""Time variants in turns, so that whatever disturbs one of them disturbs all, and compare them.

A ratio is taken within each round, between neighbours in time, and its median over rounds is
reported; quartiles say how far to trust it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

Timed = Callable[[], float]


@dataclass
class Clock:
    """Time as it passed in samples taken before, for pytest-benchmark to read."""

    now: float = 0.0

    def read(self) -> float:
        return self.now

    def advance(self, seconds: Iterable[float]) -> Callable[[], None]:
        """A function that lets the next of ``seconds`` pass whenever it is called."""
        left = iter(list(seconds))

        def advance() -> None:
            self.now += next(left, 0.0)

        return advance


CLOCK = Clock()


def seconds(
    work: Callable[[], object], repeats: int = 1, clock: Timed = time.perf_counter
) -> float:
    """Seconds that one of ``repeats`` calls takes; `time.process_time` leaves out other jobs."""
    start = clock()
    for _ in range(repeats):
        work()
    return (clock() - start) / repeats


def interleaved(variants: Mapping[str, Timed], rounds: int) -> dict[str, list[float]]:
    """Samples of every variant, one per round, after a round that is dropped.

    Args:
        variants: Functions that return the seconds they took.
        rounds: Number of rounds; each starts with another variant.
    """
    names = list(variants)
    samples: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            samples[name].append(variants[name]())
    return {name: values[1:] for name, values in samples.items()}


@dataclass(frozen=True)
class Overhead:
    """What ``recorded`` takes beyond ``bare``, as a share of it: quartiles over rounds."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, bare: Iterable[float], recorded: Iterable[float]) -> Overhead:
        ratios = np.asarray(list(recorded)) / np.asarray(list(bare)) - 1
        return cls(*np.percentile(ratios, [25, 50, 75]).tolist())

    def __str__(self) -> str:
        digits = 1 if abs(self.high) >= 0.02 else 3
        low, median, high = (f"{100 * x:.{digits}f}" for x in (self.low, self.median, self.high))
        return f"{median} ({low} to {high})"
