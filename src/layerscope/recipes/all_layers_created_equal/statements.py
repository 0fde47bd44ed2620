"""What the paper claims of more than one figure: statements on what resetting layers costs."""

from __future__ import annotations

from layerscope.probes import Reinitialisation
from layerscope.probes.resets import RANDOM
from layerscope.studies.comparisons import each, exceeds, in_each
from layerscope.studies.paper import Statement, claim
from layerscope.studies.plan import Runs, Scale, Variant
from layerscope.studies.quantity import Quantity
from layerscope.studies.resets import to_start
from layerscope.studies.statistics import rank_correlation

CRITICAL = 20.0
"""Percentage points that make a layer critical, as the labels have it."""
AMBIENT = 2.0
"""Percentage points below which a layer is ambient."""
ONLY_INITIAL = Reinitialisation(checkpoints=(0,), draws=0)
"""Resets of one layer to its initial weights, and nothing else."""


def reinitialisation(scale: Scale, **settings: object) -> Reinitialisation:
    """Resets to earlier times and to fresh draws, of which there are fewer below paper scale."""
    return Reinitialisation(draws=5 if scale == "paper" else 3, **settings)  # pyright: ignore


def first_block(name: str) -> bool:
    """Whether a layer is the first residual block of its stage."""
    return name.endswith(".resblk1")


def later_block(name: str) -> bool:
    """Whether a layer is a residual block with an identity shortcut in the paper's networks."""
    return ".resblk" in name and not first_block(name)


def upper_mean(variant: Variant) -> Quantity:
    """Mean rise (seed) over the layers above the first, reset one at a time."""
    return to_start(variant, ONLY_INITIAL).isel(layer=slice(1, None)).mean("layer")


def bottom_is_critical(runs: Runs, probe: Reinitialisation) -> Statement:
    """Plain networks lose most where layers at the bottom are reset."""
    parts = {}
    for variant in runs.values():
        rise = to_start(variant, probe)
        bottom = rise.map(lambda v: v.isel(layer=slice(None, v.sizes["layer"] // 3)).mean("layer"))
        top = rise.map(lambda v: v.isel(layer=slice(-(v.sizes["layer"] // 3), None)).mean("layer"))
        name = variant.label
        parts[f"{name}, bottom over top"] = exceeds(
            bottom - top, f"{name}: mean rise of the bottom third less the top third, points"
        )
        parts[f"{name}, top"] = exceeds(
            -top, f"{name}: minus the mean rise of the top third, points", -AMBIENT
        )
    return claim(
        "bottom",
        "Plain networks: resetting a layer of the bottom third costs more than resetting one of "
        f"the top third, which costs less than {AMBIENT:g} points. [Fig. 3]",
        each(parts),
    )


def first_blocks_are_critical(runs: Runs, probe: Reinitialisation) -> Statement:
    """ResNets lose most where the first block of a stage is reset."""
    rises = {variant.label: to_start(variant, probe) for variant in runs.values()}
    differences = {
        name: rise.layers(first_block).mean("layer") - rise.layers(later_block).mean("layer")
        for name, rise in rises.items()
    }
    return claim(
        "first-blocks",
        "ResNets: resetting the first block of a stage costs more than resetting a later block. "
        "[Fig. 4, Section 3.2]",
        in_each(differences, "{}: mean rise of first blocks less that of later ones, points"),
    )


def critical_blocks_spread(runs: Runs, probe: Reinitialisation) -> Statement:
    """Unlike in plain networks, what matters is not at the bottom only."""

    def in_stage_1(name: str) -> bool:
        return name.startswith("stage1.")

    def difference(rise: Quantity) -> Quantity:
        above = rise.layers(lambda name: first_block(name) and not in_stage_1(name))
        bottom = rise.layers(lambda name: later_block(name) and in_stage_1(name))
        return above.mean("layer") - bottom.mean("layer")

    return claim(
        "spread",
        "ResNets spread critical blocks over the depth: the first blocks of stages 2 and up cost "
        "more than the later blocks of stage 1 below them. [Fig. 4, Section 3.2]",
        in_each(
            {variant.label: difference(to_start(variant, probe)) for variant in runs.values()},
            "{}: mean rise of the first blocks of stages 2 and up less that of the later blocks "
            "of stage 1, points",
        ),
    )


def random_blocks_are_harmless(runs: Runs, probe: Reinitialisation) -> Statement:
    """Ambient blocks stand fresh draws as well as their own initial weights."""
    parts = {}
    for variant in runs.values():
        rise, name = variant.of(probe, "degradation"), variant.label
        extra = (rise.sel(checkpoint=RANDOM) - rise.sel(checkpoint="0")).layers(later_block)
        labels = variant.of(probe, "label").layers(later_block)
        ambient = extra.where(labels, "ambient").mean("layer")
        parts[f"{name} blocks"] = exceeds(
            -ambient, f"{name}: minus the extra rise of ambient blocks when re-randomised", -AMBIENT
        )
        parts[f"{name} classifier"] = exceeds(
            rise.sel(checkpoint=RANDOM, layer="final_linear"),
            f"{name}: rise when the classifier is re-randomised, points",
            CRITICAL,
        )
    return claim(
        "re-randomised-blocks",
        "Residual blocks beyond the first of a stage that are ambient stand re-randomisation too "
        "(within 2 points of re-initialisation); the classifier does not (over 20 points). "
        "[Section 3.2]",
        each(parts),
    )


def distance_ranks(variant: Variant, probe: Reinitialisation) -> Statement:
    """Appendix D: the exceptions, where the L2 distance goes with robustness."""
    correlation = rank_correlation(
        to_start(variant, probe, "rms_distance"), to_start(variant, probe)
    )
    return claim(
        f"l2-{variant.name}",
        f"{variant.label}: layers whose reset costs more lie farther from initialisation in the "
        "normalised L2 distance. [Appendix D]",
        correlation,
        "rank correlation of the rise with the L2 distance",
    )
