"""Fully connected networks: Fig. 1, 2 and 8, and the bound of Section 4."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

import numpy as np
import xarray as xr

from layerscope.figures.figure import Reference
from layerscope.probes import GeneralisationBound, Reinitialisation
from layerscope.probes.resets import RANDOM, Rule
from layerscope.recipes.all_layers_created_equal.settings import FIVE, fcn, paper, plan, reduced
from layerscope.recipes.all_layers_created_equal.statements import (
    AMBIENT,
    CRITICAL,
    upper_mean,
)
from layerscope.studies.comparisons import Comparison, each, exceeds
from layerscope.studies.paper import Items, claim
from layerscope.studies.plan import Plan, Runs, Scale, Variant
from layerscope.studies.plots import OVER_SEEDS, bars, described, lines, of_probe
from layerscope.studies.quantity import Quantity, stacked
from layerscope.studies.resets import heatmap, joint_rise, to_start
from layerscope.studies.statistics import rank_correlation, slope

WIDTHS: Mapping[Scale, tuple[int, ...]] = {
    "paper": (32, 64, 128, 256, 512, 1024),
    "small": (32, 64, 128, 256),
    "smoke": (8, 16),
}
DEPTHS = (3, 5)
STRONG = 0.5
"""A rank correlation above this counts as ranking."""
Data = Literal["mnist", "cifar10"]
TITLES: Mapping[Data, str] = {"mnist": "MNIST", "cifar10": "CIFAR-10"}
WIDER = "Are wider networks easier to reset?"
UPPER = "The mean cost of resetting a layer above the first, in networks of growing width."


def on_mnist(scale: Scale, depth: int) -> Plan:
    """FCN depth x 256 on MNIST."""
    variants = {f"fcn{depth}x256": (f"FCN {depth}x256", fcn(scale, depth, 256))}
    return plan(FIVE, "mnist", variants)


@paper.recipe(
    "Fig. 1",
    partial(on_mnist, depth=3),
    "Which layers of FCN 3x256 can be reset after training on MNIST?",
    "Each layer of the trained network is set back to an earlier time or drawn anew, the others "
    "stay as trained; no retraining.",
)
def fig1(runs: Runs) -> Items:
    """FCN 3x256 on MNIST: resetting layer 1 destroys the network, resetting others hardly matters.

    Fig. 1: (a) test error when one layer is re-randomised or re-initialised to each checkpoint,
    (b, c) both distances of the trained weights from those put in their place. See `settings` for
    what the paper leaves open. The checkpoints shown are 0, 1, 2, 4, 8, ... and the last.

    At ``small`` 12 epochs instead of 100, the schedule in proportion.
    """
    probe, network = Reinitialisation(), runs.first
    rise = to_start(network, probe)
    others = rise.isel(layer=slice(1, -1)).max("layer")
    error = network.of(probe, "error").sel(checkpoint=RANDOM)
    yield claim(
        "first-layer",
        "Resetting layer 1 to its initial weights costs over 20 points more than resetting any "
        "other hidden layer. [Fig. 1]",
        rise.isel(layer=0) - others,
        "rise of layer 1 less the largest of the other hidden layers, points",
        CRITICAL,
    )
    yield claim(
        "re-randomised",
        "Re-randomising any layer leaves an error of at least 80%. [Fig. 1, Section 3.1]",
        error.min("layer"),
        "lowest error over re-randomised layers, %",
        80.0,
    )
    yield claim(
        "distance",
        "Neither distance from initialisation ranks the layers by what their reset costs (mean "
        f"rank correlations between -{STRONG:g} and {STRONG:g}; with few layers they are coarse). "
        "[Section 3.1, Appendix D]",
        _does_not_rank(network, probe),
    )
    title = "Test error after resetting one layer"
    yield heatmap(network, probe, "robustness", title, distances=("distance",))
    yield bars(
        rise,
        "degradation",
        "Cost of resetting a layer to its initial weights",
        f"Rise of the test error in percentage points; {OVER_SEEDS} A layer is labelled ambient "
        "where its 95% bound over test examples lies below 2 points, critical where it lies "
        "above 20.",
        references=(Reference(AMBIENT, "ambient below"), Reference(CRITICAL, "critical above")),
    )


def _does_not_rank(network: Variant, probe: Reinitialisation) -> Comparison:
    """Rank correlations of both distances with the rise lie between -`STRONG` and `STRONG`."""
    parts = {}
    for distance, title in (("rms_distance", "L2"), ("max_distance", "largest")):
        found = rank_correlation(to_start(network, probe, distance), to_start(network, probe))
        name = f"rank correlation of the rise with the {title} distance"
        parts[f"{title}, below {STRONG:g}"] = exceeds(-found, f"minus the {name}", -STRONG)
        parts[f"{title}, above -{STRONG:g}"] = exceeds(found, name, -STRONG)
    return each(parts)


def _name(data: Data, depth: int, width: int) -> str:
    return f"{data}-fcn{depth}x{width}"


def _inner(scale: Scale) -> Scale:
    """The scale of CIFAR-10 in Fig. 2, whose largest networks take days."""
    return "small" if scale == "paper" else scale


def cifar_note(runs: Runs) -> str:
    """How the networks on CIFAR-10 are trained."""
    smallest = _name("cifar10", DEPTHS[0], WIDTHS[_inner(runs.scale)][0])
    return f"CIFAR-10: {runs.only(smallest).trained_on_images()}."


def widths(scale: Scale) -> Plan:
    """FCNs of growing width on MNIST, and on CIFAR-10 at no more than small scale."""

    def note(runs: Runs) -> str:
        mnist = "MNIST: the paper's settings." if scale == "paper" else reduced(runs, "mnist")
        return f"{mnist} {cifar_note(runs)}"

    return _widths({"mnist": scale, "cifar10": _inner(scale)}, note)


def widths_on_cifar(scale: Scale) -> Plan:
    """FCNs of growing width on CIFAR-10."""
    return _widths({"cifar10": scale}, "cifar10 fcn")


def _widths(parts: Mapping[Data, Scale], note: str | Callable[[Runs], str]) -> Plan:
    variants = {
        (name := _name(part, depth, width)): (name, fcn(at, depth, width, part))
        for part, at in parts.items()
        for depth in DEPTHS
        for width in WIDTHS[at]
    }
    return plan(FIVE, note, variants)


@paper.recipe("Fig. 2", widths, WIDER, UPPER)
def fig2(runs: Runs) -> Items:
    """FCNs of growing width: the wider the network, the less it costs to reset layers above one.

    Fig. 2: mean rise of the test error over all layers but the first, each reset to its initial
    weights alone, for depths 3 and 5, on MNIST (a) and CIFAR-10 (b).

    At ``paper`` the MNIST networks (a) are trained as in the paper; those on CIFAR-10 (b) are
    trained as at ``small``, which the figure says, and `fig2b` trains them in full. At ``small``
    there are widths to 256, 12 epochs, and 10,000 images of CIFAR-10 without augmentation.
    """
    return _by_width(runs, {"mnist": runs.scale, "cifar10": _inner(runs.scale)})


@paper.recipe("Fig. 2", widths_on_cifar, WIDER, UPPER)
def fig2b(runs: Runs) -> Items:
    """FCNs of growing width on CIFAR-10 alone, at any scale: see fig2."""
    return _by_width(runs, {"cifar10": runs.scale})


def _by_width(runs: Runs, parts: Mapping[Data, Scale]) -> Items:
    for part, at in parts.items():
        costs: dict[str, Quantity] = {}
        for depth in DEPTHS:
            by_width = {w: upper_mean(runs[_name(part, depth, w)]) for w in WIDTHS[at]}
            cost = costs[f"depth {depth}"] = stacked("width", by_width)
            yield claim(
                f"{part}-{depth}",
                f"{TITLES[part]} depth {depth}: the mean cost of resetting a layer above the "
                "first falls with the width. [Fig. 2]",
                -slope(cost.map(_doublings), dim="width"),
                "fall of the mean rise per doubling of the width, points",
            )
        smaller = at != runs.scale
        yield lines(
            described(stacked("depth", costs), "mean rise of the test error", "points"),
            f"width-{part}",
            f"Cost of resetting a layer above the first, {TITLES[part]}"
            + (f" ({at} scale)" if smaller else ""),
            f"Mean over these layers, each reset to its initial weights alone; {OVER_SEEDS}"
            + (f" {cifar_note(runs)}" if smaller else ""),
            x="width",
            hue="depth",
            log_x=True,
            markers=True,
        )


def _doublings(values: xr.DataArray) -> xr.DataArray:
    """The widths as the exponent of two."""
    return values.assign_coords(width=np.log2(values["width"].values.astype(float)))


@paper.recipe(
    "Fig. 8",
    partial(on_mnist, depth=5),
    "Can layers that are robust alone be reset together?",
    "Groups of layers of FCN 5x256 are reset together; layers of a group have equal rows.",
)
def fig8(runs: Runs) -> Items:
    """FCN 5x256 on MNIST: layers that can be reset alone cannot all be reset together.

    Fig. 8: joint robustness with three groupings: all layers above the first; two of three; every
    other. The groups count from layer 2, since layer 1 is critical alone: {2..6}, {2, 3, 5, 6},
    {2, 4, 6}, where layer 6 is the classifier.
    """
    network, alone = runs.first, Reinitialisation()
    rules: dict[str, Rule] = {
        "all above the first": "all_but_first",
        "two of three": "two_of_three",
        "every other": "every_other",
    }
    joint = {name: Reinitialisation(joint=rule) for name, rule in rules.items()}
    single = to_start(network, alone).isel(layer=slice(1, None)).max("layer")
    together = joint_rise(network, joint["all above the first"])
    every_other = joint_rise(network, joint["every other"])
    all_three = {
        "each alone": exceeds(
            -single, "minus the largest rise of a layer above the first", -CRITICAL
        ),
        "together": exceeds(together, "rise of all of them together, points", CRITICAL),
        "every other": exceeds(
            together - every_other, "rise of all together less that of every other layer, points"
        ),
    }
    yield alone
    yield from joint.values()
    yield claim(
        "joint",
        "Layers 2 and up can be reset one at a time (under 20 points each), but not together "
        "(over 20 points); every other layer together costs less. [Section 5, Fig. 8]",
        each(all_three),
    )
    shown = {f"Reset together: {name}": probe for name, probe in joint.items()}
    shown["Reset one at a time"] = alone
    for title, probe in shown.items():
        yield heatmap(network, probe, f"joint-{probe.joint}".replace("_", "-"), title)


@paper.recipe(
    "Section 4",
    partial(on_mnist, depth=3),
    "Does knowing which layers can be reset improve a generalisation bound?",
    "A bound that counts parameters, for the trained network and for the network with layers "
    "reset. Where the VC dimension exceeds twice the number of examples, the gap is the "
    "formula's largest, whatever is reset.",
)
def bound(runs: Runs) -> Items:
    """FCN 3x256 on MNIST: the parameter-counting bound with and without resettable layers.

    Section 4: the risk of the network with a share rho of its parameters reset is at most the
    empirical risk plus epsilon, what resetting costs on the training data, plus B((1 - rho) m, n).
    The guesses, made before seeing data, are the three groupings of Fig. 8 and resetting nothing;
    the union bound pays for choosing among them. The paper computes no numbers, and calls such
    bounds vacuous: with more parameters than examples the gap is the largest the formula can give,
    about 1.18, with or without resets, so that both claims are decided by the sizes alone.
    """
    probe, network = GeneralisationBound(), runs.first
    bounds = network.of(probe, "bound")
    guessed = bounds.map(lambda values: values.drop_sel(guess="nothing"))
    margin = network.of(probe, "plain") - guessed.min("guess")
    yield claim(
        "smaller",
        "The best guess of resettable layers gives a smaller bound than counting all parameters, "
        "the union bound included. [Section 4]",
        margin,
        "bound without resets less the smallest",
    )
    yield claim(
        "vacuous",
        "The smallest bound is above 1, so that it says nothing. [Section 4]",
        bounds.min("guess"),
        "smallest bound",
        1.0,
    )
    yield of_probe(network, probe, probe.figures)
