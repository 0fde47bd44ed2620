"""What lies on the matrix of a heatmap in plotly.js: marks in its rows, a front through them."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from layerscope.figures import axes, palette
from layerscope.figures import plotly_parts as parts
from layerscope.figures.figure import BEYOND, Front, Grid
from layerscope.figures.reduce import significant

DARK = "#16181c"


def overlays(grid: Grid, panel: int, layers: bool) -> list[dict[str, Any]]:
    """A diamond in every row that has a position, one trace for each overlay."""
    return [
        _points(grid, range(len(grid.y)), at, panel, layers)
        | {
            "name": escape(name),
            "marker": _symbol("diamond", 8, "#ffffff", DARK, 1.2),
            "showlegend": panel == 0,
            "hovertemplate": f"<b>%{{y}}</b><br>{escape(name)} %{{x:.4g}}<extra></extra>",
        }
        for name, at in grid.marks
    ]


def through(grid: Grid, front: Front, panel: int, layers: bool) -> list[dict[str, Any]]:
    """A white line with a dark rim, squares on it, and open squares where it does not arrive."""
    name, end = escape(front.name), float(axes.cell_edges(grid.x)[-1])
    across, rows = front.line(end)
    lines = [
        _points(grid, rows, across, panel, layers)
        | {
            "mode": "lines",
            "line": {"color": colour, "width": width},
            "hoverinfo": "skip",
            "meta": _meta("front", grid, rows, panel, layers),
        }
        for colour, width in ((DARK, 4.5), ("#ffffff", 2.2))
    ]
    reached, never = front.reached(), front.never()
    squares = _points(grid, reached, front.at[reached], panel, layers) | {
        "name": name,
        "marker": _symbol("square", 9, palette.FRONT, DARK, 1.2),
        "hovertemplate": f"<b>%{{y}}</b><br>{name} %{{x:.4g}}<extra></extra>",
    }
    if not never.size:
        return [*lines, squares]
    at_end = _points(grid, never, np.full(len(never), end), panel, layers) | {"cliponaxis": False}
    rim = at_end | {
        "marker": _symbol("square", 13, DARK, DARK, 0),
        "hoverinfo": "skip",
        "meta": _meta("front", grid, never, panel, layers),
    }
    beyond = at_end | {
        "name": BEYOND,
        "marker": _symbol("square", 8, "#ffffff", palette.FRONT, 2.4),
        "hovertemplate": f"<b>%{{y}}</b><br>{name} {BEYOND}<extra></extra>",
    }
    return [*lines, squares, rim, beyond]


def name_once(traces: list[dict[str, Any]]) -> None:
    """Keep one entry in the legend for each name: that of the first panel with points for it."""
    named = {""}
    for trace in traces:
        name = trace.get("name", "") if trace["x"] else ""
        trace["showlegend"] = name not in named
        named.add(name)


def within_cells(grid: Grid) -> dict[str, Any]:
    """An axis that ends with the cells, also where marks stand at its ends."""
    low, high = significant(axes.cell_edges(grid.x)[[0, -1]], 7)
    return {"autorangeoptions": {"minallowed": low, "maxallowed": high}}


def _points(
    grid: Grid, rows: Sequence[int] | np.ndarray, at: np.ndarray, panel: int, layers: bool
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": significant(at, 6),
        "y": [escape(axes.short(grid.y[row])) for row in rows],
        "meta": _meta("points", grid, rows, panel, layers),
        **parts.on_panel(panel),
    }


def _meta(
    role: str, grid: Grid, rows: Sequence[int] | np.ndarray, panel: int, layers: bool
) -> dict[str, Any]:
    names = [axes.short(grid.y[row]) for row in rows]
    return parts.meta(role, panel, None, "") | {"points": names if layers else None}


def _symbol(symbol: str, size: int, fill: str, rim: str, width: float) -> dict[str, Any]:
    return {"symbol": symbol, "size": size, "color": fill, "line": {"color": rim, "width": width}}
