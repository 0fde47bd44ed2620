"""Rotational equilibrium: what weight decay alone makes of the change of normalised layers."""

from __future__ import annotations

import math
from dataclasses import replace

import xarray as xr

from layerscope.config.paths import set_path
from layerscope.figures.figure import Reference
from layerscope.functional.equilibrium import equilibrium_angle, equilibrium_time
from layerscope.recipes.relative_weight_change.settings import (
    ANGLE,
    paper,
    settings_of,
    steps_of,
    studies,
    study,
)
from layerscope.studies.comparisons import exceeds
from layerscope.studies.paper import Items, claim
from layerscope.studies.plan import Plan, Runs, Scale, Variant
from layerscope.studies.plots import bars, lines
from layerscope.studies.quantity import Quantity
from layerscope.studies.statistics import largest_elsewhere, log2

DECAYS: dict[str, float] = {"paper": 1e-4, "medium": 5e-4, "strong": 2e-3}
"""Weight decays, by variant; the paper's, with which equilibrium takes 5,000 steps, first."""
REACHED = math.log2(1.1)
"""An angle within a factor of 1.1 of the formula has reached equilibrium."""


def decays(scale: Scale) -> Plan:
    """ResNet-18 on CIFAR-10 with several weight decays."""
    base = study(scale, "resnet18", "cifar10")
    variants = {
        name: (
            f"weight decay {decay:g}",
            set_path(base, "optimizer.weight_decay", decay),
        )
        for name, decay in DECAYS.items()
    }
    return replace(studies(("resnet18", "cifar10"))(scale), variants=variants)


def off_equilibrium(run: Variant) -> Quantity:
    """log2 of a layer's angle per step over that of equilibrium, for convolutions."""
    angle = run.per_step(ANGLE, "change").layers(lambda name: "conv" in name)
    return log2(angle) - math.log2(equilibrium_angle(*settings_of(run)))


def last_quarter(run: Variant, values: Quantity) -> Quantity:
    """Mean over the last quarter of the run."""
    return values.when(lambda epoch: epoch > 0.75 * run.epochs).mean("step")


def spread(values: Quantity) -> Quantity:
    """Largest less smallest value of all layers."""
    return values.max("layer") - values.min("layer")


def spread_elsewhere(values: Quantity) -> Quantity:
    """A seed's difference between the layers that are largest and smallest in the other seeds.

    The difference between its own largest and smallest value grows with the noise of every layer.
    """
    return largest_elsewhere(values) + largest_elsewhere(-values)


def arrival(run: Variant) -> Quantity:
    """The epoch from which on a layer's angle per step stays at equilibrium; a gap where never."""

    def first(values: xr.DataArray) -> xr.DataArray:
        away = abs(values) > REACHED
        epochs = values["epoch"]
        last_away = xr.where(away, epochs, 0).max("step")
        arrived = epochs.where(epochs > last_away).min("step")
        return arrived.assign_attrs(long_name="in equilibrium from", units="epochs")

    return off_equilibrium(run).map(first)


@paper.recipe(
    "beyond the paper",
    decays,
    "Does weight decay alone set how much normalised layers change?",
    "Angle per step of every convolution of ResNet-18, each before a normalisation, beside the "
    "angle of rotational equilibrium, for three weight decays.",
)
def equilibrium(runs: Runs) -> Items:
    """Rotational equilibrium: in the end all normalised layers turn by the same angle at a step.

    With momentum SGD and weight decay the weights before a normalisation come to turn by
    sqrt(2 eta lambda / (1 + alpha)) rad at every step, whatever the layer (Wan et al. 2021, Kosson
    et al. 2024), after about (1 - alpha) / (2 eta lambda) steps: with the paper's weight decay of
    1e-4 after 5,000, with 2e-3 after 250.
    """
    strong = runs["strong"]
    late = last_quarter(strong, off_equilibrium(strong))
    yield claim(
        "angle",
        "ResNet-18, weight decay 2e-3: over the last quarter of training every convolution turns "
        "at a step by the angle of equilibrium, within a factor of 1.1. [beyond the paper]",
        exceeds(-abs_max(late), "minus the largest |log2 of angle over formula|", -REACHED),
    )
    yield claim(
        "same",
        "ResNet-18, weight decay 2e-3: over the last quarter of training the angles per step of "
        "all convolutions are within a factor of 1.1 of each other. [beyond the paper]",
        exceeds(-spread(late), "minus log2 of the largest over the smallest angle", -REACHED),
    )
    epoch = log2(strong.of(ANGLE, "change")).layers(lambda name: "conv" in name)
    yield claim(
        "epochs-differ",
        "ResNet-18, weight decay 2e-3: over an epoch the angles of the convolutions then still "
        "differ by more than a factor of 1.1. [beyond the paper]",
        spread_elsewhere(last_quarter(strong, epoch)),
        "log2 of the angles of the layers that turn most and least in the other seeds",
        REACHED,
    )
    first = runs["paper"]
    yield claim(
        "evens-out",
        "ResNet-18: with weight decay 2e-3 the angles per step of the convolutions differ less at "
        "the end than with the paper's 1e-4. [beyond the paper]",
        spread(last_quarter(first, off_equilibrium(first))) - spread(late),
        "difference in log2 of the largest over the smallest angle",
    )
    for name, run in runs.items():
        expected = equilibrium_angle(*settings_of(run))
        yield lines(
            run.per_step(ANGLE, "change"),
            f"angle-{name}",
            f"Angle per step, {run.label}",
            "Mean over the steps of an epoch; geometric mean over seeds. The line is the angle of "
            "equilibrium; the classifier, which nothing normalises, need not reach it.",
            x="epoch",
            log_y=True,
            references=(Reference(expected, "equilibrium"),),
        )
    for name, run in runs.items():
        time = equilibrium_time(*settings_of(run)) / steps_of(run)
        yield bars(
            arrival(run),
            f"arrival-{name}",
            f"Epoch from which on layers are in equilibrium, {run.label}",
            "Angle per step within a factor of 1.1 of the formula to the end; mean over the seeds "
            f"in which that happens in {run.epochs} epochs, no bar where it does in none. Expected "
            f"time scale: {time:.3g} epochs.",
        )


def abs_max(values: Quantity) -> Quantity:
    """Largest magnitude of all layers."""
    return values.map(abs).max("layer")
