"""BaseNet18 and its partly linear counterparts: Figs. 1, 2, 5, 6 and 7."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from layerscope.figures.figure import Figure, Heatmap
from layerscope.figures.table import Column, Table
from layerscope.recipes.complexity_over_depth_and_time.quantities import (
    THRESHOLD,
    THRESHOLDS,
    UNSETTLED,
    against_the_full,
    behind,
    divergence,
    even,
    explained,
    first_negative,
    front,
    means,
    settled,
    thresholds,
    times_behind,
)
from layerscope.recipes.complexity_over_depth_and_time.settings import (
    ACCURACY,
    ALL,
    MEANS,
    SITES,
    basenet_name,
    basenets,
    paper,
    partly,
)
from layerscope.studies.comparisons import alike, exceeds, in_each
from layerscope.studies.paper import Items, claim, only
from layerscope.studies.plan import Runs, Variant
from layerscope.studies.plots import OVER_SEEDS, Plot, lines
from layerscope.studies.quantity import Quantity, combined, dataset_of, stacked
from layerscope.studies.statistics import trend

FALLS_BEHIND = (
    "A partly linear model diverges where its smoothed accuracy first falls below 95% of the full "
    "model's, at times at which that one is half again as accurate as guessing."
)
FRONT = (
    "Squares: the model with all activations up to this one linear diverges at this time; open "
    "ones never do within the run."
)
CAUTION = (
    "Normalisation comes right before each activation and nothing is added: in train mode this "
    "mean is that of the normalisation's shift, which starts at 0 by construction."
)
INFORMATION_MARGIN = 0.05
"""Share of I(M; Y) within which two runs tell as much of the labels."""


@paper.recipe(
    "Fig. 1",
    ALL,
    "When do partly linear networks fall behind?",
    "Test accuracy of BaseNet18 with the first layers linear, beside the nonlinear network; and "
    "when each falls below 95% of its accuracy.",
)
def fig1(runs: Runs) -> Items:
    """Divergence points: the more layers are linear, the earlier a network falls behind."""
    earlier = times_behind(runs)
    yield claim(
        "divergence-order",
        "The more of the first layers are linear, the earlier the network diverges from the "
        "nonlinear one. [Fig. 1, Section 3]",
        -trend(earlier, "k"),
        "minus the rank correlation of divergence time and number of linear layers",
    )
    few = {run.label: run for k, run in partly(runs).items() if k <= 5}
    yield claim(
        "few-never",
        "With the first 3 or the first 5 layers linear the network never diverges: it has at least "
        "95% of the accuracy over the second half of training. [Fig. 1, Section 3]",
        in_each(
            {label: late(behind(runs, run)) for label, run in few.items()},
            "accuracy over that of the nonlinear network, {}",
            THRESHOLD,
        ),
    )
    last = partly(runs)[SITES]
    yield claim(
        "linear-behind",
        "The fully linear network ends less accurate than 95% of the nonlinear one. [Fig. 1, "
        "Section 3]",
        THRESHOLD - late(behind(runs, last)),
        "0.95 less accuracy over that of the nonlinear network",
    )
    yield from against_the_full(runs, "networks")
    yield points(runs)


def late(share: Quantity) -> Quantity:
    """Mean over the second half of the times."""

    def half(values: xr.DataArray) -> xr.DataArray:
        return values.isel(step=slice(values.sizes["step"] // 2, None)).mean("step")

    return share.map(half)


def points(runs: Runs) -> Plot:
    """A table of divergence points, their intervals, and what other thresholds give."""

    def draw(data: xr.DataTree) -> list[Figure]:
        found, numbers = divergence(runs, data)
        names = [partly(runs)[k].label for k in numbers]
        columns = {
            "point": ("divergence point", found.time),
            "low": ("95% interval from", found.low),
            "high": ("to", found.high),
            **{
                f"at{100 * level:g}".replace(".", "_"): (f"at {100 * level:g}%", times)
                for level, times in zip(THRESHOLDS, thresholds(runs, data), strict=True)
            },
        }
        dataset = xr.Dataset(
            {
                name: ("network", _finite(values), {"long_name": label, "units": "steps"})
                for name, (label, values) in columns.items()
            },
            coords={"network": names},
        )
        seeds = runs.seeds
        caption = (
            f"{FALLS_BEHIND} No value: never within the run. Intervals: bootstrap over "
            f"{len(seeds)} seeds, which is too narrow for so few; no end: beyond the run. The last "
            "columns: the point for other thresholds than 95%."
        )
        return [
            Table(
                dataset,
                key="divergence-points",
                title="Divergence points",
                caption=caption,
                columns=tuple(Column(name, format=".0f") for name in columns),
                rows="network",
            )
        ]

    return Plot(draw, (ACCURACY,))


def _finite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, np.nan)


@paper.recipe(
    "Fig. 2",
    ALL,
    "Do deep layers leave the linear regime first?",
    "Mean of what enters each activation over depth and time, and the divergence points of Fig. 1.",
)
def fig2(runs: Runs) -> Items:
    """Mean preactivations of the nonlinear network, the first 9 linear, and all linear."""
    full = runs.first
    yield claim(
        "negative-first",
        "Deeper layers have a negative mean preactivation earlier. [Fig. 2, Section 3]",
        -trend(first_negative(full), "layer"),
        "minus the rank correlation of depth and the first time below 0",
    )
    yield claim(
        "linear-near-zero",
        "Layers that are linear have means nearer to zero than nonlinear ones: fully linear "
        "against fully nonlinear network, at the end. [Fig. 2, Section 3]",
        _distance(full) - _distance(partly(runs)[SITES]),
        "mean distance of the mean preactivation from 0, nonlinear less linear",
    )
    shown = [name for k in (0, 9, SITES) if (name := basenet_name(k)) in runs]
    yield only(MEANS, *(runs[name] for name in shown))
    yield from wavefronts(runs, shown)


def _distance(run: Variant) -> Quantity:
    return means(run).at_end().map(lambda values: abs(values).mean("layer"))


def wavefronts(runs: Runs, names: Sequence[str]) -> Items:
    """Heatmaps of mean preactivations, depth against time, with the wavefront over each."""
    for name in names:
        yield _wavefront(runs, runs[name])


def _wavefront(runs: Runs, run: Variant) -> Plot:
    values = even(runs, settled(run))

    def draw(data: xr.DataTree) -> list[Figure]:
        if run.name not in data.children:
            return []
        found = values.values(data)
        return [
            Heatmap(
                found,
                key=f"means-{run.name}",
                title=f"Mean preactivations, {run.label}",
                caption=f"Mean over samples and nodes of what enters each activation. {FRONT} "
                f"{CAUTION} {UNSETTLED}",
                centre=0.0,
                front=front(runs, data, found["layer"]),
            )
        ]

    return Plot(draw, (MEANS, ACCURACY))


@paper.recipe(
    "Fig. 5",
    basenets(0, 9, SITES),
    "Which activations are left out?",
    "Activations of BaseNet18 and of two counterparts, as they were built.",
)
def fig5(runs: Runs) -> Items:
    """The architectures: where an activation acts and where what enters leaves."""

    def draw(data: xr.DataTree) -> list[Figure]:
        columns = []
        for name in runs:
            if name in data.children:
                found = dataset_of(data, MEANS, name)
                acts = [0.0 if "linear" in str(kind) else 1.0 for kind in found["kind"].values]
                columns.append(xr.DataArray(acts, dims="layer", coords={"layer": found["layer"]}))
        labels = [run.label for name, run in runs.items() if name in data.children]
        values = xr.concat(columns, xr.DataArray(labels, dims="model", name="model"))
        return [
            Heatmap(
                values.assign_attrs(long_name="activation acts", units=""),
                key="architecture",
                title="Where activations act",
                caption="1: the activation acts; 0: it is the identity.",
                x="model",
                annotate=True,
            )
        ]

    yield Plot(draw, (MEANS,))
    yield claim(
        "as-built",
        "The counterparts differ from BaseNet18 in their activations alone: means of "
        "preactivations at the start, before training, agree in the first layer. [Fig. 5, "
        "Appendix A]",
        alike(
            _start(runs.first) - _start(partly(runs)[SITES]), "difference of the first mean", 1e-6
        ),
    )


def _start(run: Variant) -> Quantity:
    return means(run).map(lambda values: values.isel(step=0, layer=0, drop=True))


@paper.recipe(
    "Fig. 6",
    ALL,
    "How much of what the nonlinear network knows does a partly linear one explain?",
    "mu(M; P) = I(M; Y) - I(M; Y | P) of predictions M of the nonlinear network and P of another, "
    "and of another run of itself.",
)
def fig6(runs: Runs) -> Items:
    """Information that a partly linear network shares with the nonlinear one on the labels.

    Every run is compared with the run of the next seed, so that neither initialisation nor the
    order of examples is shared. Values below 0: predictions that contradict each other, and the
    bias of the plug-in estimate, which is negative for unrelated predictions of few examples.
    """
    mu = {run.label: explained(runs, run) for run in partly(runs).values()}
    again, own = explained(runs, runs.first), explained(runs)
    by_number = {k: explained(runs, run).mean("step") for k, run in partly(runs).items()}
    yield claim(
        "order",
        "The more layers are linear, the less of the nonlinear network is explained. [Fig. 6, "
        "Appendix B]",
        -trend(stacked("k", by_number), "k"),
        "minus the rank correlation of mu, mean over time, and number of linear layers",
    )
    for k, run in partly(runs).items():
        if k <= 5:
            yield claim(
                f"first{k}-like-another-run",
                f"With the first {k} layers linear a network explains as much as another run of "
                "the nonlinear one does, within 5% of I(M; Y), over the second half of training. "
                "[Fig. 6, Appendix B]",
                alike(
                    combined(
                        lambda a, b, whole: (a - b) / whole,
                        late(explained(runs, run)),
                        late(again),
                        late(own),
                    ),
                    "difference of mu over I(M; Y)",
                    INFORMATION_MARGIN,
                ),
            )
    yield lines(
        stacked(
            "model",
            {"the same run": own, "another run": again, **mu},
            long_name="mu",
            units="bits",
        ),
        "explained",
        "Information explained",
        "mu(M; P) of the nonlinear network M and each other P, plug-in estimate on the test "
        f"images, in bits; the same run gives I(M; Y). {OVER_SEEDS}",
        hue="model",
    )


@paper.recipe(
    "Fig. 7",
    ALL,
    "How do mean preactivations develop in every partly linear network?",
    "Mean of what enters each activation over depth and time, of all nine networks.",
)
def fig7(runs: Runs) -> Items:
    """Fig. 2 for all networks."""
    for k, run in partly(runs).items():
        if SITES - k >= 3:
            yield claim(
                f"negative-first-{k}",
                f"{run.label}: of the layers that are nonlinear deeper ones have a negative mean "
                "preactivation earlier. [Fig. 7, Appendix C]",
                exceeds(
                    -trend(first_negative(run).isel(layer=slice(k, None)), "layer"),
                    "minus the rank correlation of depth and the first time below 0",
                ),
            )
    yield from wavefronts(runs, list(runs))
