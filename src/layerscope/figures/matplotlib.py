"""Draw figures for papers: PDF and PNG at column width, nothing computed here.

No state outside the figure is touched: the object-oriented API is used and style settings hold only
while drawing. Fonts are embedded as TrueType, so text in the PDF stays text.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.figure import SubFigure

from layerscope.errors import LayerscopeError
from layerscope.figures import axes as naming
from layerscope.figures import matplotlib_keys as keys
from layerscope.figures import palette
from layerscope.figures.figure import LAYER, Bars, Figure, Heatmap, Lines, Surface, Table
from layerscope.figures.matplotlib_fields import draw_heatmap, draw_surface
from layerscope.figures.matplotlib_table import draw_table
from layerscope.runs.files import replacing

COLUMN, PAGE = 3.3, 6.9  # inches: one column and the full width of a two-column paper
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "font.family": "sans-serif",
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "axes.linewidth": 0.5,
    "axes.edgecolor": "#6b7785",
    "axes.labelcolor": "#33383f",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.color": "#6b7785",
    "ytick.color": "#6b7785",
    "xtick.labelcolor": "#33383f",
    "ytick.labelcolor": "#33383f",
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "xtick.minor.width": 0.35,
    "ytick.minor.width": 0.35,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5,
    "lines.linewidth": 1.1,
    "lines.markersize": 2.5,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
}


def draw(
    figure: Figure, ax: Axes | None = None, colours: Mapping[str, str] | None = None
) -> Canvas | SubFigure:
    """Draw a figure, on axes of one's own if given.

    Args:
        figure: What to draw.
        ax: Axes to draw on, in their own style; for figures with a single panel.
        colours: Colour of each layer, where several figures with different layers go together.

    Returns:
        The matplotlib figure drawn on.

    Raises:
        LayerscopeError: If ``ax`` is given and the figure has several panels.
    """
    panels = _panels(figure)
    if ax is not None:
        if panels > 1:
            raise LayerscopeError(
                f"figure {figure.key!r} has {panels} panels and cannot be drawn on one ax.",
                "Leave out ax=, or select one panel of the data.",
            )
        _fill(figure, [ax], colours)
        return ax.figure
    with matplotlib.rc_context(STYLE):
        canvas = Canvas(figsize=_size(figure, panels), layout="constrained")
        FigureCanvasAgg(canvas)
        _fill(figure, _grid(canvas, panels), colours)
    return canvas


def save(figure: Figure, folder: str | Path) -> list[Path]:
    """Write ``<key>.png`` (200 dpi) and ``<key>.pdf``; a reader never sees half a file.

    Args:
        figure: What to draw.
        folder: Where to; made if missing.

    Returns:
        The two paths.
    """
    folder = Path(folder)
    canvas = draw(figure)
    assert isinstance(canvas, Canvas)
    paths = []
    for suffix in ("png", "pdf"):
        path = folder / f"{figure.key}.{suffix}"
        with replacing(path) as temporary, matplotlib.rc_context(STYLE):
            canvas.savefig(temporary, format=suffix, dpi=200)
        canvas.set_layout_engine("none")  # both have the places that were found for the first
        paths.append(path)
    return paths


def png(figure: Figure, dpi: int = 150) -> bytes:
    """A picture of a figure, as a PNG file has it.

    Args:
        figure: What to draw.
        dpi: Pixels per inch; a figure is 3.3 or 6.9 inches wide.
    """
    canvas = draw(figure)
    assert isinstance(canvas, Canvas)
    return encoded(canvas, dpi)


def encoded(canvas: Canvas, dpi: int = 150) -> bytes:
    """A drawn figure as PNG."""
    content = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        canvas.savefig(content, format="png", dpi=dpi)
    return content.getvalue()


def _panels(figure: Figure) -> int:
    panel = None if isinstance(figure, Bars | Table) else figure.panel
    return 1 if panel is None else int(figure.data.sizes[panel])  # pyright: ignore[reportAttributeAccessIssue]


def _size(figure: Figure, panels: int) -> tuple[float, float]:
    if isinstance(figure, Table):
        return (PAGE, 0.5 + 0.17 * len(figure.row_names()))
    columns, rows = _layout(panels)
    width = COLUMN if panels == 1 else PAGE
    height = 2.3 if panels == 1 else 1.55 * rows + 0.35
    if isinstance(figure, Heatmap):
        height = rows * max(1.7, min(0.6 + 0.15 * figure.data.sizes[figure.y], 5.5))
    if isinstance(figure, Bars):
        lines = keys.wrapped(figure.title, _longest(figure)) + keys.wrapped(
            naming.title(figure.data)
        )
        height = max(1.2, min(0.55 + 0.15 * len(figure.bars()), 7.5)) + 0.13 * lines.count("\n")
    if isinstance(figure, Lines):
        height += keys.legend_height(list(figure.colours()), width)
    if isinstance(figure, Surface):
        height = 0.84 * width / columns * rows
    return (width, height)


def _longest(figure: Bars) -> int:
    """Characters of the longest name beside the bars."""
    return max(len(bar.label) for bar in figure.bars())


def _layout(panels: int) -> tuple[int, int]:
    columns = panels if panels <= 4 else 3 if panels <= 9 else 5
    return columns, -(-panels // columns)


def _grid(canvas: Canvas, panels: int) -> list[Axes]:
    columns, rows = _layout(panels)
    made = canvas.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel().tolist()
    for spare in made[panels:]:
        spare.set_visible(False)
    for above in made[max(0, panels - columns) : panels]:
        above.tick_params(labelbottom=True)
    return made[:panels]


def _fill(figure: Figure, panels: list[Axes], colours: Mapping[str, str] | None) -> None:
    match figure:
        case Lines():
            _draw_lines(figure, panels, colours)
        case Heatmap():
            draw_heatmap(figure, panels)
        case Bars():
            _draw_bars(figure, panels[0], colours)
        case Surface():
            draw_surface(figure, panels)
        case Table():
            draw_table(figure, panels[0])
    for ax in panels[: -_layout(len(panels))[0]]:
        ax.set_xlabel("")


def _draw_lines(figure: Lines, panels: list[Axes], colours: Mapping[str, str] | None) -> None:
    series = figure.series()
    colour = figure.colours(colours)
    names = list(dict.fromkeys(s.panel for s in series))
    crowded = len(colour) > 12 and len(names) == 1
    width, alpha = (0.7, 0.05) if crowded else (1.1, 0.16)
    for s in series:
        ax = panels[names.index(s.panel)]
        at = np.arange(len(s.x)) if s.x.dtype == object else s.x
        marked = figure.markers or np.isfinite(s.y).sum() == 1
        ax.plot(
            at,
            s.y,
            "o-" if marked else "-",
            color=colour[s.label or s.panel],
            lw=width,
            label=s.label,
        )
        if s.low is not None and s.high is not None:
            ax.fill_between(at, s.low, s.high, color=colour[s.label or s.panel], alpha=alpha, lw=0)
        if s.x.dtype == object:
            keys.name_ticks(ax, list(s.x))
        elif not figure.log_x:
            keys.whole_ticks(ax, at)
    for ax, name in zip(panels, names, strict=True):
        ax.set_title(name)
        if figure.log_x:
            ax.set_xscale("log")
        if figure.log_y:
            keys.log_ticks(ax)
        keys.add_references(ax, figure.references)
        ax.margins(x=0.02)
    keys.label(panels, naming.title(figure.data[figure.x]), naming.title(figure.data), _layout)
    if figure.hue is not None and len(colour) > 1:
        keys.add_key(panels, series, colour)
    if len(panels) == 1:
        panels[0].set_title(keys.wrapped(figure.title), pad=8)


def _draw_bars(figure: Bars, ax: Axes, colours: Mapping[str, str] | None) -> None:
    bars = figure.bars()
    by_layer = (figure.hue or figure.x) == LAYER
    names = [b.hue if figure.hue else b.label for b in bars]
    colour = palette.hue_colours(by_layer, names, colours)
    labels = list(dict.fromkeys(b.label for b in bars))
    hues = list(dict.fromkeys(b.hue for b in bars))
    height = 0.72 / len(hues)
    for h, hue in enumerate(hues):
        of_hue = [b for b in bars if b.hue == hue]
        at = np.arange(len(labels)) + (h - (len(hues) - 1) / 2) * height
        margin = np.array([b.high - b.value for b in of_hue])
        ax.barh(
            at,
            [b.value for b in of_hue],
            height * 0.9,
            color=[colour[b.hue if figure.hue else b.label] for b in of_hue],
            label=hue,
        )
        if np.isfinite(margin).any():
            ax.errorbar(
                [b.value for b in of_hue], at, xerr=margin, fmt="none", ecolor="#33383f", lw=0.7
            )
    keys.name_ticks(ax, labels, vertical=True)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.locator_params(axis="x", nbins=5)  # numbers with signs and decimals are wide
    ax.set_xlabel(keys.wrapped(naming.title(figure.data)))
    ax.set_title(keys.wrapped(figure.title, _longest(figure)), pad=13 if figure.references else 8)
    keys.add_references(ax, figure.references, turned=True)
    if len(hues) > 1:
        keys.legend_below(ax, len(hues))
