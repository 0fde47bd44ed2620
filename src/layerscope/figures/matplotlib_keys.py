"""Names on a drawn figure: labels at the ends of lines, legends, depth keys, ticks, references."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from layerscope.figures.figure import Reference, Series
from layerscope.figures.reduce import apart

INK, QUIET = "#33383f", "#6b7785"
DIRECT, LEGEND, TICKS = 6, 12, 40  # at most so many end labels, legend entries, named ticks
GAP = 0.075  # between end labels, in heights of the axes

LABEL_WIDTH, LOW_WIDTH = 26, 19  # characters of a vertical axis title before it wraps; of a panel's
TITLE_WIDTH = 42  # of a title, or of a horizontal axis title, of a column's width


def wrapped(text: str, beside: int = 12) -> str:
    """A title on as many lines as it needs in one column, beside names of so many characters."""
    return textwrap.fill(text, max(24, TITLE_WIDTH + 12 - beside))


def add_key(panels: Sequence[Axes], series: Sequence[Series], colour: Mapping[str, str]) -> None:
    """Say which line is which: at the line ends if there is room, else below, else a depth key."""
    if len(colour) > LEGEND:
        _depth_key(panels, colour)
    elif len(panels) > 1 or len(colour) > DIRECT or not _end_labels(panels[0], series, colour):
        legend_below(panels[0], len(colour))


def legend_below(ax: Axes, entries: int) -> None:
    """One legend for the whole figure under its panels."""
    figure = ax.figure
    handles, names = ax.get_legend_handles_labels()
    room = legend_columns(names, figure.bbox.width / figure.dpi)
    figure.legend(
        handles,
        names,
        loc="outside lower center",
        ncols=min(entries, room),
        handlelength=1.2,
        columnspacing=1.2,
    )


def legend_columns(names: Sequence[str], width: float) -> int:
    """How many names fit beside each other below a figure that is so many inches wide."""
    longest = max(len(name) for name in names)
    return max(1, int(width * 72 / (3.9 * longest + 24)))


def legend_height(names: Sequence[str], width: float) -> float:
    """Inches that a legend below (see `add_key`) takes beyond its first two lines."""
    if not DIRECT < len(names) <= LEGEND:
        return 0.0
    return 0.145 * max(0, -(-len(names) // legend_columns(names, width)) - 2)


def _end_labels(ax: Axes, series: Sequence[Series], colour: Mapping[str, str]) -> bool:
    ends = [(s, np.flatnonzero(np.isfinite(s.y))) for s in series]
    ends = [(s, at[-1]) for s, at in ends if at.size]
    if not ends:
        return True
    numeric = [i if s.x.dtype == object else s.x[i] for s, i in ends]
    ax.autoscale_view()  # limits are worked out late, and the transform does not ask for them
    to_axes = ax.transData + ax.transAxes.inverted()
    points = [(x, s.y[i]) for x, (s, i) in zip(numeric, ends, strict=True)]
    wanted = to_axes.transform(points)[:, 1]
    placed = apart(wanted, GAP)
    placed += max(0.0, GAP / 2 - placed.min()) - max(0.0, placed.max() - 1 + GAP / 2)
    if np.abs(placed - wanted).max() > 0.35:
        return False
    for (s, _), height in zip(ends, placed, strict=True):
        ax.annotate(
            s.label,
            (1.0, height),
            xycoords="axes fraction",
            xytext=(2, 0),
            textcoords="offset points",
            color=colour[s.label],
            fontsize=7,
            va="center",
            annotation_clip=False,
        )
    return True


def _depth_key(panels: Sequence[Axes], colour: Mapping[str, str]) -> None:
    names = list(colour)
    norm = BoundaryNorm(np.arange(len(names) + 1) - 0.5, len(names))
    shown = sorted({0, len(names) // 2, len(names) - 1})
    bar = panels[0].figure.colorbar(
        ScalarMappable(norm, ListedColormap(list(colour.values()))),
        ax=list(panels),
        ticks=shown,
        aspect=40,
        pad=0.02,
    )
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    bar.ax.minorticks_off()
    bar.ax.tick_params(length=0)
    bar.ax.set_yticklabels([names[i] for i in shown], fontsize=6.5)
    bar.ax.invert_yaxis()


def name_ticks(ax: Axes, names: Sequence[str], vertical: bool = False) -> None:
    """Names along an axis; every second, third, ... where they would be too many."""
    stride = -(-len(names) // (TICKS if vertical else 12))
    at = list(range(0, len(names), stride))
    if vertical:
        ax.set_yticks(at, [names[i] for i in at])
        if len(names) > 24:
            ax.tick_params(axis="y", labelsize=5.5)
        return
    long = sum(len(names[i]) for i in at) > 34
    turn = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if long else {}
    ax.set_xticks(at, [names[i] for i in at], **turn)


def add_references(ax: Axes, references: Sequence[Reference], turned: bool = False) -> None:
    """Thin dotted lines with their names; ``turned`` for horizontal bars."""
    for reference in references:
        upright = (reference.axis == "x") != turned
        line = ax.axvline if upright else ax.axhline
        line(reference.value, color=QUIET, lw=0.7, ls=":", zorder=1)
        at = (reference.value, 1.0) if upright else (1.0, reference.value)
        ax.annotate(
            reference.label,
            at,
            xycoords=ax.get_xaxis_transform() if upright else ax.get_yaxis_transform(),
            xytext=(0, 2) if turned else (2, -2) if upright else (-1, 1.5),
            textcoords="offset points",
            ha="center" if turned else "left" if upright else "right",
            va="top" if upright and not turned else "bottom",
            fontsize=6.5,
            color=QUIET,
            bbox={"fc": "w", "ec": "none", "alpha": 0.75, "pad": 0.3},
        )


def whole_ticks(ax: Axes, at: np.ndarray) -> None:
    """No ticks between the epochs or steps where all positions are whole numbers."""
    if len(at) and np.all(np.mod(at, 1) == 0):
        ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))


def log_ticks(ax: Axes) -> None:
    """A logarithmic vertical axis with plain numbers, labelled between decades if it is short."""
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    decades = np.log10(high / low)
    between = [] if decades > 2.5 else [2, 5] if decades > 0.7 else [1.5, 2, 3, 4, 5, 7]
    ax.yaxis.set_minor_locator(LogLocator(subs=list(range(2, 10))))
    ax.yaxis.set_minor_formatter(FuncFormatter(lambda v, _: _plain(v, between)))
    if decades < 6:
        ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: _plain(v, [1])))


def _plain(value: float, leading: Sequence[float]) -> str:
    exponent = np.floor(np.log10(value) + 1e-9)
    first = value / 10**exponent
    if not any(abs(first - wanted) < 1e-6 for wanted in leading):
        return ""
    return f"{value:g}" if -4 <= exponent <= 4 else f"{first:g}e{exponent:.0f}"


def label(
    panels: Sequence[Axes], across: str, up: str, layout: Callable[[int], tuple[int, int]]
) -> None:
    """Axis titles on the outer panels only."""
    columns, _ = layout(len(panels))
    for i, ax in enumerate(panels):
        if i >= len(panels) - columns:
            ax.set_xlabel(wrapped(across) if len(panels) == 1 else across)
        if i % columns == 0 and len(panels) <= columns:
            ax.set_ylabel(textwrap.fill(up, LABEL_WIDTH if len(panels) == 1 else LOW_WIDTH))
    if len(panels) > columns:
        panels[0].figure.supylabel(up, fontsize=8, color=INK)
