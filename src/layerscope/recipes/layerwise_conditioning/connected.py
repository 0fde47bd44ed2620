"""Signals, curvature and dying neurons of deep fully connected networks: Figs. 3, 5, A5-A7, A13."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import xarray as xr

from layerscope.probes import MomentProbe
from layerscope.probes.at_matrices import on_logarithmic_axes
from layerscope.recipes.layerwise_conditioning.settings import (
    CONDITION,
    KINDS,
    LOSS,
    NEURONS,
    SIGNALS,
    WORDS,
    How,
    beginning,
    networks,
    paper,
)
from layerscope.studies.comparisons import alike, each, exceeds, in_each_layer
from layerscope.studies.paper import Items, Statement, claim
from layerscope.studies.plan import Runs
from layerscope.studies.plots import OVER_SEEDS, Plot, lines, table
from layerscope.studies.quantity import Quantity, combined, stacked
from layerscope.studies.statistics import contrast, slope, trend

FLAT = 0.05
"""Decades per layer that still count as keeping a size."""
FACTORS = {"input": "S_x", "gradient": "S_g"}
BEST = (
    "Of every network the learning rate with the least training loss at the end, as the table of "
    "rates says."
)


def variants(runs: Runs, kind: str) -> dict[str, str]:
    """The variants of a network by learning rate."""
    return {name.rsplit("-", 1)[1]: name for name in runs if name.rsplit("-", 1)[0] == kind}


def losses(runs: Runs, kind: str) -> Quantity:
    """Training loss at the end, (rate, seed)."""
    parts = {r: runs[n].of(LOSS, "loss").at_end() for r, n in variants(runs, kind).items()}
    return stacked("rate", parts, long_name="training loss", units="")


def chosen(values: xr.DataArray, loss: xr.DataArray) -> xr.DataArray:
    """The values at the learning rate with the least training loss, mean over seeds.

    Of rates at which all runs diverged there are none.
    """
    mean = loss.where(np.isfinite(loss), np.inf).mean("seed")
    return values.sel(rate=mean["rate"].values[int(mean.argmin("rate"))], drop=True)


def best(runs: Runs, kind: str, probe: MomentProbe, variable: str) -> Quantity:
    """What a probe measures on a network at its best learning rate."""
    parts = {r: runs[n].of(probe, variable) for r, n in variants(runs, kind).items()}
    attributes = {"long_name": probe.variables[variable].long_name, "units": ""}
    found = combined(chosen, stacked("rate", parts, **attributes), losses(runs, kind)).map(
        lambda array: array.assign_attrs(attributes)
    )
    return replace(found, variants=found.variants[:1])  # higher rates may diverge


def hidden(values: Quantity) -> Quantity:
    """Without the first layer, whose input are pixels, and without the classifier."""
    return values.layers(lambda name: name.startswith("layer") and name != "layer1")


def decades(values: Quantity) -> Quantity:
    """Logarithm to base 10."""
    return values.map(lambda array: array.copy(data=np.log10(array.values)))


def per_layer(values: Quantity) -> Quantity:
    """Slope along depth, (seed)."""
    return slope(values.map(_by_place), "layer")


def straightness(values: Quantity) -> Quantity:
    """R^2 of the straight line along depth, (seed)."""

    def explained(array: xr.DataArray) -> xr.DataArray:
        return xr.corr(array, array["layer"], dim="layer") ** 2

    return values.map(_by_place).map(explained)


def _by_place(values: xr.DataArray) -> xr.DataArray:
    """With the places of layers as their labels."""
    return values.assign_coords(layer=np.arange(values.sizes["layer"], dtype=float))


def at_start(values: Quantity) -> Quantity:
    """At checkpoint 0."""
    return values.isel(step=0)


def claims_of_signals(runs: Runs) -> Iterator[Statement]:
    """How sizes go with depth before training; every learning rate starts alike."""
    first = {kind: next(iter(variants(runs, kind).values())) for kind in KINDS}
    largest = {
        kind: decades(hidden(at_start(runs[name].of(CONDITION, "largest_input"))))
        for kind, name in first.items()
    }
    yield claim(
        "plain-random-falls",
        "Without normalisation and initialised at random the largest eigenvalue of what enters a "
        "layer falls exponentially with depth. [Fig. 3 (a), Section 4.1]",
        each(
            {
                "falls": exceeds(
                    -per_layer(largest["plain-random"]), "decades per layer, downwards", FLAT
                ),
                "straight": exceeds(
                    straightness(largest["plain-random"]),
                    "R^2 of a line on a logarithmic axis",
                    0.9,
                ),
            }
        ),
        regardless=True,
    )
    for kind, words, place in (
        ("bn-random", "With batch normalisation it does not", "Fig. 3 (a), Section 4.1"),
        ("plain-he", "Nor does it with He initialisation", "Fig. 3 (d), Section 4.1"),
        ("bn-he", "Nor with both", "Fig. 3 (d), Section 4.1"),
    ):
        yield claim(
            f"{kind}-flat",
            f"{words}: it keeps its size. [{place}]",
            alike(per_layer(largest[kind]), "decades per layer", FLAT),
            regardless=True,
        )


def sizes(runs: Runs, how: How) -> Items:
    """Whether signals keep their size, as Figs. 3 and A5 ask."""
    yield from claims_of_signals(runs)
    yield from magnitudes(runs)
    yield rate_table(runs, how)


def conditions(runs: Runs, how: How, place: str) -> Items:
    """Whether normalisation improves the conditioning, as Figs. 5 and A6 ask."""
    yield from claims_of_conditioning(runs, place)
    yield from spectra(runs)
    yield rate_table(runs, how)


@paper.recipe(
    "Fig. 3",
    networks("full"),
    "Do signals and gradients keep their size over depth?",
    "Root mean square of what enters each layer, and of the gradient at what leaves it.",
)
def fig3(runs: Runs) -> Items:
    """Magnitudes under full gradient descent: initialised at random they vanish without BN."""
    yield from sizes(runs, "full")


@paper.recipe(
    "Fig. 5",
    networks("full"),
    "Does batch normalisation improve the conditioning of layers?",
    "Largest eigenvalue and generalised condition numbers of what enters each layer and of the "
    "gradients at what leaves it.",
)
def fig5(runs: Runs) -> Items:
    """Condition numbers under full gradient descent: lower with BN, of both factors."""
    yield from conditions(runs, "full", "Fig. 5, Section 4.2")


@paper.recipe(
    "Fig. A5",
    networks("sgd"),
    "The same with SGD?",
    "Fig. 3 with SGD and batches of 1024.",
)
def figA5(runs: Runs) -> Items:  # noqa: N802
    """Fig. 3 with SGD."""
    yield from sizes(runs, "sgd")


@paper.recipe(
    "Fig. A6",
    networks("sgd"),
    "Does batch normalisation improve the conditioning of layers under SGD?",
    "Fig. 5 with SGD and batches of 1024.",
)
def figA6(runs: Runs) -> Items:  # noqa: N802
    """Fig. 5 with SGD."""
    yield from conditions(runs, "sgd", "Fig. A6, Appendix C.1")


@paper.recipe(
    "Fig. A7",
    networks("adam", "plain-random", "bn-random"),
    "And with Adam?",
    "Sizes and condition numbers with Adam and random initialisation.",
)
def figA7(runs: Runs) -> Items:  # noqa: N802
    """Adam brings signals of a plain network to a size again; BN is better conditioned."""
    yield from claims_of_conditioning(runs, "Fig. A7, Appendix C.1", ("random",))
    grown = decades(hidden(best(runs, "plain-random", SIGNALS, "input")))
    last = grown.map(lambda array: array.isel(layer=-1, drop=True))
    yield claim(
        "adam-adjusts",
        "Adam brings what enters the last hidden layer of the plain network to a larger size than "
        "it starts with. [Fig. A7 (a), Appendix C.1]",
        last.at_end() - last.isel(step=0),
        "decades, end less start",
        regardless=True,
    )
    yield from magnitudes(runs)
    yield from spectra(runs)
    yield rate_table(runs, "adam")


@paper.recipe(
    "Fig. A13",
    beginning,
    "Which neurons never switch?",
    "Shares of neurons that are active for no example, and for every example, by depth.",
)
def figA13(runs: Runs) -> Items:  # noqa: N802
    """Dying and full neurons: more of them with depth without BN, hardly any with it."""
    for kind, (label, normalisation, _) in KINDS.items():
        share = best(runs, kind, NEURONS, "always_off") + best(runs, kind, NEURONS, "always_on")
        start = at_start(share)
        if normalisation == "none":
            yield claim(
                f"{kind}-grow",
                f"{label}: the share of dying and full neurons grows with depth. [Fig. A13, "
                "Appendix C.3]",
                trend(start, "layer"),
                "rank correlation with depth, before training",
                regardless=True,
            )
        else:
            yield claim(
                f"{kind}-none",
                f"{label}: there are none, less than 1% of the neurons of any layer. [Fig. A13, "
                "Section 4.2]",
                alike(start.max("layer"), "largest share of a layer, before training", 0.01),
                regardless=True,
            )
        yield lines(
            share.map(lambda a: a.assign_attrs(long_name="share of neurons", units="")),
            f"neurons-{kind}",
            f"{label}: neurons that never switch",
            "Share of neurons active for no example of a fixed batch, or for each, in the first "
            f"iterations; {OVER_SEEDS}",
            x="epoch",
        )


def claims_of_conditioning(
    runs: Runs, place: str, starts: tuple[str, ...] = ("random", "he")
) -> Iterator[Statement]:
    """Condition numbers of both factors are lower with BN in every hidden layer."""
    for start in starts:
        words = "at random" if start == "random" else "as He et al."
        yield from better_conditioned(
            lambda variable, start=start: hidden(best(runs, f"plain-{start}", CONDITION, variable)),
            lambda variable, start=start: hidden(best(runs, f"bn-{start}", CONDITION, variable)),
            start,
            f"Initialised {words}",
            "hidden layer",
            place,
        )


def better_conditioned(
    plain: Callable[[str], Quantity],
    normal: Callable[[str], Quantity],
    id: str,
    words: str,
    where: str,
    place: str,
) -> Iterator[Statement]:
    """Condition numbers of both factors are lower with BN, whatever networks learn.

    Over training, and before it, since the second moment of gradients changes as examples are
    fitted.

    Args:
        plain: From a variable of `Conditioning` to its values without normalisation.
        normal: The same with it.
        id: Beginning of names of claims.
        words: How networks are made.
        where: In which layers.
        place: In the paper.
    """
    for (factor, name), share in itertools.product(FACTORS.items(), (50, 80)):
        variable = f"kappa_{share}_{factor}"
        gain = combined(contrasted, normal(variable), plain(variable))
        yield from over_training_and_before(
            gain,
            f"{id}-{factor}-{share}",
            f"{words}, kappa_{share} of {name} is lower with batch normalisation in every {where}",
            f"contrast of 1 / kappa_{share} of {name}, BN against plain,",
            place,
        )


def over_training_and_before(
    gain: Quantity, id: str, text: str, statistic: str, place: str
) -> Iterator[Statement]:
    """A gain in each layer, as mean over training and at the start, whatever networks learn."""
    for when, end, value in (
        ("over training", "", gain.mean("step")),
        ("before training", "-start", gain.isel(step=0)),
    ):
        yield claim(
            f"{id}{end}",
            f"{text}, {when}. [{place}]",
            in_each_layer(value, statistic),
            regardless=True,
        )


def contrasted(normal: xr.DataArray, plain: xr.DataArray) -> xr.DataArray:
    """Contrast of the reciprocals of condition numbers, which may be infinite.

    Every moment counts alike: condition numbers grow by decades while a network learns, so that a
    mean of reciprocals would be that of the start. 0 where both are infinite.
    """
    normal, plain = 1 / normal, 1 / plain
    return contrast(normal, plain).where(normal + plain != 0, 0.0)


def magnitudes(runs: Runs) -> Iterator[Plot]:
    """Sizes of signals and gradients over training, a figure for every network."""
    for kind in _kinds(runs):
        for side, what in (("input", "what enters"), ("gradient", "gradients at what leaves")):
            yield lines(
                best(runs, kind, SIGNALS, side).map(on_logarithmic_axes),
                f"{side}-{kind}",
                f"{KINDS[kind][0]}: size of {what} each layer",
                f"Root mean square over a fixed batch of training images; {OVER_SEEDS} {BEST}",
                x="epoch",
                log_y=True,
            )


def spectra(runs: Runs) -> Iterator[Plot]:
    """Largest eigenvalues and condition numbers over training, for every network."""
    for kind in _kinds(runs):
        yield from spectra_of(
            lambda variable, kind=kind: best(runs, kind, CONDITION, variable),
            kind,
            KINDS[kind][0],
            BEST,
        )


def spectra_of(
    values: Callable[[str], Quantity], kind: str, label: str, more: str = ""
) -> Iterator[Plot]:
    """Largest eigenvalues and condition numbers of both factors of one network over training."""
    for factor, name in FACTORS.items():
        for variable, words in (
            ("largest", "largest eigenvalue"),
            ("kappa_50", "kappa_50"),
            ("kappa_80", "kappa_80"),
        ):
            yield lines(
                values(f"{variable}_{factor}").map(on_logarithmic_axes),
                f"{variable.replace('_', '-')}-{factor}-{kind}",
                f"{label}: {words} of {name}",
                f"The {words} of {name} of every layer; infinite ones are not drawn; "
                f"{OVER_SEEDS} {more}".strip(),
                x="epoch",
                log_y=True,
            )


def _kinds(runs: Runs) -> list[str]:
    return [kind for kind in KINDS if variants(runs, kind)]


def rate_table(runs: Runs, how: How) -> Plot:
    """Training loss at the end for every network and learning rate: how rates were chosen."""
    rows: Mapping[str, Quantity] = {
        runs[name].label: runs[name].of(LOSS, "loss").at_end()
        for kind in _kinds(runs)
        for name in variants(runs, kind).values()
    }
    return table(
        {"loss": stacked("network", rows, long_name="training loss", units="")},
        "rates",
        "Learning rates",
        f"Training loss at the end of {WORDS[how]}; the least of every network is chosen, and all "
        f"runs are kept; {OVER_SEEDS}",
        rows="network",
    )
