"""The figures of the paper, one per network, data set and part of it: Figs. 1 to 20, Table 1."""

from __future__ import annotations

import math
from collections.abc import Iterator

from layerscope.probes import Performance, WeightChange
from layerscope.recipes.relative_weight_change.settings import (
    MEASURES,
    RWC,
    TWELVE,
    by_layer,
    last_over_first,
    level,
    paper,
    studies,
)
from layerscope.studies.comparisons import alike, each, exceeds, in_each
from layerscope.studies.guards import scored
from layerscope.studies.paper import Items, Statement, claim
from layerscope.studies.plan import Runs, Variant
from layerscope.studies.plots import OVER_SEEDS, Plot, bars, beside_reported, lines
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


@paper.recipe(
    "Fig. 1",
    studies(("resnet18", "cifar10")),
    "ResNet-18 on CIFAR-10: does block 2 change more than block 1?",
    SUMMARY,
)
def fig1(runs: Runs) -> Items:
    """ResNet-18 on CIFAR-10: block 2 changes more than block 1."""
    yield order(runs.first, "block 2", "block 1", "Fig. 1, Section 4.1")
    yield from blocks(runs.first, 1, 2)


@paper.recipe(
    "Fig. 2",
    studies(("resnet18", "cifar10")),
    "ResNet-18 on CIFAR-10: does block 3 change more than block 2?",
    SUMMARY,
)
def fig2(runs: Runs) -> Items:
    """ResNet-18 on CIFAR-10: block 3 changes more than block 2."""
    yield order(runs.first, "block 3", "block 2", "Fig. 2, Section 4.1")
    yield from blocks(runs.first, 2, 3)


@paper.recipe(
    "Fig. 3",
    studies(("resnet18", "cifar10")),
    "ResNet-18 on CIFAR-10: does block 4 change as much as block 3?",
    SUMMARY,
)
def fig3(runs: Runs) -> Items:
    """ResNet-18 on CIFAR-10: block 4 changes as much as block 3.

    So Section 4.1 says of CIFAR-10; where it speaks of MNIST it says that block 4 changes less than
    block 3 "mirroring the trend seen in CIFAR-10". The first statement is decided.
    """
    yield claim(
        "block4-like-block3",
        f"{runs.first.label}: blocks 3 and 4 change alike, within a factor of 1.25. [Fig. 3, "
        "Section 4.1]",
        alike(above(runs.first, "block 4", "block 3"), STATISTIC, MARGIN),
    )
    yield from blocks(runs.first, 3, 4)


@paper.recipe(
    "Fig. 4",
    studies(("resnet18", "cifar100")),
    "ResNet-18 on CIFAR-100: does block 2 change more than block 1?",
    SUMMARY,
)
def fig4(runs: Runs) -> Items:
    """ResNet-18 on CIFAR-100: block 2 changes more than block 1."""
    yield order(runs.first, "block 2", "block 1", "Fig. 4, Section 4.1")
    yield from blocks(runs.first, 1, 2)


@paper.recipe(
    "Fig. 5",
    studies(("resnet18", "cifar100")),
    "ResNet-18 on CIFAR-100: does block 3 change more than block 2?",
    SUMMARY,
)
def fig5(runs: Runs) -> Items:
    """ResNet-18 on CIFAR-100: block 3 changes more than block 2."""
    yield order(runs.first, "block 3", "block 2", "Fig. 5, Section 4.1")
    yield from blocks(runs.first, 2, 3)


@paper.recipe(
    "Fig. 6",
    studies(("resnet18", "cifar100")),
    "ResNet-18 on CIFAR-100: does block 4 change more than block 3?",
    SUMMARY,
)
def fig6(runs: Runs) -> Items:
    """ResNet-18 on CIFAR-100: block 4 changes more than block 3."""
    yield order(runs.first, "block 4", "block 3", "Fig. 6, Section 4.1")
    yield from blocks(runs.first, 3, 4)


@paper.recipe(
    "Fig. 7",
    studies(("vgg19", "cifar10")),
    "VGG-19 on CIFAR-10: do the middle layers change most?",
    SUMMARY,
)
def fig7(runs: Runs) -> Items:
    """VGG-19 on CIFAR-10: middle layers change more than early and than late ones."""
    for less in ("early", "late"):
        yield order(runs.first, "middle", less, "Fig. 7, Section 4.2")
    yield order(runs.first, "late", "early", "Fig. 7, Section 4.2")
    yield from parts(runs.first)


@paper.recipe(
    "Fig. 8",
    studies(("vgg19", "cifar100"), ("vgg19", "cifar10")),
    "VGG-19 on CIFAR-100: do late layers take more part?",
    SUMMARY,
)
def fig8(runs: Runs) -> Items:
    """VGG-19 on CIFAR-100: layers change more than on CIFAR-10, and late ones catch up."""
    run, easier = runs["vgg19-cifar100"], runs["vgg19-cifar10"]
    for more in ("middle", "late"):
        yield order(run, more, "early", "Fig. 8, Section 4.2")
    gaps = [above(one, "middle", "late") for one in (easier, run)]
    yield claim(
        "gap-smaller",
        "VGG-19: on CIFAR-10 middle layers exceed late ones, and by more than on CIFAR-100. [Fig. "
        "8, Section 4.2]",
        each(
            {
                "gap": exceeds(gaps[0], STATISTIC),
                "smaller": exceeds(gaps[0] - gaps[1], "difference of the two gaps, in log2"),
            }
        ),
    )
    yield order(run, "late", "middle", "Section 5")
    yield harder(run, easier, "Fig. 8, Section 4.2")
    yield from parts(run)


@paper.recipe(
    "Fig. 9",
    studies(("resnet18", "mnist")),
    "ResNet-18 on MNIST: does block 2 change more than block 1?",
    SUMMARY,
)
def fig9(runs: Runs) -> Items:
    """ResNet-18 on MNIST: block 2 changes more than block 1."""
    yield order(runs.first, "block 2", "block 1", "Fig. 9, Section 4.1")
    yield from blocks(runs.first, 1, 2)


@paper.recipe(
    "Fig. 10",
    studies(("resnet18", "mnist")),
    "ResNet-18 on MNIST: does block 3 change more than block 2?",
    SUMMARY,
)
def fig10(runs: Runs) -> Items:
    """ResNet-18 on MNIST: block 3 changes more than block 2."""
    yield order(runs.first, "block 3", "block 2", "Fig. 10, Section 4.1")
    yield from blocks(runs.first, 2, 3)


@paper.recipe(
    "Fig. 11",
    studies(("resnet18", "mnist")),
    "ResNet-18 on MNIST: does block 4 change less than block 3?",
    SUMMARY,
)
def fig11(runs: Runs) -> Items:
    """ResNet-18 on MNIST: block 4 changes less than block 3."""
    yield order(runs.first, "block 3", "block 4", "Fig. 11, Section 4.1")
    yield from blocks(runs.first, 3, 4)


@paper.recipe(
    "Fig. 12",
    studies(("resnet18", "fashion_mnist"), ("resnet18", "mnist")),
    "ResNet-18 on Fashion-MNIST: do layers change more than on MNIST?",
    SUMMARY,
)
def fig12(runs: Runs) -> Items:
    """ResNet-18 on Fashion-MNIST: block 1 changes less than block 3, all more than on MNIST."""
    run, easier = runs["resnet18-fashion_mnist"], runs["resnet18-mnist"]
    yield order(run, "block 3", "block 1", "Fig. 12, Section 4.1")
    yield harder(run, easier, "Fig. 12, Section 4.1")
    yield from blocks(run, 1, 2)


@paper.recipe(
    "Fig. 13",
    studies(("resnet18", "fashion_mnist")),
    "ResNet-18 on Fashion-MNIST: does block 3 change more than block 2?",
    SUMMARY,
)
def fig13(runs: Runs) -> Items:
    """ResNet-18 on Fashion-MNIST: block 3 changes more than block 2."""
    yield order(runs.first, "block 3", "block 2", "Fig. 13, Section 4.1")
    yield from blocks(runs.first, 2, 3)


@paper.recipe(
    "Fig. 14",
    studies(("resnet18", "fashion_mnist")),
    "ResNet-18 on Fashion-MNIST: does block 4 change less than block 3?",
    SUMMARY,
)
def fig14(runs: Runs) -> Items:
    """ResNet-18 on Fashion-MNIST: block 4 changes less than block 3."""
    yield order(runs.first, "block 3", "block 4", "Fig. 14, Section 4.1")
    yield from blocks(runs.first, 3, 4)


@paper.recipe(
    "Fig. 15",
    studies(("vgg19", "mnist")),
    "VGG-19 on MNIST: do late layers change least?",
    SUMMARY,
)
def fig15(runs: Runs) -> Items:
    """VGG-19 on MNIST: middle layers change more than early ones, late ones least."""
    run = runs.first
    yield order(run, "middle", "early", "Fig. 15, Section 4.2")
    for more in ("early", "middle"):
        yield order(run, more, "late", "Fig. 15, Section 4.2")
    yield from parts(run)


@paper.recipe(
    "Fig. 16",
    studies(("vgg19", "fashion_mnist"), ("vgg19", "mnist")),
    "VGG-19 on Fashion-MNIST: do late layers change least?",
    SUMMARY,
)
def fig16(runs: Runs) -> Items:
    """VGG-19 on Fashion-MNIST: as on MNIST, with larger changes."""
    run = runs["vgg19-fashion_mnist"]
    yield order(run, "middle", "early", "Fig. 16, Section 4.2")
    for more in ("early", "middle"):
        yield order(run, more, "late", "Fig. 16, Section 4.2")
    yield harder(run, runs["vgg19-mnist"], "Fig. 16, Section 4.2")
    yield from parts(run)


@paper.recipe(
    "Fig. 17",
    studies(("alexnet", "cifar10")),
    "AlexNet on CIFAR-10: do the middle layers change most?",
    SUMMARY,
)
def fig17(runs: Runs) -> Items:
    """AlexNet on CIFAR-10: middle layers change more than early and than late ones."""
    for less in ("early", "late"):
        yield order(runs.first, "middle", less, "Fig. 17, Section 4.3")
    yield from parts(runs.first)


@paper.recipe(
    "Fig. 18",
    studies(("alexnet", "cifar100")),
    "AlexNet on CIFAR-100: does change grow with depth?",
    SUMMARY,
)
def fig18(runs: Runs) -> Items:
    """AlexNet on CIFAR-100: change grows from early to middle to late layers."""
    yield order(runs.first, "middle", "early", "Fig. 18, Section 4.3")
    yield order(runs.first, "late", "middle", "Fig. 18, Section 4.3")
    yield from parts(runs.first)


@paper.recipe(
    "Fig. 19",
    studies(("alexnet", "mnist")),
    "AlexNet on MNIST: does change grow with depth?",
    SUMMARY,
)
def fig19(runs: Runs) -> Items:
    """AlexNet on MNIST: change grows from early to middle to late layers."""
    yield order(runs.first, "middle", "early", "Fig. 19, Section 4.3")
    yield order(runs.first, "late", "middle", "Fig. 19, Section 4.3")
    yield from parts(runs.first)


@paper.recipe(
    "Fig. 20",
    studies(("alexnet", "fashion_mnist")),
    "AlexNet on Fashion-MNIST: does change grow with depth?",
    SUMMARY,
)
def fig20(runs: Runs) -> Items:
    """AlexNet on Fashion-MNIST: change grows from early to middle to late layers."""
    yield order(runs.first, "middle", "early", "Fig. 20, Section 4.3")
    yield order(runs.first, "late", "middle", "Fig. 20, Section 4.3")
    yield from parts(runs.first)


@paper.recipe(
    "Table 1",
    studies(*TWELVE),
    "Which accuracy do the twelve networks reach?",
    "Test accuracy of every network on every data set beside the one reported, trained with the "
    "settings of Table 1.",
)
def table1(runs: Runs) -> Items:
    """Accuracy reached beside accuracy reported for the twelve networks and data sets."""
    test = Performance()
    reached = {run.label: 100 - scored(test, name) for name, run in runs.items()}
    reported = [row.accuracy for row in TWELVE.values()]
    short = {
        label: accuracy - row.accuracy
        for (label, accuracy), row in zip(reached.items(), TWELVE.values(), strict=True)
    }
    yield claim(
        "reached",
        "Every network reaches the accuracy reported, less at most 2 points. [Section 4]",
        in_each(short, "accuracy of {} less that reported, in points", -2.0),
    )
    yield beside_reported(
        {"test accuracy": reached},
        {"test accuracy": dict(zip(reached, reported, strict=True))},
        "Settings from Table 1, accuracies from Section 4; the best learning-rate schedules, which "
        "the paper leaves out on purpose, reach more.",
    )


@paper.recipe(
    "Section 5",
    studies(*TWELVE),
    "Do later layers change more than earlier ones?",
    "Relative weight change of the last third of the convolutions over that of the first third, "
    "for every network and data set, under every measure of change.",
)
def conclusion(runs: Runs) -> Items:
    """Later layers change more than earlier ones: twelve networks, five measures."""
    effects = {run.label: later(run) for run in runs.values()}
    for name, run in runs.items():
        yield claim(
            name.replace("_", "-"),
            f"{run.label}: the last third of the convolutions changes more than the first third. "
            "[Section 5]",
            effects[run.label],
            "log2 of the ratio of changes",
        )
    for measure, probe in MEASURES.items():
        yield bars(
            stacked(
                "network",
                {run.label: later(run, probe) for run in runs.values()},
                long_name="log2 of later over earlier",
                units="",
            ),
            f"later-{probe.slug}",
            f"Later over earlier layers: {measure}",
            "log2 of the ratio of the changes of the last third of the convolutions and of the "
            f"first, epochs from the second on; above 0 later layers change more; {OVER_SEEDS}",
            x="network",
        )
