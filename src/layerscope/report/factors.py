"""How sentences tell factors between layers, of one run or of several.

Numbers are on logarithmic scales: means over runs are geometric, with 95% intervals of the
logarithms.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from layerscope.functional.estimates import mean_interval
from layerscope.networks.discovery import preview
from layerscope.report.sites import ONE_RUN, joined

MATRICES = ("linear", "convolution")
"""Kinds of rows that are compared with one another: matrices that inputs are multiplied by."""
MOST_NAMES = 6
PAPER = "Huang et al., Layer-wise Conditioning Analysis"


def matrices(dataset: xr.Dataset) -> xr.Dataset:
    """What was measured, without embeddings, scales and what is not used."""
    return dataset.isel(layer=np.flatnonzero(np.isin(dataset["kind"].values, MATRICES)))


def each_run(values: xr.DataArray) -> np.ndarray:
    """Values as (run, moment, layer)."""
    values = values if "seed" in values.dims else values.expand_dims("seed")
    return values.transpose("seed", "step", "layer").values


def at_ends(dataset: xr.Dataset, *variables: str) -> tuple[xr.Dataset, list[np.ndarray]]:
    """The first and the last moment of those layers that have all values there in every run.

    Args:
        dataset: What was measured, at one moment at least.
        variables: Which of its variables.

    Returns:
        The dataset of these moments (one where there is one only) and layers, and every variable
        as (run, moment, layer).
    """
    ends = dataset.isel(step=sorted({0, dataset.sizes["step"] - 1}))
    values = np.stack([each_run(ends[name]) for name in variables])
    known = ~np.isnan(values).any((0, 1, 2))
    return ends.isel(layer=np.flatnonzero(known)), list(values[..., known])


def listed(dataset: xr.Dataset, layers: np.ndarray) -> str:
    """Names of layers in words; of many the first few."""
    names = [str(name) for name in dataset["layer"].values[layers]]
    return joined(names) if len(names) <= MOST_NAMES else preview(names, 3)


def in_runs(hit: np.ndarray) -> str:
    """In how many of several runs something holds, to follow a verb; one value for each run."""
    if len(hit) == 1:
        return ""
    return f" in {'each' if hit.all() else hit.sum()} of {len(hit)} runs"


def in_each(runs: int) -> str:
    """Where what holds in all of several runs holds."""
    return in_runs(np.ones(runs, bool))


def basis(runs: int) -> str:
    """What factors rest on, to end their evidence."""
    return ONE_RUN if runs == 1 else f"Geometric mean and 95% interval over {runs} runs."


def factor(values: np.ndarray) -> str:
    """A geometric mean over runs with its interval: ``340 [120, 950]``.

    Args:
        values: One for each run, none negative. NaN is left out. Where one is 0 or infinite, so is
            the mean, which has no interval then; infinity wins.
    """
    values = values[~np.isnan(values)]
    with np.errstate(divide="ignore", over="ignore"):
        logs = np.log(values)
        found = np.exp(np.stack(mean_interval(logs, axis=0)[:3]))
    if not np.isfinite(logs).all():
        return "\N{INFINITY}" if logs.max() == np.inf else "0"
    mean, low, high = (f"{float(f'{value:.3g}'):,.9g}" for value in found)
    return mean if len(values) == 1 else f"{mean} [{low}, {high}]"


def in_order(ratio: np.ndarray, hit: np.ndarray) -> list[int]:
    """Moments in the order in which they are told: one at which something holds comes first.

    Args:
        ratio: The number that is told, as (run, moment); moments without any are left out.
        hit: Where it holds, as (run, moment).
    """
    told = np.argsort(~hit.any(0), kind="stable")
    return [int(t) for t in told if not np.isnan(ratio[:, t]).all()]
