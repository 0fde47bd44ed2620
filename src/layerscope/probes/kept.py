"""Results that are kept in a run, and what makes one that of a measurement."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from layerscope.errors import LayerscopeError
from layerscope.networks.layers import LayerMap
from layerscope.probes.base import MomentProbe, Probe
from layerscope.probes.datasets import attributes_of
from layerscope.runs.results import settings_attribute
from layerscope.runs.store import Run

CHECKPOINTS = "@checkpoints"
"""Ends the key of what a `MomentProbe` measured from checkpoints and not live."""


@dataclass(frozen=True)
class Identity:
    """What a result must say of itself to be that of a measurement.

    Attributes:
        key: Where it is kept.
        attributes: Probe, settings, version, revision and, as far as they are known, what it was
            measured with and on which layers.
        steps: The checkpoints.
        created: When the run was.
        later: Settings that results of earlier versions do not name, at the values that they had.
    """

    key: str
    attributes: dict[str, str]
    steps: list[int]
    created: str
    later: dict[str, Any]

    def mark(self, dataset: xr.Dataset) -> None:
        """Say so in a dataset."""
        dataset.attrs |= self.attributes
        dataset.attrs |= {"checkpoints": self.steps, "run_created": self.created}

    def differences(self, dataset: xr.Dataset) -> list[str]:
        """Names of what a dataset says otherwise; none where it is the same measurement."""
        found = dict(dataset.attrs)
        if "settings" in found:
            found["settings"] = settings_attribute(self.later | json.loads(found["settings"]))
        names = [name for name, text in self.attributes.items() if found.get(name) != text]
        if "layers" not in self.attributes and "layers" in found:
            names.append("layers")
        if not np.array_equal(np.atleast_1d(found.get("checkpoints", [])), self.steps):
            names.append("checkpoints")
        if found.get("run_created") != self.created:
            names.append("run")
        return names


def identity(
    probe: Probe,
    run: Run,
    steps: list[int],
    layers: LayerMap | None,
    conditions: Mapping[str, str],
) -> Identity:
    """What makes a result the one of this measurement.

    Args:
        probe: What measures.
        run: The run.
        steps: The checkpoints.
        layers: The layers, where they were chosen.
        conditions: What it is measured with, see `Conditions`.
    """
    attributes = attributes_of(probe) | dict(conditions)
    if layers is not None:
        attributes["layers"] = json.dumps(layers.names)
    key = probe.key + (CHECKPOINTS if isinstance(probe, MomentProbe) else "")
    return Identity(key, attributes, steps, run.manifest["created"], probe.later)


def chosen_steps(run: Run, steps: Iterable[int] | None) -> list[int]:
    """The checkpoints to use, ascending.

    Raises:
        LayerscopeError: There is none, or none at one of the steps.
    """
    known = run.steps
    if run.keeps_none:
        raise run.without_checkpoints()
    if not known:
        raise LayerscopeError(f"{run.path} has no checkpoints.", "Record it with checkpoints.")
    chosen = known if steps is None else sorted(set(steps))
    for step in chosen:
        if step not in known:
            run.checkpoint(step)
    return chosen


def read_kept(run: Run, wanted: Identity) -> xr.Dataset | None:
    """The result of a measurement; None where it was not made, or under other conditions.

    Raises:
        LayerscopeError: Its file is damaged.
    """
    if wanted.key not in run.result_keys:
        return None
    dataset = run.results(wanted.key)
    return None if wanted.differences(dataset) else dataset
