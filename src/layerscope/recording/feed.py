"""What a run writes, handed to its sinks: who has been told what, and who is left out."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import xarray as xr

from layerscope.networks.isolation import random_state_kept
from layerscope.probes.figures import drawn
from layerscope.recording.sinks import ROOT, Cell, Sink, attempt, checked, labels, numbers
from layerscope.runs.environment import package_version
from layerscope.runs.manifest import Status
from layerscope.runs.store import Run

_log = logging.getLogger(__name__)


@dataclass
class _Fed:
    """One sink, and what it has and has not been told."""

    label: str
    sink: Sink
    state: Mapping[str, Any] = field(default_factory=dict)
    before: Mapping[str, int] = field(default_factory=dict)
    """Last step by key that an earlier process has sent."""
    taken: dict[str, int] = field(default_factory=dict)
    """Last step by key that was taken."""
    sent: dict[str, int] = field(default_factory=dict)
    """Last step by key up to which everything was sent."""
    rows: dict[int, dict[str, float]] = field(default_factory=dict)
    """What was taken and not yet sent."""
    told: tuple[int, frozenset[str]] = (-1, frozenset())
    """The last step, and the names that were sent of it."""
    started: bool = False
    failure: dict[str, Any] = field(default_factory=dict)

    def resume(self, noted: Mapping[str, Any]) -> None:
        """Go on with what an earlier process noted."""
        self.before, self.state = noted.get("sent", {}), noted.get("state", {})
        self.sent = dict(self.before)

    def take(self, key: str, dataset: xr.Dataset) -> None:
        """Keep what is new, until `send`."""
        last = self.before.get(key, -1)
        for step, name, value in numbers(key, dataset):
            if step > last and not (step == self.told[0] and name in self.told[1]):
                self.rows.setdefault(step, {})[name] = value
        self.taken[key] = max(int(dataset["step"].max()), self.taken.get(key, -1))

    def send(self) -> None:
        """Tell the sink, step by step."""
        try:
            for step in sorted(self.rows):
                self.sink.log(self.rows[step], step)
                before = self.told[1] if step == self.told[0] else frozenset()
                self.told = step, before | self.rows.pop(step).keys()
        finally:
            whole = min(self.rows, default=math.inf) - 1
            for key, step in self.taken.items():
                self.sent[key] = int(max(self.sent.get(key, -1), min(step, whole)))

    def close(self, status: Status) -> None:
        """Close the sink, once, if it was started."""
        if self.started:
            self.started = False
            self.sink.finish(status)

    @property
    def note(self) -> dict[str, Any]:
        """What the manifest says of it."""
        found = {"sent": dict(self.sent), "state": dict(self.state)}
        return found | ({"failed": self.failure} if self.failure else {})


class Feed:
    """Hands what a run writes to its sinks, as long as each of them works.

    Args:
        sinks: The sinks.

    Raises:
        LayerscopeError: One is none.
    """

    def __init__(self, sinks: Sequence[Sink]) -> None:
        given = checked(sinks)
        self._fed = [_Fed(*pair) for pair in zip(labels(given), given, strict=True)]
        self._run: Run | None = None
        self._step = 0

    def start(self, run: Run) -> None:
        """Begin a run, or go on with one: a sink gets what it was not sent before.

        A sink that had failed is tried again.
        """
        if not self._fed:
            return
        self._run = run
        config = {ROOT: described(run)}
        noted = run.manifest["notes"].get("sinks", {})
        for one in self._fed:
            one.resume(noted.get(one.label, {}))
            self._try(one, lambda one=one: self._start(one, config))
        for key in live_keys(run):  # what an earlier process has measured
            attempt(f"reading {key} again", lambda key=key: self.take(key, run.results(key)))
        self.send()

    def _start(self, one: _Fed, config: Mapping[str, Any]) -> None:
        one.state = one.sink.start(config, one.state)
        one.started = True

    def take(self, key: str, dataset: xr.Dataset) -> None:
        """Keep what was written under a key, until `send`."""
        if "step" not in dataset.dims or not dataset.sizes["step"]:
            return
        self._step = max(self._step, int(dataset["step"].max()))
        for one in self._working:
            one.take(key, dataset)

    def send(self) -> None:
        """Tell the sinks what was taken."""
        for one in self._working:
            self._try(one, one.send)
        self._note()

    def finish(self, status: Status) -> None:
        """Close the sinks; of a complete run they get its figures and a table of layers first.

        One that failed is closed like the others, if it can be.
        """
        if self._run is None:
            return
        self.send()
        if status == "complete" and self._working:
            pictures, rows = list(_pictures(self._run)), list(layer_rows(self._run))
            for one in self._working:
                self._try(one, lambda one=one: _show(one.sink, pictures, rows))
        for one in self._working:
            self._try(one, lambda one=one: one.close(status))
        for one in self._fed:
            with contextlib.suppress(Exception), random_state_kept():  # it is known not to work
                one.close(status)
        self._note()
        self._run = None

    @property
    def _working(self) -> list[_Fed]:
        return [one for one in self._fed if not one.failure]

    def _try(self, one: _Fed, action: Callable[[], Any]) -> None:
        with random_state_kept():  # libraries draw names, and times to wait
            reason = attempt(one.label, action)
        if reason:
            one.failure = {"step": self._step, "error": reason}
            one.rows = {}

    def _note(self) -> None:
        """Note how far every sink is, where that is news."""
        if self._run is not None and self._fed:
            notes = {one.label: one.note for one in self._fed}
            if notes != self._run.manifest["notes"].get("sinks"):
                self._run.note(sinks=notes)


def described(run: Run) -> dict[str, Any]:
    """What a sink is told of a run: its configuration and where it stands."""
    manifest = run.manifest
    names = ("seed", "steps_per_epoch", "total_steps", "config")
    return {
        "run": str(run.path),
        "version": package_version("layerscope"),
        "layers": len(run.layers),
        "parameters": sum(layer.n_parameters for layer in run.layers),
    } | {name: manifest[name] for name in names if manifest[name] is not None}


def live_keys(run: Run) -> list[str]:
    """Keys of what was measured while the run trained."""
    return [key for key in run.result_keys if "@" not in key]


def layer_rows(run: Run) -> Iterator[list[Cell]]:
    """The table of layers: first the headings, then a row for each layer.

    After what a layer is stands the last value of everything that was sent of it over steps.
    """
    last: dict[str, dict[str, float]] = {}
    for key in live_keys(run):
        for _, name, value in sorted(numbers(key, run.results(key))):
            what, _, layer = name.removeprefix(f"{ROOT}/").partition("/")
            if layer in run.layers.names:
                last.setdefault(what, {})[layer] = value
    yield ["layer", "depth", "kind", "group", "parameters", "trained", *last]
    for one in run.layers:
        own: list[Cell] = [one.name, one.depth, one.kind, one.group, one.n_parameters, one.trained]
        yield own + [values.get(one.name) for values in last.values()]


def _pictures(run: Run) -> Iterator[tuple[str, bytes]]:
    """Every figure of what was measured live, as a PNG by name."""
    from layerscope.figures.matplotlib import png

    for key in live_keys(run):
        try:
            for figure in drawn(run.results(key)):
                yield f"{ROOT}/{figure.key}", png(figure)
        except Exception as error:  # the numbers are there; a picture is no reason to fail
            _log.warning("the figures of %s cannot be drawn: %s", key, error)


def _show(
    sink: Sink, pictures: Sequence[tuple[str, bytes]], rows: Sequence[Sequence[Cell]]
) -> None:
    for name, png in pictures:
        sink.figure(name, png)
    columns = [str(heading) for heading in rows[0]]
    sink.table(f"{ROOT}/layers", columns, rows[1:])
