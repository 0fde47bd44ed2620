"""Every sink keeps one contract; what it wrote is read back from its files."""

from __future__ import annotations

import copy
import logging
import sys
from contextlib import suppress

import numpy as np
import pytest
import torch
from tests.cases import FCN
from tests.integrations.cases import SINKS, WARNINGS, each_sink, each_sink_in_time
from tests.integrations.readers import PNG
from tests.training_loop import assert_same, train
from torch import nn

from layerscope.errors import LayerscopeError
from layerscope.integrations import MLflow, TensorBoard, Trackio, WandB
from layerscope.probes import DistanceFromInitialisation, GradientMagnitude, WeightChange
from layerscope.recording.recorder import Recorder
from layerscope.recording.sinks import numbers
from layerscope.runs.store import Run
from layerscope.schedule import every

pytestmark = [pytest.mark.filterwarnings(text) for text in WARNINGS]
PROBES = [
    WeightChange(),
    WeightChange(reduction="angle"),
    GradientMagnitude(),
    DistanceFromInitialisation(),
]


def options(folder, **more):
    return {
        "path": folder / "run",
        "task": FCN.task,
        "batch": FCN.batch(0),
        "probes": [WeightChange()],
        "measure": every(2),
        "checkpoints": every(4),
        **more,
    }


def loop(recorder, model, steps, flush=()):
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for _ in range(steps):
        batch = FCN.batch(recorder.current_step)
        optimizer.zero_grad()
        loss = FCN.task.loss(FCN.task.forward(model, batch), batch)
        loss.backward()
        optimizer.step()
        recorder.step(loss=loss)
        recorder.log(test_error=0.5 / recorder.current_step)
        if recorder.current_step in flush:
            recorder.flush()


def expected(run):
    """What stands in the run's files, by the names that a sink is told."""
    found = {}
    for key in run.result_keys:
        for step, name, value in numbers(key, run.results(key)):
            found.setdefault(name, {})[step] = value
    return found


def assert_holds(found, run, case):
    wanted = expected(run)
    assert {n: sorted(v) for n, v in found.numbers.items() if n in wanted} == {
        name: sorted(values) for name, values in wanted.items()
    }
    for name, values in wanted.items():
        for step, value in values.items():
            assert found.numbers[name][step] == pytest.approx(value, rel=case.tolerance, abs=0)
    assert set(found.times.values()) == {1}


@each_sink
def test_a_sink_has_what_the_run_has(case, offline):
    model = FCN.model()
    given = options(offline, sinks=[case.make(offline)], probes=PROBES)
    with Recorder(model, **given) as recorder:
        loop(recorder, model, 7, flush=(3, 4))
    run, found = recorder.run, case.read(offline)
    assert "sinks" in run.manifest["notes"]
    assert "failed" not in run.manifest["notes"]["sinks"]
    assert_holds(found, run, case)
    assert found.numbers.keys() == expected(run).keys()
    assert {
        "layerscope/training/loss",
        "layerscope/evaluation/test_error",
        "layerscope/gradient_magnitude/layer1",
        "layerscope/weight_change/layer1",
        "layerscope/weight_change-reduction-angle/layer1",
        "layerscope/distance_from_initialisation.rms_distance/layer1",
    } <= found.numbers.keys()
    assert {"layerscope/weight-change", "layerscope/gradient-magnitude"} <= found.pictures.keys()
    assert all(picture.startswith(PNG) for picture in found.pictures.values())
    assert list(found.tables) == ["layerscope/layers"]
    assert all(name in found.tables["layerscope/layers"] for name in run.layers.names)
    assert str(run.path) in found.configuration
    assert found.ended == case.ended


@each_sink_in_time
def test_a_sink_stands_beside_the_users_own_numbers(case, offline):
    sink, log, close = case.make_user(offline)
    model = FCN.model()
    log("mine", 1.0)
    with Recorder(model, **options(offline, sinks=[sink])) as recorder:
        loop(recorder, model, 4, flush=(2,))
    log("mine_too", 2.0)
    close()
    found = case.read(offline)
    assert [*found.numbers["mine"].values(), *found.numbers["mine_too"].values()] == [1.0, 2.0]
    found.times = {at: n for at, n in found.times.items() if not at[0].startswith("mine")}
    assert_holds(found, recorder.run, case)


@each_sink_in_time
def test_a_resumed_run_goes_on_where_the_sink_was(case, offline):
    model = FCN.model()
    state = None
    with (
        suppress(KeyboardInterrupt),
        Recorder(model, **options(offline, sinks=[case.make(offline)])) as recorder,
    ):
        loop(recorder, model, 4)
        recorder.flush()
        state = copy.deepcopy(recorder.state_dict())
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        loop(recorder, model, 3)  # written, sent, and done again below
        raise KeyboardInterrupt
    assert Run.open(offline / "run").status == "interrupted"
    model.load_state_dict(weights)
    resumed = Recorder(model, **options(offline, resume=True, sinks=[case.make(offline)]))
    resumed.load_state_dict(state)
    with resumed:
        loop(resumed, model, 5)
    found = case.read(offline)
    assert_holds(found, resumed.run, case)
    assert max(found.numbers["layerscope/weight_change/layer1"]) == 8


@each_sink_in_time
def test_the_training_is_the_same_bit_for_bit(case, offline):
    recorded = train(FCN, **options(offline, sinks=[case.make(offline)]))
    assert_same(recorded, train(FCN))
    assert case.read(offline).numbers


@each_sink_in_time
def test_hostile_names_and_numbers_do_no_harm(case, offline):
    model = nn.Sequential()
    for name in ("a b", "a:b", "a%b", "é<script>", "x|y"):
        model.add_module(name, nn.Linear(4, 4))
    sink = case.make(offline)
    with Recorder(
        model,
        offline / "run",
        probes=[WeightChange()],
        measure=every(1),
        checkpoints=every(9),
        sinks=[sink],
    ) as recorder:
        for step in range(2):
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(1 + 0.1 * (step + 1))
            recorder.step()
            recorder.log(infinite=float("inf"), nothing=float("nan"), fine=1.5)
    notes = recorder.run.manifest["notes"]["sinks"]
    assert [note for note in notes.values() if "failed" in note] == []
    found = case.read(offline)
    assert found.numbers.pop("layerscope/evaluation/fine") == {1: 1.5, 2: 1.5}
    changes = {k: v for k, v in found.numbers.items() if k.startswith("layerscope/weight_change")}
    assert changes == found.numbers
    assert len(changes) == 5
    assert all(list(values) == [1, 2] for values in changes.values())


@each_sink
def test_a_library_that_is_not_there_is_said_at_once(case, monkeypatch):
    monkeypatch.setitem(sys.modules, case.module, None)
    kind = {"tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow, "trackio": Trackio}
    with pytest.raises(LayerscopeError, match=f"Install it: pip install {case.package}"):
        kind[case.name]("x")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TensorBoard(), "neither folder nor writer"),
        (lambda: MLflow(), "neither experiment nor run"),
        (lambda: MLflow("a", run=object()), "experiment and run"),
        (lambda: Trackio(), "neither project nor run"),
        (lambda: Trackio("a", nane="b"), r"unknown argument of trackio.init 'nane'.*\n.*'name'"),
        (lambda: Trackio(run=object(), name="b"), "run and name"),
        (lambda: WandB("a", nane="b"), r"unknown argument of wandb.init 'nane'.*\n.*'name'"),
        (lambda: WandB("a", run=object()), "a run and project"),
    ],
)
def test_arguments_that_contradict_one_another(make, message):
    with pytest.raises(LayerscopeError, match=message):
        make()


def test_a_server_that_is_not_there_costs_the_sink_alone(offline, caplog, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    sink = MLflow("tests", tracking_uri="http://127.0.0.1:9")
    model = FCN.model()
    with (
        caplog.at_level(logging.WARNING, "layerscope"),
        Recorder(model, **options(offline, sinks=[sink])) as recorder,
    ):
        loop(recorder, model, 3)
    assert recorder.run.status == "complete"
    warned = [r.message for r in caplog.records if r.name.startswith("layerscope")]
    assert len(warned) == 1
    assert warned[0].startswith("MLflow failed and is left out from then on: ")
    assert recorder.run.manifest["notes"]["sinks"]["MLflow"]["failed"]["step"] == 0


def test_numbers_in_single_precision_are_the_nearest(offline):
    sink = TensorBoard(offline / "tb")
    sink.start({"layerscope": {}}, {})
    sink.log({"x": 0.1}, 3)
    sink.finish("complete")
    (case,) = [case for case in SINKS if case.name == "tensorboard"]
    assert case.read(offline).numbers["x"] == {3: float(np.float32(0.1))}
