"""Deep convolutional networks, one layer or block at a time: Fig. 3 to 5 and 11 to 18."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from layerscope.probes import Reinitialisation
from layerscope.probes.resets import RANDOM
from layerscope.recipes.all_layers_created_equal.settings import (
    SEEDS,
    SETS,
    TRAININGS,
    Deep,
    paper,
    plan,
    reduced,
    resnet,
    vgg,
    with_decay,
)
from layerscope.recipes.all_layers_created_equal.statements import (
    bottom_is_critical,
    critical_blocks_spread,
    distance_ranks,
    first_blocks_are_critical,
    random_blocks_are_harmless,
    reinitialisation,
)
from layerscope.studies.paper import Items, Statement, claim
from layerscope.studies.plan import Plan, Runs, Scale, Variant
from layerscope.studies.resets import as_lines, heatmaps

RESNETS: Mapping[Scale, tuple[Any, ...]] = {
    "paper": (18, 34, 50, 101, 152),
    "small": (18, 34, 50),
    "smoke": (18,),
}
FEWER: Mapping[Scale, str] = {"paper": "", "small": " No ResNet-101 and 152.", "smoke": ""}
ALL: tuple[Any, ...] = (11, 13, 16, 19)
VGGS: Mapping[Scale, tuple[Any, ...]] = {"paper": ALL, "small": ALL, "smoke": (11,)}
BLOCKS = (
    "Each residual block of the trained network is set back to an earlier time or drawn anew, "
    "the others stay as trained."
)
BOTH = ("plain", "wd_bn")
WHICH_BLOCKS = "Which residual blocks can be reset?"
CHANGE = "Do weight decay and batch normalisation change which blocks can be reset?"
TELL = "Do distances from initialisation tell which blocks of ResNet-50 can be reset?"
MOVED = "Robustness of each block, and how far its weights moved."


def vggs(scale: Scale) -> Plan:
    """VGGs without weight decay and normalisation on CIFAR-10."""
    variants = {f"vgg{depth}": (f"VGG-{depth}", vgg(scale, depth)) for depth in VGGS[scale]}
    return plan(SEEDS[scale], "cifar10", variants)


def resnets(scale: Scale, data: Deep, depths: Sequence[Any] = ()) -> Plan:
    """ResNets without weight decay and normalisation; without depths those of Fig. 4."""
    chosen = depths or RESNETS[scale]
    fewer = "" if 152 in chosen else FEWER[scale]
    return plan(
        SEEDS[scale],
        lambda runs: reduced(runs, data) + fewer,
        {f"resnet{n}": (f"ResNet-{n}", resnet(scale, n, data=data)) for n in chosen},
    )


def trained(scale: Scale, sets: Sequence[Deep], keys: Sequence[str] = ()) -> Plan:
    """ResNet-50 in several trainings, by default all four but two at small scale."""
    depth: Any = 18 if scale == "smoke" else 50
    several = len(sets) > 1
    variants = {
        f"{data if several else f'resnet{depth}'}-{key}": (
            f"ResNet-{depth}{TRAININGS[key]}" + (f", {SETS[data]}" if several else ""),
            resnet(scale, depth, key, data),
        )
        for data in sets
        for key in keys or (BOTH if scale == "small" else TRAININGS)
    }
    notes = lambda runs: " ".join(with_decay(runs, data) for data in sets)  # noqa: E731
    return plan(SEEDS[scale], notes, variants)


def vgg16(scale: Scale, keys: Sequence[str] = ("plain",)) -> Plan:
    """VGG-16 on CIFAR-10 in one training or several."""
    variants = {f"vgg16-{key}": (f"VGG-16{TRAININGS[key]}", vgg(scale, 16, key)) for key in keys}
    return plan(SEEDS[scale], with_decay if len(keys) > 1 else "cifar10", variants)


def in_trainings(runs: Runs) -> str:
    """What is done."""
    return f"Each residual block of the trained network is reset, in {len(runs)} trainings."


@paper.recipe(
    "Fig. 3",
    vggs,
    "Which layers of a VGG can be reset?",
    "Each layer of the trained network is set back to an earlier time or drawn anew, the others "
    "stay as trained.",
)
def fig3(runs: Runs) -> Items:
    """VGGs on CIFAR-10: layers at the bottom are critical, those at the top can be reset.

    Fig. 3: VGG-11, 13, 16 and 19, without weight decay and batch normalisation.
    """
    probe = reinitialisation(runs.scale)
    yield bottom_is_critical(runs, probe)
    yield from heatmaps(runs, probe)


@paper.recipe("Fig. 4", partial(resnets, data="cifar10"), WHICH_BLOCKS, BLOCKS)
def fig4(runs: Runs) -> Items:
    """ResNets on CIFAR-10: critical blocks are spread over the stages, most blocks are ambient.

    Fig. 4: ResNet-18 to 152 by residual block. At ``small`` ResNet-18, 34 and 50.
    """
    return _blocks(runs)


@paper.recipe("Fig. 5", partial(resnets, data="imagenet"), WHICH_BLOCKS, BLOCKS)
def fig5(runs: Runs) -> Items:
    """ResNets on ImageNet: fewer blocks can be reset where the task is harder.

    Fig. 5: ResNet-18 to 152 by residual block. At ``small`` Tiny ImageNet stands in, with
    ResNet-18, 34 and 50.
    """
    return _blocks(runs)


def _blocks(runs: Runs) -> Items:
    probe = reinitialisation(runs.scale)
    yield first_blocks_are_critical(runs, probe)
    yield critical_blocks_spread(runs, probe)
    yield random_blocks_are_harmless(runs, probe)
    yield from heatmaps(runs, probe)


@paper.recipe(
    "Fig. 11",
    partial(vgg16, keys=tuple(TRAININGS)),
    "Do weight decay and batch normalisation change which layers of VGG-16 can be reset?",
    "Each layer of the trained network is reset, in four trainings.",
)
def fig11(runs: Runs) -> Items:
    """VGG-16 on CIFAR-10 with weight decay and batch normalisation: the pattern stays.

    Fig. 11 shows weight decay; batch normalisation is added here.
    """
    probe = reinitialisation(runs.scale)
    yield bottom_is_critical(runs, probe)
    yield from heatmaps(runs, probe)


@paper.recipe("Fig. 12", partial(trained, sets=("cifar10",)), CHANGE, in_trainings)
def fig12(runs: Runs) -> Items:
    """ResNet-50 on CIFAR-10 with weight decay and batch normalisation: the pattern stays.

    Fig. 12; with both, resetting to checkpoint 1 is said to cost more than to checkpoint 0. At
    ``small`` only the plain network and the one with both.
    """
    return _trainings(runs)


@paper.recipe("Fig. 13", partial(trained, sets=("imagenet",)), CHANGE, in_trainings)
def fig13(runs: Runs) -> Items:
    """ResNet-50 on ImageNet with weight decay and batch normalisation.

    Fig. 13. At ``small`` Tiny ImageNet stands in, plain and with both.
    """
    return _trainings(runs)


def _trainings(runs: Runs) -> Items:
    probe = reinitialisation(runs.scale)
    yield first_blocks_are_critical(runs, probe)
    yield _first_epoch_is_worse(list(runs.values())[-1], probe)
    yield from heatmaps(runs, probe)


def _first_epoch_is_worse(variant: Variant, probe: Reinitialisation) -> Statement:
    """Appendix C: resetting to checkpoint 1 is less robust than to checkpoint 0.

    Layers with as many errors at both count for neither.
    """
    error = variant.of(probe, "error").map(lambda v: v.drop_sel(checkpoint=RANDOM))
    change = error.isel(checkpoint=1) - error.isel(checkpoint=0)
    balance = change.map(lambda v: (v > 0).mean("layer") - (v < 0).mean("layer"))
    return claim(
        "first-epoch",
        f"{variant.label}: resetting to the end of epoch 1 costs more than resetting to "
        "initialisation, for more layers than it costs less. [Appendix C, Fig. 12 (d)]",
        balance,
        "share of layers worse at checkpoint 1 less the share better",
    )


@paper.recipe(
    "Fig. 14",
    vgg16,
    "Do distances from initialisation tell which layers of VGG-16 can be reset?",
    "Robustness of each layer, and how far its weights moved.",
)
def fig14(runs: Runs) -> Items:
    """VGG-16 on CIFAR-10: robustness beside both distances from the trained weights.

    Fig. 14: the normalised L2 distance is said to go with robustness.
    """
    probe = reinitialisation(runs.scale)
    yield distance_ranks(runs.first, probe)
    yield from heatmaps(runs, probe, distances=True)


@paper.recipe("Fig. 15", partial(trained, sets=("cifar10",), keys=BOTH), TELL, MOVED)
def fig15(runs: Runs) -> Items:
    """ResNet-50 on CIFAR-10: robustness beside both distances, plain and with both +wd+bn.

    Fig. 15: a weak relation without weight decay and normalisation, which is the claim; with both
    the paper finds none that is clear.
    """
    return _block_distances(runs)


@paper.recipe("Fig. 16", partial(trained, sets=("imagenet",), keys=BOTH), TELL, MOVED)
def fig16(runs: Runs) -> Items:
    """ResNet-50 on ImageNet: robustness beside both distances, plain and with both +wd+bn.

    Fig. 16. At ``small`` Tiny ImageNet stands in.
    """
    return _block_distances(runs)


def _block_distances(runs: Runs) -> Items:
    probe = reinitialisation(runs.scale)
    yield distance_ranks(runs.first, probe)
    yield from heatmaps(runs, probe, distances=True)


@paper.recipe(
    "Fig. 17",
    vgg16,
    "Which layers of VGG-16 can be reset?",
    "The values of Fig. 14 as lines.",
)
def fig17(runs: Runs) -> Items:
    """VGG-16 on CIFAR-10: the robustness of Fig. 14 as lines.

    Fig. 17: one line for each checkpoint over the layers.
    """
    probe = reinitialisation(runs.scale)
    yield bottom_is_critical(runs, probe)
    yield from as_lines(runs, probe)


@paper.recipe(
    "Fig. 18",
    partial(trained, sets=("cifar10", "imagenet"), keys=BOTH),
    "Which blocks of ResNet-50 can be reset?",
    "The values of Fig. 15 and 16 as lines.",
)
def fig18(runs: Runs) -> Items:
    """ResNet-50 on CIFAR-10 and ImageNet: the robustness of Fig. 15 and 16 as lines.

    Fig. 18. At ``small`` Tiny ImageNet stands in for ImageNet.
    """
    probe = reinitialisation(runs.scale)
    yield first_blocks_are_critical(runs, probe)
    yield from as_lines(runs, probe)
