from __future__ import annotations

import dataclasses

import pytest
import xarray as xr
from tests.breaking import truncated
from tests.cases import CNN

from layerscope.errors import LayerscopeError
from layerscope.probes import (
    Convergence,
    GradientMagnitude,
    Performance,
    WeightChange,
    measure,
    stored,
)
from layerscope.runs.store import Run

GIVEN = {"model": CNN.model(), "task": CNN.task}
DATA = [CNN.batch(1), CNN.batch(2)]


@pytest.mark.parametrize(
    ("probe", "given"),
    [
        (WeightChange(), {}),
        (Convergence(), {}),
        (GradientMagnitude(), GIVEN),
        (Performance(), GIVEN | {"data": DATA}),
    ],
    ids=lambda value: getattr(value, "key", ""),
)
def test_what_was_measured_is_read_without_model_and_data(run, probe, given):
    found = measure(probe, run, **given)
    for more in ({}, given):
        again = stored(probe, Run.open(run.path), **more)
        xr.testing.assert_equal(again, found)
        assert again.attrs["probe"] == found.attrs["probe"]


def test_chosen_steps_and_layers_are_those_of_the_measurement(run):
    measure(WeightChange(), run, steps=[0, 4, 6], layers=["4"])
    found = stored(WeightChange(), run, steps=[6, 4, 0], layers=["4"])
    assert (found["step"].values.tolist(), found["layer"].values.tolist()) == ([4, 6], ["4"])


def test_what_was_not_measured_is_said(run):
    with pytest.raises(LayerscopeError, match=r"not measured with convergence\.\n  Measure it fir"):
        stored(Convergence(), run)
    assert "weight_change" not in "".join(run.result_keys)
    with pytest.raises(LayerscopeError, match="no checkpoint at step 5"):
        stored(Convergence(), run, steps=[0, 5])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"steps": [0, 4, 6]}, "checkpoints"),
        ({"layers": ["4"]}, "layers"),
        ({"batch": CNN.batch(7)}, "batch"),
        ({"task": dataclasses.replace(CNN.task, name="other")}, "task"),
        ({"steps": [0, 6], "batch": CNN.batch(7)}, "batch, checkpoints"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_measurement_is_not_read_and_the_difference_is_named(run, change, named):
    measure(GradientMagnitude(), run, **GIVEN)
    with pytest.raises(LayerscopeError, match=rf"but not with the same {named}\.\n  Measure it ag"):
        stored(GradientMagnitude(), run, **change)


def test_layers_chosen_are_not_all_layers(run):
    measure(GradientMagnitude(), run, layers=["4"], **GIVEN)
    with pytest.raises(LayerscopeError, match="not with the same layers"):
        stored(GradientMagnitude(), run)


def test_an_earlier_revision_and_another_run_are_named(run, monkeypatch):
    measure(Convergence(), run)
    monkeypatch.setattr(Convergence, "revision", Convergence.revision + 1)
    with pytest.raises(LayerscopeError, match="not with the same revision"):
        stored(Convergence(), run)
    monkeypatch.undo()
    run.manifest["created"] = "another day"
    with pytest.raises(LayerscopeError, match="not with the same run"):
        stored(Convergence(), run)


def test_damaged_results_are_named(run):
    measure(Convergence(), run)
    truncated(run.path / "results" / "convergence" / "all.nc", 0.5)
    with pytest.raises(LayerscopeError, match=r"all.nc is truncated"):
        stored(Convergence(), run)
