"""What figures of recipes share: drawn from quantities, once a study has been measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from layerscope.figures.figure import Bars, Figure, Heatmap, Lines, Surface, Table
from layerscope.probes import Performance, Probe
from layerscope.studies.guards import guessing, scored
from layerscope.studies.plan import Runs, Variant
from layerscope.studies.quantity import Measurement, Quantity, dataset_of, probes_of, stacked

OVER_SEEDS = "mean and 95% interval over seeds."
CURVE = f"Distance to the final weights over the distance at initialisation; {OVER_SEEDS}"


@dataclass(frozen=True, eq=False)
class Plot:
    """Figures that can be drawn once the data are there.

    Attributes:
        draw: From a study's data to the figures.
        probes: The probes that measure what they show.
    """

    draw: Callable[[xr.DataTree], list[Figure]]
    probes: tuple[Measurement, ...] = ()


def lines(values: Quantity, key: str, title: str, caption: str, **settings: Any) -> Plot:
    """Lines of a quantity; see `_plot`."""
    return _plot(Lines, values, key, title, caption, **settings)


def bars(values: Quantity, key: str, title: str, caption: str, **settings: Any) -> Plot:
    """Bars of a quantity; see `_plot`."""
    return _plot(Bars, values, key, title, caption, **settings)


def heatmap(values: Quantity, key: str, title: str, caption: str, **settings: Any) -> Plot:
    """A heatmap of a quantity; see `_plot`."""
    return _plot(Heatmap, values, key, title, caption, **settings)


def surface(values: Quantity, key: str, title: str, caption: str, **settings: Any) -> Plot:
    """Surfaces of a quantity; see `_plot`."""
    return _plot(Surface, values, key, title, caption, **settings)


def _plot(
    kind: type[Lines | Bars | Heatmap | Surface],
    values: Quantity,
    key: str,
    title: str,
    caption: str,
    **settings: Any,
) -> Plot:
    """One figure of a quantity; none of a single variant that has no run to measure.

    Args:
        kind: The kind of figure.
        values: What it shows.
        key: Names the file.
        title: Heading.
        caption: What a reader has to know.
        settings: Other fields of the figure.
    """
    if settings.get("x") == "epoch":
        values = values.over_epochs()

    def draw(data: xr.DataTree) -> list[Figure]:
        if len(values.variants) == 1 and values.variants[0] not in data.children:
            return []
        return [kind(values.values(data), key=key, title=title, caption=caption, **settings)]

    return Plot(draw, values.probes)


def table(
    columns: Mapping[str, Quantity | xr.DataArray],
    key: str,
    title: str,
    caption: str,
    rows: str = "layer",
) -> Plot:
    """A table with a column for each quantity (or array), a row for each label of a dimension."""
    known = [column for column in columns.values() if isinstance(column, Quantity)]

    def draw(data: xr.DataTree) -> list[Figure]:
        arrays = {
            name: c.values(data) if isinstance(c, Quantity) else c for name, c in columns.items()
        }
        return [Table(xr.Dataset(arrays), key=key, title=title, caption=caption, rows=rows)]

    return Plot(draw, probes_of(known))


def of_probe(
    variant: Variant, probe: Probe, figures: Callable[[xr.Dataset], Sequence[Figure]]
) -> Plot:
    """Figures that are made of everything a probe measured on a variant."""

    def draw(data: xr.DataTree) -> list[Figure]:
        return list(figures(dataset_of(data, probe, variant.name)))

    return Plot(draw, (probe,))


def described(values: Quantity, long_name: str, units: str = "") -> Quantity:
    """A quantity under another name, as axes and headers of tables show it."""
    return values.map(lambda array: array.assign_attrs(long_name=long_name, units=units))


def reported(
    numbers: Iterable[float], long_name: str, units: str, rows: str = "layer"
) -> xr.DataArray:
    """Numbers of a paper as a column of a table, in the order of its rows."""
    attributes = {"long_name": long_name, "units": units}
    return xr.DataArray(np.array(list(numbers), float), dims=rows, attrs=attributes)


def beside_reported(
    measured: Mapping[str, Mapping[str, Quantity]],
    papers: Mapping[str, Mapping[str, float]],
    caption: str,
    *,
    units: str = "%",
) -> Plot:
    """A row for each network, and for each column the measured and the reported number.

    Networks of which every run diverged have no measured number; their rows stay.

    Args:
        measured: Quantities (seed) by column and row.
        papers: The paper's numbers by column and row, none for what it does not report.
        caption: Where the reported numbers come from.
        units: Unit of all of them.
    """
    columns: dict[str, Quantity | xr.DataArray] = {}
    for label, by_row in measured.items():
        name = label.replace(" ", "_")
        there = stacked("network", by_row, long_name=label, units=units)
        columns[name] = there.map(lambda a, rows=list(by_row): a.reindex(network=rows))
        numbers = [papers.get(label, {}).get(row, float("nan")) for row in by_row]
        columns[f"{name}_reported"] = reported(numbers, f"{label}, reported", units, "network")
    return table(columns, "table", "Reported and measured", caption, rows="network")


def test_errors(runs: Runs, probe: Performance) -> Plot:
    """How well the networks have learnt, and what guessing gives."""
    errors = {name: scored(probe, name) for name in runs}
    values = sorted({g for v in runs.values() if (g := guessing(v.data))}, key=lambda g: g.value)
    return bars(
        stacked("network", errors, long_name="test error", units="%"),
        "test-error",
        "How well the networks have learnt",
        f"Test error at the end of training; {OVER_SEEDS} Guessing gives "
        f"{', '.join(map(str, values))}; claims on networks near that are not decided.",
        x="network",
    )


def with_aside(plots: Sequence[Plot], aside: str) -> list[Plot]:
    """The same figures with one more sentence in their captions."""

    def longer(one: Plot) -> Callable[[xr.DataTree], list[Figure]]:
        return lambda data: [
            replace(figure, caption=f"{figure.caption} {aside}".strip())
            for figure in one.draw(data)
        ]

    return [Plot(longer(one), one.probes) for one in plots]
