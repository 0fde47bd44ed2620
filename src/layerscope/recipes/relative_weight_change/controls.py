"""Controls that the paper lacks: layer size, rotation, change per step."""

from __future__ import annotations

from dataclasses import replace

import xarray as xr

from layerscope.config import FCN, SGD, ResNet
from layerscope.errors import LayerscopeError
from layerscope.figures.figure import Reference
from layerscope.functional.equilibrium import diffusive_directness
from layerscope.probes import WeightChange
from layerscope.recipes.relative_weight_change.settings import (
    ANGLE,
    MEASURES,
    NETWORKS,
    RWC,
    last_over_first,
    model,
    paper,
    settings_of,
    steps_of,
    studies,
    study,
    typical,
)
from layerscope.recipes.relative_weight_change.statements import STATISTIC, later
from layerscope.studies.paper import Items, claim
from layerscope.studies.plan import Plan, Runs, Scale, Variant
from layerscope.studies.plots import OVER_SEEDS, bars, lines
from layerscope.studies.quantity import Quantity, combined, stacked

CIFAR = studies(("resnet18", "cifar10"), ("vgg19", "cifar10"), ("alexnet", "cifar10"))
SIZES = {
    f"{name}, equal size": replace(probe, size_matched=True) for name, probe in MEASURES.items()
}
"""Every measure on as many weights of each layer as the smallest layer has."""


def equal_width(scale: Scale) -> Plan:
    """The three networks on CIFAR-10, and two whose layers all have one size."""
    plan = CIFAR(scale)
    base = study(scale, "resnet18", "cifar10")
    narrow = model(scale, "resnet18")
    assert isinstance(narrow, ResNet)
    depth, width = (6, {"paper": 512, "small": 128, "smoke": 32}[scale])
    equal = {
        "resnet-equal": (
            "ResNet of equal width",
            replace(base, model=replace(narrow, stages=(8,)), groups=("blocks=stage1.*",)),
        ),
        "fcn-equal": (
            "FCN of equal width",
            replace(
                base,
                model=FCN(depth, width),
                optimizer=SGD(0.05, momentum=0.9, weight_decay=1e-4),
                groups=(f"hidden={','.join(f'layer{i}' for i in range(2, depth + 1))}",),
            ),
        ),
    }
    return replace(plan, variants={**plan.variants, **equal})


@paper.recipe(
    "beyond the paper",
    equal_width,
    "Does the order of layers survive equal sizes?",
    "Later over earlier convolutions with every measure of change, on all weights and on equally "
    "many of each layer; and in networks whose layers all have one size.",
)
def size(runs: Runs) -> Items:
    """Is "later layers change more" an effect of layer size? Equal numbers, equal widths.

    Every measure is taken of all weights of a layer and of a random choice of as many as the
    smallest layer has; and two networks have layers of one size only: a ResNet of one stage of
    eight blocks, and an FCN without normalisation.
    """
    three = [f"{network}-cifar10" for network in NETWORKS]
    for name in three:
        yield claim(
            f"{name}-matched",
            f"{runs[name].label}: the last third of the convolutions changes more than the first "
            "also on equally many weights of each. [beyond the paper]",
            later(runs[name], replace(RWC, size_matched=True)),
            STATISTIC,
        )
    for name in three:
        run = runs[name]
        elementwise = WeightChange(reduction="elementwise")
        yield claim(
            f"{name}-inflated",
            f"{run.label}: the mean of quotients, which the authors' code computes, shifts the "
            "balance towards later layers compared with Eq. 1. [beyond the paper]",
            later(run, elementwise) - later(run),
            "log2 of later over earlier, mean of quotients less Eq. 1",
        )
    for name in ("resnet-equal", "fcn-equal"):
        yield claim(
            name,
            f"{runs[name].label} on CIFAR-10: the last third of the layers changes more than the "
            "first. [beyond the paper]",
            later(runs[name]),
            STATISTIC,
        )
    for name, run in runs.items():
        probes = {**MEASURES, **(SIZES if name in three else {})}
        effects = {measure: later(run, probe) for measure, probe in probes.items()}
        yield bars(
            stacked("measure", effects, long_name="log2 of later over earlier", units=""),
            f"measures-{name}",
            f"{run.label}: later over earlier layers",
            "log2 of the ratio of the changes of the last third of the layers and of the first, "
            f"epochs from the second on; above 0 later layers change more; {OVER_SEEDS}",
            x="measure",
        )


def per_step(run: Variant, probe: WeightChange) -> Quantity:
    """The typical change of every layer at a step."""
    return typical(run.per_step(probe, "change"))


def later_per_step(run: Variant, probe: WeightChange) -> Quantity:
    """log2 of how much more the last third of the layers changes at a step than the first."""
    return last_over_first(per_step(run, probe))


@paper.recipe(
    "beyond the paper",
    CIFAR,
    "Do later layers also turn more?",
    "Angle between a layer's weights at two moments, an epoch or a step apart.",
)
def rotation(runs: Runs) -> Items:
    """Does the order hold for angles, which is what a change means before a normalisation?"""
    for name, run in runs.items():
        yield claim(
            f"{name}-epoch",
            f"{run.label}: the last third of the convolutions turns more than the first over an "
            "epoch. [beyond the paper]",
            later(run, ANGLE),
            "log2 of the ratio of angles",
        )
        yield claim(
            f"{name}-step",
            f"{run.label}: the last third of the convolutions turns more than the first at a "
            "step. [beyond the paper]",
            later_per_step(run, ANGLE),
            "log2 of the ratio of angles",
        )
    about = "geometric mean over seeds"
    for name, run in runs.items():
        yield lines(
            run.of(ANGLE, "change"),
            f"epoch-{name}",
            f"{run.label}: rotation over an epoch",
            f"Angle between the weights at the ends of two epochs; {about}.",
            x="epoch",
            log_y=True,
        )
        yield lines(
            run.per_step(ANGLE, "change"),
            f"step-{name}",
            f"{run.label}: rotation at a step",
            f"Angle between the weights before and after a step, mean over an epoch; {about}.",
            x="epoch",
            log_y=True,
        )


def directness(run: Variant) -> Quantity:
    """Angle turned over an epoch as a share of the angles of its steps, per layer and epoch.

    Raises:
        LayerscopeError: The runs do not keep a checkpoint of every epoch.
    """
    steps = steps_of(run)
    if run.kept != tuple(range(1, run.epochs + 1)):
        raise LayerscopeError(
            f"directness within an epoch needs every epoch of {run.label}.",
            "Keep checkpoints at epochs(1).",
        )

    def share(epoch: xr.DataArray, step: xr.DataArray) -> xr.DataArray:
        return (epoch / (steps * step)).assign_attrs(long_name="directness", units="")

    return combined(share, run.of(ANGLE, "change"), run.per_step(ANGLE, "change"))


@paper.recipe(
    "beyond the paper",
    CIFAR,
    "Do layers differ in how far they step or in where they go?",
    "Change per epoch beside change per step, and directness: the angle turned over an epoch as a "
    "share of the angles of its steps.",
)
def schedule(runs: Runs) -> Items:
    """Change per epoch against change per step: drift or diffusion?

    An epoch adds up steps. Where all point one way, n steps turn the weights n times as far as one
    (directness 1, drift). Where gradients are independent the directness is that of diffusion: one
    over the square root of n, and with momentum, which makes steps alike, a few times more
    (`layerscope.functional.equilibrium.diffusive_directness`). Below that line steps undo each
    other.
    """
    for name, run in runs.items():
        yield claim(
            f"{name}-drift",
            f"{run.label}: steps of the last third of the convolutions point the same way more "
            "than those of the first third. [beyond the paper]",
            last_over_first(typical(directness(run))),
            "log2 of the ratio of directness",
        )
        yield claim(
            f"{name}-step",
            f"{run.label}: the last third of the convolutions changes more than the first also at "
            "a single step (Eq. 1). [beyond the paper]",
            later_per_step(run, RWC),
            STATISTIC,
        )
    for name, run in runs.items():
        _, _, momentum = settings_of(run)
        diffusion = Reference(
            diffusive_directness(steps_of(run), momentum), "independent gradients"
        )
        yield lines(
            directness(run),
            f"directness-{name}",
            f"{run.label}: directness within an epoch",
            "Angle turned over an epoch over the sum of the angles of its steps: 1 is a straight "
            "way, the line what independent gradients with this momentum give, below it steps undo "
            "each other; geometric mean over seeds.",
            x="epoch",
            log_y=True,
            references=(diffusion,),
        )
        yield bars(
            stacked(
                "over",
                {"an epoch": later(run), "a step": later_per_step(run, RWC)},
                long_name="log2 of later over earlier",
                units="",
            ),
            f"order-{name}",
            f"{run.label}: later over earlier layers, over an epoch and at a step",
            "log2 of the ratio of changes (Eq. 1) of the last third of the convolutions and of "
            f"the first; {OVER_SEEDS}",
            x="over",
        )
