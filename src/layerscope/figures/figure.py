"""What to draw: each kind of figure says what it shows, and computes it, apart from any drawing.

A figure is a frozen dataclass over an ``xarray.DataArray``. Dimensions are named; axis titles come
from the attributes ``long_name`` and ``units``; layers are coloured by their order along the
``layer`` dimension, and an optional coordinate ``group`` along it names their groups. Where the
``spread`` dimension (by default ``seed``) is present, a figure shows the mean over it and the 95%
Student-t confidence interval of that mean (`layerscope.functional.estimates`); with one seed there
is no interval. Values that are not finite are left out, and are gaps where nothing is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
import xarray as xr

from layerscope.errors import LayerscopeError
from layerscope.figures import axes, palette
from layerscope.figures.shown import Shown
from layerscope.figures.table import Cell, Column, Table
from layerscope.functional.estimates import mean_interval

__all__ = [
    "Bar",
    "Bars",
    "Cell",
    "Column",
    "Figure",
    "Front",
    "Grid",
    "Heatmap",
    "Lines",
    "Reference",
    "Series",
    "Surface",
    "Table",
    "layers_of",
]

LAYER = "layer"
BEYOND = "not within the run"
"""What a legend says of rows that a front does not reach."""


@dataclass(frozen=True)
class Reference:
    """A thin straight line across a figure: a threshold, chance level, a learning-rate drop."""

    value: float
    label: str = ""
    axis: Literal["x", "y"] = "y"


@dataclass(frozen=True, eq=False)
class Series:
    """One line: ``y`` over ``x`` (both 1-d), with the interval ``low`` .. ``high`` or ``None``.

    ``label`` is its value along the hue, ``index`` its position there, ``layer`` the layer it
    belongs to, if it belongs to one, and ``n`` the largest number of seeds behind a point.
    """

    label: str
    group: str
    panel: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None
    high: np.ndarray | None
    index: int = 0
    layer: str | None = None
    n: int = 1


@dataclass(frozen=True, eq=False)
class Front:
    """What passes through the rows of a heatmap; ``at`` is its x position in each of them.

    NaN where that is not known, infinite where it does not come before the last column ends.
    """

    name: str
    at: np.ndarray

    def reached(self) -> np.ndarray:
        """Indices of the rows with a position."""
        return np.flatnonzero(np.isfinite(self.at))

    def never(self) -> np.ndarray:
        """Indices of the rows that the front does not reach."""
        return np.flatnonzero(np.isposinf(self.at))

    def line(self, end: float) -> tuple[np.ndarray, np.ndarray]:
        """Positions and rows of the line through what is reached, as far as ``end``.

        Rows come in their order and those without a position are passed over. From the later one
        of both ends the line goes on level, since the front stays there until the last column ends.
        """
        rows = self.reached()
        across = self.at[rows]
        if not rows.size:
            return across, rows
        if across[0] >= across[-1]:
            return np.append(end, across), np.append(rows[0], rows)
        return np.append(across, end), np.append(rows, rows[-1])


@dataclass(frozen=True, eq=False)
class Grid:
    """One matrix ``z`` (len(y), len(x)) of a heatmap or surface; ``marks`` are the overlays.

    Each mark is a pair (name, x position for every row, NaN for none).
    """

    panel: str
    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    marks: tuple[tuple[str, np.ndarray], ...] = ()
    front: Front | None = None


@dataclass(frozen=True)
class Bar:
    """One bar; ``low`` and ``high`` are NaN where there is no interval."""

    label: str
    hue: str
    group: str
    value: float
    low: float
    high: float
    index: int = 0
    layer: str | None = None
    n: int = 1


@dataclass(frozen=True, eq=False, repr=False)
class Lines(Shown):
    """One line for each value of ``hue`` over ``x``; one small multiple for each ``panel``.

    Args:
        data: Dimensions ``x``, ``hue``, ``panel`` (those that are not ``None``) and, optionally,
            ``spread``.
        key: Short slug; names the file.
        title: Heading, a few words.
        caption: What is shown and how to read it, one or two sentences.
        x: Dimension along the horizontal axis; numbers, or names drawn at equal distances.
        hue: Dimension with one line for each value, or ``None`` for a single line.
        spread: Dimension to average over where present.
        panel: Dimension laid out as small multiples.
        log_x: Logarithmic horizontal axis.
        log_y: Logarithmic vertical axis. Mean and interval are those of the logarithms, so that the
            line is the geometric mean; values that are not positive are gaps.
        markers: Mark every point, for sparse or irregular ``x``.
        references: Straight lines to compare with.
    """

    data: xr.DataArray
    key: str
    title: str
    caption: str = ""
    x: str = "step"
    hue: str | None = LAYER
    spread: str | None = "seed"
    panel: str | None = None
    log_x: bool = False
    log_y: bool = False
    markers: bool = False
    references: tuple[Reference, ...] = ()

    def __post_init__(self) -> None:
        axes.check("Lines", self.key, self.data, (self.x, self.hue, self.panel), self.spread)

    def series(self) -> tuple[Series, ...]:
        """Every line in the order panel by panel, then along the hue."""
        values = axes.arranged(self.data, (self.panel, self.hue, self.x, self.spread))
        if self.log_y:
            values = np.log(np.where(values > 0, values, np.nan))
        mean, low, high, n = mean_interval(values, axis=3)
        if self.log_y:
            mean, low, high = np.exp(mean), np.exp(low), np.exp(high)
        x = axes.coordinate(self.data, self.x)
        panels, hues = axes.panels(self.data, self.panel), axes.labels(self.data, self.hue)
        groups = axes.groups(self.data, self.hue)
        made = []
        for p, panel in enumerate(panels):
            for h, hue in enumerate(hues):
                banded = bool(np.isfinite(low[p, h]).any())
                made.append(
                    Series(
                        label=hue,
                        group=groups[h],
                        panel=panel,
                        x=x,
                        y=mean[p, h],
                        low=low[p, h] if banded else None,
                        high=high[p, h] if banded else None,
                        index=h,
                        layer=_layer({self.hue: hue, self.panel: panel}),
                        n=int(n[p, h].max()),
                    )
                )
        return tuple(made)

    def colours(self, given: Mapping[str, str] | None = None) -> dict[str, str]:
        """The colour of each hue, or of each panel where there is no hue; ``given`` for layers."""
        dim = self.hue or self.panel
        name = axes.labels if self.hue else axes.panels
        return palette.hue_colours(dim == LAYER, name(self.data, dim), given)


@dataclass(frozen=True, eq=False, repr=False)
class Heatmap(Shown):
    """A matrix of colours over ``x`` and ``y``; the mean over ``spread`` where present.

    Args:
        data: Dimensions ``x``, ``y``, optionally ``panel`` and ``spread``.
        key: Short slug; names the file.
        title: Heading, a few words.
        caption: What is shown and how to read it.
        x: Dimension along the horizontal axis.
        y: Dimension of the rows; the first value is at the top.
        spread: Dimension to average over where present.
        panel: Dimension laid out as small multiples, all on one colour scale.
        annotate: Write each value in its cell.
        centre: Value at the middle of a diverging colour scale; sequential where ``None``.
        overlays: Arrays over ``y`` (optionally ``panel``, ``spread``), each giving one ``x``
            position for rows found by their names, such as the step at which the layer converged;
            ``long_name`` names it.
        front: An array like an overlay, of something that passes through the rows one after the
            other: squares, joined by a line through the rows that have a value. NaN is a row of
            which nothing is known, as is one that is left out; infinity one that is not reached
            before the columns end, with an open square there. The mean over ``spread`` is infinite
            if one of the values is.
    """

    data: xr.DataArray
    key: str
    title: str
    caption: str = ""
    x: str = "step"
    y: str = LAYER
    spread: str | None = "seed"
    panel: str | None = None
    annotate: bool = False
    centre: float | None = None
    overlays: tuple[xr.DataArray, ...] = ()
    front: xr.DataArray | None = None

    def __post_init__(self) -> None:
        axes.check("Heatmap", self.key, self.data, (self.x, self.y, self.panel), self.spread)
        if self.front is not None and axes.coordinate(self.data, self.x).dtype == object:
            raise LayerscopeError(
                f"Heatmap {self.key!r} has names along {self.x!r}, on which a front has no place.",
                f"Give the data numbers as coordinate {self.x!r}, or leave out front=.",
            )

    def matrix(self) -> tuple[Grid, ...]:
        """One matrix for each panel (one in all without panels), with its overlays."""
        grids = _grids(self.data, self.x, self.y, self.spread, self.panel)
        marks = [
            (axes.title(overlay, "overlay"), self._means(overlay)) for overlay in self.overlays
        ]
        fronts = self._fronts()
        return tuple(
            replace(
                grid,
                marks=tuple((name, at[p % len(at)]) for name, at in marks),
                front=fronts[p % len(fronts)],
            )
            for p, grid in enumerate(grids)
        )

    def _fronts(self) -> list[Front | None]:
        """One for each panel, or one for all."""
        if self.front is None:
            return [None]
        never = self._means(self.front == np.inf) > 0
        at = np.where(never, np.inf, self._means(self.front))
        return [Front(axes.title(self.front, "front"), rows) for rows in at]

    def _means(self, overlay: xr.DataArray) -> np.ndarray:
        """Mean over the spread (panels or 1, rows)."""
        panel = self.panel if self.panel in overlay.dims else None
        axes.check("Heatmap overlay of", self.key, overlay, (self.y, panel), self.spread)
        aligned = axes.like(self.key, self.data, self.y, overlay)
        return mean_interval(axes.arranged(aligned, (panel, self.y, self.spread)), axis=2).mean

    def limits(self) -> tuple[float, float]:
        """Ends of the colour scale: the finite range, symmetric about ``centre`` if given."""
        values = np.concatenate([g.z[np.isfinite(g.z)] for g in self.matrix()])
        low, high = (values.min(), values.max()) if values.size else (0.0, 1.0)
        if self.centre is not None:
            reach = max(high - self.centre, self.centre - low)
            low, high = self.centre - reach, self.centre + reach
        return (float(low), float(high)) if high > low else (float(low) - 0.5, float(low) + 0.5)


@dataclass(frozen=True, eq=False, repr=False)
class Bars(Shown):
    """One bar for each value of ``x``, side by side for each value of ``hue``.

    Args:
        data: Dimensions ``x``, ``hue`` (unless ``None``) and, optionally, ``spread``.
        key: Short slug; names the file.
        title: Heading, a few words.
        caption: What is shown and how to read it.
        x: Dimension with one bar (or cluster of bars) for each value.
        hue: Dimension with one bar in each cluster for each value.
        spread: Dimension to average over where present; the interval becomes the error bar.
        references: Straight lines to compare with; ``axis="y"`` lies at a value of the bars.
    """

    data: xr.DataArray
    key: str
    title: str
    caption: str = ""
    x: str = LAYER
    hue: str | None = None
    spread: str | None = "seed"
    references: tuple[Reference, ...] = ()

    def __post_init__(self) -> None:
        axes.check("Bars", self.key, self.data, (self.x, self.hue), self.spread)

    def bars(self) -> tuple[Bar, ...]:
        """Every bar in the order along the hue, then along ``x``."""
        found = mean_interval(axes.arranged(self.data, (self.hue, self.x, self.spread)), axis=2)
        names, groups = axes.labels(self.data, self.x), axes.groups(self.data, self.x)
        return tuple(
            Bar(
                label=name,
                hue=hue,
                group=groups[i],
                value=float(found.mean[h, i]),
                low=float(found.low[h, i]),
                high=float(found.high[h, i]),
                index=h if self.hue else i,
                layer=_layer({self.x: name, self.hue: hue}),
                n=int(found.n[h, i]),
            )
            for h, hue in enumerate(axes.labels(self.data, self.hue))
            for i, name in enumerate(names)
        )


@dataclass(frozen=True, eq=False, repr=False)
class Surface(Shown):
    """A height over two numeric dimensions, such as the loss around a minimum.

    Args:
        data: Dimensions ``x``, ``y``, optionally ``panel`` and ``spread``.
        key: Short slug; names the file.
        title: Heading, a few words.
        caption: What is shown and how to read it.
        x: Dimension along the horizontal axis.
        y: Dimension along the vertical axis.
        spread: Dimension to average over where present.
        panel: Dimension laid out as small multiples, all on one scale.
        log: Contours at equal ratios instead of equal distances; values that are not positive are
            gaps.
    """

    data: xr.DataArray
    key: str
    title: str
    caption: str = ""
    x: str = "x"
    y: str = "y"
    spread: str | None = "seed"
    panel: str | None = None
    log: bool = False

    def __post_init__(self) -> None:
        axes.check("Surface", self.key, self.data, (self.x, self.y, self.panel), self.spread)

    def grid(self) -> tuple[Grid, ...]:
        """One grid for each panel (one in all without panels)."""
        positive = self.data.where(self.data > 0) if self.log else self.data
        return _grids(positive, self.x, self.y, self.spread, self.panel)


Figure: TypeAlias = Lines | Heatmap | Bars | Surface | Table


def layers_of(figure: Figure) -> tuple[str, ...]:
    """The layers a figure shows, in their order; empty if it is not about layers."""
    if isinstance(figure, Table):
        return figure.row_names() if figure.rows == LAYER else ()
    return axes.labels(figure.data, LAYER) if LAYER in figure.data.dims else ()


def _layer(at: dict[str | None, str]) -> str | None:
    return at.get(LAYER)


def _grids(
    data: xr.DataArray, x: str, y: str, spread: str | None, panel: str | None
) -> tuple[Grid, ...]:
    values = mean_interval(axes.arranged(data, (panel, y, x, spread)), axis=3).mean
    across, down = axes.coordinate(data, x), axes.coordinate(data, y)
    return tuple(
        Grid(name, across, down, values[p]) for p, name in enumerate(axes.panels(data, panel))
    )
