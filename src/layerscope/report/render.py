"""Fill the template: what the page says, the figures as JSON, the drawing library, compressed.

The file holds everything it needs and opens offline from disk.
"""

from __future__ import annotations

import gzip
import json
import math
from base64 import b64encode
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from layerscope.figures import palette, plotly
from layerscope.figures.figure import Figure, Heatmap, Table
from layerscope.report.page import Page
from layerscope.runs.files import replacing
from layerscope.studies.claims import Verdict

WHISKER_WIDTH, WHISKER_MARGIN = 132, 6
TABLE_COLUMNS, ROW_NAME, HEATMAP_COLUMNS = 4, 32, 12
"""Most columns that fit half of the page (of a table, one with an interval counts for 1.5), and the
longest name of a row."""


def write(page: Page, path: str | Path) -> Path:
    """Write the page as one self-contained HTML file; a reader never sees half a file.

    Args:
        page: What it says.
        path: Where to; its folder is made if missing.

    Returns:
        The path written.
    """
    path = Path(path)
    text = html(page)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def html(page: Page) -> str:
    """The whole file as text."""
    colours = palette.layer_colours(page.layers())
    numbered = {id(figure): i for i, figure in enumerate(page.figures())}
    specs = [
        None if isinstance(figure, Table) else plotly.spec(figure, colours)
        for figure in page.figures()
    ]
    environment = Environment(
        loader=PackageLoader("layerscope.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "table_view": table_view,
        "whisker": whisker,
        "measured": measured,
        "kind": _kind,
        "wide": _wide,
    }
    environment.filters["number"] = lambda value: _minus(f"{value:.3g}")
    return environment.get_template("template.html.jinja").render(
        page=page,
        layers=colours,
        number_of=lambda figure: numbered[id(figure)],
        specs=[script_json(spec) for spec in specs],
        colours=script_json(colours),
        css=_asset("page.css"),
        js=_asset("page.js"),
        library=_library(),
        outcomes={
            name: sum(verdict.outcome == name for _, verdict in page.verdicts)
            for name in ("holds", "fails", "inconclusive")
        },
    )


def script_json(value: Any) -> Markup:
    """JSON that is safe inside a script element, whatever its texts contain."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def table_view(table: Table) -> dict[str, Any]:
    """Headers and rows of a table; each number with the width of its bar in percent."""
    columns, cells = table.resolved(), table.cells()
    rows = []
    numeric = [any(isinstance(row[i].value, float) for row in cells) for i in range(len(columns))]
    longest = [max(_length(row[i].value) for row in cells) for i in range(len(columns))]
    margins = [max(len(row[i].margin) for row in cells) for i in range(len(columns))]
    for name, row in zip(table.row_names(), cells, strict=True):
        views = [
            {"cell": cell, "width": _width(cell.value, reach, column.bar), "margin": margin}
            | {"numeric": number}
            for cell, number, reach, margin, column in zip(
                row, numeric, longest, margins, columns, strict=True
            )
        ]
        rows.append({"name": name, "cells": views})
    return {"columns": list(zip(columns, numeric, strict=True)), "rows": rows}


def _length(value: object) -> float:
    return abs(value) if isinstance(value, float) else 0.0


def _width(value: object, reach: float, wanted: bool) -> float:
    return round(100 * _length(value) / reach, 1) if wanted and reach else 0.0


def whisker(verdict: Verdict) -> dict[str, float | None] | None:
    """Horizontal positions, in pixels, of value, interval and threshold; None without a value."""
    points = [verdict.value, verdict.threshold, *(verdict.interval or ())]
    if not all(map(math.isfinite, points)):
        return None
    low, high = min(points), max(points)
    span = (high - low) or 1.0
    room = WHISKER_WIDTH - 2 * WHISKER_MARGIN

    def at(value: float) -> float:
        return round(WHISKER_MARGIN + room * (value - low) / span, 1)

    start, end = verdict.interval or (None, None)
    return {
        "value": at(verdict.value),
        "threshold": at(verdict.threshold),
        "low": None if start is None else at(start),
        "high": None if end is None else at(end),
    }


def measured(verdict: Verdict) -> tuple[str, str]:
    """A verdict's value and interval as text, to two digits of half of the interval."""
    if not math.isfinite(verdict.value):
        return "no value", ""
    if verdict.interval is None or not all(map(math.isfinite, verdict.interval)):
        return _minus(f"{verdict.value:.3g}"), ""
    low, high = verdict.interval
    decimals = max(0, 1 - math.floor(math.log10((high - low) / 2))) if high > low else 3
    value, start, end = (_minus(f"{v:.{decimals}f}") for v in (verdict.value, low, high))
    return value, f"[{start}, {end}]"


def _minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")


def _wide(figure: Figure) -> bool:
    """Whether half of the page is too narrow for a figure."""
    if isinstance(figure, Table):
        columns = list(zip(*figure.cells(), strict=True))
        with_margin = sum(any(cell.margin for cell in column) for column in columns)
        long = any(len(name) > ROW_NAME for name in figure.row_names())
        return long or len(columns) + with_margin / 2 > TABLE_COLUMNS
    return isinstance(figure, Heatmap) and figure.data.sizes[figure.x] > HEATMAP_COLUMNS


def _kind(figure: Figure) -> str:
    panel = getattr(figure, "panel", None)
    return f"{type(figure).__name__.lower()}{' panels' if panel else ''}"


def _asset(name: str) -> Markup:
    return Markup(files("layerscope.report").joinpath(name).read_text(encoding="utf-8"))


@cache
def _library() -> str:
    return b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode()
