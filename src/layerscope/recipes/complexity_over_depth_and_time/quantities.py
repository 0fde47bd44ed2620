"""What the figures of the paper are made of: accuracy, divergence, information, first crossings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
import xarray as xr
from scipy.signal import savgol_filter

from layerscope.functional.divergence import Divergence, divergence_points, sensitivity
from layerscope.functional.information import explained_information
from layerscope.recipes.complexity_over_depth_and_time.settings import (
    ACCURACY,
    MEANS,
    PREDICTIONS,
    every,
    partly,
)
from layerscope.studies.guards import guessing
from layerscope.studies.plan import Runs, Variant
from layerscope.studies.plots import OVER_SEEDS, Plot, lines
from layerscope.studies.quantity import Quantity, combined, stacked

THRESHOLD = 0.95
WINDOW, ORDER = 5, 2
ABOVE_GUESSING = 1.5
"""Divergence is looked for where the full model is this many times as accurate as guessing."""
THRESHOLDS = (0.9, 0.925, 0.95, 0.975)
SETTLED = 30
"""Steps after which running statistics have forgotten 96% of what they began with."""
UNSETTLED = "The first 30 steps are left out: running statistics are not yet those of the data."


def even(runs: Runs, values: Quantity) -> Quantity:
    """Values over steps at the evenly spaced times of the runs."""
    apart = every(runs.first, runs.scale)
    return values.map(lambda array: array.isel(step=array["step"].values % apart == 0))


def accuracy(runs: Runs, run: Variant) -> Quantity:
    """Test accuracy in per cent over steps, (seed, step)."""
    values = even(runs, run.of(ACCURACY, "error"))
    return values.map(
        lambda error: (100 - error).assign_attrs(long_name="test accuracy", units="%")
    )


def smoothed(values: Quantity) -> Quantity:
    """The same values through the Savitzky-Golay filter of Appendix A."""
    return values.map(
        lambda array: array.copy(
            data=savgol_filter(array.values, WINDOW, ORDER, axis=array.dims.index("step"))
        )
    )


def floor(runs: Runs) -> float:
    """Accuracy in per cent from which on the full model is compared."""
    guess = guessing(runs.first.data)
    return ABOVE_GUESSING * (100 - guess.value) if guess is not None else 0.0


def behind(runs: Runs, run: Variant) -> Quantity:
    """Smoothed accuracy of a seed over the mean one of the full model, (seed, step).

    A gap where the full model is not yet above `floor`.
    """
    low = floor(runs)

    def share(full: xr.DataArray, partial: xr.DataArray) -> xr.DataArray:
        mean = full.mean("seed")
        return (partial / mean).where(mean > low)

    return combined(share, smoothed(accuracy(runs, runs.first)), smoothed(accuracy(runs, run)))


def times_behind(runs: Runs) -> Quantity:
    """Step at which each seed of a partial model falls below 95% of the full one's mean, (seed, k).

    Infinite where it never does; k is the number of first layers that are linear.
    """

    def first(share: xr.DataArray) -> xr.DataArray:
        return first_time(share < THRESHOLD)

    return stacked("k", {k: behind(runs, run).map(first) for k, run in partly(runs).items()})


def first_time(holds: xr.DataArray) -> xr.DataArray:
    """First step at which something holds; infinite where it never does."""
    steps = holds["step"].where(holds, np.inf)
    return steps.min("step")


def _accuracies(runs: Runs, data: xr.DataTree) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Accuracy of the full (seeds, steps) and the partial models (models, seeds, steps); times."""
    full = accuracy(runs, runs.first).values(data)
    models = [run for run in partly(runs).values() if run.name in data.children]
    partial = [accuracy(runs, run).values(data).transpose("seed", "step").values for run in models]
    seeds = min(map(len, partial))
    stack = np.stack([one[:seeds] for one in partial])
    return full.transpose("seed", "step").values, stack, full["step"].values


def divergence(runs: Runs, data: xr.DataTree) -> tuple[Divergence, list[int]]:
    """Divergence points of the partial models of a study, and their numbers of linear layers."""
    numbers = [k for k, run in partly(runs).items() if run.name in data.children]
    known = _accuracies(runs, data)
    return divergence_points(*known, THRESHOLD, WINDOW, ORDER, floor=floor(runs)), numbers


def thresholds(runs: Runs, data: xr.DataTree) -> np.ndarray:
    """Divergence times for several thresholds, (threshold, model)."""
    return sensitivity(*_accuracies(runs, data), THRESHOLDS, WINDOW, ORDER, floor=floor(runs))


def front(runs: Runs, data: xr.DataTree, names: xr.DataArray) -> xr.DataArray:
    """The wavefront: at the last linear layer of each model the step at which it diverges."""
    found, numbers = divergence(runs, data)
    times = np.where(found.censored, np.inf, found.time)
    layers = [str(names.values[k - 1]) for k in numbers]
    return xr.DataArray(
        times,
        dims="layer",
        coords={"layer": layers},
        attrs={"long_name": "divergence point", "units": "steps"},
    )


def explained(runs: Runs, run: Variant | None = None) -> Quantity:
    """Mu of each full run and the next seed's run of a model, in bits, (seed, step).

    Args:
        runs: The study.
        run: The other model; None for the full run itself, which gives I(M; Y).
    """
    full = runs.first
    predicted, label = full.of(PREDICTIONS, "predicted"), full.of(PREDICTIONS, "label")
    other = predicted if run is None else run.of(PREDICTIONS, "predicted")

    def mu(main: xr.DataArray, labels: xr.DataArray, partial: xr.DataArray) -> xr.DataArray:
        right = torch.from_numpy(labels.values.astype("int64"))
        right = right if right.ndim == 1 else right[0]
        n = min(main.sizes["seed"], partial.sizes["seed"])
        a, b = (x.transpose("seed", "step", "example").values for x in (main, partial))
        shift = 0 if run is None else 1
        rows = [
            [
                explained_information(
                    torch.from_numpy(a[seed, step].astype("int64")),
                    right,
                    torch.from_numpy(b[(seed + shift) % n, step].astype("int64")),
                )
                for step in range(a.shape[1])
            ]
            for seed in range(n)
        ]
        kept = main.isel(seed=slice(n), example=0, drop=True).transpose("seed", "step")
        return kept.copy(data=np.array(rows)).assign_attrs(long_name="mu", units="bits")

    return even(runs, combined(mu, predicted, label, other))


def means(run: Variant) -> Quantity:
    """Mean preactivation of every site over steps."""
    return run.of(MEANS, "mean")


def settled(run: Variant) -> Quantity:
    """The same from step `SETTLED` on.

    In eval mode, what enters before that was normalised with statistics of no data: running means
    start at 0 and variances at 1, and approach those of the data by a tenth at every step.
    """
    return means(run).map(lambda values: values.isel(step=values["step"].values >= SETTLED))


def first_negative(run: Variant) -> Quantity:
    """Step from which the mean preactivation of a site is first below 0, (seed, layer)."""
    return settled(run).map(lambda values: first_time(values < 0))


def labelled(runs: Runs, values: Mapping[str, Quantity], **attributes: str) -> Quantity:
    """Quantities of variants along ``model``, by what figures call them."""
    return stacked("model", runs.labelled(values), **attributes)


def against_the_full(runs: Runs, what: str) -> Iterator[Plot]:
    """Accuracy of every network over steps, and its difference from the nonlinear one.

    Args:
        runs: The study.
        what: What the networks are called together.
    """
    reached = {name: accuracy(runs, run) for name, run in runs.items()}
    full = smoothed(reached[runs.first.name])
    yield lines(
        labelled(runs, reached, long_name="test accuracy", units="%"),
        "accuracy",
        f"Accuracy of partly linear {what}",
        f"Test accuracy; {OVER_SEEDS}",
        hue="model",
    )
    yield lines(
        labelled(
            runs,
            {name: combined(_less_mean, smoothed(one), full) for name, one in reached.items()},
            long_name="accuracy less that of the nonlinear network",
            units="points",
        ),
        "difference",
        "Difference from the nonlinear network",
        "Smoothed test accuracy (Savitzky-Golay, window 5, order 2) less the mean one of the "
        f"nonlinear network; {OVER_SEEDS}",
        hue="model",
    )


def _less_mean(partial: xr.DataArray, full: xr.DataArray) -> xr.DataArray:
    return partial - full.mean("seed")
