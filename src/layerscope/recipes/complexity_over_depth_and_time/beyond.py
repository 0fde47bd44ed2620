"""Beyond the paper: a better measure, other networks, and whether linear parts are merely slow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import xarray as xr
from scipy.stats import rankdata

from layerscope.config import FCN, SGD, Adam, ResidualFCN, RunConfig, ViT
from layerscope.config.paths import set_paths
from layerscope.probes import LinearisationCost, LinearShare
from layerscope.recipes.complexity_over_depth_and_time.quantities import (
    behind,
    even,
)
from layerscope.recipes.complexity_over_depth_and_time.settings import (
    ACCURACY,
    COSTS,
    FIRST,
    MEANS,
    SHARES,
    SITES,
    TIMES,
    basenet_label,
    basenets,
    config,
    images,
    paper,
    partly,
    plan,
    timed,
)
from layerscope.studies.paper import Items, claim, only
from layerscope.studies.plan import Plan, Runs, Scale, Variant
from layerscope.studies.plots import OVER_SEEDS, bars, heatmap, lines
from layerscope.studies.quantity import Quantity, combined, stacked
from layerscope.studies.statistics import trend

MEASURES: Mapping[str, tuple[Callable[[Variant], Quantity], int]] = {
    "mean preactivation": (lambda run: run.of(MEANS, "mean"), -1),
    "nodes that switch": (lambda run: run.of(MEANS, "mixed"), 1),
    "linear share": (lambda run: run.of(SHARES, "linear_share"), -1),
    "affinity score": (lambda run: run.of(SHARES, "affinity"), -1),
    "cost of linearising": (lambda run: run.of(COSTS, "error_increase"), 1),
}
"""What is taken from the nonlinear network alone, and the sign with which it should go along with
falling behind."""


@paper.recipe(
    "beyond the paper",
    basenets(0, *FIRST, SITES),
    "Which measure of the nonlinear network tells when a partly linear one falls behind?",
    "Rank correlation, over numbers of linear layers and times, of a measure at the last of these "
    "layers in the nonlinear network and of how far behind the partly linear network is.",
)
def better_metric(runs: Runs) -> Items:
    """The paper asks for more precise measures than the mean preactivation: here are four.

    Of every measure the value at the last linear layer, in the nonlinear network at the same time,
    is held against the share of accuracy that the partly linear network lacks then. The cost of
    linearising is that of all activations up to this one at once, without training again.
    """
    full = runs.first
    for probe in (MEANS, SHARES, COSTS):
        yield only(probe, full)
    found = {name: tells(runs, values(full), sign) for name, (values, sign) in MEASURES.items()}
    for name, effect in found.items():
        yield claim(
            name.replace(" ", "-"),
            f"The {name} of the nonlinear network tells how far a partly linear one falls behind. "
            "[beyond the paper]",
            effect,
            "rank correlation over layers and times",
        )
        if name != "mean preactivation":
            yield claim(
                f"{name.replace(' ', '-')}-better",
                f"The {name} tells it better than the mean preactivation. [beyond the paper]",
                effect - found["mean preactivation"],
                "difference of rank correlations",
            )
    yield bars(
        stacked("measure", found, long_name="rank correlation", units=""),
        "measures",
        "How well each measure tells which network falls behind",
        "Rank correlation over numbers of linear layers and times with the share of accuracy that "
        "the partly linear network lacks, with the sign that would be expected. A measure that is "
        f"the same everywhere, as where all nodes switch, has none; {OVER_SEEDS}",
        x="measure",
    )
    for name, (values, _) in MEASURES.items():
        yield heatmap(
            even(runs, values(full)),
            name.replace(" ", "-"),
            f"The {name} over depth and time",
            f"The {name} of the nonlinear network at every activation; mean over seeds.",
            **({"centre": 0.0} if name in ("mean preactivation", "cost of linearising") else {}),
        )


def tells(runs: Runs, measure: Quantity, sign: int) -> Quantity:
    """Rank correlation of a measure and of how far behind networks are, (seed)."""
    deficits = stacked("k", {k: 1 - behind(runs, run) for k, run in partly(runs).items()})

    def correlation(values: xr.DataArray, lacking: xr.DataArray) -> xr.DataArray:
        places = xr.DataArray([int(k) - 1 for k in lacking["k"].values], dims="k")
        at = values.isel(layer=places).drop_vars("layer", errors="ignore")
        at = at.assign_coords(k=lacking["k"].values)
        a, b = xr.align(at, lacking, join="inner", exclude=("layer",))
        a, b = (one.transpose("seed", "k", "step").values for one in (a, b))
        rows = [_spearman(x.ravel(), y.ravel()) for x, y in zip(a, b, strict=True)]
        return xr.DataArray(np.array(rows) * sign, dims="seed")

    return combined(correlation, even(runs, measure), deficits)


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation of the pairs of which both are finite; NaN where a side is constant."""
    kept = np.isfinite(a) & np.isfinite(b)
    a, b = rankdata(a[kept]), rankdata(b[kept])
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return np.nan
    return float(np.corrcoef(a, b)[0, 1])


SITE_COSTS = LinearisationCost()
LAYERS = LinearShare(of="layers")
INSIDE = LinearShare(of="inside")
BLOCKS = ("blocks.", "encoders.")
"""What names of residual blocks begin with."""


def other_networks(scale: Scale) -> Plan:
    """A fully connected network, a residual one and a small vision transformer."""
    epochs = {"paper": 100, "small": 10, "smoke": 2}[scale]
    base = RunConfig(
        data=images(scale),
        optimizer=SGD(0.05, momentum=0.9),
        epochs=epochs,
        batch_size=64,
        probe_batch=256 if scale == "smoke" else 2048,
    )
    width = {"paper": 512, "small": 128, "smoke": 16}[scale]
    networks = {
        "fcn": ("FCN", replace(base, model=FCN(7, width))),
        "residual": (
            "residual FCN",
            replace(base, model=ResidualFCN(6, width, branch_scale=0.25)),
        ),
        "vit": (
            "vision transformer",
            replace(
                base,
                model=ViT(width=max(16, width // 2), heads=4, expansions=(2,) * 6),
                optimizer=Adam(1e-3),
            ),
        ),
    }
    return plan(scale, {k: (label, timed(c, TIMES[scale])) for k, (label, c) in networks.items()})


@paper.recipe(
    "beyond the paper",
    other_networks,
    "Where in other networks does nonlinearity matter?",
    "What removing one activation costs in the trained network, and how linear each layer is, with "
    "its residual stream and without.",
)
def depth_of_nonlinearity(runs: Runs) -> Items:
    """A fully connected network, a residual one and a small vision transformer."""
    for name, run in runs.items():
        yield claim(
            f"{name}-deep",
            f"{run.label}: removing a deeper activation costs more. [beyond the paper]",
            trend(run.of(SITE_COSTS, "loss_increase").at_end(), "layer"),
            "rank correlation of depth and increase of the test loss",
        )
    for name in ("residual", "vit"):
        share = _blocks(runs[name], LAYERS) - _blocks(runs[name], INSIDE)
        yield claim(
            f"{name}-stream",
            f"{runs[name].label}: with the residual stream blocks look more linear than what they "
            "add does. [beyond the paper]",
            share,
            "linear share with the stream less without",
        )
    for name, run in runs.items():
        yield bars(
            run.of(SITE_COSTS, "error_increase").at_end(),
            f"cost-{name}",
            f"{run.label}: what removing one activation costs",
            "Test error with one activation replaced by the best straight line per node, less that "
            f"of the network as it is; {OVER_SEEDS}",
        )
        yield lines(
            run.of(LAYERS, "linear_share"),
            f"linear-share-{name}",
            f"{run.label}: how linear each layer is",
            "Share of what leaves each layer that an affine map of what enters explains on "
            f"held-out examples; {OVER_SEEDS}",
            x="epoch",
        )


def _blocks(run: Variant, probe: LinearShare) -> Quantity:
    """Linear share at the end, mean over residual blocks."""
    values = run.of(probe, "linear_share").at_end()
    return values.layers(lambda name: name.startswith(BLOCKS)).mean("layer")


LINEAR = 9
"""First layers that are linear in the baseline study, beside the fully linear network."""
RATES = {"a third of": 1 / 3, "3 times": 3.0}


def baselines(scale: Scale) -> Plan:
    """The networks as in the other figures, also longer; the linear ones also at other rates."""
    variants: dict[str, tuple[str, RunConfig]] = {}
    for k in (0, LINEAR, SITES):
        how = (f"first:{k}",) if 0 < k < SITES else ("all",) * (k > 0)
        one = config(scale, linear=how)
        rate = one.optimizer.learning_rate
        name, label = {0: "full", LINEAR: "part", SITES: "linear"}[k], basenet_label(k)
        variants[name] = (label, one)
        longer = timed(replace(one, epochs=2 * one.epochs), TIMES[scale])
        variants[f"{name}-longer"] = (f"{label}, twice the steps", longer)
        if k:
            for words, factor in RATES.items():
                other = set_paths(one, {"optimizer.learning_rate": rate * factor})
                variants[f"{name}-{factor:.2g}"] = (f"{label}, {words} the rate", other)
    return plan(scale, variants)


@paper.recipe(
    "beyond the paper",
    baselines,
    "Are linear parts weak, or merely slow?",
    "Partly and fully linear networks trained twice as long and at other learning rates, beside "
    "the nonlinear one.",
)
def linear_baseline(runs: Runs) -> Items:
    """A caution for comparisons of this kind: linear networks trained by gradient descent lag.

    What a partly linear network lacks may be steps or the right learning rate, not expressivity. As
    a control the nonlinear network is trained twice as long too.
    """
    level = {name: _final(run) for name, run in runs.items()}
    others = [f"{factor:.2g}" for factor in RATES.values()]
    for name in ("part", "linear"):
        ways = (name, f"{name}-longer", *(f"{name}-{other}" for other in others))
        best = stacked("how", {way: level[way] for way in ways}).max("how")
        yield claim(
            f"{name}-longer",
            f"{runs[name].label}: twice the steps do not bring it to the accuracy of the nonlinear "
            "network. [beyond the paper]",
            level["full"] - level[f"{name}-longer"],
            "points of accuracy, nonlinear less linear trained twice as long",
        )
        yield claim(
            f"{name}-same-length",
            f"{runs[name].label}: it stays behind where both are trained twice as long. "
            "[beyond the paper]",
            level["full-longer"] - level[f"{name}-longer"],
            "points of accuracy, nonlinear less linear, both trained twice as long",
        )
        yield claim(
            f"{name}-best",
            f"{runs[name].label}: nor does the best of twice the steps and three learning rates. "
            "[beyond the paper]",
            level["full"] - best,
            "points of accuracy, nonlinear less the best linear one of each seed",
        )
    yield bars(
        stacked("network", runs.labelled(level), long_name="test accuracy at the end", units="%"),
        "accuracy",
        "Trained longer and at other rates",
        f"Test accuracy at the end of training; {OVER_SEEDS}",
        x="network",
    )


def _final(run: Variant) -> Quantity:
    return run.of(ACCURACY, "error").at_end().map(lambda error: 100 - error)
