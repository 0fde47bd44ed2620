from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import xarray as xr
from tests.cases import CASES, CNN, FCN, TIED, TRANSFORMER
from tests.training_loop import MOMENT_PROBES, WAYS, assert_same, hooks, train
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore

from layerscope.errors import DivergedError, LayerscopeError
from layerscope.networks.layers import LayerMap
from layerscope.probes import (
    Convergence,
    DistanceFromInitialisation,
    GradientMagnitude,
    WeightChange,
    measure,
)
from layerscope.probes.base import MomentProbe, Variable
from layerscope.recording import recorder as recorder_module
from layerscope.recording.recorder import Recorder
from layerscope.runs.store import Run
from layerscope.schedule import at, epochs, every

ALL = {"probes": MOMENT_PROBES, "measure": every(1), "checkpoints": every(2)}
SOUND = [probe for probe in MOMENT_PROBES if probe.key != "weight_scaling"]
"""Those that no bias of the case stops."""


def options(case, path, **more):
    return {"path": path, "task": case.task, "batch": case.batch(0), **ALL, **more}


# Neutrality


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_training_is_the_same_bit_for_bit(case, tmp_path):
    assert_same(train(case, **options(case, tmp_path / "a")), train(case))


@pytest.mark.parametrize("case", [FCN, CNN, TRANSFORMER], ids=lambda case: case.name)
@pytest.mark.parametrize(
    "way", [pytest.param("compiled", marks=pytest.mark.slow), "accumulated", "autocast"]
)
def test_training_is_the_same_however_it_trains(case, way, tmp_path):
    steps = 3
    torch.compiler.reset()
    expected = train(case, steps, WAYS[way])
    torch.compiler.reset()
    assert_same(train(case, steps, WAYS[way], **options(case, tmp_path / "a")), expected)


def test_the_two_ways_to_train_that_differ_do_differ():
    assert train(CNN, 2).losses != train(CNN, 2, WAYS["autocast"]).losses


def test_hooks_and_modes_of_ones_own_stay(tmp_path):
    model = CNN.model()
    seen = []
    model[4].register_forward_hook(lambda *_: seen.append(1))
    before = hooks(model)
    outcome = train(CNN, 2, model=model, **options(CNN, tmp_path / "a"))
    assert (outcome.hooks, before) == (before, 1)
    assert all(outcome.modes)
    assert seen


def test_frozen_parameters_stay_frozen_and_have_a_gradient_measured(tmp_path):
    model = FCN.model()
    model.layer1.requires_grad_(False)
    train(FCN, 3, model=model, **options(FCN, tmp_path / "a"))
    run = Run.open(tmp_path / "a")
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True, True, True]
    assert all(p.grad is None for p in model.layer1.parameters())
    change, gradient = (run.results(k) for k in ("weight_change", "gradient_magnitude"))
    assert change["change"].sel(layer="layer1").values.tolist() == [0.0] * 3
    assert bool((gradient["gradient_magnitude"].sel(layer="layer1") > 0).all())


# What is recorded


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_live_and_from_checkpoints_are_the_same(case, tmp_path):
    train(case, 5, **options(case, tmp_path / "a", measure=every(2)))
    run = Run.open(tmp_path / "a")
    failed = run.manifest["notes"].get("failed_probes", {})
    for probe in MOMENT_PROBES:
        steps = [0, 2, 4] if "previous" in probe.needs else [0, 2, 4, 5]
        given = {"model": case.model(5), "task": case.task, "steps": steps}
        if probe.key in failed:  # it does not apply to this model
            with pytest.raises(LayerscopeError, match=re.escape(failed[probe.key]["error"])):
                measure(probe, run, **given)
            continue
        live, found = run.results(probe.key), measure(probe, run, **given)
        assert found["step"].values.tolist() == live["step"].values.tolist()
        xr.testing.assert_allclose(found, live, rtol=1e-6, atol=1e-12)


def test_the_last_checkpoint_is_what_was_trained(tmp_path):
    outcome = train(CNN, 5, **options(CNN, tmp_path / "a"))
    run = Run.open(tmp_path / "a")
    assert (run.status, run.steps) == ("complete", [0, 2, 4, 5])
    assert set(run.checkpoint(5)) == set(outcome.state)
    assert all(torch.equal(run.checkpoint(5)[n], v) for n, v in outcome.state.items())
    first = CNN.model().state_dict()
    assert all(torch.equal(run.checkpoint(0)[n], v) for n, v in first.items())


def test_closing_measures_where_the_training_ended(tmp_path):
    """The case of a short fine-tuning: 60 steps of an epoch of 100."""
    model = FCN.model()
    probes = [DistanceFromInitialisation(), WeightChange()]
    with Recorder(model, tmp_path / "a", probes=probes, steps_per_epoch=100) as recorder:
        for _ in range(60):
            for parameter in model.layer1.parameters():
                parameter.data.mul_(1.01)
            recorder.step()
    run = Run.open(tmp_path / "a")
    assert run.result_keys == ["distance_from_initialisation"]
    found = run.results("distance_from_initialisation")
    assert found["step"].values.tolist() == [0, 60]
    moved = found["relative_distance"].sel(layer="layer1")
    np.testing.assert_allclose(moved, [0, 1.01**60 - 1], rtol=1e-5)


def test_a_run_that_goes_on_after_its_end_keeps_one_row_of_a_step(tmp_path):
    model = FCN.model()
    settings = options(FCN, tmp_path / "a", probes=[DistanceFromInitialisation()])
    settings["measure"] = every(2)
    with Recorder(model, **settings) as recorder:
        recorder.step()
        state = recorder.state_dict()
        model.layer1.weight.data.add_(1)
        recorder.step()
        recorder.step()
    resumed = Recorder(model, **settings, resume=True)
    resumed.load_state_dict(state)
    with resumed:
        model.layer1.weight.data.add_(1)
        resumed.step()
        resumed.step()
    found = Run.open(tmp_path / "a").results("distance_from_initialisation")
    assert found["step"].values.tolist() == [0, 2, 3]
    np.testing.assert_allclose(found["max_distance"].sel(layer="layer1"), [0, 2, 2], rtol=1e-6)


def test_the_loss_is_the_mean_between_measured_moments(tmp_path):
    losses = train(FCN, 5, **options(FCN, tmp_path / "a", measure=every(2))).losses
    found = Run.open(tmp_path / "a").results("training")["loss"]
    assert found["step"].values.tolist() == [2, 4, 5]
    means = [sum(losses[:2]) / 2, sum(losses[2:4]) / 2, losses[4]]
    np.testing.assert_allclose(found, means, rtol=1e-6)


def test_probes_on_their_own_schedules(tmp_path):
    probes = {WeightChange(): every(2), WeightChange(p=2.0): at(1, 4), GradientMagnitude(): at(3)}
    train(FCN, 6, **options(FCN, tmp_path / "a", probes=probes))
    run = Run.open(tmp_path / "a")
    steps = {key: run.results(key)["step"].values.tolist() for key in run.result_keys}
    assert steps.pop("training") == [1, 2, 3, 4, 5, 6]
    assert steps == {
        "weight_change": [2, 4, 6],
        "weight_change,p=2.0": [1, 4],
        "gradient_magnitude": [0, 3, 6],
    }
    expected = measure(WeightChange(), run, steps=[0, 2, 4, 6])
    xr.testing.assert_allclose(run.results("weight_change"), expected)


def test_flushing_at_every_step_changes_nothing(tmp_path, monkeypatch):
    probes = {"probes": MOMENT_PROBES[-4:]}
    train(FCN, 3, **options(FCN, tmp_path / "once", **probes))
    monkeypatch.setattr(recorder_module, "FLUSH_SECONDS", -1.0)
    train(FCN, 3, **options(FCN, tmp_path / "often", **probes))
    once, often = Run.open(tmp_path / "once"), Run.open(tmp_path / "often")
    assert once.result_keys == often.result_keys
    for key in once.result_keys:
        xr.testing.assert_equal(once.results(key), often.results(key))


def test_log_keeps_numbers_of_ones_own(tmp_path):
    with Recorder(FCN.model(), tmp_path / "a", checkpoints=at(), measure=at()) as recorder:
        for step in range(3):
            recorder.step()
            recorder.log(test_error=step / 10)
        recorder.log(best=1.0)
    found = Run.open(tmp_path / "a").results("evaluation")
    assert found["test_error"].values.tolist() == [0.0, 0.1, 0.2]
    np.testing.assert_array_equal(found["best"], [math.nan, math.nan, 1.0])


def test_epochs_count_steps_where_their_length_is_known(tmp_path):
    train(FCN, 5, **options(FCN, tmp_path / "a", checkpoints=None, measure=None, steps_per_epoch=2))
    run = Run.open(tmp_path / "a")
    assert run.steps == [0, 2, 4, 5]
    assert run.results("weight_change")["epoch"].values.tolist() == [1.0, 2.0]


def test_layers_of_ones_own_are_the_ones_measured(tmp_path):
    model = FCN.model()
    layers = FCN.map(model, include=["layer*"], groups="thirds")
    train(FCN, 2, model=model, **options(FCN, tmp_path / "a", layers=layers))
    found = Run.open(tmp_path / "a").results("weight_change")
    assert found["layer"].values.tolist() == ["layer1", "layer2"]
    assert found["group"].values.tolist() == ["early", "middle"]


SHARED = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "batch",
    [SHARED, (SHARED, SHARED), {"x": SHARED, "y": SHARED[:4]}, [SHARED, SHARED.long()]],
    ids=["tensor", "shared", "dict", "list"],
)
def test_the_fixed_batch_comes_back(tmp_path, batch):
    layers = LayerMap.from_model(FCN.model(), None)
    settings = {"layers": layers, "checkpoints": at(), "measure": at()}
    with Recorder(FCN.model(), tmp_path / "a", batch=batch, **settings) as recorder:
        found = recorder.run.batch
    pairs = zip(flat(found), flat(batch), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert isinstance(found, dict) is isinstance(batch, dict)


def flat(batch):
    return (
        [batch]
        if isinstance(batch, torch.Tensor)
        else list(batch.values())
        if isinstance(batch, dict)
        else list(batch)
    )


# What goes wrong


def test_a_loss_that_is_not_finite_stops_and_keeps_what_was_before(tmp_path):
    model = FCN.model()
    with (  # noqa: PT012
        pytest.raises(DivergedError, match="loss is not finite at step 4"),
        Recorder(model, **options(FCN, tmp_path / "a")) as recorder,
    ):
        for loss in (2.0, 1.0, torch.tensor(3.0), torch.tensor(math.nan), 1.0):
            recorder.step(loss=loss)
    run = Run.open(tmp_path / "a")
    assert (run.status, run.steps, run.manifest["notes"]["diverged_at"]) == ("diverged", [0, 2], 4)
    assert run.missing.startswith("diverged at step 4: the last checkpoint is at step 2")
    assert run.results("training")["loss"].values.tolist() == [2.0, 1.0, 3.0]
    assert run.results("weight_change")["step"].values.tolist() == [1, 2, 3]


@pytest.mark.parametrize("often", [False, True])
def test_weights_that_are_no_number_are_found_and_rows_before_are_kept(
    tmp_path, monkeypatch, often
):
    if often:
        monkeypatch.setattr(recorder_module, "FLUSH_SECONDS", -1.0)
    model = FCN.model()
    with (  # noqa: PT012
        pytest.raises(DivergedError, match="of layer 'layer2' is not a number at step 3"),
        Recorder(model, **options(FCN, tmp_path / "a", probes=[WeightChange()])) as recorder,
    ):
        for step in range(1, 5):
            if step == 3:
                nn.init.constant_(model.layer2.weight, math.nan)
            recorder.step()
    run = Run.open(tmp_path / "a")
    assert run.status == "diverged"
    assert run.results("weight_change")["step"].values.tolist() == [1, 2]


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_exception_marks_the_run_interrupted_and_keeps_what_was_measured(tmp_path, error):
    with pytest.raises(error), Recorder(FCN.model(), **options(FCN, tmp_path / "a")) as recorder:  # noqa: PT012
        recorder.step(loss=1.0)
        recorder.step(loss=2.0)
        raise error("stop")
    run = Run.open(tmp_path / "a")
    assert (run.status, run.steps) == ("interrupted", [0, 2])
    assert run.manifest["notes"]["error"] == f"{error.__name__}: stop"
    assert run.missing == "interrupted: the last checkpoint is at step 2; it cannot resume"
    assert run.results("training")["loss"].values.tolist() == [1.0, 2.0]


def unstorable(path):
    """Arguments of a recorder whose start fails after the run was created."""
    layers = LayerMap.from_model(FCN.model(), None)
    return options(FCN, path, batch=(torch.ones(8, 4), "text"), layers=layers, probes=())


def full_disk(*_):
    raise LayerscopeError("cannot write it: no space left on device.", "Free some.")


@pytest.mark.parametrize("cause", ["batch", "first checkpoint"])
def test_a_failed_start_leaves_nothing_and_can_be_tried_again(tmp_path, monkeypatch, cause):
    path = tmp_path / "a"
    settings = options(FCN, path, probes=SOUND)
    if cause == "batch":
        settings = unstorable(path)
    else:
        monkeypatch.setattr(Run, "write_checkpoint", full_disk)
        monkeypatch.setattr(Run, "note", full_disk)
    with (
        pytest.raises(LayerscopeError, match=r"cannot be stored|no space left"),
        Recorder(FCN.model(), **settings),
    ):
        pass
    assert not path.exists()
    monkeypatch.undo()
    train(FCN, 2, **options(FCN, path))
    assert Run.open(path).status == "complete"


def test_a_failed_start_leaves_what_was_in_the_folder_before(tmp_path):
    path = tmp_path / "a"
    (path / "results").mkdir(parents=True)
    (path / "results" / "mine.txt").write_text("kept")
    (path / "notes.txt").write_text("kept")
    with (
        pytest.raises(LayerscopeError, match="cannot be stored"),
        Recorder(FCN.model(), **unstorable(path)),
    ):
        pass
    left = sorted(str(p.relative_to(path)) for p in path.rglob("*"))
    assert left == ["notes.txt", "results", "results/mine.txt"]


# A probe that fails


@dataclass(frozen=True)
class Fragile(MomentProbe):
    """One for every layer, and from a step on something that is no measurement."""

    instead: Callable[[dict], dict]
    since: int = 3

    @property
    def variables(self):
        return {"one": Variable("one")}

    @property
    def key(self):
        return "fragile"

    def select(self, layers):
        return layers

    def measure(self, moment, layers):
        found = {"one": torch.ones(len(layers))}
        return self.instead(found) if moment.step >= self.since else found

    def figures(self, dataset):
        return []


def broken(_):
    raise ZeroDivisionError("by nothing")


FAILURES = {
    "an error": (broken, "ZeroDivisionError: by nothing"),
    "no number": (lambda v: {"one": v["one"] * math.nan}, "one of layer 'layer1' is not a number"),
    "no variable": (lambda _: {}, "KeyError: 'one'"),
    "another shape": (lambda v: {"one": v["one"][:2]}, "Error: "),
}


@pytest.mark.parametrize("often", [False, True])
@pytest.mark.parametrize(("instead", "reason"), FAILURES.values(), ids=FAILURES)
def test_a_probe_that_fails_is_left_out_and_training_goes_on(
    tmp_path, monkeypatch, caplog, instead, reason, often
):
    if often:
        monkeypatch.setattr(recorder_module, "FLUSH_SECONDS", -1.0)
    probes = [Fragile(instead), DistanceFromInitialisation(), GradientMagnitude()]
    assert_same(train(FCN, 5, **options(FCN, tmp_path / "a", probes=probes)), train(FCN, 5))
    run = Run.open(tmp_path / "a")
    assert run.status == "complete"
    failed = run.manifest["notes"]["failed_probes"]
    assert list(failed) == ["fragile"]
    assert failed["fragile"]["step"] == 3
    assert reason in failed["fragile"]["error"]
    assert [record.getMessage() for record in caplog.records] == [
        "fragile failed at step 3 and is left out from then on: " + failed["fragile"]["error"]
    ]
    assert run.results("fragile")["one"].values.tolist() == [[1.0] * 3] * 3
    for key in ("distance_from_initialisation", "gradient_magnitude"):
        assert run.results(key)["step"].values.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(("instead", "reason"), FAILURES.values(), ids=FAILURES)
def test_a_probe_that_fails_ends_a_strict_recording(tmp_path, instead, reason):
    probes = [Fragile(instead)]
    with pytest.raises(LayerscopeError, match=r"fragile failed at step 3: .*\n.*strict") as found:
        train(FCN, 5, **options(FCN, tmp_path / "a", probes=probes, strict=True))
    assert reason in found.value.message
    run = Run.open(tmp_path / "a")
    assert (run.status, run.results("fragile")["step"].values.tolist()) == (
        "interrupted",
        [0, 1, 2],
    )


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_is_no_failure_of_a_probe_passes_through(tmp_path, error):
    def stop(_):
        raise error

    with pytest.raises(error):
        train(FCN, 5, **options(FCN, tmp_path / "a", probes=[Fragile(stop)]))
    assert Run.open(tmp_path / "a").status == "interrupted"


@pytest.mark.parametrize("instead", [v for v, _ in FAILURES.values()], ids=FAILURES)
def test_where_the_weights_are_not_finite_the_model_has_diverged(tmp_path, instead):
    model = FCN.model()
    with (  # noqa: PT012
        pytest.raises(DivergedError, match=r"'layer2.weight' is not finite at step 3|not a number"),
        Recorder(model, **options(FCN, tmp_path / "a", probes=[Fragile(instead)])) as recorder,
    ):
        recorder.step()
        recorder.step()
        nn.init.constant_(model.layer2.weight, math.nan)
        recorder.step()
    run = Run.open(tmp_path / "a")
    assert run.status == "diverged"
    assert run.results("fragile")["step"].values.tolist() == [0, 1, 2]


def test_one_nan_in_the_batch_of_a_probe_does_not_end_training(tmp_path):
    inputs, labels = FCN.batch(0)
    inputs[0, 0] = math.nan
    layers = FCN.map(FCN.model())
    settings = options(FCN, tmp_path / "a", batch=(inputs, labels), layers=layers)
    settings["probes"] = [GradientMagnitude(), WeightChange()]
    assert_same(train(FCN, 3, **settings), train(FCN, 3))
    run = Run.open(tmp_path / "a")
    assert (run.status, run.result_keys) == ("complete", ["training", "weight_change"])
    assert run.manifest["notes"]["failed_probes"]["gradient_magnitude"]["step"] == 0


CHANGES = {
    "resized": "'output.weight' has shape (5, 8), not (3, 8)",
    "widened from one": "'output.weight' has shape (5, 8), not (1, 8)",
    "gone": "there is no 'output.weight'",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_layer_that_changes_shape_is_named_and_training_goes_on(tmp_path, change):
    model = FCN.model()
    if change == "widened from one":  # shapes that broadcast are no less wrong
        model.output = nn.Linear(8, 1)
    settings = {"checkpoints": at(), "measure": every(1), "batch": FCN.batch(0), "task": FCN.task}
    probes = [WeightChange(), DistanceFromInitialisation()]
    with Recorder(model, tmp_path / "a", probes=probes, **settings) as recorder:
        recorder.step()
        model.output = nn.Identity() if change == "gone" else nn.Linear(8, 5)
        recorder.step()
        recorder.step()
    run = Run.open(tmp_path / "a")
    failed = run.manifest["notes"]["failed_probes"]
    assert list(failed) == ["weight_change", "distance_from_initialisation"]
    expected = f"layer 'output' is not the one that was recorded so far: {CHANGES[change]}."
    assert list(failed.values()) == [{"step": 2, "error": expected}] * 2
    assert run.results("weight_change")["step"].values.tolist() == [1]


def test_a_probe_that_failed_stays_out_when_the_run_is_resumed(tmp_path):
    settings = options(FCN, tmp_path / "a", probes=[Fragile(broken, 1)])
    with pytest.raises(KeyboardInterrupt), Recorder(FCN.model(), **settings) as recorder:  # noqa: PT012
        recorder.step()
        state = recorder.state_dict()
        raise KeyboardInterrupt
    resumed = Recorder(FCN.model(), **settings | {"probes": [Fragile(lambda v: v)]}, resume=True)
    resumed.load_state_dict(state)
    with resumed:
        resumed.step()
    run = Run.open(tmp_path / "a")
    assert run.manifest["notes"]["failed_probes"]["fragile"]["step"] == 1
    assert run.results("fragile")["step"].values.tolist() == [0]


def test_a_write_that_fails_is_no_failure_of_a_probe(tmp_path, monkeypatch):
    def write():
        with Recorder(FCN.model(), **options(FCN, tmp_path / "a", probes=SOUND)) as recorder:
            monkeypatch.setattr(Run, "append_results", full_disk)
            recorder.step()

    with pytest.raises(LayerscopeError, match="no space left"):
        write()
    assert "failed_probes" not in Run.open(tmp_path / "a").manifest["notes"]


def test_layers_without_a_value_are_kept_with_the_reason(tmp_path):
    def partly(found):
        found["one"][1] = math.nan
        return found

    @dataclass(frozen=True)
    class Partial(Fragile):
        def measure(self, moment, layers):
            moment.missing["layer2"] = f"it has no {moment.step}"
            return super().measure(moment, layers)

    Partial.__name__ = "Fragile"  # the name that its key, and so its folder, has
    train(FCN, 2, **options(FCN, tmp_path / "a", probes=[Partial(partly, 0)]))
    run = Run.open(tmp_path / "a")
    assert "failed_probes" not in run.manifest["notes"]
    found = run.results("fragile")
    assert found["missing"].values.tolist() == ["", "it has no 2", ""]
    np.testing.assert_array_equal(found["one"].isel(step=0), [1.0, math.nan, 1.0])


REFUSED = [
    ({"probes": [GradientMagnitude()], "batch": None}, "GradientMagnitude needs batch"),
    (
        {"probes": [GradientMagnitude()], "task": None, "layers": True},
        "GradientMagnitude needs task",
    ),
    ({"probes": [Convergence()]}, r"Convergence needs the finished run.*\n.*measure\(Convergence"),
    ({"probes": [WeightChange(), WeightChange()]}, "listed twice"),
    ({"measure": epochs()}, "does not know how many steps an epoch has"),
    ({"checkpoints": epochs()}, "does not know how many steps an epoch has"),
    ({"batch": (torch.ones(8, 5), torch.ones(8).long())}, "does not run on the example input"),
    ({"layers": CNN.map(CNN.model())}, r"layer '0' does not fit the model: there is no '0.weight'"),
    ({"probes": [WeightChange(minimum_dimensions=3)]}, "no parameter has 3 or more dimensions"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[m[:20] for _, m in REFUSED])
def test_mistakes_are_found_before_training(tmp_path, change, message):
    model = FCN.model()
    if change.get("layers") is True:
        change = change | {"layers": FCN.map(model)}
    with pytest.raises(LayerscopeError, match=message):
        Recorder(model, **options(FCN, tmp_path / "a") | change)
    assert not (tmp_path / "a").exists()


def test_a_recorder_outside_a_with_statement_says_so(tmp_path):
    with pytest.raises(LayerscopeError, match="Use it in a with statement"):
        Recorder(FCN.model(), **options(FCN, tmp_path / "a")).step()


def test_the_run_of_a_recorder_that_is_not_open_says_so(tmp_path):
    with pytest.raises(LayerscopeError, match=r"the recorder is not open.*\n.*with statement"):
        _ = Recorder(FCN.model(), **options(FCN, tmp_path / "a")).run


@pytest.fixture
def second_of_two():
    """This process is rank 1 of a group of 2 that does not communicate."""
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=1, world_size=2)
    yield
    torch.distributed.destroy_process_group()


def test_another_rank_records_nothing_and_its_run_says_so(tmp_path, second_of_two):
    with Recorder(FCN.model(), **options(FCN, tmp_path / "a")) as recorder:
        recorder.step(loss=1.0)
        with pytest.raises(LayerscopeError, match="of rank 1 does not record; rank 0 does"):
            _ = recorder.run
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("inside", [False, True])
def test_a_model_sharded_by_fsdp_is_refused(tmp_path, second_of_two, inside):
    model = FCN.model()
    device = torch.device("cpu")
    if inside:
        model.layer1 = FullyShardedDataParallel(model.layer1, device_id=device)
    else:
        model = FullyShardedDataParallel(model, device_id=device)
    name = "module 'layer1'" if inside else "the model"
    with pytest.raises(LayerscopeError, match=f"{name} is sharded by FullyShardedDataParallel"):
        Recorder(model, tmp_path / "a", checkpoints=at(), measure=at())


def test_a_data_parallel_model_is_recorded_under_its_own_names(tmp_path):
    model = nn.DataParallel(FCN.model())
    with Recorder(model, **options(FCN, tmp_path / "a")) as recorder:
        recorder.step()
    assert recorder.run.layers.names == FCN.layers
    assert set(recorder.run.checkpoint(0)) == set(FCN.model().state_dict())


def test_a_folder_with_a_run_is_refused_and_the_run_stays(tmp_path):
    train(FCN, 2, **options(FCN, tmp_path / "a"))
    before = (tmp_path / "a" / "run.json").read_text()
    with (
        pytest.raises(LayerscopeError, match="already holds a run"),
        Recorder(FCN.model(), **options(FCN, tmp_path / "a")),
    ):
        pass
    assert (tmp_path / "a" / "run.json").read_text() == before


def test_a_second_recorder_on_a_run_is_refused(tmp_path):
    with (
        Recorder(FCN.model(), **options(FCN, tmp_path / "a")),
        pytest.raises(LayerscopeError, match="another process is recording"),
        Recorder(FCN.model(), **options(FCN, tmp_path / "a")),
    ):
        pass
    assert Run.open(tmp_path / "a").status == "complete"


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file.txt").write_text("")
    with (
        pytest.raises(LayerscopeError, match=r"cannot write .*file.txt"),
        Recorder(FCN.model(), **options(FCN, tmp_path / "file.txt" / "run")),
    ):
        pass


def test_tied_weights_are_kept_once_and_load(tmp_path):
    outcome = train(TIED, 2, **options(TIED, tmp_path / "a"))
    run, model = Run.open(tmp_path / "a"), TIED.model(9)
    assert "embedding.weight" not in run.checkpoint(2)
    run.load(model, 2)
    assert model.output.weight is model.embedding.weight
    assert all(torch.equal(model.state_dict()[n], v) for n, v in outcome.state.items())


def test_a_probe_that_needs_the_start_reads_it_from_disk_after_resuming(tmp_path):
    model = FCN.model()
    settings = options(FCN, tmp_path / "a", probes=[DistanceFromInitialisation(), WeightChange()])
    with pytest.raises(KeyboardInterrupt), Recorder(model, **settings) as recorder:  # noqa: PT012
        model.layer1.weight.data.add_(1)
        recorder.step()
        state = recorder.state_dict()
        raise KeyboardInterrupt
    resumed = Recorder(model, **settings, resume=True)
    resumed.load_state_dict(state)
    with resumed:
        model.layer1.weight.data.add_(1)
        resumed.step()
    run = Run.open(tmp_path / "a")
    found = run.results("distance_from_initialisation")["max_distance"].sel(layer="layer1")
    np.testing.assert_allclose(found, [0.0, 1.0, 2.0], rtol=1e-6)
    assert (run.status, run.steps) == ("complete", [0, 2])
    assert "error" not in run.manifest["notes"]


def test_resuming_with_other_probes_is_refused(tmp_path):
    settings = options(FCN, tmp_path / "a", probes=[WeightChange()])
    with Recorder(FCN.model(), **settings) as recorder:
        state = recorder.state_dict()
    other = Recorder(FCN.model(), **settings | {"probes": []}, resume=True)
    with pytest.raises(LayerscopeError, match="recorded with other probes"):
        other.load_state_dict(state)


def test_what_was_measured_last_is_at_hand_also_after_it_was_written(tmp_path):
    model = FCN.model()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    probe = WeightChange()
    settings = {"task": FCN.task, "checkpoints": every(1), "measure": every(1)}
    with Recorder(model, tmp_path / "a", probes={probe: every(2)}, **settings) as recorder:
        for step in range(1, 5):
            optimizer.zero_grad()
            FCN.task.loss(FCN.task.forward(model, FCN.batch(step)), FCN.batch(step)).backward()
            optimizer.step()
            recorder.step()
            recorder.flush()
            if step % 2:
                with pytest.raises(LayerscopeError, match=f"not measured at step {step}"):
                    recorder.latest(probe)
                continue
            expected = recorder.run.results(probe.key)["change"].sel(step=step)
            np.testing.assert_array_equal(recorder.latest(probe)["change"], expected)
        with pytest.raises(LayerscopeError, match=r"weight_change,p=2\.0 was not measured"):
            recorder.latest(WeightChange(p=2.0))
