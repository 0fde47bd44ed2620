"""Heatmaps and surfaces, drawn for papers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize

from layerscope.figures import axes as naming
from layerscope.figures import palette
from layerscope.figures.figure import LAYER, Grid, Heatmap, Surface
from layerscope.figures.matplotlib_keys import legend_below, name_ticks, wrapped

ISOLINES = 14


def draw_heatmap(figure: Heatmap, panels: Sequence[Axes]) -> None:
    """Colour one matrix on each panel, with one colour scale for all."""
    low, high = figure.limits()
    norm = Normalize(low, high)
    colours = _scale(figure.centre is not None)
    grids = figure.matrix()
    for ax, grid in zip(panels, grids, strict=True):
        across = _positions(grid.x)
        mesh = ax.pcolormesh(
            _edges(across), np.arange(len(grid.y) + 1) - 0.5, grid.z, norm=norm, cmap=colours
        )
        mesh.set_rasterized(grid.z.size > 10_000)
        ax.set_facecolor("#e9ebee")
        ax.set_ylim(len(grid.y) - 0.5, -0.5)
        _name(ax, grid)
        if figure.annotate:
            _annotate(ax, grid, across, norm, colours)
        for name, at in grid.marks:
            ax.plot(at, np.arange(len(at)), "D", mfc="w", mec="#16181c", mew=0.6, ms=3, label=name)
        ax.set_title(grid.panel if figure.panel else wrapped(figure.title))
        ax.set_xlabel("" if figure.x == LAYER else naming.title(figure.data[figure.x]))
        if figure.y != LAYER and ax is panels[0]:
            ax.set_ylabel(naming.title(figure.data[figure.y]))
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
    _colour_bar(panels, ScalarMappable(norm, colours), naming.title(figure.data))
    if figure.overlays:
        legend_below(panels[0], len(figure.overlays))


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
            ax.pcolormesh(_edges(x), _edges(y), z, norm=norm, cmap=colours)
        ax.set_title(grid.panel if figure.panel else wrapped(figure.title))
        ax.set_xlabel(naming.title(figure.data[figure.x]))
    panels[0].set_ylabel(naming.title(figure.data[figure.y]))
    _colour_bar(panels, ScalarMappable(norm, colours), naming.title(figure.data))


def _scale(diverging: bool) -> LinearSegmentedColormap:
    stops = palette.DIVERGING if diverging else palette.SEQUENTIAL
    return LinearSegmentedColormap.from_list("scale", list(stops))


def _positions(values: np.ndarray) -> np.ndarray:
    return np.arange(len(values), dtype=float) if values.dtype == object else values


def _edges(centres: np.ndarray) -> np.ndarray:
    if len(centres) == 1:
        return centres[0] + np.array([-0.5, 0.5])
    middle = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])


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
                color="w" if dark else "#16181c",
            )


def _colour_bar(panels: Sequence[Axes], what: ScalarMappable, name: str) -> None:
    bar = panels[0].figure.colorbar(what, ax=list(panels), aspect=28, pad=0.02, fraction=0.06)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    bar.ax.tick_params(length=0, labelsize=6.5)
    bar.set_label(name, fontsize=7)
