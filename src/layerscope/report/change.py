"""Whether layers differ in change by more than their sizes or weight decay make them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from layerscope.config import SGD, RunConfig
from layerscope.functional.equilibrium import equilibrium_angle
from layerscope.report.finding import Finding
from layerscope.report.measurements import STEPS
from layerscope.runs.manifest import frozen_after

RATIO, ANGLE = "weight_change", "weight_change,reduction=angle"
EXPLAINED = 0.8
"""Share of the spread from which on layer size is said to explain it."""
NEAR = 1.1
"""Angles within this factor of the formula are in equilibrium."""
FEWEST = 6
"""Layers below which nothing is said of a spread: a few go with size by chance."""
FEWEST_IN_EQUILIBRIUM = 2
MOST_NAMES = 6
ALIKE = 1.25
"""Changes within this factor of each other are called alike."""


def change_findings(
    measured: Mapping[str, xr.Dataset], config: RunConfig | None = None
) -> list[Finding]:
    """What explains that some layers change more than others.

    Args:
        measured: Datasets by name, as `layerscope.report.measurements.measured` returns them.
        config: How the runs were trained, where known.
    """
    found = [_by_size(measured[RATIO]["change"])] if RATIO in measured else []
    if config is not None and (name := f"{ANGLE}{STEPS}") in measured:
        found.append(_in_equilibrium(measured[name]["change"], config))
    return [finding for finding in found if finding is not None]


def frozen_findings(
    manifests: Sequence[Mapping[str, Any]], config: RunConfig | None = None
) -> list[Finding]:
    """Which layers were frozen on the way, and when.

    Args:
        manifests: Those of the runs.
        config: How the runs were trained, where known.
    """
    times: dict[str, list[int]] = {}
    for manifest in manifests:
        for name, step in frozen_after(manifest).items():
            times.setdefault(name, []).append(step)
    if not times:
        return []
    per, unit = manifests[0]["steps_per_epoch"] or 1, "epoch"
    if manifests[0]["steps_per_epoch"] is None:
        unit = "step"
    of = f" of {len(manifests)} runs" if len(manifests) > 1 else ""
    parts = [
        f"{name} after {unit} {np.mean(steps) / per:.3g}" + (f" ({len(steps)}{of})" if of else "")
        for name, steps in list(times.items())[:MOST_NAMES]
    ]
    more = f" and {len(times) - MOST_NAMES} others" if len(times) > MOST_NAMES else ""
    random = config is not None and config.freeze_when_settled.at_random_times
    when = "at random times" if random else "once they had settled"
    return [
        Finding(
            f"Layers stopped training {when}: {', '.join(parts)}{more}.",
            evidence="What the runs noted; from then on their weights are the same bit for bit.",
        )
    ]


def _typical(values: xr.DataArray) -> xr.DataArray:
    """Median over time, and mean over seeds, of every trained layer's positive, finite changes."""
    values = values.where((values > 0) & np.isfinite(values)).median("step")
    values = values.mean("seed") if "seed" in values.dims else values
    trained = values["trained"].values if "trained" in values.coords else True
    return values.isel(layer=np.flatnonzero(values.notnull().values & trained))


def _by_size(change: xr.DataArray) -> Finding | None:
    """How far layers differ in change, and how much of it goes with their sizes."""
    typical = _typical(change)
    if typical.sizes["layer"] < FEWEST:
        return None
    names = [str(name) for name in typical["layer"].values]
    logs, sizes = np.log(typical.values), np.log(typical["n_parameters"].values.astype(float))
    most, least = names[int(np.argmax(logs))], names[int(np.argmin(logs))]
    span = float(np.exp(logs.max() - logs.min()))
    spread = f"{most} changes {span:.3g} times as much as {least} between measured moments"
    evidence = (
        f"Median over time of the relative weight change of {len(names)} layers; share: squared "
        "correlation of the logarithms of change and of the number of weights."
    )
    if span < ALIKE:
        return Finding(
            f"All layers change alike, within a factor of {span:.3g}.", evidence=evidence
        )
    if np.ptp(sizes) == 0:
        text = f"{spread}; all have equally many weights, so that size does not explain it."
    elif (share := float(np.corrcoef(logs, sizes)[0, 1] ** 2)) >= EXPLAINED:
        text = (
            f"{spread}, but layer size explains it: {share:.0%} of the spread goes with the "
            "number of weights."
        )
    else:
        text = (
            f"{spread}; layer size does not explain it ({share:.0%} of the spread goes with the "
            "number of weights)."
        )
    return Finding(text, evidence=f"{evidence} Threshold: {EXPLAINED:.0%}.", layer=most)


def _in_equilibrium(angle: xr.DataArray, config: RunConfig) -> Finding | None:
    """Which layers turn at a step by the angle that weight decay sets."""
    optimizer = config.optimizer
    constant = config.schedule == "step" and not config.milestones and not config.warmup
    plain = isinstance(optimizer, SGD) and not optimizer.nesterov and optimizer.weight_decay > 0
    if not (constant and plain):
        return None
    assert isinstance(optimizer, SGD)
    expected = equilibrium_angle(
        optimizer.learning_rate, optimizer.weight_decay, optimizer.momentum
    )
    late = angle.isel(step=slice(-max(1, angle.sizes["step"] // 4), None))
    typical = _typical(late)
    near = abs(np.log(typical.values / expected)) < np.log(NEAR)
    n, total = int(near.sum()), len(near)
    balance = "the angle that weight decay sets in the end where a normalisation follows"
    if n < FEWEST_IN_EQUILIBRIUM:
        text = (
            f"{n or 'None'} of {total} layers turns at a step by {expected:.3g} rad, within "
            f"{NEAR - 1:.0%}: {balance}. The spread between layers is not explained by it."
        )
    else:
        who = "All" if n == total else f"{n} of {total}"
        text = (
            f"{who} layers turn at a step by {expected:.3g} rad, within {NEAR - 1:.0%}: {balance}. "
            "It explains that they change alike; how much they learn it does not say."
        )
    return Finding(
        text,
        evidence="Median over the last quarter of training of the mean angle per step, beside the "
        "equilibrium sqrt(2 eta lambda / (1 + alpha)) of Wan et al. 2021 and Kosson et al. 2024; "
        "which layers a normalisation follows is not looked at.",
    )
