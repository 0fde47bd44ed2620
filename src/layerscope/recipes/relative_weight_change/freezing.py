"""Freezing what has settled, which the paper proposes (Section 5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from layerscope.config import FreezeWhenSettled, RunConfig
from layerscope.probes import Performance, TrainingCost
from layerscope.recipes.relative_weight_change.settings import (
    DATA,
    RWC,
    Data,
    paper,
    studies,
    study,
)
from layerscope.studies.comparisons import each, exceeds
from layerscope.studies.guards import scored
from layerscope.studies.paper import Items, claim
from layerscope.studies.plan import Plan, Runs, Scale
from layerscope.studies.plots import OVER_SEEDS, bars, described, lines, table
from layerscope.studies.quantity import Quantity, stacked

THRESHOLDS: Mapping[Data, float] = {"cifar10": 0.15, "mnist": 0.1}
"""Relative change over an epoch below which a layer has settled, twice in a row."""
WAYS: Mapping[str, str] = {
    "settled": "settled layers frozen",
    "in-order": "settled layers frozen in order",
    "random": "the same layers frozen at random times",
}
COST, TEST = TrainingCost(), Performance()
ALLOWED, WORTH = 1.0, 10.0


def frozen(scale: Scale) -> Plan:
    """ResNet-18 on CIFAR-10 and MNIST, with and without freezing."""
    variants: dict[str, tuple[str, RunConfig]] = {}
    for name, threshold in THRESHOLDS.items():
        base = study(scale, "resnet18", name)
        variants[f"{name}-plain"] = (f"{DATA[name]}: all layers train", base)
        how = FreezeWhenSettled(threshold, relative=False)
        ways = (how, replace(how, in_order=True), replace(how, at_random_times=True))
        for (way, label), one in zip(WAYS.items(), ways, strict=True):
            config = replace(base, freeze_when_settled=one)
            variants[f"{name}-{way}"] = (f"{DATA[name]}: {label}", config)
    return replace(studies(("resnet18", "cifar10"))(scale), variants=variants)


@paper.recipe(
    "beyond Section 5",
    frozen,
    "Does freezing layers that have settled save work without loss?",
    "ResNet-18 whose layers are frozen once they change by less than a threshold (15% on CIFAR-10, "
    "10% on MNIST) over each of two epochs in a row, beside training without freezing and the same "
    "layers at random times. The thresholds were chosen by looking at the changes of two of the "
    "five seeds at small scale, so that most layers settle half-way.",
)
def freezing(runs: Runs) -> Items:
    """Freeze what has settled: accuracy and operations, against random times and no freezing."""
    saved, lost = {}, {}
    for name in THRESHOLDS:
        for way in WAYS:
            run = runs[f"{name}-{way}"]
            lost[run.label] = scored(TEST, run.name) - scored(TEST, f"{name}-plain")
            saved[run.label] = 100.0 * run.of(COST, "backward_saved")
        for way in ("settled", "in-order"):
            run = runs[f"{name}-{way}"]
            yield claim(
                f"{name}-{way}",
                f"{run.label} saves at least {WORTH:g}% of the operations of backward passes and "
                f"costs at most {ALLOWED:g} point of test accuracy. [beyond Section 5]",
                each(
                    {
                        "saves": exceeds(saved[run.label], "share saved in %", WORTH),
                        "costs": exceeds(
                            -lost[run.label],
                            "accuracy less that without freezing, in points",
                            -ALLOWED,
                        ),
                    }
                ),
            )
        yield claim(
            f"{name}-timing",
            f"{DATA[name]}: freezing layers when they have settled loses less accuracy than "
            "freezing the same layers at random times. [beyond Section 5]",
            scored(TEST, f"{name}-random") - scored(TEST, f"{name}-settled"),
            "test error at random times less that when settled, in points",
        )
    columns: dict[str, Quantity] = {
        "lost": stacked("way", lost, long_name="accuracy lost", units="points"),
        "saved": stacked("way", saved, long_name="backward operations saved", units="%"),
    }
    yield table(
        columns,
        "savings",
        "What freezing loses and saves",
        f"Test accuracy lost against training all layers to the end, and the share of operations "
        f"of backward passes saved; {OVER_SEEDS}",
        rows="way",
    )
    for name in THRESHOLDS:
        run = runs[f"{name}-settled"]
        yield bars(
            described(run.of(COST, "frozen_after"), "trained until", "epochs"),
            f"frozen-{name}",
            f"{DATA[name]}: when layers were frozen",
            "Epoch after which a layer no longer trained; mean over the seeds that froze it, no "
            "bar where none did.",
        )
        yield lines(
            run.of(RWC, "change"),
            f"change-{name}",
            f"{DATA[name]}: change of the layers until they are frozen",
            "L1 norm of an epoch's change over that of the weights; geometric mean over the seeds "
            "in which the layer still trained.",
            x="epoch",
            log_y=True,
        )
