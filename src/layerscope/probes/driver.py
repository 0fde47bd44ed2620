"""Drive probes over the checkpoints of a run, and turn what they measure into datasets."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from layerscope.config.rates import learning_rate
from layerscope.errors import DivergedError, LayerscopeError
from layerscope.networks.isolation import device_of, unwrap
from layerscope.networks.layers import LayerMap
from layerscope.networks.task import Task
from layerscope.probes.base import (
    Moment,
    MomentProbe,
    Probe,
    Trajectory,
    TrajectoryProbe,
    layer_coordinates,
    step_coordinates,
)
from layerscope.probes.conditions import conditions
from layerscope.runs.checkpoints import Tensors
from layerscope.runs.environment import package_version
from layerscope.runs.fixed_batch import blaming_batch, stored_batch
from layerscope.runs.results import settings_attribute
from layerscope.runs.store import Run

Row = tuple[int, Mapping[str, Tensor]]
CHECKPOINTS = "@checkpoints"


def check_needs(probe: Probe, available: Mapping[str, Any]) -> None:
    """Refuse a probe that lacks something, before anything is computed.

    Raises:
        LayerscopeError: Something that ``probe.needs`` names is None in ``available``.
    """
    missing = sorted(n for n in probe.needs if n in available and available[n] is None)
    if missing:
        raise LayerscopeError(
            f"{type(probe).__name__} needs {' and '.join(missing)}.",
            f"Pass {', '.join(f'{name}=...' for name in missing)}, or leave the probe out.",
        )


def assemble(
    probe: MomentProbe,
    layers: LayerMap,
    rows: Sequence[Row],
    steps_per_epoch: int | None,
    missing: Mapping[str, str] = MappingProxyType({}),
) -> xr.Dataset:
    """Rows of one probe as a dataset over ``step`` and ``layer``; one transfer per variable.

    Args:
        probe: What measured the rows.
        layers: The layers it measured.
        rows: Step and values, ascending.
        steps_per_epoch: Optimiser steps per epoch, where known.
        missing: Why a layer has no value, by name: NaN is no error there. Kept as the coordinate
            ``missing`` along ``layer``, empty where a layer was measured.

    Raises:
        DivergedError: A value of another layer is not a number: weights or gradients were not
            finite.
    """
    steps = [step for step, _ in rows]
    coordinates = layer_coordinates(layers) | step_coordinates(steps, steps_per_epoch)
    coordinates["missing"] = ("layer", [missing.get(name, "") for name in layers.names])
    dataset = xr.Dataset(coords=coordinates, attrs=_attributes(probe))
    measured = [name not in missing for name in layers.names]
    for name, variable in probe.variables.items():
        values = torch.stack([values[name] for _, values in rows]).cpu().numpy()
        if bad := np.argwhere(np.isnan(values[:, measured])).tolist():
            layer = np.flatnonzero(measured)[bad[0][1]]
            raise DivergedError(
                f"{name} of layer {layers.names[layer]!r} is not a number at step "
                f"{steps[bad[0][0]]}: its weights or gradients are not finite.",
                "The model has diverged: lower the learning rate; earlier checkpoints are kept.",
            )
        dataset[name] = (("step", *variable.dims), values, variable.attributes(probe.source))
    return dataset


def with_reasons(dataset: xr.Dataset, missing: Mapping[str, str]) -> xr.Dataset:
    """The dataset, with why a layer has no value as the coordinate ``missing`` along ``layer``."""
    if "layer" not in dataset.dims:
        return dataset
    reasons = [missing.get(str(name), "") for name in dataset["layer"].values]
    return dataset.assign_coords(missing=("layer", reasons))


def _attributes(probe: Probe) -> dict[str, str]:
    return {
        "probe": type(probe).__name__,
        "settings": settings_attribute(probe.settings),
        "layerscope": package_version("layerscope"),
    } | ({"revision": str(probe.revision)} if probe.revision > 1 else {})


def measure(
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
    recompute: bool = False,
    advance: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Measure a run from its checkpoints and keep the result in the run.

    The same measurement (probe, settings, checkpoints, layers, batch, data, task, model, version)
    is read back instead of repeated. What cannot be compared, such as a model or a task of code
    that is not PyTorch's or this library's, is measured again. A layer to which the probe does not
    apply has NaN, and the reason in the coordinate ``missing``.

    Args:
        probe: What to measure.
        run: The run.
        model: A module that takes the run's weights, for probes that need one.
        task: What a batch means, for probes that need it.
        batch: The fixed batch; by default the one stored with the run.
        data: Batches to test on, iterable more than once, for probes that need them.
        training_data: Batches of the training examples, likewise.
        factory: Builds the model anew, for probes that draw fresh weights.
        steps: Checkpoints to use; all by default.
        layers: Patterns of the layers to measure; all by default.
        recompute: Measure again even if the result is there.
        advance: Called with (checkpoints done, checkpoints in all).

    Returns:
        A dataset with dimensions ``layer`` and mostly ``step``; every variable has the attributes
        ``long_name``, ``units`` and ``source``.

    Raises:
        LayerscopeError: Something the probe needs is missing, a step is no checkpoint, a pattern
            matches no layer, no layer can be measured, or a checkpoint is damaged.
        DivergedError: Weights are not finite.
    """
    chosen = _chosen(run, steps)
    key = probe.key + (CHECKPOINTS if isinstance(probe, MomentProbe) else "")
    batch = stored_batch(run) if batch is None and "batch" in probe.needs else batch
    model = unwrap(model) if model is not None else None
    given = {"model": model, "task": task, "batch": batch}
    given |= {"data": data, "training_data": training_data, "factory": factory}
    attributes = _attributes(probe) | conditions(probe, given)
    chosen_layers = run.layers if layers is None else run.layers.only(layers)
    if layers is not None:
        attributes["layers"] = json.dumps(chosen_layers.names)
    if not recompute and (stored := _stored(run, key, attributes, chosen)) is not None:
        return stored
    check_needs(probe, given)
    selected = probe.select(chosen_layers)
    missing: dict[str, str] = {}
    if isinstance(probe, MomentProbe):
        moment = {name: given[name] for name in ("model", "task", "batch")}
        moment["missing"] = missing
        rows = _moments(probe, run, selected, chosen, moment, advance or _ignore)
        dataset = assemble(probe, selected, rows, run.steps_per_epoch, missing)
    elif isinstance(probe, TrajectoryProbe):
        context = Trajectory(
            run,
            chosen,
            model,
            task,
            batch,
            data,
            training_data=training_data,
            factory=factory,
            missing=missing,
        )
        dataset = with_reasons(blaming_batch(probe.measure, context, selected), missing)
    else:
        raise TypeError(f"{type(probe).__name__} is neither MomentProbe nor TrajectoryProbe")
    dataset.attrs |= attributes | {"checkpoints": chosen, "run_created": run.manifest["created"]}
    run.replace_results(key, dataset)
    return dataset


def _ignore(done: int, total: int) -> None:
    del done, total


def _chosen(run: Run, steps: Iterable[int] | None) -> list[int]:
    known = run.steps
    if not known:
        raise LayerscopeError(f"{run.path} has no checkpoints.", "Record it with checkpoints.")
    chosen = known if steps is None else sorted(set(steps))
    for step in chosen:
        if step not in known:
            run.checkpoint(step)
    return chosen


def _stored(
    run: Run, key: str, attributes: Mapping[str, str], steps: list[int]
) -> xr.Dataset | None:
    if key not in run.result_keys:
        return None
    dataset = run.results(key)
    same = (
        np.array_equal(np.atleast_1d(dataset.attrs.get("checkpoints", [])), steps)
        and dataset.attrs.get("run_created") == run.manifest["created"]
        and attributes.items() <= dataset.attrs.items()
        and dataset.attrs.get("layers") == attributes.get("layers")
    )
    return dataset if same else None


def _moments(
    probe: MomentProbe,
    run: Run,
    layers: LayerMap,
    steps: list[int],
    given: Mapping[str, Any],
    advance: Callable[[int, int], None],
) -> list[Row]:
    """Measure every checkpoint, holding at most three sets of weights."""
    device = device_of(given["model"])
    names = layers.parameter_names
    initial = _initial(run, device, names) if "initial" in probe.needs else None
    rate_at = _rate_at(run)
    previous, rows = None, []
    for done, step in enumerate(steps, 1):
        weights = run.checkpoint(step, device)
        if "model" in probe.needs:
            weights = dict(weights)
        elif "previous" in probe.needs:
            weights = _read(weights, names)
        if "previous" not in probe.needs or previous is not None:
            rate = rate_at(step) if rate_at else None
            moment = Moment(step, weights, previous, initial, learning_rate=rate, **given)
            rows.append((step, blaming_batch(probe.measure, moment, layers)))
        previous = weights
        advance(done, len(steps))
    if not rows:
        raise LayerscopeError(
            f"{type(probe).__name__} compares checkpoints and {run.path} has only one.",
            "Record more checkpoints.",
        )
    return rows


def _initial(run: Run, device: torch.device, names: Iterable[str]) -> dict[str, Tensor]:
    if 0 not in run.steps:
        raise LayerscopeError(
            f"{run.path} has no checkpoint at step 0, from which distances count.",
            "Make the run with it, Run.from_checkpoints(path, {0: ..., ...}, model), or measure "
            "PathAndProgress, which counts from the first checkpoint there is.",
        )
    return _read(run.checkpoint(0, device), names)


def _rate_at(run: Run) -> Callable[[int], float] | None:
    """Learning rate of the step after a moment, where the run was trained from a configuration."""
    stored, per_epoch = run.config, run.steps_per_epoch
    if stored is None or per_epoch is None:
        return None
    return partial(learning_rate, stored, steps_per_epoch=per_epoch)


def _read(tensors: Tensors, names: Iterable[str]) -> dict[str, Tensor]:
    return {name: tensors[name] for name in names}


def is_finite(value: float | Tensor) -> bool:
    """Whether a loss is a finite number; a tensor on an accelerator is waited for."""
    return math.isfinite(float(value))
