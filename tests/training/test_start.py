"""Fine-tuning: runs that start from the weights of another."""

import dataclasses
import json
import shutil
import time
from types import SimpleNamespace

import pytest
import torch
from tests.data.cases import encoded, write_parquet
from tests.training.test_loop import assert_equal_runs
from torch import nn

from layerscope.config import (
    FCN,
    SGD,
    CustomModel,
    Digits,
    Images,
    ResNet,
    RunConfig,
    Start,
    to_dict,
)
from layerscope.errors import LayerscopeError
from layerscope.execution import Job, LocalExecutor
from layerscope.models.fcn import fcn
from layerscope.networks.layers import LayerMap
from layerscope.networks.names import unique_state
from layerscope.probes import Convergence, DistanceFromInitialisation, GradientMagnitude, measure
from layerscope.probes import Reinitialisation as Resets
from layerscope.runs.store import Run
from layerscope.studies.study import Study
from layerscope.training import loop
from layerscope.training.loop import train, train_or_wait
from layerscope.training.optimisers import start_at
from layerscope.training.problem import problem, restore

SMALL = RunConfig(model=FCN(depth=1, width=8), epochs=2, batch_size=500, probe_batch=32)
FIRST = dataclasses.replace(SMALL, data=Digits(split_seed=1), seed=5)
TUNED = dataclasses.replace(SMALL, start=Start(run=FIRST, fresh=("output*",)))
WILD = dataclasses.replace(FIRST, model=FCN(2, 8, "identity"), optimizer=SGD(1e30))


def tune(config, path, **options):
    return train(config, path, accelerator="cpu", **options)


def changed(**settings):
    return dataclasses.replace(TUNED, start=dataclasses.replace(TUNED.start, **settings))


def plain(config):
    return unique_state(problem(dataclasses.replace(config, start=None)).model)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The run to start from."""
    return tune(FIRST, tmp_path_factory.mktemp("first") / FIRST.hash)


@pytest.fixture(scope="module")
def tuned(first):
    """A run that started from it, beside it."""
    return tune(TUNED, first.path.parent / TUNED.hash)


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Another data set of the digits' size, with other classes and in colour."""
    monkeypatch.setenv("LAYERSCOPE_CACHE", str(tmp_path / "cache"))
    for split, n in {"train": 12, "test": 6}.items():
        labels = [i % 3 for i in range(n)]
        write_parquet(
            tmp_path / f"birds/data/{split}-00000-of-00001.parquet",
            encoded(n, modes=("L",)),
            labels,
        )
    return Images(name=str(tmp_path / "birds"))


def test_a_run_starts_from_the_last_checkpoint_of_another(first, tuned):
    begin, last, drawn = tuned.checkpoint(0), first.checkpoint(6), plain(TUNED)
    assert set(begin) == set(last) == set(drawn)
    for name in begin:
        source = drawn if name.startswith("output") else last
        assert torch.equal(begin[name], source[name])
    assert not torch.equal(last["output.weight"], drawn["output.weight"])
    assert (tuned.status, tuned.steps) == ("complete", [0, 3, 6])


def test_other_classes_and_statistics_of_normalisation(pictures, tmp_path):
    model = ResNet(18, stages=(2, 2), width=1 / 32)
    before = dataclasses.replace(SMALL, model=model, epochs=1)
    start = Start(run=before, fresh=("final_linear*", "stage0.conv*"))  # classes and colours
    config = dataclasses.replace(before, data=pictures, batch_size=6, start=start)
    run = tune(config, tmp_path / "runs" / config.hash)
    begin, source = run.checkpoint(0), Run.open(tmp_path / "runs" / before.hash).checkpoint(3)
    assert begin["final_linear.weight"].shape[0] == 3
    assert source["final_linear.weight"].shape[0] == 10
    same = [n for n in begin if not n.startswith(("final_linear", "stage0.conv"))]
    assert all(torch.equal(begin[name], source[name]) for name in same)
    statistics = [name for name in same if name.endswith("running_mean")]
    assert any(bool(source[name].any()) for name in statistics)
    assert set(run.manifest["notes"]) >= {"test_error"}


def dropping(input_shape, outputs):
    """A network that draws random numbers as it trains."""
    return nn.Sequential(
        fcn(input_shape, 16, depth=1, width=8), nn.Dropout(), nn.Linear(16, outputs)
    )


def test_random_streams_do_not_depend_on_whether_the_other_run_was_there(tmp_path):
    sizes = json.dumps({"input_shape": [1, 8, 8], "outputs": 10})
    model = CustomModel("tests.training.test_start:dropping", sizes)
    before = dataclasses.replace(FIRST, model=model)
    after = dataclasses.replace(SMALL, model=model, start=Start(run=before, fresh=("2.*",)))
    runs = [tune(after, tmp_path / "a" / after.hash)]
    tune(before, tmp_path / "b" / before.hash)
    runs.append(tune(after, tmp_path / "b" / after.hash))
    assert_equal_runs(*runs)
    # Nor on whether there is another run at all: the same masks fall on the same weights.
    shutil.copytree(tmp_path / "a" / before.hash, tmp_path / "empty")
    path = tmp_path / "empty" / "checkpoints" / "000000006.safetensors"
    path.unlink()
    state = plain(after)
    Run.open(tmp_path / "empty").write_checkpoint(6, state)
    own = dataclasses.replace(after, start=Start(path=str(tmp_path / "empty")))
    scratch = dataclasses.replace(after, start=None)
    pair = [tune(own, tmp_path / "own"), tune(scratch, tmp_path / "scratch")]
    assert_equal_runs(*pair)


def test_a_chain_of_runs_is_trained_from_its_beginning(tmp_path):
    third = dataclasses.replace(TUNED, seed=9, start=Start(run=TUNED))
    run = tune(third, tmp_path / third.hash)
    assert {p.name for p in tmp_path.iterdir()} == {c.hash for c in (FIRST, TUNED, third)}
    middle = Run.open(tmp_path / TUNED.hash).checkpoint(6)
    assert all(torch.equal(run.checkpoint(0)[name], middle[name]) for name in middle)


def test_a_folder_and_a_step_say_the_same_as_a_configuration(first, tmp_path):
    by_path = changed(run=None, path=str(first.path), step=3)
    run = tune(by_path, tmp_path / "run")
    for name in ("layer1.weight", "layer1.bias"):
        assert torch.equal(run.checkpoint(0)[name], first.checkpoint(3)[name])
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    by_run = tune(changed(step=3), first.path.parent / "by_run")
    assert_equal_runs(by_run, run)


def test_frozen_layers_stay_where_they_started(first):
    config = dataclasses.replace(TUNED, frozen=("layer1",))
    run = tune(config, first.path.parent / config.hash)
    for name in ("layer1.weight", "layer1.bias"):
        assert torch.equal(run.checkpoint(6)[name], first.checkpoint(6)[name])
    assert not torch.equal(run.checkpoint(6)["output.weight"], run.checkpoint(0)["output.weight"])


def test_it_is_measured_from_where_it_started_without_the_other_run(tuned, tmp_path):
    shutil.copytree(tuned.path, tmp_path / "alone")
    run = Run.open(tmp_path / "alone")
    made = restore(run)
    drawn = plain(TUNED)
    assert all(torch.equal(t, drawn[name]) for name, t in unique_state(made.model).items())
    torch.manual_seed(TUNED.seed)
    built = unique_state(made.factory())
    assert all(torch.equal(t, drawn[name]) for name, t in built.items())
    found = [measure(p, run, **made.given) for p in (Convergence(), GradientMagnitude())]
    assert all(bool(v.notnull().all()) for v in found[1].data_vars.values())
    moved = measure(DistanceFromInitialisation(), run)["rms_distance"]
    assert (moved[0] == 0).all()
    resets = measure(Resets(checkpoints=(0,), draws=1), run, **made.given)
    assert set(resets["layer"].values) == {"layer1", "output"}
    assert train(TUNED, run.path, accelerator="cpu").status == "complete"


def test_an_interrupted_run_resumes_without_the_other(tuned, tmp_path):
    def stop(done, total):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(TUNED, tmp_path / TUNED.hash, advance=stop, resume_seconds=-1.0)
    shutil.rmtree(tmp_path / FIRST.hash)
    assert_equal_runs(tune(TUNED, tmp_path / TUNED.hash), tuned)
    assert not (tmp_path / FIRST.hash).exists()


def test_an_interrupted_run_to_start_from_is_finished_first(tuned, tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(FIRST, tmp_path / FIRST.hash, advance=stop)
    assert Run.open(tmp_path / FIRST.hash).status == "interrupted"
    assert_equal_runs(tune(TUNED, tmp_path / TUNED.hash), tuned)


# What does not fit

SIZES = {"input_shape": (4,), "outputs": 3, "depth": 1, "width": 5}
MISFITS = {
    "shape": (
        {},
        {"outputs": 2},
        (),
        r"the run does not fit the model: 'output.weight' has shape \(3, 5\) there and \(2, 5\) "
        r"here, 'output.bias' has shape .*\n.*start.fresh",
    ),
    "missing": (
        {},
        {"depth": 2},
        (),
        r"'layer2.weight' is missing there, 'layer2.bias' is missing",
    ),
    "extra": ({"depth": 2}, {}, (), "'layer2.weight' is not in the model"),
    "pattern": (
        {},
        {},
        ("outptu*",),
        r"no tensor matches .* 'outptu\*' of start.fresh.\n.*layer1.wei",
    ),
    "all": ({}, {}, ("layer*", "output*"), "leaves nothing to take from the run"),
}


@pytest.mark.parametrize(("there", "here", "fresh", "message"), MISFITS.values(), ids=MISFITS)
def test_weights_that_do_not_fit_are_named(there, here, fresh, message):
    weights = unique_state(fcn(**{**SIZES, **there}))
    model = fcn(**{**SIZES, **here})
    kept = {name: tensor.clone() for name, tensor in unique_state(model).items()}
    with pytest.raises(LayerscopeError, match=message):
        start_at(model, weights, fresh, "the run")
    assert all(torch.equal(t, kept[name]) for name, t in unique_state(model).items())


def test_what_is_fresh_may_be_missing_on_either_side():
    weights, model = unique_state(fcn(**SIZES)), fcn(**{**SIZES, "depth": 2, "outputs": 7})
    start_at(model, weights | {"head.weight": torch.ones(2)}, ("layer2*", "output*", "head*"), "x")
    assert torch.equal(model.state_dict()["layer1.weight"], weights["layer1.weight"])


def test_tied_weights_are_taken_once():
    def make():
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        model[1].weight = model[0].weight
        return model

    source, model = make(), make()
    start_at(model, unique_state(source), (), "x")
    assert model[1].weight is model[0].weight
    assert torch.equal(model[1].weight, source[0].weight)


STARTS = {
    "neither": (Start(fresh=("output*",)), "start has neither a run nor a path"),
    "both": (Start(run=FIRST, path="x"), "start has both a run and a path"),
    "nowhere": (Start(path="nowhere"), "nowhere holds no run"),
    "diverges": (Start(run=WILD), "the run to start from, .* diverged at step"),
    "model": (Start(run=FIRST, fresh=("final*",)), r"no tensor matches the pattern 'final\*'"),
    "step": (Start(run=FIRST, step=2), "has no checkpoint at step 2.\n.*steps 0, 3, 6"),
}


@pytest.mark.parametrize(("start", "message"), STARTS.values(), ids=STARTS)
def test_a_start_that_is_not_there_is_an_error(start, message, tmp_path):
    for _ in range(2):  # the second time, the other run is there already
        with pytest.raises(LayerscopeError, match=message):
            tune(dataclasses.replace(SMALL, start=start), tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_a_run_that_is_not_complete_needs_a_step(first, tmp_path):
    path = tmp_path / "partial"
    shutil.copytree(first.path, path)
    manifest = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps(manifest | {"status": "interrupted"}))
    with pytest.raises(LayerscopeError, match=r"is not complete \(interrupted\).\n.*start.step"):
        tune(changed(run=None, path=str(path)), tmp_path / "run")
    run = tune(changed(run=None, path=str(path), step=3), tmp_path / "run")
    assert torch.equal(run.checkpoint(0)["layer1.bias"], first.checkpoint(3)["layer1.bias"])


# Several processes


def test_a_run_that_trains_elsewhere_is_waited_for(tmp_path, monkeypatch):
    path, naps = tmp_path / FIRST.hash, []
    model = problem(FIRST).model
    elsewhere = Run.create(path, LayerMap.from_model(model, None), config=to_dict(FIRST))
    elsewhere.write_checkpoint(0, unique_state(model))

    def sleep(seconds):
        naps.append(seconds)
        if len(naps) == 3:
            elsewhere.finish("complete")

    monkeypatch.setattr(loop, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
    run = tune(TUNED, tmp_path / TUNED.hash)
    assert naps == [loop.WAIT_SECONDS] * 3
    assert loop.WAIT_SECONDS >= 0.5
    start = Run.open(path).checkpoint(0)
    assert torch.equal(run.checkpoint(0)["layer1.weight"], start["layer1.weight"])


def test_what_stopped_before_its_first_step_begins_again_and_keeps_its_turn(first, tmp_path):
    path = tmp_path / FIRST.hash
    Run.create(path, LayerMap.from_model(problem(FIRST).model, None), config=to_dict(FIRST)).finish(
        "interrupted"
    )
    (path / "results").mkdir()
    (path / "results" / "old").write_text("")
    (path / loop.TURN).touch()
    before = (path / loop.TURN).stat().st_ino
    assert_equal_runs(train_or_wait(FIRST, path, accelerator="cpu"), first)
    assert not (path / "results" / "old").exists()
    assert (path / loop.TURN).stat().st_ino == before


@pytest.mark.slow
def test_workers_that_need_one_run_at_once_share_it(tmp_path):
    configs = [FIRST, *(dataclasses.replace(TUNED, seed=seed) for seed in range(3))]
    jobs = [Job(c, tmp_path / c.hash, (Convergence(),), accelerator="cpu") for c in configs[::-1]]
    found = LocalExecutor(4, threads=1).map(jobs)
    assert [outcome.error for outcome in found] == [""] * 4
    last = Run.open(tmp_path / FIRST.hash).checkpoint(6)
    for job in jobs[:3]:
        begin = Run.open(job.path).checkpoint(0)
        assert torch.equal(begin["layer1.weight"], last["layer1.weight"])


def test_the_seeds_of_a_study_leave_the_other_run_alone():
    study = Study("n", "t", "s", "s", "r", "smoke", {"a": TUNED}, (0, 1), (), (), lambda _: [])
    runs = [config for _, _, config in study.runs()]
    assert [config.seed for config in runs] == [0, 1]
    assert {config.start for config in runs} == {TUNED.start}
