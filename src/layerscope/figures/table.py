"""A table: one row for each layer (or any other thing), one column for each quantity."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from layerscope.display import html
from layerscope.errors import LayerscopeError, unknown
from layerscope.figures import axes
from layerscope.figures.shown import Shown
from layerscope.functional.estimates import mean_interval

NOTHING = "\N{EN DASH}"
RowData = Sequence[Mapping[str, object]]


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Args:
        name: Variable of the data set, or key of the rows.
        header: Heading; the variable's ``long_name`` if empty.
        unit: Unit; the variable's ``units`` if ``None``.
        format: Format specification of a number, e.g. ``".3f"`` or ``".1%"``; if empty, 3
            significant digits.
        bar: Draw a small bar behind the number where the renderer can.
        note: What the column means and how it was measured, for a tooltip.
    """

    name: str
    header: str = ""
    unit: str | None = None
    format: str = ""
    bar: bool = True
    note: str = ""


@dataclass(frozen=True)
class Cell:
    """What one cell says: its text, the raw value to sort by, and ``±`` the interval's half width.

    ``value`` is ``None`` and ``text`` a dash where there is nothing to show.
    """

    text: str
    value: float | str | None
    margin: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Table(Shown):
    """One row for each value of the dimension ``rows``.

    Args:
        data: A data set whose variables have dimension ``rows`` and, optionally, ``spread``; or a
            sequence of mappings, each with an entry named ``rows``.
        key: Short slug; names the file.
        title: Heading, a few words.
        caption: What is shown and how to read it.
        columns: The columns after the first, which names the row; every variable if empty.
        rows: Dimension, or key, that names the rows.
        spread: Dimension to average over where present; the interval becomes ``±``.
    """

    data: xr.Dataset | RowData
    key: str
    title: str
    caption: str = ""
    columns: tuple[Column, ...] = ()
    rows: str = "layer"
    spread: str | None = "seed"

    def __post_init__(self) -> None:
        if not self.row_names():
            raise LayerscopeError(
                f"Table {self.key!r} has no rows.",
                "Check that the measurement ran and that the selection matches something.",
            )
        known = self._variables()
        for column in self.columns:
            if column.name not in known:
                raise unknown(f"column of table {self.key!r}", column.name, known)

    def row_names(self) -> tuple[str, ...]:
        """The name of every row, in order."""
        if isinstance(self.data, xr.Dataset):
            if self.rows not in self.data.dims:
                present = ", ".join(repr(str(dim)) for dim in self.data.dims) or "none"
                raise LayerscopeError(
                    f"Table {self.key!r} needs dimension {self.rows!r}; its data has {present}.",
                    "Name the dimension with one row for each value: rows=.",
                )
            return tuple(axes.short(v) for v in np.asarray(self.data[self.rows].values))
        missing = [i for i, row in enumerate(self.data) if self.rows not in row]
        if missing:
            raise LayerscopeError(
                f"Table {self.key!r}: row {missing[0]} has no entry {self.rows!r}.",
                "Name the entry that names the row: rows=.",
            )
        return tuple(str(row[self.rows]) for row in self.data)

    def resolved(self) -> tuple[Column, ...]:
        """The columns with heading and unit filled in from the data."""
        named = (
            tuple(str(n) for n, v in self.data.data_vars.items() if self.rows in v.dims)
            if isinstance(self.data, xr.Dataset)
            else self._variables()
        )
        columns = self.columns or tuple(Column(name) for name in named)
        return tuple(self._resolve(column) for column in columns)

    def cells(self) -> tuple[tuple[Cell, ...], ...]:
        """One tuple of cells for each row, in the order of `resolved`, without the row's name."""
        columns = [self._column(column) for column in self.resolved()]
        return tuple(zip(*columns, strict=True)) if columns else ((),) * len(self.row_names())

    def _repr_html_(self) -> str:
        headers = [f"{c.header} ({c.unit})" if c.unit else c.header for c in self.resolved()]
        rows = [
            [name, *(f"{cell.text} {cell.margin}".strip() for cell in cells)]
            for name, cells in zip(self.row_names(), self.cells(), strict=True)
        ]
        shown = html.table([self.rows, *headers], rows)
        return html.block(html.heading(self.title), shown, html.paragraph(self.caption))

    def _variables(self) -> tuple[str, ...]:
        if isinstance(self.data, xr.Dataset):
            return tuple(
                str(n)
                for n, v in self.data.variables.items()
                if self.rows in v.dims and n != self.rows
            )
        return tuple(dict.fromkeys(k for row in self.data for k in row if k != self.rows))

    def _resolve(self, column: Column) -> Column:
        attrs = self.data[column.name].attrs if isinstance(self.data, xr.Dataset) else {}
        unit = attrs.get("units", "") if column.unit is None else column.unit
        return Column(
            name=column.name,
            header=column.header or str(attrs.get("long_name", column.name.replace("_", " "))),
            unit="" if unit == "1" else str(unit),
            format=column.format,
            bar=column.bar,
            note=column.note,
        )

    def _column(self, column: Column) -> list[Cell]:
        if not isinstance(self.data, xr.Dataset):
            return [_cell(row.get(column.name), math.nan, column.format) for row in self.data]
        variable = self.data[column.name]
        axes.check(f"Table {self.key!r}, column", column.name, variable, (self.rows,), self.spread)
        if variable.dtype.kind not in "iuf":
            return [_cell(value, math.nan, column.format) for value in variable.values]
        mean, _, high, _ = mean_interval(axes.arranged(variable, (self.rows, self.spread)), axis=1)
        return [_cell(m, h - m, column.format) for m, h in zip(mean, high, strict=True)]


def _cell(value: object, margin: float, spec: str) -> Cell:
    if isinstance(value, (bool, np.bool_)):
        return Cell("yes" if value else "no", str(bool(value)))
    if isinstance(value, (int, float, np.number)):
        number = float(value)
        if not math.isfinite(number):
            return Cell(NOTHING, None)
        text = _number(number, spec)
        return Cell(text, number, f"±{_like(text, margin, spec)}" if math.isfinite(margin) else "")
    return Cell(NOTHING, None) if value is None or value == "" else Cell(str(value), str(value))


def _number(value: float, spec: str) -> str:
    if not spec:
        spec = _significant(value)
    text = format(round(value) if spec.endswith("d") else value, spec)
    return text.replace("-", "\N{MINUS SIGN}") if text.startswith("-") else text


def _significant(value: float) -> str:
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        digits = 0 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
        return f",.{digits}f"
    return ".2e"


def _like(text: str, margin: float, spec: str) -> str:
    """The margin with as many decimals as the text beside it."""
    if spec or "e" in text:
        return _number(margin, spec or ".1e")
    return f"{margin:,.{len(text.partition('.')[2])}f}"
