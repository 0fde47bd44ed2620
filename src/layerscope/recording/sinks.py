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
from typing import Any, Protocol, runtime_checkable

import xarray as xr

from layerscope.errors import LayerscopeError
from layerscope.runs.manifest import Status

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
        """Write what is left and close what `start` opened, and nothing of the user's own.

        It is called where another method has failed before, too.
        """
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
    given: list[Any] = [sinks] if alone or isinstance(sinks, str) else list(sinks)
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
