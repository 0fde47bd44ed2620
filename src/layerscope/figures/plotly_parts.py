"""Pieces of a plotly.js figure: layout, small multiples, colour scales, reference lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from layerscope.figures import palette
from layerscope.figures.figure import Reference
from layerscope.figures.reduce import significant

FONT = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"
INK, FAINT = "#5b6069", "rgba(128,134,145,0.22)"
PANEL_COLUMNS = 3
BELOW, LETTER, NARROW = 44, 6.4, 420
"""Pixels below the plot, of a letter, and of the narrowest figure on a wide screen."""
ROW_AXIS: dict[str, Any] = {
    "type": "category",
    "autorange": "reversed",
    "showgrid": False,
    "ticks": "",
    "automargin": True,
    "dtick": 1,
}


def axis(name: str, panel: int) -> str:
    """The layout key of a panel's axis: ``xaxis``, ``xaxis2``, ..."""
    return name if panel == 0 else f"{name}{panel + 1}"


def on_panel(panel: int) -> dict[str, str]:
    """The trace entries that put it on a panel's axes."""
    return {"xaxis": axis("x", panel), "yaxis": axis("y", panel)}


def meta(role: str, panel: int, layer: str | None, group: str) -> dict[str, Any]:
    """What the page needs to know of a trace."""
    return {"role": role, "panel": panel, "layer": layer, "group": group}


MOST_NAMES = 16  # on an axis, before some are left out


def positions(x: np.ndarray) -> list[Any]:
    """Coordinates for JSON: numbers to 7 significant digits, names escaped."""
    return [escape(v) for v in x] if x.dtype == object else significant(x, 7)


def name_axis(x: np.ndarray) -> dict[str, Any]:
    """Names stand at equal distances in their own order, also where they look like numbers."""
    if x.dtype != object:
        return {}
    return {"type": "category", "nticks": 0, **({"dtick": 1} if len(x) <= MOST_NAMES else {})}


def room_below(x: np.ndarray) -> int:
    """Pixels below an axis of names: where they have to stand upright, the longest one's length."""
    if x.dtype != object:
        return BELOW
    longest = max(len(str(name)) for name in x)
    upright = len(x) * longest * LETTER > NARROW
    return BELOW + round(longest * LETTER) if upright else BELOW


def log_axis(values: Iterable[np.ndarray]) -> dict[str, Any]:
    """A logarithmic axis: 1, 2, 5, 10 over few decades, else the decades.

    Powers of ten stand where numbers would be too long: below 0.001 and from 100,000 on.
    """
    joined = np.concatenate(list(values))
    joined = joined[np.isfinite(joined) & (joined > 0)]
    decades = float(np.log10(joined.max() / joined.min())) if joined.size else 1.0
    tick = "D2" if decades <= 2.5 else int(np.ceil(decades / 6))
    long = joined.size and (joined.min() < 1e-3 or joined.max() >= 1e5)
    if long and tick != "D2":
        font = {"size": 10}  # which plotly enlarges for powers
        return {"type": "log", "exponentformat": "power", "tickfont": font, "dtick": tick}
    return {"type": "log", "tickformat": ".0e" if long else "~g", "dtick": tick}


def translucent(colour: str, alpha: float) -> str:
    """``#rrggbb`` as ``rgba(...)``."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def layout(kind: str, x: str, panels: Sequence[str], note: str) -> dict[str, Any]:
    """A quiet layout with the axes of ``panels`` placed on a grid of up to three columns."""
    made: dict[str, Any] = {
        "font": {"family": FONT, "size": 12, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 46, "r": 14, "t": 30, "b": BELOW},
        "hovermode": "closest",
        "dragmode": "zoom",
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "meta": {"kind": kind, "x": x, "panels": [escape(p) for p in panels], "note": note},
        "annotations": [],
        "shapes": [],
    }
    columns = min(len(panels), PANEL_COLUMNS)
    rows = -(-len(panels) // columns)
    for i in range(len(panels)):
        row, column = divmod(i, columns)
        made[axis("xaxis", i)] = _axis(column, columns, axis("y", i), "x" if i else None)
        made[axis("yaxis", i)] = _axis(rows - 1 - row, rows, axis("x", i), "y" if i else None)
        if len(panels) > 1:
            made["annotations"].append(_panel_title(panels[i], i))
    return made


def _axis(cell: int, cells: int, anchor: str, matches: str | None) -> dict[str, Any]:
    gap = 0.24 / cells if cells > 1 else 0.0
    width = (1 - gap * (cells - 1)) / cells
    start = cell * (width + gap)
    return {
        "domain": [round(start, 4), round(min(start + width, 1.0), 4)],
        "anchor": anchor,
        "gridcolor": FAINT,
        "zeroline": False,
        "ticks": "outside",
        "ticklen": 3,
        "tickcolor": FAINT,
        "linecolor": FAINT,
        "nticks": 6,
        "title": {"font": {"size": 12}, "standoff": 8},
    } | ({"matches": matches} if matches else {})


def _panel_title(text: str, panel: int) -> dict[str, Any]:
    return {
        "text": f"<b>{escape(text)}</b>",
        "name": f"panel {panel}",
        "xref": f"{axis('x', panel)} domain",
        "yref": f"{axis('y', panel)} domain",
        "x": 0,
        "y": 1,
        "xanchor": "left",
        "yanchor": "bottom",
        "showarrow": False,
    }


def label_axes(made: dict[str, Any], panels: int, across: str, up: str) -> None:
    """Title the bottom axes; the vertical title stands upright at the top left."""
    columns = min(panels, PANEL_COLUMNS)
    for i in range(panels):
        made[axis("xaxis", i)]["title"]["text"] = escape(across) if i >= panels - columns else ""
    made["meta"]["across"] = escape(across)
    if up:
        made["annotations"].append(
            {
                "text": escape(up),
                "name": "up",
                "xref": "paper",
                "yref": "paper",
                "x": 0,
                "y": 1,
                "xshift": -made["margin"]["l"] - 1,
                "yshift": 20 if panels > 1 else 6,
                "xanchor": "left",
                "yanchor": "bottom",
                "showarrow": False,
                "font": {"size": 12},
            }
        )
    if panels > 1:
        made["margin"]["t"] = 48


def add_references(
    made: dict[str, Any],
    references: Sequence[Reference],
    panels: int,
    turned: Mapping[str, str] | None = None,
) -> None:
    """Thin dotted lines across every panel."""
    for reference in references:
        along = (turned or {}).get(reference.axis, reference.axis)
        for i in range(panels):
            ends = {"x0": 0, "x1": 1, "y0": reference.value, "y1": reference.value}
            if along == "x":
                ends = {"y0": 0, "y1": 1, "x0": reference.value, "x1": reference.value}
            domain = " domain"
            made["shapes"].append(
                ends
                | {
                    "type": "line",
                    "layer": "below",
                    "xref": axis("x", i) + (domain if along == "y" else ""),
                    "yref": axis("y", i) + (domain if along == "x" else ""),
                    "line": {"color": INK, "width": 1, "dash": "dot"},
                    "label": {
                        "text": escape(reference.label),
                        "textposition": "start" if along == "y" else "end",
                        "textangle": 0,
                        "xanchor": "left",
                        "yanchor": "top" if along == "x" and not turned else "bottom",
                        "font": {"size": 11, "color": INK},
                    },
                }
            )


def label_room(names: Sequence[str]) -> int:
    """Pixels to keep free on the right for labels at the ends of lines."""
    return min(14 + 7 * max(len(name) for name in names), 150)


def errors(margin: np.ndarray) -> dict[str, Any]:
    """Error bars, or none where no margin is finite."""
    return {
        "type": "data",
        "array": significant(margin),
        "visible": bool(np.isfinite(margin).any()),
        "color": INK,
        "thickness": 1.2,
        "width": 0,
    }


def colour_axis(
    low: float, high: float, centre: float | None, title: str, log: bool = False
) -> dict[str, Any]:
    """A colour scale from ``low`` to ``high``, diverging where there is a centre."""
    stops = palette.SEQUENTIAL if centre is None else palette.DIVERGING
    bar: dict[str, Any] = {
        "title": {"text": escape(title), "side": "right", "font": {"size": 11}},
        "thickness": 8,
        "outlinewidth": 0,
        "ticklen": 3,
        "tickfont": {"size": 11},
    }
    if log:
        ticks = np.linspace(low, high, 5)
        bar |= {"tickvals": significant(ticks), "ticktext": [f"{10**t:.2g}" for t in ticks]}
    return {
        "cmin": low,
        "cmax": high,
        "colorscale": [[i / (len(stops) - 1), colour] for i, colour in enumerate(stops)],
        "colorbar": bar,
    }
