"""Statistics of the paper's claims, each one number per seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from scipy.stats import rankdata

from layerscope.probes.resets import RANDOM
from layerscope.recipes.all_layers_created_equal.settings import PAPER
from layerscope.studies.claims import Claim, Verdict, above, all_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from layerscope.probes import Probe

CRITICAL = 20.0
"""Percentage points that make a layer critical, as the labels have it."""
AMBIENT = 2.0
"""Percentage points below which a layer is ambient."""
STRONG = 0.5
"""A rank correlation above this counts as ranking."""


def found(data: xr.DataTree, variant: str, probe: Probe) -> xr.Dataset:
    """What a probe measured on a variant, over seeds."""
    return data[variant][probe.key].to_dataset()


def initial(dataset: xr.Dataset, variable: str = "degradation") -> xr.DataArray:
    """A variable (seed, layer) for resets to initialisation."""
    return dataset[variable].sel(checkpoint="0")


def rank_correlation(a: xr.DataArray, b: xr.DataArray, dim: str = "layer") -> xr.DataArray:
    """Spearman's rank correlation along a dimension, per seed; NaN where a side is constant."""
    ranks = [
        xr.apply_ufunc(
            rankdata,
            values,
            input_core_dims=[[dim]],
            output_core_dims=[[dim]],
            kwargs={"axis": -1},
        )
        for values in (a, b)
    ]
    return xr.corr(*ranks, dim=dim)


def is_first_block(name: str) -> bool:
    """Whether a layer is the first residual block of its stage."""
    return name.endswith(".resblk1")


def is_later_block(name: str) -> bool:
    """Whether a layer is a residual block with an identity shortcut in the paper's networks."""
    return ".resblk" in name and not is_first_block(name)


def blocks(values: xr.DataArray, later: bool) -> xr.DataArray:
    """The first blocks of all stages, or the later ones."""
    chosen = is_later_block if later else is_first_block
    return values.sel(layer=[name for name in values["layer"].values if chosen(str(name))])


def first_layer_is_critical(probe: Probe, variant: str) -> Claim:
    """Claim (1)."""

    def decide(data: xr.DataTree) -> Verdict:
        rise = initial(found(data, variant, probe))
        hidden = rise.isel(layer=slice(1, -1)).max("layer")
        return above(
            rise.isel(layer=0) - hidden,
            "rise of layer 1 less the largest of the other hidden layers, points",
            CRITICAL,
        )

    return Claim(
        "first-layer",
        "Resetting layer 1 to its initial weights costs over 20 points more than resetting any "
        "other hidden layer.",
        f"{PAPER} Fig. 1",
        decide,
    )


def random_layers_destroy(probe: Probe, variant: str) -> Claim:
    """Claim (2)."""

    def decide(data: xr.DataTree) -> Verdict:
        error = found(data, variant, probe)["error"].sel(checkpoint=RANDOM)
        return above(error.min("layer"), "lowest error over re-randomised layers, %", 80.0)

    return Claim(
        "re-randomised",
        "Re-randomising any layer leaves an error of at least 80%.",
        f"{PAPER} Fig. 1, Section 3.1",
        decide,
    )


def width_helps(probe: Probe, name: str, variants: Mapping[int, str]) -> Claim:
    """Claim (3): variants by width."""

    def decide(data: xr.DataTree) -> Verdict:
        rises = [upper_mean(data, variant, probe) for variant in variants.values()]
        widths = xr.DataArray(np.log2(list(variants)), dims="width")
        slope = xr.concat(rises, "width", coords="minimal").assign_coords(width=widths)
        fitted = slope.polyfit("width", 1)["polyfit_coefficients"].sel(degree=1)
        return above(-fitted, "fall of the mean rise per doubling of the width, points")

    return Claim(
        f"{name.lower().replace('-', '').replace(' depth ', '-')}",
        f"{name}: the mean cost of resetting a layer above the first falls with the width.",
        f"{PAPER} Fig. 2",
        decide,
    )


def upper_mean(data: xr.DataTree, variant: str, probe: Probe) -> xr.DataArray:
    """Mean rise (seed) over the layers above the first, reset one at a time."""
    return initial(found(data, variant, probe)).isel(layer=slice(1, None)).mean("layer")


def distance_does_not_rank(probe: Probe, variant: str) -> Claim:
    """Claim (4)."""

    def decide(data: xr.DataTree) -> Verdict:
        dataset = found(data, variant, probe)
        rise = initial(dataset)
        parts = {}
        for distance, title in (("rms_distance", "L2"), ("max_distance", "largest")):
            correlation = rank_correlation(initial(dataset, distance), rise)
            name = f"rank correlation of the rise with the {title} distance"
            parts[f"{title}, below {STRONG:g}"] = above(-correlation, f"minus the {name}", -STRONG)
            parts[f"{title}, above -{STRONG:g}"] = above(correlation, name, -STRONG)
        return all_of(parts)

    return Claim(
        "distance",
        "Neither distance from initialisation ranks the layers by what their reset costs (mean "
        f"rank correlations between -{STRONG:g} and {STRONG:g}; with few layers they are coarse).",
        f"{PAPER} Section 3.1, Appendix D",
        decide,
    )


def distance_ranks(probe: Probe, variant: str, name: str) -> Claim:
    """Appendix D: the exceptions, where the L2 distance goes with robustness."""

    def decide(data: xr.DataTree) -> Verdict:
        dataset = found(data, variant, probe)
        correlation = rank_correlation(initial(dataset, "rms_distance"), initial(dataset))
        return above(correlation, "rank correlation of the rise with the L2 distance")

    return Claim(
        f"l2-{variant}",
        f"{name}: layers whose reset costs more lie farther from initialisation in the normalised "
        "L2 distance.",
        f"{PAPER} Appendix D",
        decide,
    )


def bottom_is_critical(probe: Probe, variants: Mapping[str, str]) -> Claim:
    """Claim (6) for VGGs."""

    def decide(data: xr.DataTree) -> Verdict:
        parts = {}
        for variant, name in variants.items():
            rise = initial(found(data, variant, probe))
            third = rise.sizes["layer"] // 3
            bottom = rise.isel(layer=slice(None, third)).mean("layer")
            top = rise.isel(layer=slice(-third, None)).mean("layer")
            parts[f"{name}, bottom over top"] = above(
                bottom - top, f"{name}: mean rise of the bottom third less the top third, points"
            )
            parts[f"{name}, top"] = above(
                -top, f"{name}: minus the mean rise of the top third, points", -AMBIENT
            )
        return all_of(parts)

    return Claim(
        "bottom",
        "Plain networks: resetting a layer of the bottom third costs more than resetting one of "
        f"the top third, which costs less than {AMBIENT:g} points.",
        f"{PAPER} Fig. 3",
        decide,
    )


def first_blocks_are_critical(probe: Probe, variants: Mapping[str, str]) -> Claim:
    """Claim (6) for ResNets."""

    def decide(data: xr.DataTree) -> Verdict:
        parts = {}
        for variant, name in variants.items():
            rise = initial(found(data, variant, probe))
            difference = blocks(rise, later=False).mean("layer") - blocks(rise, True).mean("layer")
            parts[name] = above(
                difference, f"{name}: mean rise of first blocks less that of later ones, points"
            )
        return all_of(parts)

    return Claim(
        "first-blocks",
        "ResNets: resetting the first block of a stage costs more than resetting a later block.",
        f"{PAPER} Fig. 4, Section 3.2",
        decide,
    )


def critical_blocks_spread(probe: Probe, variants: Mapping[str, str]) -> Claim:
    """Claim (6): unlike in plain networks, what matters is not at the bottom only."""

    def decide(data: xr.DataTree) -> Verdict:
        parts = {}
        for variant, name in variants.items():
            rise = initial(found(data, variant, probe))
            names = [str(layer) for layer in rise["layer"].values]
            above_first = [n for n in names if is_first_block(n) and not n.startswith("stage1.")]
            bottom = [n for n in names if is_later_block(n) and n.startswith("stage1.")]
            parts[name] = above(
                rise.sel(layer=above_first).mean("layer") - rise.sel(layer=bottom).mean("layer"),
                f"{name}: mean rise of the first blocks of stages 2 and up less that of the later "
                "blocks of stage 1, points",
            )
        return all_of(parts)

    return Claim(
        "spread",
        "ResNets spread critical blocks over the depth: the first blocks of stages 2 and up cost "
        "more than the later blocks of stage 1 below them.",
        f"{PAPER} Fig. 4, Section 3.2",
        decide,
    )


def random_blocks_are_harmless(probe: Probe, variants: Mapping[str, str]) -> Claim:
    """Claim (7)."""

    def decide(data: xr.DataTree) -> Verdict:
        parts = {}
        for variant, name in variants.items():
            dataset = found(data, variant, probe)
            rise = dataset["degradation"]
            ambient = blocks(dataset["label"], True) == "ambient"
            extra = rise.sel(checkpoint=RANDOM) - rise.sel(checkpoint="0")
            mean = blocks(extra, True).where(ambient).mean("layer")
            parts[f"{name} blocks"] = above(
                -mean, f"{name}: minus the extra rise of ambient blocks when re-randomised", -2.0
            )
            head = rise.sel(checkpoint=RANDOM, layer="final_linear")
            parts[f"{name} classifier"] = above(
                head, f"{name}: rise when the classifier is re-randomised, points", CRITICAL
            )
        return all_of(parts)

    return Claim(
        "re-randomised-blocks",
        "Residual blocks beyond the first of a stage that are ambient stand re-randomisation too "
        "(within 2 points of re-initialisation); the classifier does not (over 20 points).",
        f"{PAPER} Section 3.2",
        decide,
    )


def first_epoch_is_worse(probe: Probe, variant: str, name: str) -> Claim:
    """Appendix C: re-initialising to checkpoint 1 is less robust than to checkpoint 0.

    Layers with as many errors at both count for neither.
    """

    def decide(data: xr.DataTree) -> Verdict:
        error = found(data, variant, probe)["error"]
        steps = [str(c) for c in error["checkpoint"].values if str(c) != RANDOM]
        change = error.sel(checkpoint=steps[1]) - error.sel(checkpoint=steps[0])
        balance = (change > 0).mean("layer") - (change < 0).mean("layer")
        return above(balance, "share of layers worse at checkpoint 1 less the share better")

    return Claim(
        "first-epoch",
        f"{name}: resetting to the end of epoch 1 costs more than resetting to initialisation, "
        "for more layers than it costs less.",
        f"{PAPER} Appendix C, Fig. 12 (d)",
        decide,
    )


def joint_rise(data: xr.DataTree, variant: str, probe: Probe) -> xr.DataArray:
    """Rise (seed) when the marked group is reset to initialisation together."""
    dataset = found(data, variant, probe)
    rise = initial(dataset)
    return rise.where(dataset["member"]).mean("layer")


def joint_is_not_robust(alone: Probe, together: Probe, other: Probe, variant: str) -> Claim:
    """Claim (5)."""

    def decide(data: xr.DataTree) -> Verdict:
        single = initial(found(data, variant, alone)).isel(layer=slice(1, None)).max("layer")
        jointly = joint_rise(data, variant, together)
        return all_of(
            {
                "each alone": above(
                    -single, "minus the largest rise of a layer above the first", -CRITICAL
                ),
                "together": above(jointly, "rise of all of them together, points", CRITICAL),
                "every other": above(
                    jointly - joint_rise(data, variant, other),
                    "rise of all together less that of every other layer, points",
                ),
            }
        )

    return Claim(
        "joint",
        "Layers 2 and up can be reset one at a time (under 20 points each), but not together (over "
        "20 points); every other layer together costs less.",
        f"{PAPER} Section 5, Fig. 8",
        decide,
    )


def grouping_helps(together: Probe, other: Probe, variants: Mapping[str, str]) -> Claim:
    """Fig. 6 and 10: a smaller group can be reset together at less cost."""

    def decide(data: xr.DataTree) -> Verdict:
        return all_of(
            {
                name: above(
                    joint_rise(data, variant, together) - joint_rise(data, variant, other),
                    f"{name}: rise of all later blocks together less that of every other one",
                )
                for variant, name in variants.items()
            }
        )

    return Claim(
        "grouping",
        "Resetting every other block together costs less than resetting all but the first blocks "
        "of the stages together.",
        f"{PAPER} Section 5, Fig. 6",
        decide,
    )


def joint_is_worse_than_alone(alone: Probe, together: Probe, variants: Mapping[str, str]) -> Claim:
    """Section 5: individually robust blocks are not jointly robust."""

    def decide(data: xr.DataTree) -> Verdict:
        parts = {}
        for variant, name in variants.items():
            single = blocks(initial(found(data, variant, alone)), later=True).max("layer")
            parts[name] = above(
                joint_rise(data, variant, together) - single,
                f"{name}: joint rise less the largest rise of one of the blocks, points",
            )
        return all_of(parts)

    return Claim(
        "joint",
        "Resetting all but the first blocks of the stages together costs more than resetting any "
        "one of them.",
        f"{PAPER} Section 5, Fig. 9",
        decide,
    )


def trained_error(data: xr.DataTree, variant: str, probe: Probe) -> xr.DataArray:
    """Test error (seed) of the trained model, %."""
    return found(data, variant, probe)["base_error"]


def later_deviation(data: xr.DataTree, variant: str, probe: Probe) -> xr.DataArray:
    """Deviation (seed) of the test error over resets of one later block to initialisation, %."""
    return blocks(initial(found(data, variant, probe), "error"), later=True).std("layer", ddof=1)


def later_mean(data: xr.DataTree, variant: str, probe: Probe) -> xr.DataArray:
    """Mean test error (seed) over resets of one later block to initialisation, %."""
    return blocks(initial(found(data, variant, probe), "error"), later=True).mean("layer")
