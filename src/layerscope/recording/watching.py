"""Probes during a training: what is measured when, what a failure means, which rows are sound."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import xarray as xr
from torch import nn

from layerscope.errors import DivergedError, LayerscopeError
from layerscope.networks.layers import LayerMap
from layerscope.probes.base import MomentProbe, Probe
from layerscope.probes.datasets import assemble
from layerscope.probes.given import Given, check_needs
from layerscope.probes.observer import Failure, Observer, Watch, reason
from layerscope.recording.together import refuse_unshared
from layerscope.recording.weights import not_finite
from layerscope.schedule import Schedule

_log = logging.getLogger(__name__)
LiveObserver = Observer[MomentProbe]


def watch(
    probes: Sequence[Probe] | Mapping[Any, Schedule],
    default: Schedule,
    layers: LayerMap,
    given: Given,
    steps_per_epoch: int | None,
    sharded: bool = False,
) -> list[Watch[MomentProbe]]:
    """Probes with their schedules and layers.

    Args:
        probes: As `layerscope.Recorder` takes them.
        default: Schedule of those that have none of their own.
        layers: All layers.
        given: Task, batch and model, as far as they are there.
        steps_per_epoch: Optimiser steps per epoch, where known.
        sharded: Whether processes share the weights.

    Raises:
        LayerscopeError: A probe lacks what it needs, needs the finished run or a data set,
            cannot be measured of shared weights, or appears twice.
    """
    pairs = probes.items() if isinstance(probes, Mapping) else ((p, default) for p in probes)
    watches: list[Watch[MomentProbe]] = []
    for probe, schedule in pairs:
        if not isinstance(probe, MomentProbe):
            name = type(probe).__name__
            raise LayerscopeError(
                f"{name} needs the finished run and cannot be recorded live.",
                f"Call measure({name}(...), run) afterwards.",
            )
        if sharded:
            refuse_unshared(probe)
        if {"data", "training_data"} & probe.needed:
            raise LayerscopeError(
                f"{probe.expression} runs over a data set, which a recorder does not have.",
                "Record it on the fixed batch, or measure it from checkpoints: "
                f"measure({type(probe).__name__}(...), run, ...).",
            )
        if any(watch.probe == probe for watch in watches):
            raise LayerscopeError(f"{probe} is listed twice.", "List every probe once.")
        check_needs(type(probe).__name__, probe.needed, given)
        bound, own = schedule.bind(steps_per_epoch), given.only(probe.needed)
        watches.append(Watch(probe, bound, probe.select(layers), own))
    return watches


class Judge:
    """Decides what the failure of a probe means for a training.

    Args:
        model: The module that trains.
        strict: Raise where a probe fails, instead of leaving it out from then on.
        together: Whether processes measure together; this is strict then.
    """

    def __init__(self, model: nn.Module, strict: bool, together: bool = False) -> None:
        self._model = model
        self._strict = strict or together
        self._together = together

    def __call__(self, one: Watch[MomentProbe], step: int, error: Exception) -> None:
        """Say that a probe is left out from now on.

        Raises:
            DivergedError: The weights are not finite.
            LayerscopeError: Where this is strict.
        """
        if (name := not_finite(self._model)) is not None:
            if isinstance(error, DivergedError):
                raise error
            raise DivergedError(
                f"{name!r} is not finite at step {step}.",
                "The model has diverged: lower the learning rate; earlier checkpoints are kept.",
            ) from error
        if self._strict:
            remedy = (
                "Mend or leave out the probe, or record without strict=True to go on without it."
            )
            if self._together:  # no way to go on without it
                own = error.remedy if isinstance(error, LayerscopeError) else ""
                remedy = own or "Mend or leave out the probe."
            raise LayerscopeError(
                f"{one.probe.key} failed at step {step}: {reason(error)}", remedy
            ) from error
        _log.warning(
            "%s failed at step %d and is left out from then on: %s",
            one.probe.key,
            step,
            reason(error),
        )


def failures(watches: Iterable[Watch[MomentProbe]]) -> dict[str, dict[str, Any]]:
    """Step and error of every probe that failed, by key, for the manifest."""
    failed = {one.probe.key: one.failure for one in watches}
    return {k: {"step": f.step, "error": f.reason} for k, f in failed.items() if f is not None}


def leave_out(
    watches: Iterable[Watch[MomentProbe]], noted: Mapping[str, Mapping[str, Any]]
) -> None:
    """Leave out the probes that failed before, as `failures` noted them."""
    for one in watches:
        found = noted.get(one.probe.key)
        one.failure = None if found is None else Failure(found["step"], found["error"])


def datasets(
    observer: LiveObserver, steps_per_epoch: int | None
) -> Iterator[tuple[str, xr.Dataset]]:
    """What was measured since the last time, by key; forgotten once the next is asked for.

    Rows that are no numbers while the weights are finite are a failure of their probe.

    Raises:
        DivergedError: Values and weights are not finite.
        LayerscopeError: A probe failed, if failures are judged strictly.
    """
    for one in observer.watches:
        if one.rows and (found := _sound(observer, one, steps_per_epoch)) is not None:
            if observer.keep.apart and {"previous", "initial"} & one.probe.needed:
                found.attrs["kept"] = str(observer.keep)
            yield one.probe.key, found
        one.rows = []


def drop_unsound(observer: LiveObserver, steps_per_epoch: int | None) -> None:
    """Keep the rows before the first that is not finite, when a training has failed."""
    for one in observer.watches:
        one.rows = one.rows[: _count_sound(one, steps_per_epoch)]


def _sound(
    observer: LiveObserver, one: Watch[MomentProbe], steps_per_epoch: int | None
) -> xr.Dataset | None:
    try:
        return _dataset(one, steps_per_epoch)
    except Exception as error:  # whatever a probe may have returned
        sound = _count_sound(one, steps_per_epoch)
        observer.leave_out(one, one.rows[sound][0], error)
        return _dataset(one, steps_per_epoch, sound) if sound else None


def _dataset(
    one: Watch[MomentProbe], steps_per_epoch: int | None, rows: int | None = None
) -> xr.Dataset:
    """The rows, or the first so many of them."""
    found = assemble(one.probe, one.layers, one.rows[:rows], steps_per_epoch, missing=one.missing)
    found.attrs["schedule"] = str(one.schedule)
    return found


def _count_sound(one: Watch[MomentProbe], steps_per_epoch: int | None) -> int:
    """How many rows there are before the first one that makes no dataset."""

    def fails(count: int) -> bool:
        try:
            _dataset(one, steps_per_epoch, count)
        except Exception:  # whatever a probe may have returned
            return True
        return False

    return bisect_left(range(1, len(one.rows) + 1), True, key=fails)
