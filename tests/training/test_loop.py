from __future__ import annotations

import dataclasses
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
import xarray as xr
from tests.breaking import read_everything, temporaries
from tests.killed import CONFIGS, PROBES

from layerscope.config import FCN, SGD, RunConfig, Sine
from layerscope.data.dataset import load
from layerscope.errors import DivergedError, LayerscopeError
from layerscope.runs.checkpoints import Tensors
from layerscope.runs.store import Run
from layerscope.training.loop import evaluate, train
from layerscope.training.problem import restore

SMALL = RunConfig(model=FCN(depth=1, width=8), epochs=2, batch_size=500, probe_batch=32)


@pytest.fixture(autouse=True)
def one_thread():
    """Sums may depend on the number of threads: train here as the killed processes do."""
    found = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(found)


def assert_equal_runs(found: Run, expected: Run) -> None:
    assert (found.status, found.missing, found.steps) == ("complete", "", expected.steps)
    for step in expected.steps:
        weights, others = found.checkpoint(step), expected.checkpoint(step)
        assert all(torch.equal(weights[name], others[name]) for name in others)
    assert found.result_keys == expected.result_keys
    for key in expected.result_keys:
        xr.testing.assert_identical(found.results(key), expected.results(key))


def test_training_twice_gives_the_same_run(tmp_path):
    runs = [train(SMALL, tmp_path / name, probes=PROBES, accelerator="cpu") for name in "ab"]
    assert_equal_runs(*runs)
    assert runs[0].steps == [0, 3, 6]
    other = train(dataclasses.replace(SMALL, seed=1), tmp_path / "c", accelerator="cpu")
    assert not torch.equal(other.checkpoint(6)["output.bias"], runs[0].checkpoint(6)["output.bias"])


@pytest.mark.parametrize("batch_size", [1438, 5000])
def test_a_batch_of_all_examples_is_gradient_descent(tmp_path, batch_size):
    sgd = SGD(learning_rate=0.5, momentum=0.0)
    config = dataclasses.replace(SMALL, batch_size=batch_size, epochs=3, optimizer=sgd)
    run = train(config, tmp_path / "run", accelerator="cpu")
    assert run.steps == [0, 1, 2, 3]
    inputs, labels = load(config.data).train.batch(torch.arange(1438))
    model = restore(run).model
    run.load(model, 0)
    model.double().train()
    for step in run.steps:
        for name, tensor in model.state_dict().items():
            torch.testing.assert_close(run.checkpoint(step)[name], tensor.float())
        loss = F.cross_entropy(model(inputs.double()), labels)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter -= 0.5 * gradient


def test_what_a_run_notes_of_its_outcome(tmp_path):
    run = train(SMALL, tmp_path / "a", accelerator="cpu")
    notes = run.manifest["notes"]
    assert (notes["task"], notes["data"], notes["n_train"]) == ("classification", "digits", 1438)
    assert float(run.results("evaluation")["test_error"][-1]) == notes["test_error"]
    assert temporaries(run.path) == []
    assert not (run.path / "resume.safetensors").exists()


def test_a_complete_run_is_read_back(tmp_path):
    created = train(SMALL, tmp_path / "a", accelerator="cpu").manifest
    steps = []
    again = train(SMALL, tmp_path / "a", accelerator="cpu", advance=lambda *s: steps.append(s))
    assert again.manifest == created
    assert steps == []


def test_a_run_of_another_configuration_is_refused(tmp_path):
    train(SMALL, tmp_path / "a", accelerator="cpu")
    with pytest.raises(LayerscopeError, match="holds a run of another configuration"):
        train(dataclasses.replace(SMALL, seed=5), tmp_path / "a", accelerator="cpu")


def test_a_run_that_trains_is_refused(tmp_path):
    def inside(done, total):
        with pytest.raises(LayerscopeError, match="another process is training"):
            train(SMALL, tmp_path / "a", accelerator="cpu")

    assert train(SMALL, tmp_path / "a", accelerator="cpu", advance=inside).status == "complete"


def test_a_run_knows_its_problem(tmp_path):
    run = train(SMALL, tmp_path / "a", accelerator="cpu")
    made = restore(run)
    weights = run.load(made.model, 6).state_dict()
    found = evaluate(made.model, made.task, made.dataset.test)
    assert found["test_error"] == run.manifest["notes"]["test_error"]
    assert set(weights) == set(run.checkpoint(6))


def test_regression(tmp_path):
    config = dataclasses.replace(SMALL, data=Sine(n_train=50, n_test=20), batch_size=25)
    run = train(config, tmp_path / "a", accelerator="cpu")
    assert list(run.results("evaluation")) == ["test_loss"]


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_what_was_before(tmp_path):
    config = dataclasses.replace(
        SMALL, model=FCN(2, 8, "identity"), optimizer=SGD(1e6), checkpoints="every(1)"
    )
    with pytest.raises(DivergedError, match="not finite at step"):
        train(config, tmp_path / "a", probes=PROBES, accelerator="cpu")
    run = Run.open(tmp_path / "a")
    assert run.status == "diverged"
    assert len(run.steps) >= 2
    for step in run.steps:
        assert all(bool(tensor.isfinite().all()) for tensor in run.checkpoint(step).values())
    assert run.results("distance_from_initialisation")["step"].values.tolist() == [0]
    assert train(config, tmp_path / "a", accelerator="cpu").status == "diverged"


# Kill and resume


@pytest.fixture(scope="module")
def killer():
    """Trains in processes of their own that are killed at a given moment; returns the exit code."""
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tests.killed"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
    ) as process:

        def train_and_kill(config: str, path: Path, moment: int) -> int:
            process.stdin.write(f"{config} {path} {moment}\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        yield train_and_kill
        process.stdin.close()


@pytest.fixture(scope="module")
def whole(killer, tmp_path_factory):
    """Uninterrupted runs, and how many moments there are to kill them at."""
    folder, found = tmp_path_factory.mktemp("whole"), {}
    for name in CONFIGS:
        assert killer(name, folder / name, 0) == 0
        found[name] = Run.open(folder / name), int((folder / f"{name}.count").read_text())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(15))
def test_a_killed_run_resumes_to_the_same_weights_and_results(trial, killer, whole, tmp_path):
    name, path = ("sgd", "adam", "plateau")[trial % 3], tmp_path / "run"
    expected, moments = whole[name]
    draw = random.Random(trial)
    # Most kills fall into the run at random; the last ones into its closing, where parts merge.
    moment = draw.randint(8, moments) if trial < 12 else moments - draw.randint(1, 10)
    assert killer(name, path, moment) == -9
    run = Run.open(path)
    if run.manifest["status"] == "running":
        assert run.status == "interrupted"
        assert run.missing.startswith("interrupted: ")
    assert read_everything(path) >= 1
    found = train(CONFIGS[name], path, probes=PROBES, accelerator="cpu")
    assert_equal_runs(found, expected)
    assert temporaries(path) == []


@pytest.mark.slow
def test_a_run_killed_again_and_again_still_arrives(killer, whole, tmp_path):
    expected, moments = whole["adam"]
    codes = [killer("adam", tmp_path / "run", moments // share) for share in (2, 5, 4)]
    assert codes == [-9, -9, -9]
    assert Run.open(tmp_path / "run").status == "interrupted"
    found = train(CONFIGS["adam"], tmp_path / "run", probes=PROBES, accelerator="cpu")
    assert_equal_runs(found, expected)


def test_a_run_killed_after_its_last_step_keeps_its_last_weights(tmp_path, monkeypatch):
    config = dataclasses.replace(SMALL, checkpoints="at(1)")
    expected = train(config, tmp_path / "a", accelerator="cpu")

    def stop(done, total):
        if done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "b", accelerator="cpu", advance=stop, resume_seconds=-1.0)
    assert Tensors(tmp_path / "b" / "resume.safetensors")
    assert_equal_runs(train(config, tmp_path / "b", accelerator="cpu"), expected)


def test_a_run_that_would_keep_no_checkpoints_is_refused(tmp_path):
    config = dataclasses.replace(SMALL, checkpoints="never()")
    with pytest.raises(LayerscopeError, match=r"checkpoints is 'never\(\)'.*\n.*at\(0\)"):
        train(config, tmp_path / "a", accelerator="cpu")
    assert not (tmp_path / "a" / "run.json").exists()
