"""What a recorder keeps between two steps: live weights, previous ones, rows not yet written.

`LiveProbes` measures: a probe that fails is left out from then on and does not end the training.
"""

from __future__ import annotations

import logging
import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import xarray as xr
from torch import Tensor, nn

from layerscope.errors import DivergedError, LayerscopeError
from layerscope.networks.isolation import named_state, unwrap
from layerscope.networks.layers import LayerMap
from layerscope.probes.base import Moment, MomentProbe, Probe, step_coordinates
from layerscope.probes.driver import Row, assemble, check_needs
from layerscope.schedule import Schedule

_log = logging.getLogger(__name__)


@dataclass
class Watch:
    """One probe on its schedule, and what it measured since the flush.

    Attributes:
        probe: The probe.
        schedule: When it is measured, in steps.
        layers: The layers it selects.
        rows: What it measured since the flush.
        missing: Why a layer has no value, by name, of all moments so far.
        failure: Step and error of the failure since which it is left out.
    """

    probe: MomentProbe
    schedule: Schedule
    layers: LayerMap
    rows: list[Row] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    failure: dict[str, Any] | None = None

    def dataset(self, steps_per_epoch: int | None, rows: int | None = None) -> xr.Dataset:
        """The rows, or the first so many of them, as `assemble` makes a dataset of them."""
        chosen = self.rows[:rows]
        found = assemble(self.probe, self.layers, chosen, steps_per_epoch, missing=self.missing)
        found.attrs["schedule"] = str(self.schedule)
        return found

    def count_sound(self, steps_per_epoch: int | None) -> int:
        """How many rows there are before the first one that makes no dataset."""

        def fails(count: int) -> bool:
            try:
                self.dataset(steps_per_epoch, count)
            except Exception:  # whatever a probe may have returned
                return True
            return False

        return bisect_left(range(1, len(self.rows) + 1), True, key=fails)


class Live(Mapping[str, Tensor]):
    """The model's tensors at one moment, by name.

    Parameters are found one by one, which costs a fraction of a ``state_dict``; whatever else is
    asked for comes from that. Nothing is remembered from one moment to the next, since modules
    and parameters may be exchanged in between.
    """

    def __init__(self, model: nn.Module, aliases: Mapping[str, str]) -> None:
        self._model = model
        self._aliases = aliases
        self._found: dict[str, Tensor] = {}

    @cached_property
    def state(self) -> dict[str, Tensor]:
        """All parameters and buffers, tied ones once: what a checkpoint holds."""
        state = named_state(self._model).items()
        return {k: v.detach() for k, v in state if k not in self._aliases}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._found:
            self._found[name] = self._find(name)
        return self._found[name]

    def _find(self, name: str) -> Tensor:
        *path, leaf = name.split(".")
        module: nn.Module | None = self._model
        for part in path:
            module = module._modules.get(part) if module is not None else None
            module = unwrap(module) if module is not None else None
        parameter = module._parameters.get(leaf) if module is not None else None
        return self.state[name] if parameter is None else parameter.detach()

    def __iter__(self) -> Iterator[str]:
        return iter(self.state)

    def __len__(self) -> int:
        return len(self.state)


@dataclass
class Previous:
    """Weights at the moment measured before, shared by all probes of one schedule."""

    names: tuple[str, ...]
    weights: dict[str, Tensor] | None = None

    def keep(self, now: Mapping[str, Tensor]) -> None:
        """Copy the weights of this moment into place; not those that changed shape or are gone."""
        if self.weights is None:
            self.weights = {name: now[name].clone() for name in self.names}
            return
        found = [(kept, now.get(name)) for name, kept in self.weights.items()]
        pairs = [(k, n) for k, n in found if n is not None and n.shape == k.shape]
        torch._foreach_copy_([kept for kept, _ in pairs], [new for _, new in pairs])


def watch(
    probes: Sequence[Probe] | Mapping[Any, Schedule],
    default: Schedule,
    layers: LayerMap,
    given: Mapping[str, Any],
    steps_per_epoch: int | None,
) -> list[Watch]:
    """Probes with their schedules and layers.

    Args:
        probes: As `layerscope.Recorder` takes them.
        default: Schedule of those that have none of their own.
        layers: All layers.
        given: Task, batch and model, or None, by name.
        steps_per_epoch: Optimiser steps per epoch, where known.

    Raises:
        LayerscopeError: A probe lacks what it needs, needs the finished run, or appears twice.
    """
    pairs = probes.items() if isinstance(probes, Mapping) else ((p, default) for p in probes)
    watches: list[Watch] = []
    for probe, schedule in pairs:
        if not isinstance(probe, MomentProbe):
            name = type(probe).__name__
            raise LayerscopeError(
                f"{name} needs the finished run and cannot be recorded live.",
                f"Call measure({name}(...), run) afterwards.",
            )
        if any(watch.probe == probe for watch in watches):
            raise LayerscopeError(f"{probe} is listed twice.", "List every probe once.")
        check_needs(probe, given)
        watches.append(Watch(probe, schedule.bind(steps_per_epoch), probe.select(layers)))
    return watches


class LiveProbes:
    """The probes of a recorder, measured at moments of a training.

    Args:
        watches: What `watch` returned.
        layers: All layers of the run.
        given: Task, batch and model, or None, by name.
        learning_rate: The learning rate of the step after so many, where known.
        strict: Raise where a probe fails, instead of leaving it out from then on.
    """

    def __init__(
        self,
        watches: list[Watch],
        layers: LayerMap,
        given: Mapping[str, Any],
        learning_rate: Callable[[int], float] | None = None,
        strict: bool = False,
    ) -> None:
        self.watches = watches
        self.previous = _shared_previous(watches)
        self._layers = layers
        self._given = given
        self._learning_rate = learning_rate
        self._strict = strict

    @property
    def failures(self) -> dict[str, dict[str, Any]]:
        """Step and error of every probe that failed, by key."""
        return {w.probe.key: w.failure for w in self.watches if w.failure is not None}

    @failures.setter
    def failures(self, failures: Mapping[str, dict[str, Any]]) -> None:
        for one in self.watches:
            one.failure = failures.get(one.probe.key)

    def due(self, step: int) -> list[Watch]:
        """The probes whose schedules ask for this step."""
        return [w for w in self.watches if w.failure is None and w.schedule(step)]

    def left(self, step: int) -> list[Watch]:
        """The probes to measure when the training ends here, though their schedules do not ask.

        Those that compare with the moment before are not among them: their values depend on the
        time between, and a shorter last interval would look like a change of pace.
        """
        return [
            w
            for w in self.watches
            if w.failure is None and not w.schedule(step) and "previous" not in w.probe.needs
        ]

    def measure(
        self,
        due: Sequence[Watch],
        step: int,
        now: Mapping[str, Tensor],
        initial: Callable[[], Mapping[str, Tensor]],
    ) -> None:
        """Measure some probes at this moment, and keep the weights that later ones compare with.

        Raises:
            DivergedError: A probe failed and the weights are not finite.
            LayerscopeError: A probe failed, if ``strict``.
        """
        changed = misfits(self._layers, now) if due else {}
        for one in due:
            try:
                one.rows += self._rows(one, step, now, initial, changed)
            except Exception as error:  # a probe may do anything; it must not end the training
                self._leave_out(one, step, error)
        for schedule, previous in self.previous.items():
            if schedule(step):
                previous.keep(now)

    def _rows(
        self,
        one: Watch,
        step: int,
        now: Mapping[str, Tensor],
        initial: Callable[[], Mapping[str, Tensor]],
        changed: Mapping[str, str],
    ) -> list[Row]:
        """The row of one probe; none at the first moment of a probe that compares two."""
        if name := next((name for name in one.layers.names if name in changed), None):
            raise LayerscopeError(
                f"layer {name!r} is not the one that was recorded so far: {changed[name]}.",
                "Give layers their final shape first, or record a new run from here.",
            )
        needs = one.probe.needs
        previous = self.previous[one.schedule].weights if "previous" in needs else None
        if "previous" in needs and previous is None:
            return []
        moment = Moment(
            step,
            # Looked up while the model holds other weights they would be these.
            dict(now) if "model" in needs else now,
            previous,
            initial() if "initial" in needs else None,
            learning_rate=self._learning_rate(step) if self._learning_rate else None,
            **self._given,
        )
        with torch.no_grad():
            values = one.probe.measure(moment, one.layers)
        one.missing |= moment.missing
        return [(step, values)]

    def _leave_out(self, one: Watch, step: int, error: Exception) -> None:
        if (name := _not_finite(self._given["model"])) is not None:
            if isinstance(error, DivergedError):
                raise error
            raise DivergedError(
                f"{name!r} is not finite at step {step}.",
                "The model has diverged: lower the learning rate; earlier checkpoints are kept.",
            ) from error
        known = isinstance(error, LayerscopeError)
        reason = error.message if known else f"{type(error).__name__}: {error}"
        if self._strict:
            raise LayerscopeError(
                f"{one.probe.key} failed at step {step}: {reason}",
                "Mend or leave out the probe, or record without strict=True to go on without it.",
            ) from error
        one.failure = {"step": step, "error": reason}
        _log.warning(
            "%s failed at step %d and is left out from then on: %s", one.probe.key, step, reason
        )

    def datasets(self, steps_per_epoch: int | None) -> Iterator[tuple[str, xr.Dataset]]:
        """What was measured since the last time, by key; forgotten once the next is asked for.

        Rows that are no numbers while the weights are finite are a failure of their probe.

        Raises:
            DivergedError: Values and weights are not finite.
            LayerscopeError: A probe failed, if ``strict``.
        """
        for one in self.watches:
            if one.rows and (found := self._sound(one, steps_per_epoch)) is not None:
                yield one.probe.key, found
            one.rows = []

    def _sound(self, one: Watch, steps_per_epoch: int | None) -> xr.Dataset | None:
        try:
            return one.dataset(steps_per_epoch)
        except Exception as error:  # whatever a probe may have returned
            sound = one.count_sound(steps_per_epoch)
            self._leave_out(one, one.rows[sound][0], error)
            return one.dataset(steps_per_epoch, sound) if sound else None

    def drop_unsound(self, steps_per_epoch: int | None) -> None:
        """Keep the rows before the first that is not finite, when a training has failed."""
        for one in self.watches:
            one.rows = one.rows[: one.count_sound(steps_per_epoch)]

    def forget(self) -> None:
        """Be as before the first moment."""
        for one in self.watches:
            one.rows, one.missing, one.failure = [], {}, None
        for previous in self.previous.values():
            previous.weights = None


def _shared_previous(watches: Sequence[Watch]) -> dict[Schedule, Previous]:
    names: dict[Schedule, dict[str, None]] = {}
    for one in watches:
        if "previous" in one.probe.needs:
            wanted = names.setdefault(one.schedule, {})
            wanted.update(dict.fromkeys(one.layers.parameter_names))
    return {schedule: Previous(tuple(wanted)) for schedule, wanted in names.items()}


def misfits(layers: LayerMap, now: Mapping[str, Tensor]) -> dict[str, str]:
    """Layers of which a parameter is gone or has another shape, by name, and which."""
    found: dict[str, str] = {}
    for layer in layers:
        for name, shape in layer.parameters.items():
            if (tensor := now.get(name)) is None:
                found.setdefault(layer.name, f"there is no {name!r}")
            elif tuple(tensor.shape) != shape:
                reason = f"{name!r} has shape {tuple(tensor.shape)}, not {shape}"
                found.setdefault(layer.name, reason)
    return found


def _not_finite(model: nn.Module) -> str | None:
    """The first parameter that is not finite."""
    for name, tensor in named_state(model).items():
        if isinstance(tensor, nn.Parameter) and not bool(tensor.detach().isfinite().all()):
            return name
    return None


def scalars(
    rows: Sequence[tuple[int, Mapping[str, float]]], steps_per_epoch: int | None
) -> xr.Dataset:
    """Numbers of the whole model over steps; several rows of one step are merged."""
    merged: dict[int, dict[str, float]] = {}
    for step, values in rows:
        merged.setdefault(step, {}).update(values)
    names = dict.fromkeys(name for values in merged.values() for name in values)
    return xr.Dataset(
        {
            name: (
                "step",
                [values.get(name, math.nan) for values in merged.values()],
                {"long_name": name.replace("_", " "), "units": "1", "source": "recorder"},
            )
            for name in names
        },
        coords=step_coordinates(list(merged), steps_per_epoch),
    )
