"""Several blocks at once: Fig. 6, 9 and 10, and Table 1 on frozen and removed blocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from layerscope.models.resnet import STAGES
from layerscope.recipes.all_layers_created_equal.deep import resnets
from layerscope.recipes.all_layers_created_equal.settings import (
    SEEDS,
    SETS,
    Deep,
    paper,
    plan,
    resnet,
)
from layerscope.recipes.all_layers_created_equal.statements import (
    ONLY_INITIAL,
    later_block,
    reinitialisation,
)
from layerscope.studies.comparisons import Comparison, in_each
from layerscope.studies.paper import Items, claim
from layerscope.studies.plan import Plan, Runs, Scale
from layerscope.studies.plots import OVER_SEEDS, bars, beside_reported, described
from layerscope.studies.quantity import Quantity, stacked
from layerscope.studies.resets import heatmap, joint_rise, to_start

REPORTED: Mapping[Deep, Mapping[int, tuple[float, ...]]] = {
    "cifar10": {
        50: (8.40, 9.77, 11.74, 9.23, 1.38),
        101: (8.53, 8.87, 9.21, 9.23, 0.50),
        152: (8.54, 8.74, 9.17, 9.23, 0.39),
    },
    "imagenet": {
        50: (34.74, 38.54, 44.36, 41.50, 5.36),
        101: (32.78, 33.84, 36.03, 41.50, 2.10),
        152: (31.74, 32.42, 35.75, 41.50, 1.55),
    },
}
"""Table 1, in %: error of the full model, mean over resets of one block, frozen, removed; and the
deviation over the blocks that are reset."""
WAYS = ("full model", "one block reset", "frozen", "removed")
COLUMNS = (*WAYS, "deviation over blocks")
LATER = "all but the first blocks"
OUTER = "later blocks of stages 1 and 4"
OTHER = "every other block"
TOGETHER = "Can blocks that are robust alone be reset together?"
GROUPS = (
    "Groups of residual blocks are reset together (those with a star, and the rest); blocks of a "
    "group have equal columns."
)


def deepest(scale: Scale) -> Plan:
    """ResNet-152 on CIFAR-10."""
    return resnets(scale, "cifar10", (18,) if scale == "smoke" else (152,))


def fifty(scale: Scale) -> Plan:
    """ResNet-50 on CIFAR-10, and ResNet-152 at paper scale."""
    depths = {"paper": (50, 152), "small": (50,), "smoke": (18,)}[scale]
    return resnets(scale, "cifar10", depths)


@paper.recipe("Fig. 6", deepest, TOGETHER, GROUPS)
def fig6(runs: Runs) -> Items:
    """ResNet-152 on CIFAR-10: all ambient blocks at once cannot be reset, every other one can.

    Fig. 6: (a) all but the first blocks of the stages are reset together, (b) every other block.
    """
    return _groupings(runs, (LATER, OTHER))


@paper.recipe("Fig. 9", partial(resnets, data="cifar10"), TOGETHER, GROUPS)
def fig9(runs: Runs) -> Items:
    """ResNets on CIFAR-10: blocks that are robust alone are not robust together.

    Fig. 9: all but the first blocks of the stages, reset together. At ``small`` ResNet-18, 34, 50.
    """
    return _groupings(runs, (LATER,))


@paper.recipe("Fig. 10", fifty, TOGETHER, GROUPS)
def fig10(runs: Runs) -> Items:
    """ResNets on CIFAR-10: other groupings of blocks lose less.

    Fig. 10: (a) the later blocks of stages 1 and 4, (b) every other block. The text speaks of
    ResNet-50; ResNet-152 is beside it at ``paper``.
    """
    return _groupings(runs, (LATER, OUTER, OTHER))


def _groupings(runs: Runs, groups: Iterable[str]) -> Items:
    rules = {
        LATER: "all_but_first",
        OUTER: ("stage1.resblk[!1]", "stage4.resblk[!1]"),
        OTHER: "every_other",
    }
    probes = {group: reinitialisation(runs.scale, joint=rules[group]) for group in groups}
    together = {v.label: joint_rise(v, probes[LATER]) for v in runs.values()}
    alone = {
        v.label: to_start(v, ONLY_INITIAL).layers(later_block).max("layer") for v in runs.values()
    }
    yield ONLY_INITIAL
    yield from probes.values()
    yield claim(
        "joint",
        "Resetting all but the first blocks of the stages together costs more than resetting any "
        "one of them. [Section 5, Fig. 9]",
        in_each(
            {name: together[name] - alone[name] for name in together},
            "{}: joint rise less the largest rise of one of the blocks, points",
        ),
    )
    if OTHER in probes:
        other = {v.label: joint_rise(v, probes[OTHER]) for v in runs.values()}
        yield claim(
            "grouping",
            "Resetting every other block together costs less than resetting all but the first "
            "blocks of the stages together. [Section 5, Fig. 6]",
            in_each(
                {name: together[name] - other[name] for name in together},
                "{}: rise of all later blocks together less that of every other one",
            ),
        )
    for variant in runs.values():
        for group, probe in probes.items():
            key = f"{variant.name}-{group.replace(' ', '-')}"
            yield heatmap(variant, probe, key, f"{variant.label}, reset together: {group}")


def later_blocks(depth: int) -> tuple[str, ...]:
    """All residual blocks but the first of each stage."""
    return tuple(
        f"stage{stage}.resblk{block}"
        for stage, length in enumerate(STAGES[depth], 1)
        for block in range(2, length + 1)
    )


def _cases(scale: Scale) -> dict[str, tuple[Deep, Any]]:
    """Data set and depth of the networks of Table 1."""
    sets: tuple[Deep, ...] = ("cifar10", "imagenet") if scale == "paper" else ("cifar10",)
    depths = {"paper": (50, 101, 152), "small": (50,), "smoke": (18,)}[scale]
    return {f"{data}-resnet{depth}": (data, depth) for data in sets for depth in depths}


def changed_before_training(scale: Scale) -> Plan:
    """ResNets as they are, with later blocks frozen, and without them."""
    variants = {}
    for case, (data, depth) in _cases(scale).items():
        full, later = resnet(scale, depth, data=data), later_blocks(depth)
        ways = {
            "full": full,
            "frozen": replace(full, frozen=later),
            "removed": replace(full, removed=later),
        }
        variants |= {f"{case}-{way}": (f"{case}-{way}", config) for way, config in ways.items()}
    return plan(SEEDS[scale], "cifar10", variants)


def _errors(runs: Runs, case: str) -> dict[str, Quantity]:
    """Errors of the networks of Table 1, (seed), by column."""
    full, frozen, removed = (runs[f"{case}-{way}"] for way in ("full", "frozen", "removed"))
    resets = to_start(full, ONLY_INITIAL, "error").layers(later_block)
    return {
        "full model": full.of(ONLY_INITIAL, "base_error"),
        "one block reset": resets.mean("layer"),
        "frozen": frozen.of(ONLY_INITIAL, "base_error"),
        "removed": removed.of(ONLY_INITIAL, "base_error"),
        "deviation over blocks": resets.map(lambda values: values.std("layer", ddof=1)),
    }


@paper.recipe(
    "Table 1",
    changed_before_training,
    "Must the blocks that can be reset be trained, or be there at all?",
    "All residual blocks but the first of each stage are frozen at initialisation or left out, "
    "and the rest is trained.",
)
def table1(runs: Runs) -> Items:
    """ResNets trained with all later blocks frozen at initialisation, or without them.

    Table 1: test error of the full model, the mean over resets of one block, and of networks whose
    later blocks are frozen or removed before training. At ``small`` ResNet-50 on CIFAR-10 alone;
    at ``paper`` ResNet-50, 101 and 152 on CIFAR-10 and ImageNet.
    """
    cases = _cases(runs.scale)
    labels = {case: f"{SETS[data]} ResNet-{depth}" for case, (data, depth) in cases.items()}
    errors = {case: _errors(runs, case) for case in cases}
    deepest = [c for c, (data, depth) in cases.items() if data == "imagenet" and depth > 50]

    def differ(more: str, less: str, chosen: Iterable[str], at_least: float = 0.0) -> Comparison:
        found = {case: errors[case][more] - errors[case][less] for case in chosen}
        return in_each(found, f"{{}}: {more} less {less}, points", at_least)

    yield claim(
        "frozen",
        "Training with the later blocks frozen gives a higher error than resetting one of them "
        "after training. [Table 1, Section 5]",
        differ("frozen", "one block reset", cases),
    )
    yield claim(
        "removed",
        "CIFAR-10: leaving the later blocks out costs no more than 2 points over freezing them. "
        "[Table 1, Section 5]",
        differ("frozen", "removed", [c for c in cases if cases[c][0] == "cifar10"], -2.0),
    )
    if deepest:
        yield claim(
            "removed-imagenet",
            "ImageNet, ResNet-101 and 152: leaving the later blocks out gives a higher error "
            "than freezing them. [Table 1, Section 5]",
            differ("removed", "frozen", deepest),
        )
    by_case = {labels[c]: stacked("way", {w: errors[c][w] for w in WAYS}) for c in cases}
    yield bars(
        described(stacked("network", by_case), "test error", "%"),
        "error",
        "Test error of networks with later blocks changed",
        "Full model; mean over resets of one later block after training; later blocks frozen at "
        f"initialisation or left out before training. {OVER_SEEDS.capitalize()}",
        x="network",
        hue="way",
    )
    known = {labels[c]: REPORTED[d][n] for c, (d, n) in cases.items() if n in REPORTED[d]}
    yield beside_reported(
        {way: {labels[c]: errors[c][way] for c in cases} for way in COLUMNS},
        {way: {row: v[i] for row, v in known.items()} for i, way in enumerate(COLUMNS)},
        "Reported: Table 1 of the paper, at its own scale; the first block of each stage is "
        "never changed.",
    )
