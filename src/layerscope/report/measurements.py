"""What was measured of runs, by probe name, and the figures of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from layerscope.catalogue import snake
from layerscope.errors import LayerscopeError
from layerscope.figures.figure import Figure
from layerscope.probes import (
    PROBES,
    Convergence,
    DistanceFromInitialisation,
    PathAndProgress,
    Probe,
    WeightChange,
    measure_all,
)
from layerscope.probes.datasets import by_epoch
from layerscope.probes.figures import drawn
from layerscope.runs.store import Run
from layerscope.schedule import parse

LIVE = ("weight_change", "distance_from_initialisation")
STEPS = "@steps"
"""Ends the name of what was measured live at every step, shown as means over epochs."""


def weight_probes(run: Run) -> tuple[Probe, ...]:
    """The probes that need nothing but checkpoints."""
    time = "epoch" if run.steps_per_epoch else "step"
    return (
        WeightChange(),
        WeightChange(reduction="angle"),
        DistanceFromInitialisation(),
        Convergence(time=time),
        PathAndProgress(),
    )


def measured(run: Run) -> dict[str, xr.Dataset]:
    """What is known of a run by probe name, in the order of `PROBES`.

    The probes that need nothing but checkpoints are measured where they are missing.

    Live measurements are preferred to those from checkpoints unless they stop before the last
    checkpoint, and default settings to others; of several others the one that differs in the
    fewest settings is shown. Changes that were measured live at every step stand beside those
    between checkpoints, as means over epochs. The distance from initialisation is left out where it
    was not measured live and there is no checkpoint 0.
    """
    found: dict[str, xr.Dataset] = {}
    due: dict[str, Probe] = {}
    for probe in weight_probes(run):
        kind = snake(type(probe).__name__)
        name = probe.key if isinstance(probe, WeightChange) else kind
        live = run.results(probe.key) if probe.key in run.result_keys and kind in LIVE else None
        if live is not None and (steps := _per_step(run, probe, live)) is not None:
            found[f"{name}{STEPS}"], live = steps, None
        startless = isinstance(probe, DistanceFromInitialisation) and 0 not in run.steps
        if live is not None and (startless or _reaches_end(run, probe, live)):
            found[name] = live
        elif not startless:
            due[name] = probe
    fresh = measure_all(due.values(), run)
    found |= {name: fresh[probe.key] for name, probe in due.items()}
    for name in (n for n in PROBES if n not in found and n not in due):
        own = [k for k in run.result_keys if k == name or k.startswith((f"{name},", f"{name}@"))]
        if own:  # the default settings where they were measured
            found[name] = run.results(min(own, key=lambda key: (len(key), key)))
    return {name: found[name] for name in sorted(found, key=place)}


def probe_of(name: str) -> str:
    """The probe, by its name in `PROBES`, that a measurement shown under a name is of."""
    return name.partition("@")[0].partition(",")[0]


def place(name: str) -> tuple[int, str]:
    """Where a measurement stands among others: in the order of `PROBES`."""
    return list(PROBES).index(probe_of(name)), name


def _per_step(run: Run, probe: Probe, live: xr.Dataset) -> xr.Dataset | None:
    """Means over the steps of an epoch of changes measured at each; None of anything else."""
    if "previous" not in probe.needed:
        return None
    per_epoch, n = run.steps_per_epoch, live.sizes["step"]
    dense = bool(per_epoch and per_epoch > 1 and n >= per_epoch)
    if not dense or not np.array_equal(live["step"], np.arange(1, n + 1)):
        return None
    assert per_epoch is not None
    return by_epoch(live.isel(step=slice(n // per_epoch * per_epoch)), per_epoch)


def _reaches_end(run: Run, probe: Probe, live: xr.Dataset) -> bool:
    """Whether what was measured live goes as far as the last checkpoint.

    A probe that compares two moments ends with the last full interval of its schedule.
    """
    after = range(int(live["step"][-1]) + 1, run.steps[-1] + 1 if run.steps else 0)
    if "previous" not in probe.needed:
        return not after
    schedule = parse(live.attrs["schedule"])
    return not any(schedule(step) for step in after)


def stacked(runs: Sequence[Run]) -> dict[str, xr.Dataset]:
    """Measurements of several runs of one architecture, over a dimension ``seed``.

    Raises:
        LayerscopeError: The runs have different layers.
    """
    first = runs[0]
    for run in runs[1:]:
        if run.layers.names != first.layers.names:
            raise LayerscopeError(
                f"{run.path} and {first.path} have different layers.",
                "Report them apart: one page shows runs of one architecture.",
            )
    parts = [measured(run) for run in runs]
    if len(runs) == 1:
        return parts[0]
    index = xr.DataArray(seed_labels(runs), dims="seed", name="seed")
    shared = [name for name in parts[0] if all(name in part for part in parts)]
    return {
        name: xr.concat(
            [part[name] for part in parts],
            index,
            join="outer",
            coords="minimal",
            compat="override",
            combine_attrs="drop_conflicts",
        )
        for name in shared
    }


def seed_labels(runs: Sequence[Run]) -> list[Any]:
    """The seeds of runs; their numbers in the list where seeds are unknown or equal."""
    seeds = [run.manifest["seed"] for run in runs]
    return seeds if None not in seeds and len(set(seeds)) == len(seeds) else list(range(len(runs)))


def probe_figures(measurements: Mapping[str, xr.Dataset]) -> dict[str, list[Figure]]:
    """The figures of every measurement, by probe name, each drawn by the probe itself."""
    found: dict[str, list[Figure]] = {}
    for name, dataset in measurements.items():
        own = drawn(dataset)
        found[name] = [_at_a_step(f) for f in own] if name.endswith(STEPS) else own
    return found


def _at_a_step(figure: Figure) -> Figure:
    """A figure of means over the steps of every epoch, which says so."""
    return replace(
        figure,
        key=f"{figure.key}-step",
        title=f"{figure.title} at a step",
        caption=f"Mean over the steps of every epoch. {figure.caption}",
    )
