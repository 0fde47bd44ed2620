"""Comparisons of quantities: what a claim of a paper comes down to.

Each gives a verdict over seeds (`layerscope.studies.claims`) once a study has been measured, and
knows the probes and variants it rests on.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import xarray as xr

from layerscope.studies.claims import Verdict, above, all_of
from layerscope.studies.quantity import Measurement, Quantity, probes_of, variants_of

Titles = Callable[[str], str]


@dataclass(frozen=True, eq=False)
class Comparison:
    """From a study's data to a verdict.

    Attributes:
        decide: Decides.
        probes: The probes it rests on.
        variants: The variants it speaks of.
    """

    decide: Callable[[xr.DataTree], Verdict]
    probes: tuple[Measurement, ...] = ()
    variants: tuple[str, ...] = ()


def exceeds(effect: Quantity, statistic: str, threshold: float = 0.0) -> Comparison:
    """One number per seed, whose mean has to lie above a threshold.

    Args:
        effect: The number, (seed).
        statistic: What it is, for readers.
        threshold: What it has to exceed.
    """

    def decide(data: xr.DataTree) -> Verdict:
        return above(effect.values(data), statistic, threshold)

    return Comparison(decide, effect.probes, effect.variants)


def alike(effect: Quantity, statistic: str, margin: float) -> Comparison:
    """One number per seed, whose mean has to lie within a margin of zero.

    An equivalence test (two one-sided tests): it holds where the whole interval lies within the
    margin and fails where it lies beyond; a difference that is merely not found decides nothing.

    Args:
        effect: The number, (seed).
        statistic: What it is, for readers.
        margin: How far from zero still counts as alike.
    """
    return each(
        {
            f"above -{margin:.3g}": exceeds(effect, statistic, -margin),
            f"below {margin:.3g}": exceeds(-effect, f"minus {statistic}", -margin),
        }
    )


def each(parts: Mapping[str, Comparison]) -> Comparison:
    """Several comparisons, each of which has to hold.

    Args:
        parts: Comparisons by what notes call them.
    """

    def decide(data: xr.DataTree) -> Verdict:
        return all_of({name: part.decide(data) for name, part in parts.items()})

    return Comparison(decide, probes_of(parts.values()), variants_of(parts.values()))


def in_each_layer(effect: Quantity, statistic: str, threshold: float = 0.0) -> Comparison:
    """A number per layer and seed, which has to exceed a threshold in each layer.

    Args:
        effect: The number, (seed, layer).
        statistic: What it is; the layer is added.
        threshold: What it has to exceed.
    """

    def decide(data: xr.DataTree) -> Verdict:
        values = effect.values(data)
        return all_of(
            {
                str(name): above(values.sel(layer=name), f"{statistic} {name}", threshold)
                for name in values["layer"].values
            }
        )

    return Comparison(decide, effect.probes, effect.variants)


def falls(values: Quantity, what: str, layers: Sequence[str], titles: Titles = str) -> Comparison:
    """Values have to fall from each layer to the next.

    Args:
        values: (seed, layer).
        what: What they are, for readers.
        layers: The layers in order.
        titles: What a layer is called.
    """
    return each(
        {
            f"{titles(a)} - {titles(b)}": exceeds(
                values[a] - values[b], f"{what}: {titles(a)} less {titles(b)}"
            )
            for a, b in itertools.pairwise(layers)
        }
    )


def extreme(
    values: Quantity,
    layer: str,
    others: Iterable[str],
    what: str,
    *,
    smallest: bool = False,
    titles: Titles = str,
) -> Comparison:
    """One layer's value has to exceed that of each of some others, or fall below each.

    Args:
        values: (seed, layer).
        layer: The layer.
        others: What it is compared with.
        what: What the values are, for readers.
        smallest: It has to lie below.
        titles: What a layer is called.
    """
    own, sign, word = values[layer], -1 if smallest else 1, "below" if smallest else "less"
    return each(
        {
            titles(other): exceeds(
                sign * (own - values[other]), f"{what}: {titles(layer)} {word} {titles(other)}"
            )
            for other in others
        }
    )


def in_each(effects: Mapping[str, Quantity], statistic: str, threshold: float = 0.0) -> Comparison:
    """A number per seed for each of several networks, which has to exceed a threshold in each.

    Args:
        effects: The number, (seed), by what the network is called.
        statistic: What it is; ``{}`` stands for the network.
        threshold: What it has to exceed.
    """
    return each(
        {
            name: exceeds(effect, statistic.format(name), threshold)
            for name, effect in effects.items()
        }
    )
