"""Freezing what has settled, which the paper proposes (Section 5)."""

from __future__ import annotations

from dataclasses import replace

from layerscope.config import FreezeWhenSettled
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

SETS: tuple[Data, ...] = ("cifar10", "mnist")
THRESHOLD = 0.15
"""Relative change over an epoch below which a layer has settled, twice in a row."""
SETTLED = FreezeWhenSettled(THRESHOLD, relative=False)
WAYS = {
    "plain": ("all layers train", FreezeWhenSettled()),
    "settled": ("settled layers frozen", SETTLED),
    "in-order": ("frozen in order", replace(SETTLED, in_order=True)),
    "random": ("frozen at random times", replace(SETTLED, at_random_times=True)),
}
COST, TEST = TrainingCost(), Performance()
ALLOWED, WORTH = 1.0, 10.0


def frozen(scale: Scale) -> Plan:
    """ResNet-18 on CIFAR-10 and MNIST, with and without freezing."""
    variants = {
        f"{name}-{way}": (
            f"{DATA[name]}: {label}",
            replace(study(scale, "resnet18", name), freeze_when_settled=how),
        )
        for name in SETS
        for way, (label, how) in WAYS.items()
    }
    return replace(studies(("resnet18", "cifar10"))(scale), variants=variants)


@paper.recipe(
    "beyond Section 5",
    frozen,
    "Does freezing layers that have settled save work without loss?",
    f"ResNet-18 whose layers are frozen once they change by less than {THRESHOLD:.0%} over two "
    "epochs in a row, beside training without freezing and the same layers at random times.",
)
def freezing(runs: Runs) -> Items:
    """Freeze what has settled: accuracy and operations, against random times and no freezing."""
    saved, lost = {}, {}
    for name in SETS:
        title, plain = DATA[name], scored(TEST, f"{name}-plain")
        for way in ("settled", "in-order"):
            run = runs[f"{name}-{way}"]
            gain = plain - scored(TEST, run.name)
            share = percent(run.of(COST, "backward_saved"))
            yield claim(
                f"{name}-{way}",
                f"{run.label} saves at least {WORTH:g}% of the operations of backward passes and "
                f"costs at most {ALLOWED:g} point of test accuracy. [beyond Section 5]",
                each(
                    {
                        "saves": exceeds(share, "share saved in %", WORTH),
                        "costs": exceeds(
                            gain, "accuracy less that without freezing, in points", -ALLOWED
                        ),
                    }
                ),
            )
        yield claim(
            f"{name}-timing",
            f"{title}: freezing layers when they have settled loses less accuracy than freezing "
            "the same layers at random times. [beyond Section 5]",
            scored(TEST, f"{name}-random") - scored(TEST, f"{name}-settled"),
            "test error at random times less that when settled, in points",
        )
        for way, (label, _) in list(WAYS.items())[1:]:
            run = runs[f"{name}-{way}"]
            row = f"{title}, {label}"
            lost[row] = scored(TEST, run.name) - plain
            saved[row] = percent(run.of(COST, "backward_saved"))
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
    for name in SETS:
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
            "L1 norm of an epoch's change over that of the weights; geometric mean over seeds.",
            x="epoch",
            log_y=True,
        )


def percent(values: Quantity) -> Quantity:
    """A share in per cent."""
    return 100.0 * values
