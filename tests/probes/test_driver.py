from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
import xarray as xr
from tests.breaking import truncated
from tests.cases import CASES, CNN
from tests.memory import peak_bytes
from tests.training_loop import train
from torch import nn

from layerscope.errors import DivergedError, LayerscopeError
from layerscope.networks.layers import LayerMap
from layerscope.probes import (
    PROBES,
    Convergence,
    DistanceFromInitialisation,
    GradientMagnitude,
    GradientPredictiveness,
    MomentProbe,
    PathAndProgress,
    Performance,
    ResponseFrequency,
    WeightChange,
    measure,
    measure_all,
    stored,
)
from layerscope.runs.checkpoints import Tensors
from layerscope.runs.store import Run
from layerscope.schedule import at, every
from reference import moments

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


# Several probes at once

ALL = [
    WeightChange(),
    WeightChange(p=2.0, minimum_dimensions=1),
    DistanceFromInitialisation(),
    GradientMagnitude(),
    GradientMagnitude(mode="train"),
    GradientPredictiveness(batches=2, learning_rate=0.1),
    ResponseFrequency(examples=4),
    Convergence(intervals=((0, 1), (1, 3))),
    PathAndProgress(),
    Performance(checkpoints="all"),
]


@pytest.fixture
def opened(monkeypatch):
    """The files of checkpoints that are opened, in order."""
    seen = []
    made = Tensors.__init__

    def count(self, path, *rest):
        seen.append(path.name)
        made(self, path, *rest)

    monkeypatch.setattr(Tensors, "__init__", count)
    return seen


@pytest.mark.parametrize(
    ("case", "steps"),
    [
        *(pytest.param(case, None, marks=pytest.mark.slow) for case in CASES if case != CNN),
        *((CNN, steps) for steps in (None, [2, 4], [0, 6])),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_several_probes_give_the_bits_that_each_gives_alone(case, steps, tmp_path):
    path, rest = tmp_path / "a", {"steps_per_epoch": 2, "task": case.task}
    train(case, 6, path=path, batch=case.batch(0), checkpoints=every(2), measure=at(), **rest)
    run = Run.open(path)
    given = {"model": case.model(5), "task": case.task, "data": [case.batch(1)], "steps": steps}
    alone, errors = {}, {}
    for probe in ALL:
        try:
            alone[probe.key] = measure(probe, run, recompute=True, **given)
        except LayerscopeError as error:  # this case, or these steps, cannot be measured with it
            errors[probe.key] = error.message.rstrip(".")
    good = [probe for probe in ALL if probe.key in alone]
    together = measure_all(good, run, recompute=True, **given)
    assert list(together) == list(alone)
    for key, found in together.items():
        xr.testing.assert_equal(found, alone[key])
    if errors:
        with pytest.raises(LayerscopeError) as said:
            measure_all(ALL, run, recompute=True, **given)
        assert all(message in said.value.message for message in errors.values())


@pytest.mark.parametrize("steps", [[0, 2, 4, 6], [0, 4, 6], [2, 6]], ids=str)
def test_moments_are_those_put_together_from_the_files(run, steps):
    """One reading for all probes, against one for every probe, step and set of weights."""
    given = GIVEN | {"batch": run.batch}
    probes = [probe for probe in ALL if isinstance(probe, MomentProbe)]
    found = measure_all(probes, run, steps=steps, **GIVEN)
    for probe in probes:
        expected = moments.rows(probe, run, steps, **given)
        assert found[probe.key]["step"].values.tolist() == list(expected)
        for name in probe.variables:
            values = torch.stack([row[name] for row in expected.values()])
            np.testing.assert_array_equal(found[probe.key][name], values)
    path = PathAndProgress()
    legs = torch.stack([row["leg"] for row in moments.rows(path, run, steps).values()])
    np.testing.assert_array_equal(measure(path, run, steps=steps)["path"], legs.cumsum(0))


def test_every_checkpoint_is_opened_once(run, opened):
    probes = [probe for probe in ALL if not isinstance(probe, Performance)]
    measure_all(probes, run, **GIVEN)
    checkpoints = [name for name in opened if name != "batch.safetensors"]
    assert sorted(checkpoints) == [f"{step:09d}.safetensors" for step in run.steps]
    assert opened.count("batch.safetensors") == 1
    opened.clear()
    measure_all(probes, run, **GIVEN)
    assert opened == ["batch.safetensors"]


@pytest.mark.parametrize("probe", [WeightChange(), DistanceFromInitialisation(), PathAndProgress()])
@pytest.mark.parametrize("steps", [[0, 2, 6], [2, 4, 6]], ids=str)
def test_one_probe_opens_every_checkpoint_once(run, opened, probe, steps):
    measure(probe, run, steps=steps)
    needed = {*steps, 0} if "initial" in probe.needs else steps
    assert sorted(opened) == [f"{step:09d}.safetensors" for step in sorted(needed)]


def test_only_tensors_that_a_probe_looks_at_are_read(run, monkeypatch):
    names = []
    read = Tensors.__getitem__
    monkeypatch.setattr(Tensors, "__getitem__", lambda s, n: names.append(n) or read(s, n))
    measure_all([WeightChange(), Convergence()], run, layers=["4"])
    assert sorted(names) == sorted(["4.weight", "4.bias"] * len(run.steps))


def test_memory_does_not_grow_with_the_number_of_checkpoints(tmp_path):
    model = nn.Sequential(nn.Linear(300, 300), nn.Linear(300, 300))
    run = Run.create(tmp_path / "a", LayerMap.from_model(model, None))
    for step in range(24):
        run.write_checkpoint(step, {k: v + step for k, v in model.state_dict().items()})
    run.finish("complete")
    probes = [WeightChange(), DistanceFromInitialisation(), Convergence(time="step")]
    few, many = (
        peak_bytes(
            lambda n=n: measure_all(
                [*probes, PathAndProgress()], run, steps=range(n), recompute=True
            )
        )
        for n in (6, 24)
    )
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    assert many < few + 0.5 * size
    assert many < 7 * size  # four sets of weights, the one being read and scratch


def test_progress_is_that_of_the_one_pass(run):
    seen = []
    measure_all(EVERY, run, advance=lambda *step: seen.append(step), **GIVEN)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert counted(PathAndProgress(), run, recompute=True)[1] == 4


def test_what_is_there_is_read_and_the_rest_is_measured(run):
    first = measure(WeightChange(), run)
    found = measure_all([Convergence(), WeightChange()], run)
    assert list(found) == ["convergence", "weight_change"]
    xr.testing.assert_equal(found["weight_change"], first)
    assert measure_all([], run) == {}


class Failing(DistanceFromInitialisation):
    """Fails at one step."""

    error = ZeroDivisionError("by nothing")

    def measure(self, moment, layers):
        if moment.step == 2:
            raise self.error
        return super().measure(moment, layers)


def test_a_probe_that_fails_does_not_hinder_the_others(run):
    with pytest.raises(ZeroDivisionError, match="by nothing"):
        measure_all([Failing(), *EVERY], run, **GIVEN)
    for probe in EVERY:
        xr.testing.assert_identical(
            stored(probe, run), measure(probe, run, recompute=True, **GIVEN)
        )
    with pytest.raises(LayerscopeError, match="not measured with failing"):
        stored(Failing(), run)


def test_several_that_fail_are_all_named(run):
    run.path.joinpath("batch.safetensors").unlink()
    probes = [GradientMagnitude(), Convergence(intervals=((0, 0.5),)), PathAndProgress()]
    with pytest.raises(LayerscopeError) as said:
        measure_all(probes, run, **GIVEN)
    assert said.value.message.startswith("2 probes failed: gradient_magnitude: GradientMagnitude n")
    assert "convergence,intervals=[[0,0.5]]: Convergence of" in said.value.message
    assert "Pass batch=..." in said.value.remedy
    assert "Choose intervals" in said.value.remedy
    with pytest.raises(ZeroDivisionError) as raised:
        measure_all([*probes, Failing()], run, **GIVEN)
    assert "gradient_magnitude" in raised.value.__notes__[0]
    assert stored(PathAndProgress(), run).attrs["initial_step"] == 0


def test_weights_that_are_no_number_are_divergence_for_all(run):
    state = dict(run.checkpoint(4))
    state["4.weight"] = torch.full_like(state["4.weight"], math.nan)
    run.write_checkpoint(4, state)
    with pytest.raises(DivergedError, match=r"2 probes failed: weight_change: .*; converg"):
        measure_all([WeightChange(), Convergence()], run)


def test_a_checkpoint_that_is_damaged_is_named_once_and_others_are_measured(run):
    truncated(run.path / "checkpoints" / "000000004.safetensors", 0.8)
    probes = [WeightChange(), Convergence(), PathAndProgress()]
    with pytest.raises(LayerscopeError, match=r"^\S*000000004.safetensors is truncated"):
        measure_all(probes, run)
    last = Performance()
    with pytest.raises(LayerscopeError, match=r"^\S*000000004.safetensors is truncated"):
        measure_all([*probes, last], run, data=[CNN.batch(1)], **GIVEN)
    assert float(stored(last, run)["loss"].values[0]) > 0


def test_a_run_without_its_start_lacks_only_what_counts_from_it(run):
    (run.path / "checkpoints" / "000000000.safetensors").unlink()
    with pytest.raises(LayerscopeError, match="no checkpoint at step 0, from which distances"):
        measure_all([DistanceFromInitialisation(), WeightChange()], run)
    assert stored(WeightChange(), run)["step"].values.tolist() == [4, 6]


def test_the_learning_rate_is_asked_of_the_run_where_a_probe_takes_a_step(run, monkeypatch):
    asked = []
    monkeypatch.setattr(Run, "learning_rate", lambda self, step: asked.append(step) or 0.1)
    measure_all([WeightChange(), GradientMagnitude()], run, **GIVEN)
    assert asked == []
    own, given = (
        measure(GradientPredictiveness(batches=2, learning_rate=rate), run, **GIVEN)
        for rate in (None, 0.1)
    )
    assert asked == [0, 2, 4, 6]
    xr.testing.assert_equal(own, given)
