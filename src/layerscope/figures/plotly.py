"""Draw figures for the page: plain dictionaries in the format of plotly.js, nothing computed here.

Every trace carries ``meta`` with its ``role``, ``panel`` and, where it belongs to one, ``layer``;
traces with several layers in them carry ``meta.points`` or ``meta.rows``, the layer of each point
or row. The page uses these to show the chosen layers in every figure at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from layerscope.figures import axes, palette
from layerscope.figures import plotly_marks as marks
from layerscope.figures import plotly_parts as parts
from layerscope.figures.figure import LAYER, Bars, Heatmap, Lines, Series, Surface
from layerscope.figures.reduce import POINTS, apart, extremes, runs, significant

Drawable = Lines | Heatmap | Bars | Surface
DIRECT_LABELS = 8


def spec(figure: Drawable, colours: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The figure as ``{"data": [...], "layout": {...}}``, ready for ``json.dumps``.

    Numbers are rounded to 5 significant digits. Of lines with more than 2,000 points the page gets
    the extremes of equal stretches, and ``layout.meta.note`` says so.

    Args:
        figure: Any figure but a table.
        colours: Colour of each layer, where one page shows figures with different layers.

    Returns:
        Data and layout. ``layout.meta`` holds ``kind``, ``x`` (the dimension), ``panels``,
        ``note`` and, for heatmaps, ``rows``.
    """
    match figure:
        case Lines():
            return _lines(figure, colours)
        case Heatmap():
            return _heatmap(figure)
        case Bars():
            return _bars(figure, colours)
        case Surface():
            return _surface(figure)


def _lines(figure: Lines, colours: Mapping[str, str] | None) -> dict[str, Any]:
    series = figure.series()
    panels = list(dict.fromkeys(s.panel for s in series))
    colour = figure.colours(colours)
    faint = 0.16 if len(colour) <= 12 or len(panels) > 1 else 0.05
    traces: list[dict[str, Any]] = []
    for s in series:
        panel = panels.index(s.panel)
        traces += _band(s, panel, parts.translucent(colour[s.label or s.panel], faint))
        traces.append(_line(figure, s, panel, colour[s.label or s.panel]))
    direct = figure.hue == LAYER and len(panels) == 1 and len(series) <= DIRECT_LABELS
    if direct:
        traces += _end_labels(figure, series, colour)
    reduced = max(len(s.x) for s in series)
    note = f"Drawn from the extremes of {reduced:,} points." if reduced > POINTS else ""
    layout = parts.layout("lines", figure.x, panels, note)
    layout["margin"]["b"] = parts.room_below(series[0].x)
    parts.label_axes(layout, len(panels), _x_title(figure), axes.title(figure.data))
    for i in range(len(panels)):
        layout[parts.axis("xaxis", i)] |= {"showgrid": False, **parts.name_axis(series[0].x)}
        if figure.log_x:
            layout[parts.axis("xaxis", i)] |= parts.log_axis(s.x for s in series)
        if figure.log_y:
            shown = [v for s in series for v in (s.y, s.low, s.high) if v is not None]
            layout[parts.axis("yaxis", i)] |= parts.log_axis(shown)
    parts.add_references(layout, figure.references, len(panels))
    layout["showlegend"] = figure.hue not in (None, LAYER)
    if direct:
        layout["margin"]["r"] = parts.label_room([s.label for s in series])
    return {"data": traces, "layout": layout}


def _line(figure: Lines, s: Series, panel: int, colour: str) -> dict[str, Any]:
    kept = extremes(s.y)
    name = escape(s.label or s.panel)
    unit = escape(axes.title(figure.data))
    x = escape(_x_title(figure))
    return {
        "type": "scatter",
        "mode": "lines+markers" if figure.markers or len(kept) == 1 else "lines",
        "name": name,
        "x": parts.positions(s.x[kept]),
        "y": significant(s.y[kept]),
        "line": {"color": colour, "width": 1.8},
        "marker": {"color": colour, "size": 5},
        "legendgroup": name,
        "showlegend": panel == 0,
        "hovertemplate": f"<b>{name}</b><br>{x} %{{x}}<br>{unit} %{{y:.4g}}<extra></extra>",
        "meta": parts.meta("line", panel, s.layer, s.group),
        **parts.on_panel(panel),
    }


def _band(s: Series, panel: int, fill: str) -> list[dict[str, Any]]:
    if s.low is None or s.high is None:
        return []
    kept = extremes(s.y)
    x, low, high = s.x[kept], s.low[kept], s.high[kept]
    across: list[Any] = []
    up: list[float | None] = []
    for run in runs(np.isfinite(low) & np.isfinite(high)):
        around = np.concatenate([run, run[::-1]])
        across += [*parts.positions(x[around]), None]
        up += [*significant(np.concatenate([high[run], low[run[::-1]]])), None]
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "x": across[:-1],
            "y": up[:-1],
            "fill": "toself",
            "fillcolor": fill,
            "line": {"width": 0},
            "hoverinfo": "skip",
            "showlegend": False,
            "legendgroup": escape(s.label or s.panel),
            "meta": parts.meta("band", panel, s.layer, s.group),
            **parts.on_panel(panel),
        }
    ]


def _end_labels(
    figure: Lines, series: tuple[Series, ...], colour: Mapping[str, str]
) -> list[dict[str, Any]]:
    ends = [(s, np.flatnonzero(np.isfinite(s.y))) for s in series]
    ends = [(s, at[-1]) for s, at in ends if at.size]
    if not ends or ends[0][0].x.dtype == object:
        return []
    heights = [a[np.isfinite(a)] for s in series for a in (s.y, s.low, s.high) if a is not None]
    scale = np.log10 if figure.log_y else np.asarray
    span = np.ptp(scale(np.concatenate(heights))) or 1.0
    placed = apart(np.array([float(scale(s.y[at])) for s, at in ends]), 0.062 * span)
    placed = 10**placed if figure.log_y else placed
    return [
        {
            "type": "scatter",
            "mode": "text",
            "x": parts.positions(s.x[[at]]),
            "y": significant(height),
            "text": ["\N{NO-BREAK SPACE}" + escape(s.label)],
            "textposition": "middle right",
            "textfont": {"color": colour[s.label], "size": 12},
            "cliponaxis": False,
            "hoverinfo": "skip",
            "showlegend": False,
            "legendgroup": escape(s.label),
            "meta": parts.meta("label", 0, s.layer, s.group),
            **parts.on_panel(0),
        }
        for (s, at), height in zip(ends, placed, strict=True)
    ]


def _heatmap(figure: Heatmap) -> dict[str, Any]:
    grids = figure.matrix()
    low, high = figure.limits()
    value, across = escape(axes.title(figure.data)), escape(_x_title(figure))
    layout = parts.layout("heatmap", figure.x, [g.panel for g in grids], "")
    below = parts.room_below(grids[0].x)
    layout["margin"] |= {"t": 14 if figure.y == LAYER else 30, "l": 8, "b": below}
    up = "" if figure.y == LAYER else axes.title(figure.data[figure.y])
    parts.label_axes(layout, len(grids), _x_title(figure), up)
    layout["coloraxis"] = parts.colour_axis(low, high, figure.centre, axes.title(figure.data))
    traces: list[dict[str, Any]] = []
    fronts: list[dict[str, Any]] = []
    over: list[dict[str, Any]] = []
    for i, grid in enumerate(grids):
        rows = [escape(axes.short(v)) for v in grid.y]
        layers = rows if figure.y == LAYER else None
        layout[parts.axis("xaxis", i)] |= {"showgrid": False, **parts.name_axis(grid.x)}
        layout[parts.axis("yaxis", i)] |= parts.ROW_AXIS
        layout[parts.axis("yaxis", i)] |= {"range": [len(rows) - 0.5, -0.5], "autorange": False}
        traces.append(
            {
                "type": "heatmap",
                "x": parts.positions(grid.x),
                "y": rows,
                "z": [significant(row) for row in grid.z],
                "coloraxis": "coloraxis",
                "xgap": 1 if len(grid.x) <= 40 else 0,
                "ygap": 1 if len(rows) <= 24 else 0,
                "texttemplate": "%{z:.2g}" if figure.annotate else "",
                "hoverongaps": False,
                "hovertemplate": f"<b>%{{y}}</b><br>{across} %{{x}}<br>"
                f"{value} %{{z:.4g}}<extra></extra>",
                "meta": parts.meta("rows", i, None, "")
                | {"layer": grid.panel if figure.panel == LAYER else None}
                | {"rows": list(map(axes.short, grid.y)) if layers else None}
                | {"columns": list(map(axes.short, grid.x)) if figure.x == LAYER else None},
                **parts.on_panel(i),
            }
        )
        over += marks.overlays(grid, i, bool(layers))
        if grid.front is not None:
            fronts += marks.through(grid, grid.front, i, bool(layers))
            layout[parts.axis("xaxis", i)] |= marks.within_cells(grid)
    marks.name_once(fronts)
    layout["meta"]["rows"] = len(grids[0].y)
    layout["showlegend"] = any(grid.marks or grid.front for grid in grids)
    return {"data": traces + fronts + over, "layout": layout}


def _bars(figure: Bars, colours: Mapping[str, str] | None) -> dict[str, Any]:
    bars = figure.bars()
    names = [b.hue if figure.hue else b.label for b in bars]
    colour = palette.hue_colours((figure.hue or figure.x) == LAYER, names, colours)
    value = escape(axes.title(figure.data))
    traces = []
    for hue in dict.fromkeys(b.hue for b in bars):
        of_hue = [b for b in bars if b.hue == hue]
        heading = f"<b>%{{y}}</b> {escape(hue)}".strip()
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": escape(hue),
                "x": significant(np.array([b.value for b in of_hue])),
                "y": [escape(b.label) for b in of_hue],
                "error_x": parts.errors(np.array([b.high - b.value for b in of_hue])),
                "marker": {"color": [colour[b.hue if figure.hue else b.label] for b in of_hue]},
                "hovertemplate": f"{heading}<br>{value} %{{x:.4g}}<extra></extra>",
                "meta": parts.meta("points", 0, hue if figure.hue == LAYER else None, "")
                | {"points": [b.label for b in of_hue] if figure.x == LAYER else None},
            }
        )
    layout = parts.layout("bars", figure.x, [""], "")
    parts.label_axes(layout, 1, axes.title(figure.data), "")
    layout["yaxis"] |= parts.ROW_AXIS
    layout["margin"] |= {"t": 14, "l": 8}
    layout["bargap"] = 0.35
    layout["meta"]["rows"] = len(bars)
    layout["showlegend"] = figure.hue not in (None, LAYER)
    layout["margin"]["t"] = 30 if figure.references else 14
    turned = {"x": "y", "y": "x"}
    parts.add_references(layout, figure.references, 1, turned)
    return {"data": traces, "layout": layout}


def _surface(figure: Surface) -> dict[str, Any]:
    grids = figure.grid()
    values = np.stack([np.log10(g.z) if figure.log else g.z for g in grids])
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    high = high if high > low else low + 1.0
    layout = parts.layout("surface", figure.x, [g.panel for g in grids], "")
    parts.label_axes(layout, len(grids), _x_title(figure), axes.title(figure.data[figure.y]))
    layout["coloraxis"] = parts.colour_axis(low, high, None, axes.title(figure.data), figure.log)
    x, y = escape(_x_title(figure)), escape(axes.title(figure.data[figure.y]))
    traces = [
        {
            "type": "contour",
            "x": parts.positions(grid.x),
            "y": parts.positions(grid.y),
            "z": [significant(row) for row in heights],
            "text": [[f"{v:.4g}" for v in row] for row in grid.z],
            "coloraxis": "coloraxis",
            "contours": {"start": low, "end": high, "size": (high - low) / 14},
            "line": {"width": 0.6, "color": "rgba(255,255,255,0.55)"},
            "hovertemplate": f"{x} %{{x}}<br>{y} %{{y}}<br>"
            f"{escape(axes.title(figure.data))} %{{text}}<extra></extra>",
            "meta": parts.meta("surface", i, grid.panel if figure.panel == LAYER else None, ""),
            **parts.on_panel(i),
        }
        for i, (grid, heights) in enumerate(zip(grids, values, strict=True))
    ]
    return {"data": traces, "layout": layout}


def _x_title(figure: Lines | Heatmap | Surface) -> str:
    """The title below; names of layers need none."""
    return "" if figure.x == LAYER else axes.title(figure.data[figure.x])
