"""Sinks: where the numbers of a recording go beside the run on disk, e.g. to TensorBoard.

A sink is fed with what was just written, at the recorder's flushes and never by the step, so that
it cannot show what the run does not hold. One that fails is left out from then on: the training
goes on, the run is whole, and the manifest says which sink failed and when.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import xarray as xr

from layerscope.errors import LayerscopeError
from layerscope.probes.figures import drawn
from layerscope.runs.environment import package_version
from layerscope.runs.manifest import Status
from layerscope.runs.store import Run

_log = logging.getLogger(__name__)
ROOT = "layerscope"
"""Begins every name that a sink is given."""
Cell = str | float | int | bool | None


@runtime_checkable
class Sink(Protocol):
    """Somewhere that takes numbers over steps, pictures and tables.

    Methods raise whatever they like where something fails. They are called in one process only,
    and in this order: `start`, then anything, then `finish`.
    """

    def start(self, config: Mapping[str, Any], state: Mapping[str, Any]) -> Mapping[str, Any]:
        """Begin, or go on.

        Args:
            config: Plain values that say what is recorded, below the key ``layerscope``.
            state: What `start` returned before the run was interrupted; empty for a new one.

        Returns:
            What is needed to go on, as values of JSON.
        """
        ...

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Take numbers of one step of the recorder, all finite, by name.

        Steps may come again and may go backwards between two calls; a name and step does not come
        twice.
        """
        ...

    def figure(self, name: str, png: bytes) -> None:
        """Take a picture, a whole PNG file."""
        ...

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Take a table; ``None`` is an empty cell."""
        ...

    def finish(self, status: Status) -> None:
        """Write what is left and close what `start` opened, and nothing of the user's own."""
        ...


def numbers(key: str, dataset: xr.Dataset) -> Iterator[tuple[int, str, float]]:
    """What a sink is told of measurements: step, name and value, every finite one.

    Args:
        key: Where the run keeps them: the probe's key, ``training`` or ``evaluation``.
        dataset: The measurements.

    Yields:
        For variables over (step, layer) ``layerscope/<probe>/<layer>``, or, of a probe with
        several such variables, ``layerscope/<probe>.<variable>/<layer>``; for those over steps
        alone ``layerscope/<key>/<variable>``. In the key, what is neither letter, digit, ``_``,
        ``.`` nor ``-`` is a dash. Variables with other dimensions have no place in a chart over
        steps and are left out, and so are values that are not finite.
    """
    stem = f"{ROOT}/{re.sub(r'[^A-Za-z0-9_.-]', '-', key)}"
    steps = [int(step) for step in dataset["step"].values]
    found = {str(n): v for n, v in dataset.data_vars.items() if v.dims == ("step", "layer")}
    for name, values in found.items():
        own = stem if len(found) == 1 else f"{stem}.{name}"
        for layer, column in zip(values["layer"].values, values.values.T.tolist(), strict=True):
            yield from _finite(steps, f"{own}/{layer}", column)
    for name, values in dataset.data_vars.items():
        if values.dims == ("step",):
            yield from _finite(steps, f"{stem}/{name}", values.values.tolist())


def _finite(
    steps: Sequence[int], name: str, values: Sequence[float]
) -> Iterator[tuple[int, str, float]]:
    for step, value in zip(steps, values, strict=True):
        if math.isfinite(value):
            yield step, name, float(value)


def attempt(label: str, action: Callable[[], Any]) -> str:
    """Do something with a sink; why it failed, empty if it did not."""
    try:
        action()
    except Exception as error:  # a server may be gone, a disk full, a library of another mind
        reason = f"{type(error).__name__}: {error}"
        _log.warning("%s failed and is left out from then on: %s", label, reason)
        return reason
    return ""


def checked(sinks: Any) -> list[Sink]:
    """The sinks; what is none is refused at once, and not at the first flush.

    Raises:
        LayerscopeError: It is no list, or something in it is no sink.
    """
    alone = isinstance(sinks, Sink)
    given = [sinks] if alone or isinstance(sinks, str) else list(sinks)
    for one in given:
        if not isinstance(one, Sink) or isinstance(one, type):
            raise LayerscopeError(
                f"{one!r} is no sink.",
                'Give a list of them, e.g. sinks=[TensorBoard("runs/tb")] of '
                "layerscope.integrations.",
            )
    if alone:
        raise LayerscopeError(f"sinks is one {type(sinks).__name__}.", "Give a list: sinks=[...].")
    return given


def labels(sinks: Sequence[Sink]) -> list[str]:
    """A name for every sink: that of its class, numbered from the second of them on."""
    kinds = [type(sink).__name__ for sink in sinks]
    counts = [kinds[: i + 1].count(kind) for i, kind in enumerate(kinds)]
    return [kind if n == 1 else f"{kind} {n}" for kind, n in zip(kinds, counts, strict=True)]


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
    failure: dict[str, Any] = field(default_factory=dict)

    def resume(self, noted: Mapping[str, Any]) -> None:
        """Go on with what an earlier process noted."""
        self.before, self.state = noted.get("sent", {}), noted.get("state", {})
        self.sent = dict(self.before)

    def take(self, key: str, dataset: xr.Dataset) -> None:
        """Keep what is new, until `send`."""
        last = self.before.get(key, -1)
        for step, name, value in numbers(key, dataset):
            if step > last:
                self.rows.setdefault(step, {})[name] = value
        self.taken[key] = max(int(dataset["step"].max()), self.taken.get(key, -1))

    def send(self) -> None:
        """Tell the sink, step by step."""
        try:
            for step in sorted(self.rows):
                self.sink.log(self.rows[step], step)
                del self.rows[step]
        finally:
            whole = min(self.rows, default=math.inf) - 1
            for key, step in self.taken.items():
                self.sent[key] = int(max(self.sent.get(key, -1), min(step, whole)))

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
        """Close the sinks; of a complete run they get its figures and a table of layers first."""
        if self._run is None:
            return
        self.send()
        if status == "complete" and self._working:
            pictures, rows = list(_pictures(self._run)), list(layer_rows(self._run))
            for one in self._working:
                self._try(one, lambda one=one: _show(one.sink, pictures, rows))
        for one in self._working:
            self._try(one, lambda one=one: one.sink.finish(status))
        self._note()
        self._run = None

    @property
    def _working(self) -> list[_Fed]:
        return [one for one in self._fed if not one.failure]

    def _try(self, one: _Fed, action: Callable[[], Any]) -> None:
        if reason := attempt(one.label, action):
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
