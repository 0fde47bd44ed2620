"""What figures of the paper claim and show: one group of layers changes more than another."""

from __future__ import annotations

import math
from collections.abc import Iterator

from layerscope.probes import WeightChange
from layerscope.recipes.relative_weight_change.settings import (
    MEASURES,
    RWC,
    by_layer,
    last_over_first,
    level,
)
from layerscope.studies.comparisons import in_each
from layerscope.studies.paper import Statement, claim
from layerscope.studies.plan import Variant
from layerscope.studies.plots import OVER_SEEDS, Plot, bars, lines
from layerscope.studies.quantity import Quantity, stacked
from layerscope.studies.statistics import log2

MARGIN = math.log2(1.25)
"""Changes within a factor of 1.25 of each other count as alike."""
STATISTIC = "log2 of the ratio of their changes"
SUMMARY = (
    "Relative weight change of every layer over every epoch, and differences between groups of "
    "layers, on average over the epochs from the second on."
)


def above(run: Variant, more: str, less: str, probe: WeightChange = RWC) -> Quantity:
    """log2 of how much more one group changes than another, (seed)."""
    return level(run, more, probe) - level(run, less, probe)


def order(run: Variant, more: str, less: str, place: str) -> Statement:
    """The claim that one group changes more than another."""
    layers = "" if "block" in more else " layers"
    return claim(
        f"{more}-above-{less}".replace(" ", ""),
        f"{run.label}: {more}{layers} change{'' if layers else 's'} more than {less}{layers}. "
        f"[{place}]",
        above(run, more, less),
        STATISTIC,
    )


def measures(run: Variant, more: str, less: str) -> Plot:
    """The difference of two groups under every measure of change."""
    effects = {name: above(run, more, less, probe) for name, probe in MEASURES.items()}
    return bars(
        stacked("measure", effects, long_name=f"log2 of {more} over {less}", units=""),
        f"measures-{more}-{less}".replace(" ", ""),
        f"{more} over {less}, by the measure of change".capitalize(),
        "log2 of the ratio of the mean changes of two groups of layers: 1 is twice the change. "
        f"The claim rests on Eq. 1; the other measures show what depends on it; {OVER_SEEDS}",
        x="measure",
    )


def shown(run: Variant, *groups: str) -> Iterator[Plot]:
    """Change over epochs of the layers of some groups, and of whole groups."""
    change = run.of(RWC, "change")
    about = "L1 norm of an epoch's change over that of the weights; geometric mean over seeds"
    chosen = change.map(lambda values: values.isel(layer=values["group"].isin(groups).values))
    yield lines(chosen, "layers", f"{run.label}: layers", f"{about}.", x="epoch", log_y=True)
    means = {group: log2(change).group(group).map(lambda v: 2**v) for group in groups}
    yield lines(
        stacked("group", means, long_name="relative weight change", units=""),
        "groups",
        f"{run.label}: groups of layers",
        f"{about} and layers of a group.",
        x="epoch",
        hue="group",
        log_y=True,
    )


def blocks(run: Variant, low: int, high: int) -> Iterator[Plot]:
    """What a figure of ResNet-18 shows: two neighbouring blocks."""
    yield from shown(run, f"block {low}", f"block {high}")
    yield measures(run, f"block {high}", f"block {low}")


def parts(run: Variant) -> Iterator[Plot]:
    """What a figure of VGG-19 or AlexNet shows: three groups."""
    yield from shown(run, "early", "middle", "late")
    yield measures(run, "middle", "early")
    yield measures(run, "late", "middle")


def later(run: Variant, probe: WeightChange = RWC) -> Quantity:
    """log2 of how much more the last third of the grouped layers changes than the first, (seed)."""
    return last_over_first(by_layer(run, probe))


def harder(run: Variant, easier: Variant, place: str) -> Statement:
    """The claim that layers change more on the harder of two data sets, in every group."""
    differences = {
        group: level(run, group) - level(easier, group) for group in run.config.layer_groups or ()
    }
    other = easier.label.partition(" on ")[2]
    return claim(
        "harder",
        f"{run.label}: the layers of every group change more than on {other}. [{place}]",
        in_each(differences, "log2 of the ratio of changes in {}"),
    )
