"""Settings of probes of weights that look at a random sample of every layer."""

from __future__ import annotations

from dataclasses import dataclass

from layerscope.errors import LayerscopeError


@dataclass(frozen=True)
class Sampling:
    """A simple random sample of the entries of every layer, without replacement.

    It depends on seed, layer and sizes only, so that it is the same at every moment, live and
    from checkpoints, and on every process.

    Attributes:
        size: Entries of a layer; all where it has not more.
        seed: Seed of the choice.
    """

    size: int
    seed: int

    def __str__(self) -> str:
        return f"{self.size:,} random entries of each layer, all where it has fewer"


def sampling(probe: str, size: int | None, seed: int) -> Sampling | None:
    """What a probe's settings say; None for all entries.

    Raises:
        LayerscopeError: The size is no number of entries.
    """
    if size is None:
        return None
    if type(size) is not int or size < 1:
        raise LayerscopeError(
            f"sample of {probe} is {size!r}.",
            "It is a number of entries of each layer, e.g. 4096, or None for all.",
        )
    return Sampling(size, seed)


def of_sample(found: Sampling | None) -> str:
    """What a caption adds where a sample was measured."""
    return "" if found is None else f" Measured on {found}."
