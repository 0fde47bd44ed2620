"""How a figure reads a labelled array: which dimension is which, and what the axes are called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from layerscope.errors import LayerscopeError


def check(
    kind: str, key: str, data: xr.DataArray, needed: Sequence[str | None], spread: str | None
) -> None:
    """Raise unless the data has every needed dimension, no other one, and is not empty.

    Args:
        kind: Kind of figure, for the message.
        key: The figure's key, for the message.
        data: What the figure draws.
        needed: Dimensions the figure lays out; ``None`` entries are skipped.
        spread: Dimension averaged over where present, allowed but not needed.

    Raises:
        LayerscopeError: If a dimension is missing or left over, or a dimension has length 0.
    """
    present = tuple(str(dim) for dim in data.dims)
    wanted = [dim for dim in needed if dim is not None]
    where = f"{kind} {key!r}"
    missing = [dim for dim in wanted if dim not in present]
    if missing:
        raise LayerscopeError(
            f"{where} needs dimension {_names(missing)}, but its data has {_names(present)}.",
            "Name the dimensions to draw (x=, y=, hue=, panel=), or None for one you do not have.",
        )
    extra = [dim for dim in present if dim not in wanted and dim != spread]
    if extra:
        raise LayerscopeError(
            f"{where} does not say how to draw dimension {_names(extra)} of {_names(present)}.",
            "Select one value of it (.sel), reduce it (.mean), or lay it out as panel=.",
        )
    empty = [dim for dim in present if data.sizes[dim] == 0]
    if empty:
        raise LayerscopeError(
            f"{where} has no data: dimension {_names(empty)} of {_names(present)} is empty.",
            "Check that the measurement ran and that the selection matches something.",
        )


def _names(dims: Sequence[str]) -> str:
    return ", ".join(repr(dim) for dim in dims) or "none"


def coordinate(data: xr.DataArray, dim: str) -> np.ndarray:
    """Values along a dimension: floats where they are numbers, strings otherwise."""
    values = np.asarray(data[dim].values)
    if values.dtype.kind in "iufb":
        return values.astype(float)
    return np.array([str(value) for value in values], dtype=object)


def labels(data: xr.DataArray, dim: str | None) -> tuple[str, ...]:
    """One short text for each position along a dimension; one empty text for ``None``."""
    if dim is None:
        return ("",)
    return tuple(short(value) for value in coordinate(data, dim))


def panels(data: xr.DataArray, dim: str | None) -> tuple[str, ...]:
    """Labels for small multiples; numbers, which say little alone, follow the dimension's name."""
    named = labels(data, dim)
    if dim is None or coordinate(data, dim).dtype == object:
        return named
    return tuple(f"{dim} {value}" for value in named)


def short(value: Any) -> str:
    """A coordinate value as a label: 6 significant digits for numbers, text as it is."""
    return f"{value:.6g}" if isinstance(value, (int, float, np.number)) else str(value)


def groups(data: xr.DataArray, dim: str | None) -> tuple[str, ...]:
    """The ``group`` coordinate along a dimension, or empty texts where there is none."""
    if dim is not None and "group" in data.coords and data["group"].dims == (dim,):
        return tuple(str(value) for value in data["group"].values)
    return ("",) * (1 if dim is None else data.sizes[dim])


def title(variable: xr.DataArray, fallback: str = "") -> str:
    """Axis title from ``long_name`` and ``units``: ``"change (per epoch)"``, ``"epoch"``."""
    name = str(variable.attrs.get("long_name") or variable.name or fallback)
    units = str(variable.attrs.get("units", ""))
    return f"{name} ({units})" if units not in ("", "1", f"{name}s") else name


def like(key: str, data: xr.DataArray, dim: str, overlay: xr.DataArray) -> xr.DataArray:
    """What lies on a figure, with the rows of its data in their order; NaN for those it lacks.

    Args:
        key: The figure's key, for the message.
        data: What the figure draws.
        dim: Dimension of the rows.
        overlay: What lies on it; without coordinate ``dim`` it must have one value for each row.

    Raises:
        LayerscopeError: If the overlay has a row that the data has not, or no names for its rows
            and another number of them.
    """
    rows = data[dim].values.tolist()
    if dim not in overlay.coords:
        if overlay.sizes[dim] == len(rows):
            return overlay
        raise LayerscopeError(
            f"an overlay of {key!r} has {overlay.sizes[dim]} rows, the data {len(rows)}.",
            f"Give it the coordinate {dim!r}, so that rows can be found by name.",
        )
    extra = [row for row in overlay[dim].values.tolist() if row not in rows]
    if extra:
        raise LayerscopeError(
            f"an overlay of {key!r} has a row for {dim} {extra[0]!r}, the data has not.",
            f"Select rows of the data; it has {', '.join(map(str, rows))}.",
        )
    return overlay.reindex({dim: rows})


def cell_edges(values: np.ndarray) -> np.ndarray:
    """Borders of the cells around these coordinates, one more; names stand at 0, 1, 2, ..."""
    at = np.arange(len(values), dtype=float) if values.dtype == object else values
    if len(at) == 1:
        return at[0] + np.array([-0.5, 0.5])
    middle = (at[1:] + at[:-1]) / 2
    return np.concatenate([[2 * at[0] - middle[0]], middle, [2 * at[-1] - middle[-1]]])


def arranged(data: xr.DataArray, dims: Sequence[str | None]) -> np.ndarray:
    """The values as floats with these axes in this order; ``None`` or absent gives length 1.

    Infinite values become NaN: a figure shows them as a gap.
    """
    kept = [dim for dim in dims if dim is not None and dim in data.dims]
    values = np.asarray(data.transpose(*kept).values, dtype=float)
    shape = tuple(data.sizes[dim] if dim in kept else 1 for dim in dims)
    values = values.reshape(shape)
    return np.where(np.isfinite(values), values, np.nan)
