"""Runs, layers, figures, studies and verdicts show themselves in notebooks and terminals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure as Canvas
from tests.display.wellformed import read
from torch import nn

from layerscope import Run
from layerscope.errors import LayerscopeError
from layerscope.figures.figure import Bars, Heatmap, Lines, Surface, Table
from layerscope.networks.layers import LayerMap
from layerscope.probes import Convergence, PathAndProgress, WeightChange, measure_all
from layerscope.recipes import find
from layerscope.recording.recorder import Recorder
from layerscope.reproduce import Reproduction
from layerscope.schedule import every
from layerscope.studies.claims import Claim, Verdict

HOSTILE = '<script>alert("1")</script>&'
DATA = xr.DataArray(
    np.arange(6.0).reshape(2, 3),
    {"layer": ["stem", HOSTILE], "step": [0, 1, 2]},
    ("layer", "step"),
    "change",
    {"long_name": "change", "units": "1"},
)
TABLE = Table(DATA.to_dataset(name="change").isel(step=0), "table", "A <title>", "A <caption>.")
FIGURES = [
    Lines(DATA, "lines", "A <title>", "A <caption>."),
    Heatmap(DATA, "heatmap", "A <title>", "A <caption>."),
    Bars(DATA.isel(step=1), "bars", "A <title>", "A <caption>."),
    Surface(
        DATA.assign_coords(layer=[0.0, 1.0]),
        "surface",
        "A <title>",
        "A <caption>.",
        x="step",
        y="layer",
    ),
]
EACH = pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.key)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    model = nn.Sequential()
    model.add_module(HOSTILE, nn.Linear(3, 4))
    model.add_module("head", nn.Linear(4, 2))
    path = tmp_path_factory.mktemp("runs") / "a"
    with Recorder(
        model, path, probes=[WeightChange()], measure=every(1), checkpoints=every(1)
    ) as recorder:
        for step in range(3):
            for parameter in model.parameters():
                parameter.data.mul_(1 + 0.1 * (step + 1))
            recorder.step(loss=1.0 / (step + 1))
            recorder.log(test_error=0.5)
    measure_all([Convergence(time="step"), PathAndProgress(), WeightChange()], recorder.run)
    return Run.open(path)


def test_a_run_says_what_it_holds(run):
    for text in (repr(run), read(run._repr_html_()).text):
        assert str(run.path) in text
        assert "complete" in text
        assert "2, 26 parameters" in text
        assert "4, steps 0, 1, 2, 3" in text
        assert "convergence,time=step, evaluation, path_and_progress, training" in text
    assert all(len(line) < 400 for line in repr(run).splitlines())


def test_a_run_that_stopped_says_so(tmp_path):
    with (
        pytest.raises(ZeroDivisionError),
        Recorder(nn.Linear(2, 2), tmp_path / "a", checkpoints=every(9), measure=every(9)),
    ):
        _ = 1 / 0
    text = repr(Run.open(tmp_path / "a"))
    assert "status: interrupted: the last checkpoint is at step 0" in text
    assert "results: none" in text


def test_layers_are_a_table_that_hostile_names_do_not_break(run):
    found = read(run.layers._repr_html_())
    assert found.cells[:6] == ["depth", "layer", "kind", "group", "parameters", "shapes"]
    assert found.cells[6:9] == ["0", HOSTILE, "Linear"]
    assert found.cells[10:12] == ["16", "4x3, 4"]
    lines = repr(run.layers).splitlines()
    assert lines[0] == "LayerMap of 2 layers, 26 parameters"
    assert lines[1].split() == ["depth", "layer", "kind", "group", "parameters", "shapes"]
    assert lines[3].split() == ["1", "head", "Linear", "10", "2x4,", "2"]
    starts = {line.find("Linear") for line in lines[2:]}
    assert starts == {lines[1].find("kind")}


def test_a_frozen_layer_and_many_of_them_are_said():
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(100)))
    model[3].requires_grad_(False)
    layers = LayerMap.from_model(model, None)
    assert "Linear, frozen" in repr(layers)
    assert "... 40 more ..." in layers._repr_html_()
    assert len(repr(layers).splitlines()) == 63


@EACH
def test_a_figure_shows_itself(figure):
    found = read(figure._repr_html_())
    ((source, title),) = found.pictures
    assert title == "A <title>"
    assert "A <caption>." in found.text
    assert len(source) > 3000
    assert figure._repr_png_().startswith(b"\x89PNG")
    both = figure._repr_mimebundle_()
    assert both["text/html"] == figure._repr_html_()
    assert both["image/png"] == figure._repr_png_()
    assert isinstance(figure.plot(), Canvas)


def test_a_figure_is_named_in_a_terminal():
    assert [repr(figure) for figure in FIGURES] == [
        "Lines('lines': A <title>; 2 layer, 3 step)",
        "Heatmap('heatmap': A <title>; 2 layer, 3 step)",
        "Bars('bars': A <title>; 2 layer)",
        "Surface('surface': A <title>; 2 layer, 3 step)",
    ]
    assert repr(TABLE) == "Table('table': A <title>; 2 rows, 1 columns)"


def test_a_table_is_a_table():
    found = read(TABLE._repr_html_())
    assert found.cells == ["layer", "change", "stem", "0", HOSTILE, "3.00"]
    assert found.pictures == []
    assert "A <caption>." in found.text


def test_plot_draws_what_the_probe_draws(run):
    canvases = run.plot("convergence")
    figures = run.figures("convergence")
    assert len(canvases) == len(figures) > 0
    assert all(isinstance(canvas, Canvas) for canvas in canvases)
    assert [f.key for f in figures] == [f.key for f in run.figures("convergence,time=step")]
    found = read(canvases._repr_html_())
    assert len(found.pictures) == len(canvases)


def test_plot_draws_the_loss_and_what_the_user_logs(run):
    (loss,) = run.figures("training")
    assert isinstance(loss, Lines)
    assert loss.series()[0].y.tolist() == run.results("training")["loss"].values.tolist()
    assert [figure.key for figure in run.figures("eval")] == ["evaluation-test-error"]
    assert len(run.plot("training")) == 1


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("covnergence", r"has no results of 'covnergence'.\n.*It has convergence,time=step, eval"),
        ("weight", r"several results .* begin with 'weight'.\n.*weight_change, weight_change@"),
    ],
)
def test_a_key_that_is_none_is_an_error_that_lists_them(run, key, message):
    with pytest.raises(LayerscopeError, match=message):
        run.plot(key)


def test_an_exact_key_is_taken_though_another_begins_with_it(run):
    (figure, *_) = run.figures("weight_change")
    assert figure.key == "weight-change"


VERDICTS = [
    Verdict("holds", "slope < 0", 0.1234, (0.1, 0.2), 5, note="A <note>."),
    Verdict("inconclusive", "slope", math.nan, None, 1),
]


def test_verdicts_show_their_numbers():
    assert repr(VERDICTS[0]) == ("Verdict(holds: slope < 0, 0.123, [0.1, 0.2], above 0, n = 5)")
    assert repr(VERDICTS[1]) == "Verdict(inconclusive: slope, no value, above 0, n = 1)"
    found = read(VERDICTS[0]._repr_html_())
    assert found.cells[6:] == ["holds", "slope < 0", "0.123", "[0.1, 0.2]", "above 0", "n = 5"]
    assert "A <note>." in found.text


def test_a_reproduction_is_its_claims_with_their_verdicts(tmp_path):
    claim = Claim("faster", f"Shallow {HOSTILE} first.", "Fig. 2", lambda _: VERDICTS[0])
    made = Reproduction(xr.DataTree(), [(claim, v) for v in VERDICTS], (tmp_path / "report.html",))
    found = read(made._repr_html_())
    assert found.cells[:3] == ["claim", "statement", "verdict"]
    assert found.cells[8:11] == ["faster", f"Shallow {HOSTILE} first.", "holds"]
    assert "faster: Verdict(holds: slope < 0, 0.123" in repr(made)
    assert repr(claim) == f"Claim('faster': Shallow {HOSTILE} first.)"
    assert read(claim._repr_html_()).text.startswith("faster Fig. 2")


def test_a_study_says_what_it_takes():
    study = find("layer_convergence_bias.fig1a")("smoke")
    found = read(study._repr_html_())
    for text in (repr(study), found.text):
        assert study.title in text
        assert "layer_convergence_bias.fig1a" in text
        assert study.probes[0].expression in text
        assert all(claim.id in text for claim in study.claims)
    assert all(claim.text in found.cells for claim in study.claims)
    assert str(len(study.runs())) in found.text
