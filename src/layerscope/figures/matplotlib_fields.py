"""Heatmaps and surfaces, drawn for papers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize
from matplotlib.patheffects import withStroke

from layerscope.figures import axes as naming
from layerscope.figures import palette
from layerscope.figures.figure import BEYOND, LAYER, Front, Grid, Heatmap, Surface
from layerscope.figures.matplotlib_keys import legend_below, name_ticks, wrapped

ISOLINES = 14
DARK = "#16181c"


def draw_heatmap(figure: Heatmap, panels: Sequence[Axes]) -> None:
    """Colour one matrix on each panel, with one colour scale for all."""
    low, high = figure.limits()
    norm = Normalize(low, high)
    colours = _scale(figure.centre is not None)
    grids = figure.matrix()
    fronts = [grid.front for grid in grids if grid.front is not None]
    censored = any(front.never().size for front in fronts)
    for ax, grid in zip(panels, grids, strict=True):
        across = _positions(grid.x)
        edges = naming.cell_edges(grid.x)
        mesh = ax.pcolormesh(
            edges, np.arange(len(grid.y) + 1) - 0.5, grid.z, norm=norm, cmap=colours
        )
        mesh.set_rasterized(grid.z.size > 10_000)
        ax.set_facecolor("#e9ebee")
        ax.set_ylim(len(grid.y) - 0.5, -0.5)
        _name(ax, grid)
        if figure.annotate:
            _annotate(ax, grid, across, norm, colours)
        if grid.front is not None:
            _draw_front(ax, grid.front, edges[-1], censored)
        for name, at in grid.marks:
            ax.plot(at, np.arange(len(at)), "D", mfc="w", mec=DARK, mew=0.6, ms=3, label=name)
        longest = max((len(naming.short(name)) for name in grid.y), default=0)
        ax.set_title(grid.panel if figure.panel else wrapped(figure.title, max(12, longest)))
        ax.set_xlabel("" if figure.x == LAYER else naming.title(figure.data[figure.x]))
        if figure.y != LAYER and ax is panels[0]:
            ax.set_ylabel(naming.title(figure.data[figure.y]))
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
    _colour_bar(panels, ScalarMappable(norm, colours), naming.title(figure.data))
    if figure.overlays or fronts:
        legend_below(panels[0], len(figure.overlays) + bool(fronts) + censored)


def _draw_front(ax: Axes, front: Front, end: float, censored: bool) -> None:
    """A white line with squares on it; both have a dark rim, to be seen on any colour."""
    across, rows = front.line(end)
    rim = [withStroke(linewidth=2.5, foreground=DARK)]
    square = {"marker": "s", "ms": 4, "path_effects": rim}
    ax.plot(
        across,
        rows,
        color="w",
        lw=1.5,
        mfc=palette.FRONT,
        mec=palette.FRONT,
        mew=0.6,
        markevery=np.flatnonzero(across < end).tolist(),
        label=front.name,
        **square,
    )
    if not censored:
        return
    never = front.never()
    ax.plot(
        np.full(len(never), end),
        never,
        ls="none",
        mfc="w",
        mec=palette.FRONT,
        mew=1.0,
        clip_on=False,
        in_layout=False,
        label=BEYOND,
        **square,
    )


def draw_surface(figure: Surface, panels: Sequence[Axes]) -> None:
    """Filled contours with thin isolines; at equal ratios where the figure says ``log``."""
    grids = figure.grid()
    values = np.concatenate([g.z[np.isfinite(g.z)] for g in grids])
    low, high = (float(values.min()), float(values.max())) if values.size else (1.0, 2.0)
    high = high if high > low else low + abs(low) + 1.0
    norm = LogNorm(low, high) if figure.log else Normalize(low, high)
    spaced = np.geomspace if figure.log else np.linspace
    levels = spaced(low, high, ISOLINES)
    colours = _scale(False)
    for ax, grid in zip(panels, grids, strict=True):
        x, y, z = _positions(grid.x), _positions(grid.y), np.ma.masked_invalid(grid.z)
        if min(z.shape) > 1 and z.count():
            ax.contourf(x, y, z, levels=levels, norm=norm, cmap=colours, extend="neither")
            ax.contour(x, y, z, levels=levels, colors="w", linewidths=0.35, alpha=0.7)
        else:
            sides = naming.cell_edges(x), naming.cell_edges(y)
            ax.pcolormesh(*sides, z, norm=norm, cmap=colours)
        ax.set_title(grid.panel if figure.panel else wrapped(figure.title))
        ax.set_xlabel(naming.title(figure.data[figure.x]))
    panels[0].set_ylabel(naming.title(figure.data[figure.y]))
    _colour_bar(panels, ScalarMappable(norm, colours), naming.title(figure.data))


def _scale(diverging: bool) -> LinearSegmentedColormap:
    stops = palette.DIVERGING if diverging else palette.SEQUENTIAL
    return LinearSegmentedColormap.from_list("scale", list(stops))


def _positions(values: np.ndarray) -> np.ndarray:
    return np.arange(len(values), dtype=float) if values.dtype == object else values


def _name(ax: Axes, grid: Grid) -> None:
    name_ticks(ax, [naming.short(v) for v in grid.y], vertical=True)
    if grid.x.dtype == object:
        name_ticks(ax, list(grid.x))


def _annotate(
    ax: Axes, grid: Grid, across: np.ndarray, norm: Normalize, colours: LinearSegmentedColormap
) -> None:
    for (row, column), value in np.ndenumerate(grid.z):
        if np.isfinite(value):
            red, green, blue, _ = colours(norm(value))
            dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.5
            ax.text(
                float(across[column]),
                row,
                f"{value:.2g}",
                ha="center",
                va="center",
                fontsize=6,
                color="w" if dark else DARK,
            )


def _colour_bar(panels: Sequence[Axes], what: ScalarMappable, name: str) -> None:
    bar = panels[0].figure.colorbar(what, ax=list(panels), aspect=28, pad=0.02, fraction=0.06)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    bar.ax.tick_params(length=0, labelsize=6.5)
    bar.set_label(name, fontsize=7)
