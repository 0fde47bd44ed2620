import pytest
import torch

from layerscope.config import FCN, SGD, RunConfig, Sine
from layerscope.execution import Job, LocalExecutor
from layerscope.probes import Convergence, WeightChange
from layerscope.runs.store import Run

TINY = RunConfig(model=FCN(1, 4), data=Sine(n_train=64, n_test=16), epochs=2)


def jobs(folder, **changes):
    from dataclasses import replace

    configs = [replace(TINY, seed=seed, **changes) for seed in range(3)]
    return [Job(c, folder / c.hash, (WeightChange(), Convergence())) for c in configs]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_every_executor_trains_and_measures(tmp_path, processes):
    seen = []
    found = LocalExecutor(processes).map(jobs(tmp_path), lambda *message: seen.append(message))
    assert [outcome.error for outcome in found] == ["", "", ""]
    assert {job for job, done, total in seen if done == total} == {0, 1, 2}
    for outcome in found:
        assert set(Run.open(outcome.path).result_keys) >= {"weight_change@checkpoints"}


@pytest.mark.slow
def test_processes_and_threads_do_not_change_the_weights(tmp_path):
    one = LocalExecutor(1).map(jobs(tmp_path / "one"))
    two = LocalExecutor(2, threads=1).map(jobs(tmp_path / "two"))
    for a, b in zip(one, two, strict=True):
        first, second = (Run.open(outcome.path).checkpoint(2) for outcome in (a, b))
        assert all(torch.allclose(first[n], second[n], rtol=1e-6) for n in first)


def test_a_run_that_diverges_leaves_the_others_alone(tmp_path):
    wild, calm = jobs(tmp_path, optimizer=SGD(1e30)), jobs(tmp_path)
    found = LocalExecutor(1).map([wild[0], calm[1]])
    assert "not finite" in found[0].error
    assert found[1].error == ""
    again = LocalExecutor(1).map([wild[0]])[0]
    assert "diverged at step" in again.error
    assert again.reused
