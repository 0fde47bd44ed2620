"""What is handed to sinks, with one that keeps everything in memory and may break."""

from __future__ import annotations

import logging
import math
import random
from contextlib import suppress

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from tests.cases import FCN
from tests.memory_sink import Memory
from tests.reference.sinks import numbers as slow_numbers
from tests.studies.test_study import STUDY
from tests.training_loop import assert_same, train

from layerscope.errors import LayerscopeError
from layerscope.probes import DistanceFromInitialisation, WeightChange
from layerscope.recording import recorder as recorder_module
from layerscope.recording import writer as writer_module
from layerscope.recording.feed import layer_rows
from layerscope.recording.recorder import Recorder
from layerscope.recording.sinks import labels, numbers
from layerscope.reproduce import reproduce
from layerscope.runs.store import Run
from layerscope.schedule import every


def options(path, *sinks, **more):
    return {
        "path": path,
        "probes": [WeightChange()],
        "measure": every(2),
        "checkpoints": every(2),
        "sinks": sinks,
        **more,
    }


def notes(path):
    return Run.open(path).manifest["notes"].get("sinks")


def test_everything_comes_in_order_and_at_the_end_the_figures_and_the_layers(tmp_path):
    sink = Memory()
    probes = [WeightChange(), DistanceFromInitialisation()]
    train(FCN, 6, **options(tmp_path / "a", sink, metadata={"seed": 3}, probes=probes))
    assert sink.calls[0] == "start"
    assert sink.calls[-1] == "finish"
    assert sink.tables["status"] == "complete"
    assert sink.config["layerscope"]["seed"] == 3
    assert sink.config["layerscope"]["layers"] == 3
    assert notes(tmp_path / "a")["Memory"]["state"] == {"id": "abc"}
    shown = [call for call in sink.calls if call != "log"]
    figures = len(sink.tables) - 2
    assert shown == ["start", *["figure"] * figures, "table", "finish"]
    assert figures == 3


def test_the_table_of_layers_ends_with_the_last_values(tmp_path):
    sink = Memory()
    train(FCN, 6, **options(tmp_path / "a", sink))
    run = Run.open(tmp_path / "a")
    columns, rows = sink.tables["layerscope/layers"]
    assert [list(row) for row in rows] == list(layer_rows(run))[1:]
    assert columns[:6] == ["layer", "depth", "kind", "group", "parameters", "trained"]
    last = run.results("weight_change")["change"].isel(step=-1).values.tolist()
    assert [row[columns.index("weight_change")] for row in rows] == last
    assert [row[0] for row in rows] == list(run.layers.names)


def test_nothing_is_sent_by_the_step(tmp_path):
    sink = Memory()
    model = FCN.model()
    with Recorder(model, **options(tmp_path / "a", sink, measure=every(1))) as recorder:
        for _ in range(5):
            recorder.step(loss=1.0)
        assert sink.rows == []
        recorder.flush()
        assert {step for step, _ in sink.rows} == {1, 2, 3, 4, 5}


def test_steps_ascend_within_a_flush_and_only_then(tmp_path, monkeypatch):
    sink = Memory()
    monkeypatch.setattr(recorder_module, "FLUSH_SECONDS", math.inf)
    train(FCN, 6, **options(tmp_path / "a", sink))
    steps = [step for step, _ in sink.rows]
    turns = [i for i in range(1, len(steps)) if steps[i] < steps[i - 1]]
    assert len(turns) == 1  # probes, then the loss


@pytest.mark.parametrize("where", ["start", "log", "figure", "table", "finish"])
def test_a_sink_that_fails_is_left_out_and_the_rest_goes_on(where, tmp_path, caplog):
    broken, sound = Memory(breaks=where), Memory()
    with caplog.at_level(logging.WARNING, "layerscope"):
        outcome = train(FCN, 6, **options(tmp_path / "a", broken, sound))
    assert_same(outcome, train(FCN, 6))
    assert broken.calls.count(where) == 1
    closed = [] if where in ("start", "finish") else ["finish"]
    assert broken.calls[broken.calls.index(where) :] == [where, *closed]
    assert sound.tables["status"] == "complete"
    assert [r.message for r in caplog.records] == [
        "Memory failed and is left out from then on: OSError: no space left"
    ]
    failed = notes(tmp_path / "a")["Memory"]["failed"]
    assert failed["error"] == "OSError: no space left"
    assert "failed" not in notes(tmp_path / "a")["Memory 2"]
    run = Run.open(tmp_path / "a")
    assert run.status == "complete"
    assert run.results("weight_change")["step"].values.tolist() == [2, 4, 6]


class Drawing(Memory):
    """One whose library draws random numbers wherever it is called."""

    def _called(self, name):
        super()._called(name)
        random.random(), np.random.rand(), torch.rand(1)


def test_a_sink_that_draws_random_numbers_leaves_the_training_as_it_is(tmp_path):
    sink = Drawing()
    found = train(FCN, 6, **options(tmp_path / "a", sink))
    assert {"start", "log", "figure", "table", "finish"} == {*sink.calls}
    assert_same(found, train(FCN, 6))


def test_a_number_logged_after_a_flush_of_the_same_step_joins_those_before(tmp_path):
    sink = Memory()
    with Recorder(FCN.model(), **options(tmp_path / "a", sink)) as recorder:
        recorder.step()
        recorder.log(first=1.0)
        recorder.flush()
        recorder.log(second=2.0)
        recorder.flush()
        recorder.step()
        recorder.log(second=3.0)
    found = Run.open(tmp_path / "a").results("evaluation")
    assert found["step"].values.tolist() == [1, 2]
    np.testing.assert_array_equal(found["first"], [1, math.nan])
    np.testing.assert_array_equal(found["second"], [2, 3])
    told = [(step, name) for step, values in sink.rows for name in values if "evaluation" in name]
    names = [f"layerscope/evaluation/{name}" for name in ("first", "second")]
    assert told == [(1, names[0]), (1, names[1]), (2, names[1])]


def test_what_a_sink_missed_comes_when_the_run_resumes(tmp_path):
    model, broken = FCN.model(), Memory(breaks="log")
    with (
        suppress(KeyboardInterrupt),
        Recorder(model, **options(tmp_path / "a", broken)) as recorder,
    ):
        for _ in range(4):
            recorder.step(loss=1.0)
        recorder.flush()
        state = recorder.state_dict()
        raise KeyboardInterrupt
    mended = Memory()
    resumed = Recorder(model, **options(tmp_path / "a", mended, resume=True))
    resumed.load_state_dict(state)
    with resumed:
        assert {step for step, _ in mended.rows} == {2, 4}
        for _ in range(2):
            resumed.step(loss=1.0)
    assert mended.state == {"id": "abc"}
    seen = [(step, name) for step, values in mended.rows for name in values]
    assert len(seen) == len(set(seen))
    assert "failed" not in notes(tmp_path / "a")["Memory"]


def test_two_calls_of_log_at_one_step_both_arrive(tmp_path):
    sink = Memory()
    with Recorder(FCN.model(), **options(tmp_path / "a", sink)) as recorder:
        recorder.step(loss=1.0)
        recorder.log(first=1.0)
        recorder.flush()
        recorder.log(second=2.0)
    values = [v for step, values in sink.rows if step == 1 for v in values.items()]
    assert ("layerscope/evaluation/first", 1.0) in values
    assert ("layerscope/evaluation/second", 2.0) in values


def test_an_interrupted_run_has_no_figures_and_says_so(tmp_path):
    sink = Memory()
    with (
        suppress(ZeroDivisionError),
        Recorder(FCN.model(), **options(tmp_path / "a", sink)) as recorder,
    ):
        recorder.step(loss=1.0)
        recorder.step(loss=1.0)
        _ = 1 / 0
    assert sink.tables == {"status": "interrupted"}
    assert sink.rows


def test_a_run_that_cannot_begin_leaves_no_sink_open(tmp_path, monkeypatch):
    sink = Memory()

    def broken(**_):
        raise ZeroDivisionError

    recorder = Recorder(FCN.model(), **options(tmp_path / "a", sink))
    monkeypatch.setattr(recorder, "_observe", broken)
    with pytest.raises(ZeroDivisionError), recorder:
        pass
    assert sink.calls == ["start", "finish"]
    assert not (tmp_path / "a").exists()


def test_only_the_first_process_feeds_sinks(tmp_path, monkeypatch):
    sink = Memory()
    monkeypatch.setattr(recorder_module, "rank", lambda: 1)
    with Recorder(FCN.model(), **options(tmp_path / "a", sink)) as recorder:
        recorder.step(loss=1.0)
    writer_module.Writer(tmp_path / "a", 1, [sink]).append([])
    assert sink.calls == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["tensorboard"], "'tensorboard' is no sink"),
        ("tensorboard", "'tensorboard' is no sink"),
        ([Memory(), Memory], "is no sink"),
        (Memory(), "sinks is one Memory.*\n.*Give a list"),
    ],
)
def test_what_is_no_list_of_sinks_is_refused_at_once(given, message, tmp_path):
    with pytest.raises(LayerscopeError, match=message):
        Recorder(FCN.model(), tmp_path / "a", measure=every(1), checkpoints=every(1), sinks=given)
    with pytest.raises(LayerscopeError, match=message):
        reproduce(STUDY, tmp_path / "b", sinks=given)


def test_sinks_of_one_kind_are_numbered():
    assert labels([Memory(), Memory(), Memory()]) == ["Memory", "Memory 2", "Memory 3"]


@given(
    st.lists(st.sampled_from(["a", "b.c", "d/e", "ü"]), min_size=1, max_size=3, unique=True),
    st.lists(st.integers(0, 50), min_size=1, max_size=4, unique=True),
    st.integers(1, 2),
    st.lists(st.sampled_from([0.0, 1.5, math.nan, math.inf, -2.0]), min_size=1, max_size=5),
)
def test_numbers_are_those_of_plain_loops(layers, steps, variables, values):
    shape = (len(steps), len(layers))
    made = xr.Dataset(coords={"step": sorted(steps), "layer": layers})
    for i in range(variables):
        made[f"v{i}"] = (("step", "layer"), np.resize(values[i:] + values[:i], shape))
    made["total"] = ("step", np.resize(values, len(steps)))
    made["wide"] = (("step", "layer", "draw"), np.zeros((*shape, 2)))
    fast = sorted(numbers('probe,x="1.5",y=-1', made))
    assert fast == sorted(slow_numbers('probe,x="1.5",y=-1', made))
    assert all(math.isfinite(value) for _, _, value in fast)


def test_names_are_these():
    made = xr.Dataset(coords={"step": [4], "layer": ["stem"]})
    one = made.assign(change=(("step", "layer"), [[0.5]]))
    assert list(numbers("weight_change", one)) == [(4, "layerscope/weight_change/stem", 0.5)]
    two = one.assign(zeros=(("step", "layer"), [[3.0]]))
    assert [name for _, name, _ in numbers("weight_change,p=2.0", two)] == [
        "layerscope/weight_change-p-2.0.change/stem",
        "layerscope/weight_change-p-2.0.zeros/stem",
    ]
    loss = xr.Dataset({"loss": ("step", [0.5])}, coords={"step": [4]})
    assert list(numbers("training", loss)) == [(4, "layerscope/training/loss", 0.5)]


def test_measuring_and_sending_leave_the_random_state(tmp_path):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with Recorder(FCN.model(), **options(tmp_path / "a", Memory())) as recorder:
        torch.set_rng_state(before)
        recorder.step(loss=1.0)
    assert torch.equal(torch.get_rng_state(), before)
