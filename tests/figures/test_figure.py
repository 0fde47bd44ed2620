"""What a figure shows, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from layerscope.errors import LayerscopeError
from layerscope.figures import axes
from layerscope.figures.figure import (
    Bars,
    Column,
    Front,
    Heatmap,
    Lines,
    Surface,
    Table,
    layers_of,
)
from layerscope.figures.reduce import apart, extremes, runs, significant
from layerscope.functional.estimates import mean_interval


def test_a_line_is_the_mean_with_students_interval(make_curves):
    data = make_curves()
    series = Lines(data, "k", "t").series()
    assert [s.label for s in series] == ["layer0", "layer1", "layer2"]
    assert [s.group for s in series] == ["early", "early", "late"]
    values = data.values[1, 4]
    low, high = stats.t.interval(0.95, 4, values.mean(), stats.sem(values))
    assert series[1].y[4] == pytest.approx(values.mean())
    assert series[1].low[4] == pytest.approx(low)
    assert series[1].high[4] == pytest.approx(high)
    assert (series[1].n, series[1].layer) == (5, "layer1")


def test_one_seed_has_no_band(make_curves):
    assert all(s.low is None for s in Lines(make_curves(seeds=1), "k", "t").series())


def test_missing_values_are_left_out_and_all_missing_is_a_gap(make_curves):
    data = make_curves()
    data[0, 2] = np.nan
    data[0, 3, :4] = np.inf
    series = Lines(data, "k", "t").series()[0]
    assert np.isnan(series.y[2])
    assert series.y[3] == pytest.approx(float(data[0, 3, 4]))
    assert np.isnan(series.low[3])


def test_order_of_dimensions_does_not_matter(make_curves):
    data = make_curves(variants=2)
    one = Lines(data, "k", "t", panel="variant").series()
    other = Lines(data.transpose("variant", "seed", "step", "layer"), "k", "t", panel="variant")
    for a, b in zip(one, other.series(), strict=True):
        assert (a.label, a.panel) == (b.label, b.panel)
        np.testing.assert_allclose(a.y, b.y)


def test_a_logarithmic_axis_shows_geometric_means():
    data = xr.DataArray(
        [[[1.0, 100.0]], [[-1.0, 2.0]]], dims=("layer", "step", "seed"), coords={"step": [1]}
    )
    first, second = Lines(data, "k", "t", log_y=True).series()
    assert first.y[0] == pytest.approx(10.0)
    assert first.low[0] * first.high[0] == pytest.approx(100.0)
    assert first.low[0] > 0
    assert second.y[0] == pytest.approx(2.0)
    assert second.low is None


def test_a_layer_is_known_on_hue_panel_or_not_at_all(make_curves):
    data = make_curves(variants=2)
    assert Lines(data, "k", "t", panel="variant").series()[1].layer == "layer1"
    by_panel = Lines(data, "k", "t", hue="variant", panel="layer").series()
    assert by_panel[2].layer == "layer1"
    assert Lines(data.mean("layer"), "k", "t", hue="variant").series()[0].layer is None


def test_heatmap_averages_and_centres(make_curves):
    data = make_curves()
    peak = data.argmax("step").assign_attrs(long_name="peak", units="step")
    figure = Heatmap(data, "k", "t", centre=1.0, overlays=(peak,))
    (grid,) = figure.matrix()
    np.testing.assert_allclose(grid.z, data.mean("seed"))
    low, high = figure.limits()
    assert (low + high) / 2 == pytest.approx(1.0)
    name, at = grid.marks[0]
    assert name == "peak (step)"
    np.testing.assert_allclose(at, peak.mean("seed"))


@pytest.mark.parametrize(
    ("at", "across", "rows"),
    [
        ((np.inf, 30, np.nan, 10, 0), (99, 30, 10, 0), (1, 1, 3, 4)),  # from deep to shallow
        ((0, np.nan, 20, np.inf), (0, 20, 99), (0, 2, 2)),
        ((np.nan, 40, np.nan), (99, 40), (1, 1)),
        ((40, 40), (99, 40, 40), (0, 0, 1)),
        ((10, 50, 20), (10, 50, 20, 99), (0, 1, 2, 2)),
        ((np.inf, np.nan), (), ()),
    ],
)
def test_the_line_of_a_front_passes_what_is_unknown_and_ends_level(at, across, rows):
    found = Front("f", np.array(at, dtype=float)).line(99.0)
    np.testing.assert_array_equal(found[0], across)
    np.testing.assert_array_equal(found[1], rows)


def test_a_front_has_a_name_and_a_place_in_every_panel(make_curves, make_front):
    data = make_curves(variants=2)
    at = make_front(np.inf, np.nan, 40.0).assign_attrs(long_name="divergence", units="step")
    one, other = Heatmap(data, "k", "t", panel="variant", front=at).matrix()
    for grid in (one, other):
        assert grid.front.name == "divergence (step)"
        np.testing.assert_array_equal(grid.front.at, at)
        assert (grid.front.reached().tolist(), grid.front.never().tolist()) == ([2], [0])
    each = xr.concat([at, at + 10], xr.Variable("variant", ["v0", "v1"]))
    grids = Heatmap(data, "k", "t", panel="variant", front=each).matrix()
    assert [grid.front.at[2] for grid in grids] == [40.0, 50.0]
    assert Heatmap(data, "k", "t", panel="variant").matrix()[0].front is None


def test_a_mean_with_a_seed_that_is_never_reached_is_not_reached(make_curves):
    """Leaving the seed out would say that the front came early."""
    at = xr.DataArray(
        [[10.0, 30.0, np.nan], [10.0, np.inf, 20.0], [np.nan] * 3], dims=("layer", "seed")
    )
    (grid,) = Heatmap(make_curves(), "k", "t", front=at).matrix()
    np.testing.assert_array_equal(grid.front.at, [20.0, np.inf, np.nan])


def test_rows_of_a_front_are_found_by_name(make_curves, make_front):
    at = make_front(20.0, np.inf).assign_coords(layer=["layer2", "layer0"])
    (grid,) = Heatmap(make_curves(), "k", "t", front=at, overlays=(at,)).matrix()
    np.testing.assert_array_equal(grid.front.at, [np.inf, np.nan, 20.0])
    np.testing.assert_array_equal(grid.marks[0][1], [np.nan, np.nan, 20.0])


def test_cells_reach_halfway_to_their_neighbours():
    assert axes.cell_edges(np.array([0.0, 1.0, 4.0])).tolist() == [-0.5, 0.5, 2.5, 5.5]
    assert axes.cell_edges(np.array([3.0])).tolist() == [2.5, 3.5]
    assert axes.cell_edges(np.array(["a", "b"], dtype=object)).tolist() == [-0.5, 0.5, 1.5]


def test_bars_have_errors_where_there_are_seeds(make_curves):
    data = make_curves().isel(step=0, drop=True)
    bar = Bars(data, "k", "t").bars()[2]
    assert bar.value == pytest.approx(float(data[2].mean()))
    assert bar.low < bar.value < bar.high
    assert np.isnan(Bars(data.isel(seed=[0]), "k", "t").bars()[0].low)


def test_surface_drops_what_has_no_logarithm():
    data = xr.DataArray([[1.0, -1.0], [0.0, 2.0]], dims=("y", "x"))
    (grid,) = Surface(data, "k", "t", log=True).grid()
    np.testing.assert_array_equal(np.isnan(grid.z), [[False, True], [True, False]])


def test_table_writes_mean_and_half_width(make_curves):
    data = make_curves().isel(step=0, drop=True)
    table = Table(data.to_dataset(), "k", "t")
    (column,) = table.resolved()
    assert (column.header, column.unit) == ("relative change", "per step")
    cell = table.cells()[1][0]
    assert cell.value == pytest.approx(float(data[1].mean()))
    decimals = len(cell.text.partition(".")[2])
    assert len(cell.margin.partition(".")[2]) == decimals


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (12345.6, "12,346"),
        (1.0, "1.00"),
        (-0.01234, "\N{MINUS SIGN}0.0123"),
        (1.5e-7, "1.50e-07"),
        (float("nan"), "\N{EN DASH}"),
        (None, "\N{EN DASH}"),
        (True, "yes"),
        ("conv", "conv"),
    ],
)
def test_a_cell_reads_well(value, text):
    assert Table([{"layer": "a", "v": value}], "k", "t").cells()[0][0].text == text


def test_a_column_that_is_not_there_names_its_neighbours(make_curves):
    data = make_curves().isel(step=0, drop=True).to_dataset()
    with pytest.raises(LayerscopeError, match="Did you mean 'change'"):
        Table(data, "k", "t", columns=(Column("chance"),))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: Lines(d.mean("layer"), "speed", "t"), "'speed' needs dimension 'layer'"),
        (lambda d: Lines(d, "speed", "t", panel="variant"), "has 'layer', 'step', 'seed'"),
        (lambda d: Lines(d, "speed", "t", spread=None), "how to draw dimension 'seed'"),
        (lambda d: Heatmap(d.isel(step=[]), "speed", "t"), "'step' .* is empty"),
        (
            lambda d: Heatmap(d.assign_coords(step=list("abcdefghijkl")), "speed", "t", front=d),
            "'speed' has names along 'step'",
        ),
        (
            lambda d: Heatmap(d, "speed", "t", front=d).matrix(),
            "Heatmap overlay of 'speed' does not say how to draw dimension 'step'",
        ),
        (
            lambda d: Heatmap(d[1:], "speed", "t", overlays=(d.argmax("step"),)).matrix(),
            "'speed' has a row for layer 'layer0', the data has not",
        ),
        (
            lambda d: Heatmap(d, "speed", "t", overlays=(d[:2, 0].drop_vars("layer"),)).matrix(),
            "'speed' has 2 rows, the data 3",
        ),
        (lambda d: Bars(d, "speed", "t"), "how to draw dimension 'step'"),
        (lambda d: Surface(d, "speed", "t"), "needs dimension 'x', 'y'"),
        (lambda d: Table(d.isel(step=0).to_dataset(), "speed", "t", rows="unit"), "'unit'"),
        (lambda d: Table([], "speed", "t"), "'speed' has no rows"),
        (lambda d: Table([{"name": 1}], "speed", "t"), "row 0 has no entry 'layer'"),
    ],
)
def test_what_cannot_be_drawn_is_said_at_once(make, message, make_curves):
    with pytest.raises(LayerscopeError, match=message) as raised:
        make(make_curves())
    assert raised.value.remedy


def test_layers_of_any_figure(make_curves):
    data = make_curves()
    names = ("layer0", "layer1", "layer2")
    assert layers_of(Lines(data, "k", "t")) == names
    assert layers_of(Table(data.mean("step").to_dataset(), "k", "t")) == names
    assert layers_of(Lines(data.mean("layer"), "k", "t", hue=None)) == ()


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20))
def test_interval_holds_the_mean(values):
    found = mean_interval(np.array(values), axis=0)
    assert found.low <= found.mean <= found.high
    assert found.n == len(values)


@given(
    st.lists(st.floats(-1e3, 1e3) | st.just(np.nan), min_size=1, max_size=300), st.integers(4, 50)
)
def test_reducing_keeps_ends_and_extremes(values, points):
    y = np.array(values)
    kept = extremes(y, points)
    assert len(kept) <= max(points, 4)
    assert (np.diff(kept) > 0).all()
    assert kept[0] == 0
    assert kept[-1] == len(y) - 1
    if np.isfinite(y).any():
        assert np.nanmax(y[kept]) == np.nanmax(y)
        assert np.nanmin(y[kept]) == np.nanmin(y)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_labels_lie_apart_in_their_order(wanted):
    placed = apart(np.array(wanted), 0.1)
    order = np.argsort(wanted, kind="stable")
    assert (np.diff(placed[order]) >= 0.1 - 1e-9).all()
    assert placed.mean() == pytest.approx(np.mean(wanted))


def test_labels_that_are_apart_stay():
    np.testing.assert_allclose(apart(np.array([0.9, 0.1, 0.5]), 0.1), [0.9, 0.1, 0.5])


def test_runs_and_digits():
    assert [list(r) for r in runs(np.array([1, 1, 0, 1], dtype=bool))] == [[0, 1], [3]]
    assert significant(np.array([1.234567, 1e-9, np.nan, 3.0])) == [1.2346, 1e-09, None, 3]


def test_panels_of_numbers_are_named(make_curves):
    figure = Lines(make_curves(steps=2, variants=2), "k", "t", x="variant", panel="step")
    assert [s.panel for s in figure.series()][::3] == ["step 0", "step 10"]
