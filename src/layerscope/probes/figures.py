"""The figures of what was measured, drawn by the probe that measured it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import xarray as xr

from layerscope import catalogue
from layerscope.errors import LayerscopeError
from layerscope.figures.figure import Figure, Lines
from layerscope.figures.shown import Drawn
from layerscope.probes.base import Probe, over_time
from layerscope.runs.store import Run


def figures(run: Run, key: str) -> list[Figure]:
    """The figures of one measurement of a run.

    Args:
        run: The run.
        key: A key of its results, or how one, and only one, of them begins.

    Raises:
        LayerscopeError: There is none, or several begin so; or a file is damaged.
    """
    found = result_key(run, key)
    dataset = run.results(found)
    return drawn(dataset) or numbers_over_time(found, dataset)


def plot(run: Run, key: str) -> Drawn:
    """The figures of one measurement, drawn by matplotlib; a notebook shows them.

    Args:
        run: The run.
        key: As for `figures`.

    Raises:
        LayerscopeError: As for `figures`.
    """
    return Drawn.of(figures(run, key))


def result_key(run: Run, beginning: str) -> str:
    """The key of a run's results that is, or that alone begins with, a text.

    Raises:
        LayerscopeError: There is none, or there are several.
    """
    keys = run.result_keys
    if beginning in keys:
        return beginning
    matching = [key for key in keys if key.startswith(beginning)]
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise LayerscopeError(
            f"several results of {run.path} begin with {beginning!r}.",
            f"Name one of them: {', '.join(matching)}.",
        )
    raise LayerscopeError(
        f"{run.path} has no results of {beginning!r}.",
        f"It has {', '.join(keys) or 'none'}; measure it first.",
    )


def drawn(dataset: xr.Dataset) -> list[Figure]:
    """What a probe draws of its own measurement; nothing for numbers of no probe.

    Args:
        dataset: The measurement, which says by which probe and settings it was made.
    """
    probe = made_by(dataset)
    return [] if probe is None else probe.figures(dataset)


def made_by(dataset: xr.Dataset) -> Probe | None:
    """The probe, with its settings, that made a measurement; None for numbers of no probe."""
    name = dataset.attrs.get("probe")
    if name is None:
        return None
    settings = json.loads(dataset.attrs.get("settings", "{}"))
    kind = catalogue.probes()[catalogue.snake(name)].load()
    return kind(**_tuples(settings))


def numbers_over_time(key: str, dataset: xr.Dataset) -> list[Figure]:
    """A line over time for every number of the whole model: its loss, and what the user logged."""
    made: list[Figure] = []
    for name, values in dataset.data_vars.items():
        title = str(name).replace("_", " ").capitalize()
        made.append(whole_model(values, f"{key}-{name}", title, f"{title} of the whole model."))
    return made


def whole_model(values: xr.DataArray, key: str, title: str, caption: str) -> Lines:
    """One line over epochs, or over steps where an epoch's length is not known.

    Args:
        values: Dimension ``step`` and, optionally, ``seed``.
        key: As for `Lines`, as is all that follows.
        title: Heading.
        caption: What is shown.
    """
    values, x = over_time(values)
    name = key.replace("_", "-")
    return Lines(values, key=name, title=title, caption=caption, x=x, hue=None)


def _tuples(settings: Mapping[str, Any]) -> dict[str, Any]:
    def made(value: Any) -> Any:
        return tuple(made(v) for v in value) if isinstance(value, list) else value

    return {name: made(value) for name, value in settings.items()}
