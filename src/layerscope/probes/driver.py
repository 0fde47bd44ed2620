"""Drive probes over the checkpoints of a run, and turn what they measure into datasets."""

from __future__ import annotations

import hashlib
import math
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from layerscope.checkpoints import Tensors
from layerscope.environment import package_version
from layerscope.errors import DivergedError, LayerscopeError
from layerscope.fixed_batch import blaming_batch, flatten, stored_batch
from layerscope.layers import LayerMap
from layerscope.optimisation import learning_rate
from layerscope.probes.base import (
    Moment,
    MomentProbe,
    Probe,
    Trajectory,
    TrajectoryProbe,
    layer_coordinates,
    step_coordinates,
)
from layerscope.results import settings_attribute
from layerscope.store import Run
from layerscope.task import Task

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
    probe: MomentProbe, layers: LayerMap, rows: Sequence[Row], steps_per_epoch: int | None
) -> xr.Dataset:
    """Rows of one probe as a dataset over ``step`` and ``layer``; one transfer per variable.

    Raises:
        DivergedError: A value is not a number: weights or gradients were not finite.
    """
    steps = [step for step, _ in rows]
    coordinates = layer_coordinates(layers) | step_coordinates(steps, steps_per_epoch)
    dataset = xr.Dataset(coords=coordinates, attrs=_attributes(probe))
    for name, variable in probe.variables.items():
        values = torch.stack([values[name] for _, values in rows]).cpu().numpy()
        if bad := np.argwhere(np.isnan(values)).tolist():
            raise DivergedError(
                f"{name} of layer {layers.names[bad[0][1]]!r} is not a number at step "
                f"{steps[bad[0][0]]}: its weights or gradients are not finite.",
                "The model has diverged: lower the learning rate; earlier checkpoints are kept.",
            )
        dataset[name] = (("step", *variable.dims), values, variable.attributes(probe.source))
    return dataset


def _attributes(probe: Probe) -> dict[str, str]:
    return {
        "probe": type(probe).__name__,
        "settings": settings_attribute(probe.settings),
        "layerscope": package_version("layerscope"),
    } | ({"revision": str(probe.revision)} if probe.revision > 1 else {})


def _conditions(probe: Probe, given: Mapping[str, Any]) -> dict[str, str]:
    """Digests of batch and data, and the name of the task, that a probe measures with."""
    found: dict[str, str] = {}
    if "batch" in probe.needs and given["batch"] is not None:
        found["batch"] = _digest(given["batch"])
    for name in ("data", "training_data"):
        if name in probe.needs and given[name] is not None:
            digests = [_digest(batch) for batch in given[name]]
            found[name] = hashlib.sha256("/".join(digests).encode()).hexdigest()[:16]
    if "model" in probe.needs and given["model"] is not None:
        found["factory"] = "given" if given["factory"] is not None else "none"
    if "task" in probe.needs and given["task"] is not None:
        found["task"] = given["task"].name
    return found


def _digest(batch: Any) -> str:
    """Equal for equal batches; never equal for one of a type that is not known."""
    digest = hashlib.sha256()
    try:
        for name, tensor in flatten(batch).items():
            values = tensor.detach().cpu().contiguous().flatten()
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(values.view(torch.uint8).numpy().tobytes())
    except (AttributeError, TypeError):
        return uuid.uuid4().hex
    return digest.hexdigest()[:16]


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
    recompute: bool = False,
    advance: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
    """Measure a run from its checkpoints and keep the result in the run.

    The same measurement (probe, settings, checkpoints, batch, task, version) is read back instead
    of repeated.

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
        recompute: Measure again even if the result is there.
        advance: Called with (checkpoints done, checkpoints in all).

    Returns:
        A dataset with dimensions ``layer`` and mostly ``step``; every variable has the attributes
        ``long_name``, ``units`` and ``source``.

    Raises:
        LayerscopeError: Something the probe needs is missing, a step is no checkpoint, or a
            checkpoint is damaged.
        DivergedError: Weights are not finite.
    """
    chosen = _chosen(run, steps)
    key = probe.key + (CHECKPOINTS if isinstance(probe, MomentProbe) else "")
    batch = stored_batch(run) if batch is None and "batch" in probe.needs else batch
    given = {"model": model, "task": task, "batch": batch}
    given |= {"data": data, "training_data": training_data, "factory": factory}
    attributes = _attributes(probe) | _conditions(probe, given)
    if not recompute and (stored := _stored(run, key, attributes, chosen)) is not None:
        return stored
    check_needs(probe, given)
    layers = probe.select(run.layers)
    if isinstance(probe, MomentProbe):
        moment = {name: given[name] for name in ("model", "task", "batch")}
        rows = _moments(probe, run, layers, chosen, moment, advance or _ignore)
        dataset = assemble(probe, layers, rows, run.steps_per_epoch)
    elif isinstance(probe, TrajectoryProbe):
        context = Trajectory(
            run, chosen, model, task, batch, data, training_data=training_data, factory=factory
        )
        dataset = blaming_batch(probe.measure, context, layers)
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
    device = _device(given["model"])
    names = layers.parameter_names
    initial = _read(run.checkpoint(0, device), names) if "initial" in probe.needs else None
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


def _rate_at(run: Run) -> Callable[[int], float] | None:
    """Learning rate of the step after a moment, where the run was trained from a configuration."""
    stored, per_epoch = run.config, run.steps_per_epoch
    if stored is None or per_epoch is None:
        return None
    return partial(learning_rate, stored, steps_per_epoch=per_epoch)


def _read(tensors: Tensors, names: Iterable[str]) -> dict[str, Tensor]:
    return {name: tensors[name] for name in names}


def _device(model: nn.Module | None) -> torch.device:
    parameters = iter(()) if model is None else model.parameters()
    return next((p.device for p in parameters), torch.device("cpu"))


def is_finite(value: float | Tensor) -> bool:
    """Whether a loss is a finite number; a tensor on an accelerator is waited for."""
    return math.isfinite(float(value))
