"""What stops very deep residual networks: Figs. 6 to 9."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import xarray as xr

from layerscope.data.sizes import classes
from layerscope.figures.figure import Reference
from layerscope.recipes.layerwise_conditioning.connected import decades
from layerscope.recipes.layerwise_conditioning.deep import (
    BATCH,
    CURVATURE,
    CURVE,
    DOMINATION,
    HEAD,
    curves,
    deepest,
    depths,
    largest,
    planned,
)
from layerscope.recipes.layerwise_conditioning.settings import paper
from layerscope.studies.comparisons import in_each
from layerscope.studies.paper import Items, Statement, claim
from layerscope.studies.plan import Runs, Variant
from layerscope.studies.plots import OVER_SEEDS, Plot, lines
from layerscope.studies.quantity import Quantity, stacked
from layerscope.studies.statistics import trend

EARLY = 32
"""Steps that count as the first iterations."""
STUCK = 0.05
"""Distance of the loss from that of guessing below which a network says nothing."""
HEAD_VARIABLES: Mapping[str, tuple[str, str]] = {
    "largest_input": ("largest eigenvalue of S_x", "at the last linear layer"),
    "largest": ("largest eigenvalue of the curvature", "of the last linear layer"),
}


def head(run: Variant, variable: str) -> Quantity:
    """What is measured at the last linear layer over training, (seed, step)."""
    probe = CURVATURE if variable in HEAD_VARIABLES else DOMINATION
    return run.of(probe, variable)[HEAD]


def early(values: Quantity) -> Quantity:
    """The values of the first iterations."""
    return values.map(lambda a: a.sel(step=slice(0, EARLY)))


def rise(run: Variant) -> Quantity:
    """How far the loss of the fixed batch rises above its start in the first iterations."""

    def effect(loss: xr.DataArray) -> xr.DataArray:
        return loss.max("step") - loss.isel(step=0, drop=True)

    return early(run.of(BATCH, "loss")).map(effect)


def uniform_loss(run: Variant) -> float:
    """The loss of a network to which all classes are alike, ln 10 for ten."""
    number = classes(run.data)
    assert number is not None
    return math.log(number)


def guessing_time(run: Variant) -> Quantity:
    """Share of the kept moments of the first epochs at which a network guesses."""
    guess = uniform_loss(run)
    return run.of(BATCH, "loss").map(
        lambda loss: (
            (abs(loss.isel(step=slice(1, None)) - guess) < STUCK).astype(float).mean("step")
        )
    )


def over_depth(parts: Mapping[int, Quantity], **attributes: str) -> Quantity:
    """Quantities of one network along depth."""
    return stacked("depth", parts, **attributes)


@paper.recipe(
    "Fig. 6",
    planned(("resnet",)),
    "What keeps very deep residual networks from learning at first?",
    "Loss, what enters the last linear layer, its curvature and its weights over training, for "
    "ResNets of several depths.",
)
def fig6(runs: Runs) -> Items:
    """ResNets by depth: the loss rises at first, as what enters the last linear layer is large."""
    by_depth = depths(runs, "resnet")
    rises = {depth: rise(run) for depth, run in by_depth.items()}
    yield claim(
        "loss-rises",
        "The loss rises in the first iterations. [Fig. 6 (a), Section 5]",
        in_each(
            {by_depth[d].label: r for d, r in rises.items()},
            f"{{}}: largest loss of the fixed batch within {EARLY} steps less that at the start",
        ),
        regardless=True,
    )
    yield claim(
        "rises-with-depth",
        "It rises the more, the deeper the network. [Fig. 6 (a), Section 5]",
        trend(over_depth(rises), "depth"),
        "rank correlation of the rise with depth",
        regardless=True,
    )
    sizes = {d: decades(head(run, "largest_input").isel(step=0)) for d, run in by_depth.items()}
    yield claim(
        "input-large",
        "What enters the last linear layer is the larger at the start, the deeper the network. "
        "[Fig. 6 (b), Section 5]",
        trend(over_depth(sizes), "depth"),
        "rank correlation of the largest eigenvalue of S_x with depth, before training",
        regardless=True,
    )
    steep = {
        run.label: decades(early(head(run, "largest_input")).max("step"))
        - decades(head(run, "largest_input").at_end())
        for run in by_depth.values()
    }
    yield claim(
        "input-shrinks",
        "The network then makes what enters the last linear layer smaller. [Section 5]",
        in_each(steep, f"{{}}: decades, most of the first {EARLY} steps less the end"),
    )
    stuck = {depth: guessing_time(run) for depth, run in by_depth.items()}
    first, *_, last = stuck
    yield claim(
        "stuck",
        "The deepest network is stuck at guessing for longer than the shallowest. [Fig. 6 (a), "
        "Section 5]",
        stuck[last] - stuck[first],
        "share of kept moments at which the loss is that of guessing, deepest less shallowest",
        regardless=True,
    )
    yield from loss_of_batch(runs, by_depth.values())
    yield from last_layer(by_depth.values())


@paper.recipe(
    "Fig. 7",
    planned(("resnet", "last_bn"), only=largest),
    "Does a normalisation before the last linear layer help?",
    "Loss, what enters the last linear layer, its curvature and its weights over training.",
)
def fig7(runs: Runs) -> Items:
    """The deepest ResNet with and without a normalisation before its last linear layer."""
    plain, normal = deepest(runs, "resnet"), deepest(runs, "last_bn")
    place = "Fig. 7, Section 5.1"
    yield from smaller_input(plain, normal, "largest-input", f"{NORMALISED} [{place}]")
    yield claim(
        "curvature",
        "It lowers the largest eigenvalue of the curvature of this layer in the first iterations. "
        f"[{place}]",
        decades(early(head(plain, "largest")).max("step"))
        - decades(early(head(normal, "largest")).max("step")),
        f"decades, most of the first {EARLY} steps, ResNet less ResNetLastBN",
        regardless=True,
    )
    yield claim(
        "no-domination",
        f"It keeps this layer from weight domination. [{place}]",
        lowest_ratio(normal) - lowest_ratio(plain),
        "decades, least ratio of largest singular values, ResNetLastBN less ResNet",
    )
    yield claim(
        "steady",
        f"With it the loss rises less in the first iterations. [{place}]",
        rise(plain) - rise(normal),
        "rise of the loss of the fixed batch, ResNet less ResNetLastBN",
        regardless=True,
    )
    yield from loss_of_batch(runs, runs.values())
    yield from last_layer(runs.values())


NORMALISED = (
    "With a normalisation before the last linear layer the largest eigenvalue of what enters it "
    "never is as large as without."
)


@paper.recipe(
    "Fig. 8",
    planned(("resnet", "last_bn")),
    "Does it lower the training loss at every depth?",
    "Training loss of ResNets and ResNetLastBNs by depth.",
)
def fig8(runs: Runs) -> Items:
    """Training loss with and without a normalisation before the last linear layer, by depth."""
    plain, normal = depths(runs, "resnet"), depths(runs, "last_bn")
    ends = {
        name: {d: run.of(CURVE, "loss").at_end() for d, run in found.items()}
        for name, found in (("resnet", plain), ("last_bn", normal))
    }
    yield claim(
        "lower-loss",
        "ResNetLastBN has a lower training loss than ResNet at every depth. [Fig. 8, Section 5.1]",
        in_each(
            {f"depth {d}": ends["resnet"][d] - ends["last_bn"][d] for d in plain},
            "{}: training loss of the last epoch, ResNet less ResNetLastBN",
        ),
    )
    yield claim(
        "input-lower",
        "Before training what enters the last linear layer has a smaller largest eigenvalue with "
        "the normalisation, at every depth. [Section 5.1]",
        in_each(
            {
                f"depth {d}": decades(head(run, "largest_input").isel(step=0))
                - decades(head(normal[d], "largest_input").isel(step=0))
                for d, run in plain.items()
            },
            "{}: decades, ResNet less ResNetLastBN",
        ),
        regardless=True,
    )
    shallow, *_, deep = normal
    yield claim(
        "deeper-lower",
        "The deepest ResNetLastBN has a lower training loss than the shallowest. [Fig. 8 (b), "
        "Section 5.1]",
        ends["last_bn"][shallow] - ends["last_bn"][deep],
        "training loss of the last epoch, shallowest less deepest",
    )
    before = {d: before_fall(run) for d, run in plain.items()}
    yield claim(
        "deeper-worse",
        "Before the learning rate falls ResNets train the worse, the deeper they are. [Fig. 8 (a), "
        "Section 5.1]",
        trend(over_depth(before), "depth"),
        "rank correlation of the training loss with depth, mean over the epochs before the fall",
    )
    yield curves(plain.values(), "loss-resnet", "ResNet")
    yield curves(normal.values(), "loss-last-bn", "ResNetLastBN")


@paper.recipe(
    "Fig. 9",
    planned(("preresnet", "preresnet_v1", "last_bn"), only=largest),
    "What helps pre-activation networks: their order, or their last normalisation?",
    "The last linear layer of PreResNet with and without its extra normalisation.",
)
def fig9(runs: Runs) -> Items:
    """PreResNet and PreResNetv1, which lacks the extra normalisation, at the greatest depth."""
    whole, without = deepest(runs, "preresnet"), deepest(runs, "preresnet_v1")
    place = "Fig. 9, Section 5.2"
    yield from smaller_input(
        without,
        whole,
        "largest-input",
        "Without the extra normalisation the largest eigenvalue of what enters the last linear "
        f"layer of PreResNet comes to be larger. [{place}]",
    )
    yield claim(
        "v1-dominated",
        f"PreResNetv1 comes closer to weight domination in this layer than PreResNet. [{place}]",
        lowest_ratio(whole) - lowest_ratio(without),
        "decades, least ratio of largest singular values, PreResNet less PreResNetv1",
    )
    yield claim(
        "v1-rises",
        f"The loss of PreResNetv1 rises more in the first iterations. [{place}]",
        rise(without) - rise(whole),
        "rise of the loss of the fixed batch, PreResNetv1 less PreResNet",
        regardless=True,
    )
    yield from loss_of_batch(runs, runs.values())
    yield from last_layer(runs.values())


def before_fall(run: Variant) -> Quantity:
    """Training loss, mean over the epochs before the learning rate falls, (seed)."""
    return run.of(CURVE, "loss").when(lambda epoch: epoch <= run.drop).mean("step")


def lowest_ratio(run: Variant) -> Quantity:
    """Least ratio of largest singular values, gradient over weights, of the last layer."""
    return decades(head(run, "ratio").min("step"))


def smaller_input(plain: Variant, normal: Variant, id: str, text: str) -> Iterator[Statement]:
    """Claim that one network's last layer is never entered by as much as another's."""
    more, less = (decades(head(run, "largest_input")).max("step") for run in (plain, normal))
    yield claim(
        id,
        text,
        more - less,
        f"decades, most over training, {plain.label} less {normal.label}",
        regardless=True,
    )


def loss_of_batch(runs: Runs, chosen: Iterable[Variant]) -> Iterator[Plot]:
    """Loss of the fixed batch over the first iterations and over training."""
    found = {run.label: run.of(BATCH, "loss") for run in chosen}
    guess = uniform_loss(runs.first)
    values = stacked("network", found, long_name="loss of the fixed batch", units="")
    yield lines(
        values.map(lambda a: a.sel(step=slice(0, EARLY))),
        "loss-first",
        "Loss in the first iterations",
        f"Loss of one fixed batch in train mode after so many steps; {OVER_SEEDS}",
        x="step",
        hue="network",
        references=(Reference(value=guess, label="guessing"),),
    )
    yield curves(chosen, "loss", "Networks")


def last_layer(chosen: Iterable[Variant]) -> Iterator[Plot]:
    """The last linear layer over training."""
    found = list(chosen)
    words = {
        **{name: f"{what} {where}" for name, (what, where) in HEAD_VARIABLES.items()},
        "weight": "largest singular value of the weights of the last linear layer",
        "ratio": "largest singular values of the last linear layer, gradient over weights",
    }
    for variable, text in words.items():
        parts = {run.label: head(run, variable) for run in found}
        values = stacked("network", parts, long_name=text, units="")
        yield lines(
            values.map(_by_moment),
            variable.replace("_", "-"),
            f"{text[0].upper()}{text[1:]}",
            f"On one fixed batch in train mode, over steps (0 is drawn at 1/2); {OVER_SEEDS}",
            x="step",
            hue="network",
            log_x=True,
            log_y=True,
        )


def _by_moment(values: xr.DataArray) -> xr.DataArray:
    """The start within a logarithmic axis."""
    steps = np.maximum(values["step"].values.astype(float), 0.5)
    return values.reset_coords(drop=True).assign_coords(step=steps)
