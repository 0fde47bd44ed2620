"""Results that are kept in a run: what makes one valid, and reading it back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from torch import nn

from layerscope.errors import LayerscopeError
from layerscope.networks.layers import LayerMap
from layerscope.networks.names import unwrap
from layerscope.networks.task import Task
from layerscope.probes.base import MomentProbe, Probe
from layerscope.probes.conditions import Conditions
from layerscope.probes.datasets import attributes_of
from layerscope.probes.given import Given
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
    """

    key: str
    attributes: dict[str, str]
    steps: list[int]
    created: str

    def mark(self, dataset: xr.Dataset) -> None:
        """Say so in a dataset."""
        dataset.attrs |= self.attributes
        dataset.attrs |= {"checkpoints": self.steps, "run_created": self.created}

    def differences(self, dataset: xr.Dataset) -> list[str]:
        """Names of what a dataset says otherwise; none where it is the same measurement."""
        found = dataset.attrs
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
    return Identity(key, attributes, steps, run.manifest["created"])


def chosen_steps(run: Run, steps: Iterable[int] | None) -> list[int]:
    """The checkpoints to use, ascending.

    Raises:
        LayerscopeError: There is none, or none at one of the steps.
    """
    known = run.steps
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


def stored(
    probe: Probe,
    run: Run,
    *,
    model: nn.Module | None = None,
    task: Task | None = None,
    batch: Any = None,
    data: Iterable[Any] | None = None,
    training_data: Iterable[Any] | None = None,
    factory: Callable[[], nn.Module] | None = None,
    steps: Iterable[int] | None = None,
    layers: Sequence[str] | None = None,
) -> xr.Dataset:
    """Read back what `measure` has kept; nothing is computed.

    Model, task and data are compared with those of the measurement where they are given. The
    fixed batch is by default the one stored with the run.

    Args:
        probe: What was measured.
        run: The run.
        model: The module that it was measured with.
        task: What a batch means.
        batch: The fixed batch.
        data: Batches to test on.
        training_data: Batches of the training examples.
        factory: Builds the model; compared where the model is given.
        steps: The checkpoints used; all by default.
        layers: Patterns of the layers measured; all by default.

    Returns:
        The dataset that `measure` returned.

    Raises:
        LayerscopeError: It was not measured, or with other checkpoints, layers, data, ...; or the
            file is damaged.
    """
    if batch is None and "batch" in probe.needed:
        batch = run.batch
    model = unwrap(model) if model is not None else None
    given = Given(model, task, batch, data, training_data, factory).only(probe.needed)
    only = None if layers is None else run.layers.only(layers)
    wanted = identity(probe, run, chosen_steps(run, steps), only, Conditions().of(given))
    if wanted.key not in run.result_keys:
        raise LayerscopeError(
            f"{run.path} was not measured with {probe.key}.",
            f"Measure it first: measure({type(probe).__name__}(...), run).",
        )
    dataset = run.results(wanted.key)
    if differences := wanted.differences(dataset):
        raise LayerscopeError(
            f"{run.path} was measured with {probe.key}, but not with the same "
            f"{', '.join(differences)}.",
            f"Measure it again: measure({type(probe).__name__}(...), run).",
        )
    return dataset
