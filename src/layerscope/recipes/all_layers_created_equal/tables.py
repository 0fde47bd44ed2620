"""Networks as a whole: the stochastic classifier under attack, and what trainings gain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from layerscope.probes import AdversarialAccuracy
from layerscope.recipes.all_layers_created_equal.settings import (
    SEEDS,
    TRAININGS,
    Deep,
    paper,
    plan,
    resnet,
    vgg,
    with_decay,
)
from layerscope.recipes.all_layers_created_equal.statements import ONLY_INITIAL
from layerscope.studies.comparisons import in_each
from layerscope.studies.paper import Items, claim
from layerscope.studies.plan import Plan, Runs, Scale
from layerscope.studies.plots import OVER_SEEDS, bars, beside_reported, described, of_probe
from layerscope.studies.quantity import stacked

STOCHASTIC = {"4x2": ((4, 4), "4^2"), "4x4": ((4, 4, 4, 4), "4^4")}
UNDER_ATTACK: Mapping[tuple[str, int], tuple[float, float, float]] = {
    ("4x2", 0): (91.05, 12.75, 0.33),
    ("4x2", 1): (89.45, 69.85, 6.71),
    ("4x2", 2): (87.70, 71.18, 9.65),
    ("4x4", 0): (90.08, 8.45, 0.00),
    ("4x4", 1): (89.64, 62.76, 2.60),
    ("4x4", 2): (89.13, 67.20, 3.56),
    ("4x4", 4): (88.24, 69.09, 5.60),
}
"""Table 2: accuracy in % clean, under FGSM and under PGD, by network and stages reset."""
ATTACKS = ("clean", "fgsm", "pgd")
TRAINED: Mapping[str, tuple[float | None, ...]] = {
    "ResNet-18": (10.4, 7.5, 6.9, 5.5),
    "ResNet-34": (10.2, 6.9, 6.6, 5.1),
    "ResNet-50": (8.4, 9.9, 7.6, 5.0),
    "ResNet-101": (8.5, 9.8, 6.9, 5.3),
    "ResNet-152": (8.5, 9.7, 7.3, 4.7),
    "VGG-11": (11.8, 10.7, 9.4, 8.2),
    "VGG-13": (10.3, 8.8, 8.4, 6.7),
    "VGG-16": (11.0, 11.4, 8.5, 6.7),
    "VGG-19": (12.1, None, 8.6, 6.9),
    "ResNet-18 ImageNet": (41.1, 33.1, 33.5, 31.5),
    "ResNet-34 ImageNet": (39.9, 30.6, 30.1, 27.2),
    "ResNet-50 ImageNet": (34.8, 31.8, 28.2, 25.0),
    "ResNet-101 ImageNet": (32.9, 29.9, 26.9, 22.9),
    "ResNet-152 ImageNet": (31.9, 29.1, 27.6, 22.6),
}
"""Table 3, on CIFAR-10 where nothing is said: error in % plain, +wd, +bn, +wd+bn."""


def stochastic(scale: Scale) -> Plan:
    """The networks of Section 6, with downsampling layers of their own."""
    variants = {
        name: (label, resnet(scale, 18, stages=stages))
        for name, (stages, label) in STOCHASTIC.items()
    }
    return plan(SEEDS[scale], "cifar10", variants)


@paper.recipe(
    "Table 2, Section 6",
    stochastic,
    "Do random resets of blocks protect against adversarial examples?",
    "At every call one residual block in each of s stages is set to one of 4 random "
    "initialisations.",
)
def table2(runs: Runs) -> Items:
    """Networks whose blocks are reset at random at test time, clean and under attack.

    Table 2: accuracy of the 4^2 and 4^4 networks (two and four stages of four blocks, with
    downsampling layers of their own), as trained and with one block reset in each of s random
    stages to one of r = 4 drawn initialisations at every call, clean, under FGSM and under PGD.

    Left open by the paper and read here so: epsilon 8/255, PGD with 20 steps of 2/255 from a
    random point; the blocks are basic ones with 64, 128, ... channels and a ReLU in front; a call
    takes a batch of 100 examples. At ``small`` 200 examples are attacked with 10 steps, 2 repeats.
    """
    probe = {
        "paper": AdversarialAccuracy(),
        "small": AdversarialAccuracy(repeats=2, n_examples=200, steps=10),
        "smoke": AdversarialAccuracy(repeats=1, n_examples=20, steps=2),
    }[runs.scale]
    accuracy = {name: of.mean("repeat") for name, of in runs.of(probe, "accuracy").items()}
    texts = {
        "clean": (
            "Resetting a block of one stage at every call costs less than 5 points of clean "
            "accuracy.",
            -5.0,
        ),
        "fgsm": ("It raises the accuracy under FGSM by more than 20 points.", 20.0),
        "pgd": ("It raises the accuracy under PGD.", 0.0),
    }
    for attack, (text, threshold) in texts.items():
        under = {runs[name].label: of.sel(attack=attack) for name, of in accuracy.items()}
        gains = {n: of.sel(stages_reset=1) - of.sel(stages_reset=0) for n, of in under.items()}
        statistic = f"{{}}: {attack} accuracy with s = 1 less as trained"
        yield claim(attack, f"{text} [Table 2]", in_each(gains, statistic, threshold))
    for variant in runs.values():
        yield of_probe(
            variant,
            probe,
            lambda found, v=variant: [
                replace(probe.figures(found)[0], key=f"accuracy-{v.name}", title=v.label)
            ],
        )
    rows = {
        f"{runs[network].label}, " + (f"s = {s}" if s else "as trained"): (network, s)
        for network, s in UNDER_ATTACK
    }
    measured = {
        attack: {
            row: accuracy[network].sel(attack=attack, stages_reset=s)
            for row, (network, s) in rows.items()
        }
        for attack in ATTACKS
    }
    yield beside_reported(
        measured,
        {a: {row: UNDER_ATTACK[c][i] for row, c in rows.items()} for i, a in enumerate(ATTACKS)},
        "Accuracy; r = 4 draws for each block, s stages in which one block is reset at every "
        "call. Reported: Table 2 of the paper, at its own scale.",
    )


def _rows(scale: Scale) -> dict[str, tuple[str, Any, Deep]]:
    """Kind, depth and data set of the networks of Table 3."""
    resnets: tuple[Any, ...] = (18, 34, 50, 101, 152)
    if scale == "paper":
        return {
            **{f"ResNet-{depth}": ("ResNet", depth, "cifar10") for depth in resnets},
            **{f"VGG-{depth}": ("VGG", depth, "cifar10") for depth in (11, 13, 16, 19)},
            **{f"ResNet-{depth} ImageNet": ("ResNet", depth, "imagenet") for depth in resnets},
        }
    small: dict[str, tuple[str, Any, Deep]] = {"ResNet-18": ("ResNet", 18, "cifar10")}
    return small if scale == "smoke" else {**small, "VGG-11": ("VGG", 11, "cifar10")}


def _name(row: str, training: str) -> str:
    return f"{row.lower().replace(' ', '-')}-{training}"


def four_trainings(scale: Scale) -> Plan:
    """Networks with and without weight decay and batch normalisation."""
    variants = {}
    for row, (kind, depth, data) in _rows(scale).items():
        for training, text in TRAININGS.items():
            made = vgg(scale, depth, training) if kind == "VGG" else None
            config = made or resnet(scale, depth, training, data)
            variants[_name(row, training)] = (f"{row}{text}", config)
    return plan(SEEDS[scale], with_decay, variants)


@paper.recipe(
    "Table 3",
    four_trainings,
    "What do weight decay and batch normalisation gain?",
    "Test errors of trained networks in four trainings.",
)
def table3(runs: Runs) -> Items:
    """Test errors with and without weight decay and batch normalisation.

    Table 3. At ``paper`` all networks on CIFAR-10 and the ResNets on ImageNet; at ``small``
    ResNet-18 and VGG-11 on CIFAR-10.
    """
    errors = {
        row: {t: runs[_name(row, t)].of(ONLY_INITIAL, "base_error") for t in TRAININGS}
        for row in _rows(runs.scale)
    }
    titles = {training: text or "plain" for training, text in TRAININGS.items()}
    by_row = {
        row: stacked("training", {titles[t]: error for t, error in found.items()})
        for row, found in errors.items()
    }
    gains = {row: found["plain"] - found["wd_bn"] for row, found in errors.items()}
    yield claim(
        "both-help",
        "Weight decay with batch normalisation lowers the test error of every network. [Table 3, "
        "Appendix C]",
        in_each(gains, "{}: error plain less error with both, points"),
    )
    yield bars(
        described(stacked("network", by_row), "test error", "%"),
        "error",
        "Test error by training",
        OVER_SEEDS.capitalize(),
        x="network",
        hue="training",
    )
    yield beside_reported(
        {titles[t]: {row: errors[row][t] for row in errors} for t in TRAININGS},
        {
            title: {row: value for row in errors if (value := TRAINED[row][index]) is not None}
            for index, title in enumerate(titles.values())
        },
        "Reported: Table 3 of the paper, at its own scale.",
    )
