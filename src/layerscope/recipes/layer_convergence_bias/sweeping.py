"""What sweeps over a setting share: their study, their figures, and claims on the bias."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from layerscope.config import RunConfig
from layerscope.recipes.layer_convergence_bias.building import make_study
from layerscope.recipes.layer_convergence_bias.residual import decay
from layerscope.recipes.layer_convergence_bias.settings import (
    PAPER,
    SEEDS,
    early,
    reduced,
    suffix,
)

if TYPE_CHECKING:
    import xarray as xr

    from layerscope.figures.figure import Figure
    from layerscope.studies.claims import Claim, Verdict
    from layerscope.studies.study import Scale, Study

EVIDENT = 0.1
"""Relative bias from which on a bias counts as evident; the paper gives no number."""
LATER = 50
"""End of the second interval of which rates are given, in epochs."""


def both_intervals(scale: Scale) -> tuple[tuple[float, float], ...]:
    """The first epochs, over which claims are decided, and the first fifty."""
    return ((0, early(scale)), (0, 2 if scale == "smoke" else LATER))


def sweep(
    scale: Scale,
    figure: str,
    setting: str,
    title: str,
    summary: str,
    variants: Mapping[str, tuple[str, RunConfig]],
    claims: Sequence[Claim],
    source: str = "",
    intervals: tuple[tuple[float, float], ...] = (),
    reduction: str = "",
    aside: str = "",
) -> Study:
    """A study with one variant per value of a setting.

    Args:
        scale: The scale.
        figure: Name of the recipe.
        setting: What is varied, as axes call it.
        title: What is asked.
        summary: What is done.
        variants: (label, configuration) by name.
        claims: What is decided.
        source: Paper and figure; that of ``figure`` by default.
        intervals: Epochs over which rates are given; the first one decides.
        reduction: What the scale changes; what it changes for the residual network by default.
        aside: A sentence that every caption needs.
    """
    from layerscope.probes import Convergence, Performance
    from layerscope.recipes.layer_convergence_bias import deciding

    labels = {name: label for name, (label, _) in variants.items()}
    intervals = intervals or both_intervals(scale)
    return make_study(
        scale,
        figure,
        title,
        f"{summary} The bias is C of the first block less C of the last, the relative bias "
        f"(C1 - Cn) / (|C1| + |Cn|). Claims are decided over the first {intervals[0][1]:g} epochs.",
        reduction or reduced(scale),
        {name: config for name, (_, config) in variants.items()},
        (Convergence(intervals=intervals), Performance()),
        [
            replace(
                claim,
                decide=deciding.when_trained(claim.variants or labels, claim.decide),
            )
            for claim in claims
        ],
        lambda data: [
            replace(figure, caption=f"{figure.caption} {aside}".strip())
            for figure in _figures(data, scale, setting, labels, intervals)
        ],
        source,
        seeds=SEEDS,
        may_diverge=frozenset(variants),
    )


def _figures(
    data: xr.DataTree,
    scale: Scale,
    setting: str,
    labels: Mapping[str, str],
    intervals: Sequence[tuple[float, float]],
) -> list[Figure]:
    import xarray as xr

    from layerscope.figures.figure import Bars, Lines, Table
    from layerscope.recipes.layer_convergence_bias import deciding

    known = {name: label for name, label in labels.items() if name in data.children}
    spans = [f"{a:g}-{b:g}" for a, b in intervals]

    def joined(values: Callable[[str], xr.DataArray], long_name: str, units: str) -> xr.DataArray:
        """Values of all variants along the setting."""
        parts = [values(name).reset_coords(drop=True) for name in known]
        found = deciding.along(setting, known.values(), parts)
        return found.assign_attrs(long_name=long_name, units=units)

    def bias(name: str, interval: int) -> xr.DataArray:
        return deciding.bias(deciding.rates(data, name, interval))

    def curve(name: str) -> xr.DataArray:
        values = deciding.labelled(deciding.node(data, name, "convergence")["curve"])
        return values.swap_dims(step="epoch").drop_vars("step")

    across = xr.DataArray([f"epochs {span}" for span in spans], dims="epochs", name="epochs")
    bars = joined(
        lambda name: xr.concat([bias(name, i) for i in range(len(spans))], across),
        "C(first block) - C(last block)",
        "1 / epoch",
    )
    numbers = {
        f"bias{i}": joined(lambda name, i=i: bias(name, i), f"bias, epochs {span}", "1 / epoch")
        for i, span in enumerate(spans)
    }
    numbers["relative"] = joined(
        lambda name: deciding.relative_bias(deciding.rates(data, name)),
        f"relative bias, {spans[0]}",
        "",
    )
    numbers["loss"] = joined(lambda name: end_loss(data, name), "test loss", "squared error")
    end = suffix(scale)
    return [
        Bars(
            bars,
            key="bias",
            title=f"Layer convergence bias by {setting}{end}",
            caption="C of the first block less C of the last block; above zero the first block "
            "converges faster. Mean and 95% interval over seeds.",
            x=setting,
            hue="epochs",
        ),
        Table(
            xr.Dataset(numbers),
            key="numbers",
            title=f"Layer convergence bias by {setting}{end}",
            caption="Mean and 95% interval over seeds; the test loss is that at the end of "
            "training.",
            rows=setting,
        ),
        Lines(
            joined(curve, "remaining distance to the final weights", ""),
            key="convergence",
            title=f"Convergence by {setting}{end}",
            caption="Distance to the final weights over the distance at initialisation; mean and "
            "95% interval over seeds.",
            x="epoch",
            panel=setting,
            references=(decay(data, next(iter(known))),),
        ),
    ]


def end_loss(data: xr.DataTree, variant: str) -> xr.DataArray:
    """Test loss at the end, (seed,)."""
    from layerscope.recipes.layer_convergence_bias import deciding

    return deciding.node(data, variant, "performance")["loss"].isel(step=-1, drop=True)


def mean_rate(data: xr.DataTree, variant: str) -> xr.DataArray:
    """Mean C of the blocks, (seed,)."""
    from layerscope.recipes.layer_convergence_bias import deciding

    return deciding.blocks(deciding.rates(data, variant)).mean("layer")


def biased(variants: Sequence[str], text: str, source: str, name: str = "bias") -> Claim:
    """The first block converges faster than the last, in each of some variants."""
    from layerscope.recipes.layer_convergence_bias import deciding
    from layerscope.studies.claims import Claim, above, all_of

    statistic = "C(first block) - C(last block)"

    def decide(data: xr.DataTree) -> Verdict:
        return all_of(
            {v: above(deciding.bias(deciding.rates(data, v)), statistic) for v in variants}
        )

    return Claim(name, text, f"{PAPER} {source}", decide, tuple(variants))


def weaker(strong: str, weak: Sequence[str], text: str, source: str, name: str = "weaker") -> Claim:
    """The relative bias is smaller, or reversed, in some variants against another."""
    from layerscope.recipes.layer_convergence_bias import deciding
    from layerscope.studies.claims import Claim, above, all_of

    statistic = "difference of relative biases"

    def decide(data: xr.DataTree) -> Verdict:
        first = deciding.relative_bias(deciding.rates(data, strong))
        return all_of(
            {
                v: above(first - deciding.relative_bias(deciding.rates(data, v)), statistic)
                for v in weak
            }
        )

    return Claim(name, text, f"{PAPER} {source}", decide, (strong, *weak))


def gone(variant: str, label: str, source: str, either_way: bool = False) -> Claim:
    """The relative bias of a variant is small, or (not ``either_way``) reversed."""
    from layerscope.recipes.layer_convergence_bias import deciding
    from layerscope.studies.claims import Claim, above, all_of

    def decide(data: xr.DataTree) -> Verdict:
        bias = deciding.relative_bias(deciding.rates(data, variant))
        signs = (1, -1) if either_way else (1,)
        return all_of(
            {
                f"bias {'below' if sign > 0 else 'above'} {sign * EVIDENT}": above(
                    EVIDENT - sign * bias,
                    f"{EVIDENT} {'less' if sign > 0 else 'plus'} the relative bias",
                )
                for sign in signs
            }
        )

    text = f"between -{EVIDENT} and {EVIDENT}" if either_way else f"below {EVIDENT}"
    return Claim(
        f"{variant}-none",
        f"With {label} no bias is evident: the relative bias is {text}.",
        f"{PAPER} {source}",
        decide,
        (variant,),
    )
