"""ResNet-50 with some of its activations left out: Figs. 3 and 4."""

from __future__ import annotations

from layerscope.recipes.complexity_over_depth_and_time.basenet import late
from layerscope.recipes.complexity_over_depth_and_time.quantities import (
    UNSETTLED,
    accuracy,
    against_the_full,
    even,
    first_negative,
    means,
    settled,
)
from layerscope.recipes.complexity_over_depth_and_time.settings import RESNET50, paper, resnets
from layerscope.studies.comparisons import alike, each, exceeds
from layerscope.studies.paper import Items, claim
from layerscope.studies.plan import Runs
from layerscope.studies.plots import heatmap
from layerscope.studies.statistics import trend

MARGIN = 2.0
"""Points of accuracy within which two networks count as alike."""


@paper.recipe(
    "Fig. 3",
    resnets,
    "Which layers of ResNet-50 may be linear?",
    "Test accuracy of ResNet-50 with 20 or 40 of its activations left out.",
)
def fig3(runs: Runs) -> Items:
    """First 20, or those with positive mean: no loss; last 20 and first 40: a loss."""
    level = {name: late(accuracy(runs, run)) for name, run in runs.items()}
    for name in ("first20", "positive"):
        yield claim(
            f"{name}-like-full",
            f"With {RESNET50[name][0]} ResNet-50 is as accurate as with none, within {MARGIN:g} "
            "points over the second half of training. [Fig. 3, Section 3]",
            alike(level[name] - level["full"], "points of accuracy", MARGIN),
        )
    yield claim(
        "last20-between",
        "With the last 20 linear it is less accurate than with the first 20, and more than with "
        "the first 40. [Fig. 3, Section 3]",
        each(
            {
                "first 20 - last 20": exceeds(
                    level["first20"] - level["last20"], "accuracy, first 20 less last 20"
                ),
                "last 20 - first 40": exceeds(
                    level["last20"] - level["first40"], "accuracy, last 20 less first 40"
                ),
            }
        ),
    )
    yield claim(
        "first40-worst",
        "With the first 40 linear it is the least accurate of all. [Fig. 3, Section 3]",
        each(
            {
                RESNET50[name][0]: exceeds(
                    level[name] - level["first40"],
                    f"accuracy, {RESNET50[name][0]} less first 40 linear",
                )
                for name in RESNET50
                if name != "first40"
            }
        ),
    )
    yield from against_the_full(runs, "ResNets")


@paper.recipe(
    "Fig. 4",
    resnets,
    "Do deep layers of ResNet-50 leave the linear regime first?",
    "Mean of what enters each activation over depth and time, of ResNet-50 and its counterparts.",
)
def fig4(runs: Runs) -> Items:
    """Mean preactivations; at the ends of residual blocks a sum with what a rectifier made."""
    yield claim(
        "negative-first",
        "Deeper layers of ResNet-50 have a negative mean preactivation earlier. [Fig. 4, "
        "Section 3]",
        -trend(first_negative(runs.first), "layer"),
        "minus the rank correlation of depth and the first time below 0",
    )
    ends = means(runs.first).at_end()
    yield claim(
        "ends-of-blocks-positive",
        "Activations at the ends of residual blocks have larger mean preactivations than those "
        "inside. [Fig. 4, Section 3]",
        ends.layers(_ends_a_block).mean("layer") - ends.layers(_inside_a_block).mean("layer"),
        "mean preactivation, ends of blocks less inside",
    )
    for name, run in runs.items():
        yield heatmap(
            even(runs, settled(run)),
            f"means-{name}",
            f"Mean preactivations, {run.label}",
            "Mean over samples and nodes of what enters each activation. Ends of residual blocks "
            f"add what a rectifier made, which is mostly positive. {UNSETTLED}",
            centre=0.0,
        )


def _ends_a_block(name: str) -> bool:
    return ".resblk" in name and ".body." not in name


def _inside_a_block(name: str) -> bool:
    return ".body." in name
