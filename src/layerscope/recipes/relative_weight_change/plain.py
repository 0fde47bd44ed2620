"""VGG-19 and AlexNet in three groups of layers: Figs. 7, 8 and 15 to 20."""

from __future__ import annotations

from layerscope.recipes.relative_weight_change.settings import paper, studies
from layerscope.recipes.relative_weight_change.statements import (
    STATISTIC,
    SUMMARY,
    above,
    harder,
    order,
    parts,
)
from layerscope.studies.comparisons import each, exceeds
from layerscope.studies.paper import Items, claim
from layerscope.studies.plan import Runs


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
