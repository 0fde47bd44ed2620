"""From weights by name to rows of probes, moment after moment, wherever the weights come from.

A recorder feeds an `Observer` with the live tensors of a module, `layerscope.probes.measure` with
one checkpoint after the other. It knows nothing of modules in a loop, of processes or of files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from layerscope.errors import LayerscopeError
from layerscope.networks.layers import LayerMap
from layerscope.networks.names import Weights
from layerscope.networks.shards import Shards
from layerscope.probes.base import FoldingProbe, Moment, MomentProbe
from layerscope.probes.datasets import Row
from layerscope.probes.given import Given, Need
from layerscope.probes.parts import Keep, Own, Part, Sample, Whole, one_by_one
from layerscope.schedule import Schedule

P = TypeVar("P", bound=MomentProbe | FoldingProbe)


@dataclass(frozen=True)
class Failure:
    """When a probe failed, and why, in words: an error would keep alive what it was raised on."""

    step: int
    reason: str


def reason(error: Exception) -> str:
    """An error in words, without its remedy."""
    known = isinstance(error, LayerscopeError)
    return error.message if known else f"{type(error).__name__}: {error}"


@dataclass(eq=False)
class Watch(Generic[P]):
    """One probe on its schedule, with what it needs, and what it measured so far.

    Attributes:
        probe: The probe.
        schedule: When it is measured, in steps.
        layers: The layers it selects; from its first moment on what it has a value for each of.
        given: Model, task and batch, as far as it needs them.
        rows: What it measured since rows were last taken.
        latest: What it measured last.
        missing: Why a layer has no value, by name, of all moments so far.
        failure: The failure since which it is left out.
        settled: Whether ``layers`` is what it has a value for each of.
    """

    probe: P
    schedule: Schedule
    layers: LayerMap
    given: Given
    rows: list[Row] = field(default_factory=list)
    latest: Row | None = None
    missing: dict[str, str] = field(default_factory=dict)
    failure: Failure | None = None
    settled: bool = False


@dataclass
class Previous:
    """Weights at the moment measured before, shared by probes of one schedule that see the same.

    Attributes:
        names: The parameters.
        keep: Where and as what they are kept.
        weights: The parameters, as they are kept; None before the first moment.
    """

    names: tuple[str, ...]
    keep: Keep = field(default_factory=Keep)
    weights: dict[str, Tensor] | None = None

    def refer(self, now: Weights) -> None:
        """Hold the weights of this moment themselves."""
        self.weights = {name: now[name] for name in self.names}

    def copy(self, now: Weights) -> None:
        """Copy the weights of this moment into place; not those that changed shape or are gone."""
        if self.weights is None:
            self.weights = {name: self.keep.copy(now[name]) for name in self.names}
            return
        found = [(kept, now.get(name)) for name, kept in self.weights.items()]
        pairs = [(k, n) for k, n in found if n is not None and n.shape == k.shape]
        torch._foreach_copy_([kept for kept, _ in pairs], [new for _, new in pairs])


class Observer(Generic[P]):
    """Measures probes at moments; one that fails is left out from then on.

    Holds at most the weights that probes compare with: previous ones for every schedule, initial
    and final ones.

    Args:
        watches: The probes, their schedules and layers.
        initial: Finds the weights at step 0 where no moment at step 0 was observed.
        final: Finds the weights at the last moment, where it is known.
        learning_rate: The learning rate of the step after so many, None where it is not known.
        live: Whether weights change after their moment, so that what is kept has to be copied.
        keep: Where and as what weights are kept; by default as they are.
        shards: Where processes share the weights; all of them observe, and probes of weights are
            measured together.
        judge: Called with a watch that fails, the step and the error; may raise.
    """

    def __init__(
        self,
        watches: Sequence[Watch[P]],
        *,
        initial: Callable[[], Weights],
        final: Callable[[], Weights] | None = None,
        learning_rate: Callable[[int], float | None] | None = None,
        live: bool = True,
        keep: Keep | None = None,
        shards: Shards | None = None,
        judge: Callable[[Watch[P], int, Exception], None],
    ) -> None:
        self.watches = watches
        self.keep = keep or Keep()
        self._parts = {one: _part(one, shards) for one in watches}
        self.previous = self._shared_previous()
        self._find_initial = initial
        self._initial: dict[Part, dict[str, Tensor]] = {}
        self._final = final
        self._finals: dict[tuple[Part, tuple[str, ...]], Weights] = {}
        self._learning_rate = learning_rate
        self._live = live
        self._judge = judge

    @property
    def active(self) -> list[Watch[P]]:
        """The probes that have not failed."""
        return [one for one in self.watches if one.failure is None]

    def due(self, step: int) -> list[Watch[P]]:
        """The probes whose schedules ask for this step."""
        return [one for one in self.active if one.schedule(step)]

    def left(self, step: int) -> list[Watch[P]]:
        """The probes to measure when the training ends here, though their schedules do not ask.

        Those that compare with the moment before are not among them: their values depend on the
        time between, and a shorter last interval would look like a change of pace.
        """
        return [
            one
            for one in self.active
            if not one.schedule(step) and "previous" not in one.probe.needed
        ]

    def observe(
        self,
        step: int,
        now: Weights,
        due: Sequence[Watch[P]],
        changed: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Measure some probes at this moment, and keep the weights that later ones compare with.

        Args:
            step: Optimiser steps taken so far.
            now: Parameters and buffers by name.
            due: The probes to measure.
            changed: Layers that no longer have the tensors that they had, by name, and how.

        Raises:
            Exception: What ``judge`` raises.
        """
        # Looked up while a model holds other weights, live ones would be these.
        whole = cache(lambda: dict(now))
        views: dict[tuple[Part, tuple[str, ...]], Weights] = {}
        for one in due:
            try:
                seen = self._seen(one, now, views)
                moment = self._moment(one, step, now, seen, whole, changed)
                if moment is not None:
                    with torch.no_grad():
                        if not one.settled:
                            one.layers = one.probe.rows(one.layers, moment)
                            one.settled = True
                        one.latest = (step, self._measure(one, moment))
                    one.rows.append(one.latest)
                    one.missing |= moment.missing
            except Exception as error:  # a probe may do anything; the others go on
                self.leave_out(one, step, error)
        for (schedule, part), previous in self.previous.items():
            if schedule(step) and self._compares(schedule, part):
                seen = views.get((part, previous.names)) or part.of(now, previous.names)
                (previous.copy if self._live else previous.refer)(seen)

    def _seen(
        self, one: Watch[P], now: Weights, views: dict[tuple[Part, tuple[str, ...]], Weights]
    ) -> Weights:
        """What a probe sees of the weights, looked up once for all that see the same."""
        part, names = self._parts[one], one.layers.parameter_names
        if isinstance(part, Whole):
            return now
        if (part, names) not in views:
            views[part, names] = part.of(now, names)
        return views[part, names]

    def _compares(self, schedule: Schedule, part: Part) -> bool:
        """Whether these weights are kept: all of them always, a part for probes that go on."""
        users = (one for one in self.active if one.schedule == schedule)
        return isinstance(part, Whole) or any(self._parts[one] == part for one in users)

    def _measure(self, one: Watch[P], moment: Moment) -> dict[str, Tensor]:
        """What a probe measures; of weights that are kept elsewhere one layer after the other."""
        layers = self._parts[one].layers(one.layers)
        if self.keep.apart and one.probe.additive:
            return one_by_one(partial(one.probe.measure, moment), layers)
        return one.probe.measure(moment, layers)

    def _moment(
        self,
        one: Watch[P],
        step: int,
        now: Weights,
        seen: Weights,
        whole: Callable[[], Weights],
        changed: Mapping[str, str],
    ) -> Moment | None:
        """The moment as one probe sees it; None at the first one, for a probe that compares two."""
        if name := next((name for name in one.layers.names if name in changed), None):
            raise LayerscopeError(
                f"layer {name!r} is not the one that was recorded so far: {changed[name]}.",
                "Give layers their final shape first, or record a new run from here.",
            )
        needs, given, part = one.probe.needed, one.given, self._parts[one]
        kept = self.previous[one.schedule, part].weights if "previous" in needs else None
        if "previous" in needs and kept is None and isinstance(one.probe, MomentProbe):
            return None
        previous = seen if kept is None else self.keep.back(kept, seen)
        initial = None
        if "initial" in needs:
            initial = self._initial_weights(step, part, one.layers, now, seen)
        rate = self._learning_rate if "learning_rate" in needs else None
        return Moment(
            step,
            whole() if "model" in needs else seen,
            previous=previous if "previous" in needs else None,
            initial=None if initial is None else self.keep.back(initial, seen),
            final=self._final_weights(one) if "final" in needs else None,
            model=given.model,
            task=given.task,
            batch=given.batch,
            data=given.data,
            training_data=given.training_data,
            learning_rate=rate(step) if rate is not None else None,
            total=part.total,
        )

    def _final_weights(self, one: Watch[P]) -> Weights | None:
        key = self._parts[one], one.layers.parameter_names
        if key not in self._finals and self._final is not None:
            self._finals[key] = key[0].of(self._final(), key[1])
        return self._finals.get(key)

    def _initial_weights(
        self, step: int, part: Part, layers: LayerMap, now: Weights, seen: Weights
    ) -> dict[str, Tensor]:
        if part not in self._initial:
            names = self._names("initial", part)
            if step == 0:
                kept = self.keep.copy if self._live else lambda tensor: tensor
                found = seen if names == layers.parameter_names else part.of(now, names)
                self._initial[part] = {name: kept(found[name]) for name in names}
            else:
                found = part.of(self._find_initial(), names)
                there = {name: found[name].to(now[name].device) for name in names}
                kept = self.keep.copy if self.keep.apart else lambda tensor: tensor
                self._initial[part] = {name: kept(tensor) for name, tensor in there.items()}
        return self._initial[part]

    def _names(self, need: Need, part: Part, schedule: Schedule | None = None) -> tuple[str, ...]:
        """Parameters of the probes that see one part, need something and have one schedule."""
        users = [
            one
            for one in self.watches
            if need in one.probe.needed
            and self._parts[one] == part
            and schedule in (None, one.schedule)
        ]
        return tuple(dict.fromkeys(name for one in users for name in one.layers.parameter_names))

    def _shared_previous(self) -> dict[tuple[Schedule, Part], Previous]:
        keys = dict.fromkeys(
            (one.schedule, self._parts[one])
            for one in self.watches
            if "previous" in one.probe.needed
        )
        return {
            (schedule, part): Previous(self._names("previous", part, schedule), self.keep)
            for schedule, part in keys
        }

    def leave_out(self, one: Watch[P], step: int, error: Exception) -> None:
        """Measure a probe no more since it failed at this step.

        Raises:
            Exception: What ``judge`` raises.
        """
        self._judge(one, step, error)
        one.failure = Failure(step, reason(error))

    def forget(self) -> None:
        """Be as before the first moment."""
        for one in self.watches:
            one.rows, one.latest, one.missing, one.failure = [], None, {}, None
        for previous in self.previous.values():
            previous.weights = None
        self._initial = {}


def _part(one: Watch[Any], shards: Shards | None) -> Part:
    """What of the weights a probe sees."""
    if one.probe.sampling is not None:
        return Sample.drawn(one.probe.sampling, one.layers, shards)
    return Whole() if shards is None else Own(shards)
