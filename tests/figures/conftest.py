"""Figures to draw, as data: every kind, each with plain and with awkward data."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr

from layerscope.figures.figure import (
    Bars,
    Column,
    Figure,
    Heatmap,
    Lines,
    Reference,
    Surface,
    Table,
)


def curves(layers: int = 3, seeds: int = 5, steps: int = 12, variants: int = 0) -> xr.DataArray:
    """Positive values over layer, step, seed and, if asked for, variant."""
    rng = np.random.default_rng(0)
    shape = (layers, steps, seeds) + ((variants,) if variants else ())
    values = np.exp(rng.normal(0, 0.3, shape)) * (1 + np.arange(layers)).reshape(
        -1, *[1] * (len(shape) - 1)
    )
    return xr.DataArray(
        values,
        dims=("layer", "step", "seed", "variant")[: len(shape)],
        coords={
            "layer": [f"layer{i}" for i in range(layers)],
            "step": 10.0 * np.arange(steps),
            "group": ("layer", ["early" if i < layers / 2 else "late" for i in range(layers)]),
        }
        | ({"variant": [f"v{i}" for i in range(variants)]} if variants else {}),
        name="change",
        attrs={"long_name": "relative change", "units": "per step"},
    )


def holed(data: xr.DataArray) -> xr.DataArray:
    """Some values missing, some infinite, one layer without any."""
    data = data.copy()
    data[0] = np.nan
    data[1, 3:5] = np.nan
    data[2, 0, 0] = np.inf
    return data


def at_end(data: xr.DataArray) -> xr.DataArray:
    return data.isel(step=-1, drop=True)


def front(*at: float) -> xr.DataArray:
    """Where a front is in each layer."""
    return xr.DataArray(np.array(at), dims="layer", attrs={"long_name": "<front>"})


def bowl(panels: int = 0) -> xr.DataArray:
    """A height over x and y, for one or several layers."""
    grid = np.linspace(-1, 1, 9)
    height = 0.1 + grid[:, None] ** 2 + 2 * grid[None, :] ** 2
    data = xr.DataArray(height, dims=("y", "x"), coords={"x": grid, "y": grid}, name="loss")
    layers = xr.Variable("layer", [f"layer{i}" for i in range(panels)])
    return xr.concat([data * (i + 1) for i in range(panels)], layers) if panels else data


CASES: dict[str, Callable[[], Figure]] = {
    "lines": lambda: Lines(curves(), "k", "Title", "Caption"),
    "lines, 1 seed": lambda: Lines(curves(seeds=1), "k", "t"),
    "lines, no seeds": lambda: Lines(curves().isel(seed=0, drop=True), "k", "t"),
    "lines, holes": lambda: Lines(holed(curves()), "k", "t", log_y=True),
    "lines, nothing finite": lambda: Lines(curves() * np.nan, "k", "t", log_y=True),
    "lines, 1 layer": lambda: Lines(curves(layers=1), "k", "t"),
    "lines, 1 step": lambda: Lines(curves(steps=1), "k", "t"),
    "lines, 60 layers": lambda: Lines(curves(layers=60), "k", "t"),
    "lines, 9 layers": lambda: Lines(curves(layers=9), "k", "t", markers=True),
    "lines, logarithmic": lambda: Lines(
        curves().isel(step=slice(1, None)), "k", "t", log_x=True, log_y=True
    ),
    "lines, panels": lambda: Lines(curves(variants=2), "k", "t", panel="variant"),
    "lines, layer panels": lambda: Lines(
        curves(layers=7, variants=2), "k", "t", hue="variant", panel="layer"
    ),
    "lines, no hue": lambda: Lines(curves(), "k", "t", hue=None, panel="layer"),
    "lines, names along x": lambda: Lines(curves(variants=3), "k", "t", x="variant", panel="step"),
    "lines, references": lambda: Lines(
        curves(), "k", "t", references=(Reference(1.0, "one"), Reference(30.0, "drop", "x"))
    ),
    "heatmap": lambda: Heatmap(curves(), "k", "t"),
    "heatmap, holes": lambda: Heatmap(holed(curves()), "k", "t"),
    "heatmap, nothing finite": lambda: Heatmap(curves() * np.nan, "k", "t"),
    "heatmap, 1 layer": lambda: Heatmap(curves(layers=1, steps=1), "k", "t", annotate=True),
    "heatmap, 60 layers": lambda: Heatmap(curves(layers=60), "k", "t"),
    "heatmap, centre": lambda: Heatmap(curves(), "k", "t", annotate=True, centre=1.0),
    "heatmap, panels": lambda: Heatmap(curves(variants=4), "k", "t", panel="variant"),
    "heatmap, overlay": lambda: Heatmap(
        curves(), "k", "t", overlays=(10 * curves().argmax("step").assign_attrs(long_name="peak"),)
    ),
    "heatmap, front": lambda: Heatmap(curves(), "k", "t", front=front(30.0, np.nan, np.inf)),
    "heatmap, front in panels": lambda: Heatmap(
        curves(layers=3, variants=2),
        "k",
        "t",
        panel="variant",
        front=xr.concat(
            [front(np.nan, np.nan, np.nan), front(np.inf, 30.0, 10.0)],
            xr.Variable("variant", ["v0", "v1"]),
        ),
    ),
    "heatmap, names along x": lambda: Heatmap(
        curves(variants=3).mean("step"), "k", "t", x="variant"
    ),
    "bars": lambda: Bars(at_end(curves()), "k", "t"),
    "bars, 1 seed": lambda: Bars(at_end(curves(seeds=1)), "k", "t"),
    "bars, holes": lambda: Bars(at_end(holed(curves())), "k", "t"),
    "bars, 1 layer": lambda: Bars(at_end(curves(layers=1)), "k", "t"),
    "bars, 60 layers": lambda: Bars(at_end(curves(layers=60)), "k", "t"),
    "bars, hue": lambda: Bars(
        at_end(curves(variants=3)), "k", "t", hue="variant", references=(Reference(1.0, "one"),)
    ),
    "surface": lambda: Surface(bowl(), "k", "t"),
    "surface, logarithmic": lambda: Surface(bowl(), "k", "t", log=True),
    "surface, holes": lambda: Surface(bowl().where(bowl() < 2), "k", "t"),
    "surface, nothing finite": lambda: Surface(bowl() * np.nan, "k", "t"),
    "surface, flat": lambda: Surface(bowl() * 0, "k", "t"),
    "surface, panels": lambda: Surface(bowl(5), "k", "t", panel="layer"),
    "table": lambda: Table(at_end(curves()).to_dataset(), "k", "t"),
    "table, 1 seed": lambda: Table(at_end(curves(seeds=1)).to_dataset(), "k", "t"),
    "table, holes": lambda: Table(at_end(holed(curves())).to_dataset(), "k", "t"),
    "table, 60 layers": lambda: Table(at_end(curves(layers=60)).to_dataset(), "k", "t"),
    "table, rows": lambda: Table(
        [{"layer": "a", "n": 3, "frozen": True}, {"layer": "b", "n": None, "frozen": False}],
        "k",
        "t",
        columns=(Column("n", "parameters", format="d"), Column("frozen")),
    ),
}


@pytest.fixture(params=CASES, ids=lambda name: name.replace(",", "").replace(" ", "-"))
def figure(request: pytest.FixtureRequest) -> Figure:
    return CASES[request.param]()


@pytest.fixture
def make_curves() -> Callable[..., xr.DataArray]:
    return curves


@pytest.fixture
def make_front() -> Callable[..., xr.DataArray]:
    return front
