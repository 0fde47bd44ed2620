from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import xarray as xr
from tests.breaking import truncated
from tests.cases import CNN

from layerscope.errors import DivergedError, LayerscopeError
from layerscope.probes import (
    PROBES,
    Convergence,
    DistanceFromInitialisation,
    GradientMagnitude,
    PathAndProgress,
    WeightChange,
    measure,
)
from layerscope.runs.store import Run

EVERY = [
    WeightChange(),
    DistanceFromInitialisation(),
    GradientMagnitude(),
    Convergence(),
    PathAndProgress(),
]
GIVEN = {"model": CNN.model(), "task": CNN.task}


def counted(probe, run, **options):
    """The measurement, and at how many checkpoints anything was computed."""
    seen = []
    found = measure(probe, run, advance=lambda *step: seen.append(step), **options)
    return found, len(seen)


def test_the_table_has_every_probe_under_its_key():
    assert {cls().key: cls for cls in PROBES.values()} == dict(PROBES)


@pytest.mark.parametrize("probe", EVERY, ids=lambda probe: probe.key)
def test_every_variable_says_what_it_is_and_reads_back(run, probe):
    found = measure(probe, run, **GIVEN)
    for variable in found.data_vars.values():
        assert set(variable.attrs) == {"long_name", "units", "source"}
        assert "layer" in variable.dims
    again = measure(probe, run, **GIVEN)
    xr.testing.assert_equal(again, found)
    assert again["layer"].values.tolist() == found["layer"].values.tolist()


def test_the_same_measurement_is_read_back(run):
    first, computed = counted(WeightChange(), run)
    again, read = counted(WeightChange(), Run.open(run.path))
    _, anew = counted(WeightChange(), run, recompute=True)
    assert (computed, read, anew) == (4, 0, 4)
    xr.testing.assert_equal(first, again)


@pytest.mark.parametrize(
    "change",
    [
        {"steps": [0, 4, 6]},
        {"batch": CNN.batch(7)},
        {"task": dataclasses.replace(CNN.task, name="other")},
    ],
    ids=["steps", "batch", "task"],
)
def test_another_measurement_is_not_read_back(run, change):
    counted(GradientMagnitude(), run, **GIVEN)
    assert counted(GradientMagnitude(), run, **GIVEN | change)[1] > 0


def test_results_of_an_earlier_revision_are_not_read_back(run, monkeypatch):
    counted(WeightChange(), run)
    monkeypatch.setattr(WeightChange, "revision", WeightChange.revision + 1)
    assert [counted(WeightChange(), run)[1] for _ in range(2)] == [4, 0]


def test_a_longer_run_is_measured_anew(run):
    measure(WeightChange(), run)
    run.write_checkpoint(8, run.checkpoint(6))
    found, computed = counted(WeightChange(), run)
    assert computed == 5
    assert found["change"].sel(step=8).values.tolist() == [0.0] * 3


def test_chosen_steps_in_any_order(run):
    found = measure(WeightChange(), run, steps=[6, 0, 6])
    assert found["step"].values.tolist() == [6]
    with pytest.raises(LayerscopeError, match=r"no checkpoint at step 5.\n.*steps 0, 2, 4, 6"):
        measure(WeightChange(), run, steps=[0, 5])


@pytest.mark.parametrize(("step", "probes"), [(4, EVERY), (6, EVERY), (0, EVERY)])
def test_weights_that_are_no_number_name_layer_and_step(run, step, probes):
    state = dict(run.checkpoint(step))
    state["4.weight"] = torch.full_like(state["4.weight"], math.nan)
    run.write_checkpoint(step, state)
    for probe in (WeightChange(), Convergence(), PathAndProgress()):
        first = max(step, 2) if isinstance(probe, WeightChange) else step
        with pytest.raises(DivergedError, match=rf"layer '4' .* at step {first}"):
            measure(probe, run)
    with pytest.raises(DivergedError, match=rf"layer '.' is not a number at step {step}"):
        measure(GradientMagnitude(), run, **GIVEN)


def test_what_a_probe_needs_is_said(run):
    with pytest.raises(LayerscopeError, match="GradientMagnitude needs model and task"):
        measure(GradientMagnitude(), run)
    (run.path / "batch.safetensors").unlink()
    with pytest.raises(LayerscopeError, match="GradientMagnitude needs batch"):
        measure(GradientMagnitude(), run, **GIVEN)


def test_one_checkpoint_cannot_be_compared(run):
    with pytest.raises(LayerscopeError, match=r"compares checkpoints and .* has only one"):
        measure(WeightChange(), run, steps=[0])


def test_no_checkpoints_at_all(run):
    for path in (run.path / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(LayerscopeError, match="has no checkpoints"):
        measure(WeightChange(), run)


def test_a_damaged_checkpoint_is_named_and_the_others_can_be_used(run):
    truncated(run.path / "checkpoints" / "000000004.safetensors", 0.8)
    with pytest.raises(LayerscopeError, match=r"000000004.safetensors is truncated"):
        measure(WeightChange(), run)
    assert measure(WeightChange(), run, steps=[0, 2, 6])["step"].values.tolist() == [2, 6]


def test_damaged_results_are_named_and_measured_again_on_request(run):
    measure(WeightChange(), run)
    truncated(run.path / "results" / "weight_change@checkpoints" / "all.nc", 0.5)
    with pytest.raises(LayerscopeError, match=r"all.nc is truncated"):
        measure(WeightChange(), run)
    assert len(measure(WeightChange(), run, recompute=True)["step"]) == 3
