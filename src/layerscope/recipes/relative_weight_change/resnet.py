"""ResNet-18, block by block: Figs. 1 to 6 and 9 to 14."""

from __future__ import annotations

from layerscope.recipes.relative_weight_change.settings import paper, studies
from layerscope.recipes.relative_weight_change.statements import (
    MARGIN,
    STATISTIC,
    SUMMARY,
    above,
    blocks,
    harder,
    order,
)
from layerscope.studies.comparisons import alike
from layerscope.studies.paper import Items, claim
from layerscope.studies.plan import Runs


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
