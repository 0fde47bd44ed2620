"""Every renderer draws every kind of figure, whatever the data; no picture is compared."""

from __future__ import annotations

import json
import subprocess
import sys

import matplotlib
import numpy as np
import plotly.graph_objects
import pytest
import xarray as xr
from matplotlib.figure import Figure as Canvas

from layerscope.errors import LayerscopeError
from layerscope.figures import palette
from layerscope.figures import plotly as page
from layerscope.figures import plotly_parts as parts
from layerscope.figures.figure import Bars, Heatmap, Lines, Table
from layerscope.figures.matplotlib import draw, save
from layerscope.figures.plotly import spec


def test_matplotlib_writes_picture_and_document(figure, tmp_path):
    before = dict(matplotlib.rcParams)
    paths = save(figure, tmp_path / "new")
    assert [p.name for p in paths] == ["k.png", "k.pdf"]
    assert sorted((tmp_path / "new").iterdir()) == sorted(paths)
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    assert paths[1].read_bytes().startswith(b"%PDF")
    assert b"/Type3" not in paths[1].read_bytes()
    assert dict(matplotlib.rcParams) == before


def test_matplotlib_draws_on_axes_of_ones_own(figure):
    canvas = Canvas()
    ax = canvas.subplots()
    if getattr(figure, "panel", None) is None:
        assert draw(figure, ax=ax) is canvas
    else:
        with pytest.raises(LayerscopeError, match="panels"):
            draw(figure, ax=ax)


def test_plotly_specification_is_valid_json(figure):
    if isinstance(figure, Table):
        return
    spec = page.spec(figure)
    again = json.loads(json.dumps(spec, allow_nan=False))
    assert again == spec
    plotly.graph_objects.Figure(again)  # raises on a property that plotly.js does not know
    for trace in spec["data"]:
        assert {"role", "panel", "layer"} <= trace["meta"].keys()


def test_both_renderers_draw_the_lines_there_are(figure):
    if not isinstance(figure, Lines):
        return
    drawn = [t for t in page.spec(figure)["data"] if t["meta"]["role"] == "line"]
    for series, trace in zip(figure.series(), drawn, strict=True):
        shown = [np.nan if v is None else v for v in trace["y"]]
        np.testing.assert_allclose(shown, series.y, rtol=1e-4)
        assert trace["meta"]["layer"] == series.layer


def test_long_lines_are_reduced_on_the_page_and_it_says_so(make_curves):
    data = make_curves(layers=1, seeds=1, steps=20_000)
    data[0, 12_345, 0] = 1e4
    spec = page.spec(Lines(data, "k", "t"))
    y = next(t["y"] for t in spec["data"] if t["meta"]["role"] == "line")
    assert len(y) <= 2000
    assert max(y) == 1e4
    assert "20,000" in spec["layout"]["meta"]["note"]


def test_a_page_can_give_layers_their_colours(make_curves):
    figure = Lines(make_curves(), "k", "t")
    spec = page.spec(figure, {"layer1": "#123456", "elsewhere": "#654321"})
    colours = {t["meta"]["layer"]: t["line"]["color"] for t in spec["data"] if "name" in t}
    assert colours["layer1"] == "#123456"
    assert colours["layer0"] != "#123456"


def test_rows_and_points_name_their_layers(make_curves):
    data = make_curves()
    heat = page.spec(Heatmap(data, "k", "t"))["data"][0]
    assert heat["meta"]["rows"] == ["layer0", "layer1", "layer2"]
    bars = page.spec(Bars(data.isel(step=0, drop=True), "k", "t"))["data"][0]
    assert bars["meta"]["points"] == ["layer0", "layer1", "layer2"]


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ((0.02, 3.0), {"tickformat": "~g", "dtick": "D2"}),
        ((0.002, 9e4), {"tickformat": "~g", "dtick": 2}),
        ((2e-5, 4e-3), {"tickformat": ".0e", "dtick": "D2"}),
        ((2e5, 4e6), {"tickformat": ".0e", "dtick": "D2"}),
        ((2e-5, 4.0), {"exponentformat": "power", "tickfont": {"size": 10}, "dtick": 1}),
        ((1.0, 4e5), {"exponentformat": "power", "tickfont": {"size": 10}, "dtick": 1}),
    ],
)
def test_numbers_at_a_logarithmic_axis_are_short(ends, expected):
    values = [np.array([*ends, 0.0, np.nan, np.inf])]
    assert parts.log_axis(values) == {"type": "log"} | expected


def test_names_are_escaped():
    data = xr.DataArray(np.ones((1, 2)), dims=("layer", "step"), coords={"layer": ["<b>&"]})
    text = json.dumps(page.spec(Lines(data, "k", "t"))["data"][0]["hovertemplate"])
    assert "&lt;b&gt;&amp;" in text


def test_a_file_is_replaced_only_when_the_new_one_is_whole(make_curves, tmp_path, monkeypatch):
    figure = Lines(make_curves(), "k", "t")
    png, pdf = save(figure, tmp_path)
    before = png.read_bytes()

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(Canvas, "savefig", fail)
    with pytest.raises(LayerscopeError, match="disk full"):
        save(figure, tmp_path)
    assert png.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == [pdf, png]


def test_describing_a_figure_needs_no_drawing_library():
    code = (
        "import sys, layerscope.figures.figure;"
        "print([m for m in ('torch', 'matplotlib', 'plotly') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def drawn_front(figure, panel=0):
    """Roles, names and points of what both renderers draw of a front, from the page's traces."""
    traces = [t for t in page.spec(figure)["data"] if t["type"] == "scatter"]
    return [t for t in traces if t["meta"]["panel"] == panel]


def test_both_renderers_draw_the_same_front(make_curves, make_front):
    """Cells end at 115; row 1 is not known and passed over, row 3 is not reached."""
    figure = Heatmap(make_curves(layers=4), "k", "t", front=make_front(30, np.nan, 60, np.inf))
    rim, line, squares, open_rim, open_squares = drawn_front(figure)
    for trace in (rim, line):
        assert trace["meta"]["role"] == "front"
        assert (trace["x"], trace["y"]) == ([30, 60, 115], ["layer0", "layer2", "layer2"])
        assert trace["meta"]["points"] == trace["y"]
    assert rim["line"]["width"] > line["line"]["width"]
    assert (squares["x"], squares["y"]) == ([30, 60], ["layer0", "layer2"])
    for trace in (open_rim, open_squares):
        assert (trace["x"], trace["y"]) == ([115], ["layer3"])
    assert (squares["name"], open_squares["name"]) == ("&lt;front&gt;", "not within the run")

    canvas = draw(figure)
    front, never = canvas.axes[0].lines
    assert (front.get_xdata().tolist(), front.get_ydata().tolist()) == ([30, 60, 115], [0, 2, 2])
    assert front.get_markevery() == [0, 1]
    assert (never.get_xdata().tolist(), never.get_ydata().tolist()) == ([115], [3])
    assert canvas.axes[0].get_xlim() == (-5, 115)
    names = [text.get_text() for text in canvas.legends[0].get_texts()]
    assert names == ["<front>", "not within the run"]


def test_a_front_that_reaches_every_row_has_no_open_squares(make_curves, make_front):
    figure = Heatmap(make_curves(), "k", "t", front=make_front(30.0, 10.0, 0.0))
    assert [t.get("name") for t in drawn_front(figure)] == [None, None, "&lt;front&gt;"]
    canvas = draw(figure)
    assert len(canvas.axes[0].lines) == 1
    assert [text.get_text() for text in canvas.legends[0].get_texts()] == ["<front>"]


def test_names_of_a_front_stand_once_in_the_legend(make_curves, make_front):
    """Also where the first panel has no points for them."""
    nowhere, at = make_front(np.nan, np.nan, np.nan), make_front(np.inf, 20.0, 10.0)
    fronts = xr.concat([nowhere, at, at], xr.Variable("variant", ["v0", "v1", "v2"]))
    figure = Heatmap(make_curves(variants=3), "k", "t", panel="variant", front=fronts)
    shown = [[t["name"] for t in drawn_front(figure, p) if t["showlegend"]] for p in range(3)]
    assert shown == [[], ["&lt;front&gt;", "not within the run"], []]
    names = [text.get_text() for text in draw(figure).legends[0].get_texts()]
    assert names == ["<front>", "not within the run"]


def test_a_front_stands_out_on_every_colour(make_curves, make_front):
    """Its fill or its rim has enough contrast with any cell."""
    *_, line, squares = drawn_front(
        Heatmap(make_curves(), "k", "t", front=make_front(30.0, 10.0, 0.0))
    )
    marker = squares["marker"]
    for fill, rim in (("#ffffff", "#16181c"), (marker["color"], marker["line"]["color"])):
        for cell in palette.SEQUENTIAL + palette.DIVERGING:
            assert max(palette.contrast(fill, cell), palette.contrast(rim, cell)) >= 3
    assert line["line"]["color"] == "#ffffff"


@pytest.mark.parametrize("kind", [Lines, Heatmap])
def test_names_that_look_like_numbers_stay_names(kind):
    names = ["random", "0", "10", "300"]
    data = xr.DataArray(
        np.ones((2, 4)), dims=("layer", "step"), coords={"step": names, "layer": ["0", "2"]}
    )
    layout = spec(kind(data, "k", "t"))["layout"]
    assert layout["xaxis"]["type"] == "category"


def test_long_names_of_rows_leave_room_for_a_heatmap(tmp_path):
    names = [f"stage{i}.resblk1.preactivation.activation" for i in range(7)]
    data = xr.DataArray(
        -np.arange(21.0).reshape(3, 7) / 1000,
        {"step": np.arange(3), "layer": names},
        name="values",
        attrs={"long_name": "mean preactivation"},
    )
    figure = Heatmap(data, "k", "Mean preactivation over depth and time", centre=0.0)
    for path in save(figure, tmp_path):  # a layout that collapses is a warning
        assert path.stat().st_size > 0
