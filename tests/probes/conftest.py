"""One small recorded run that the tests of probes measure."""

from __future__ import annotations

import pytest
from tests.cases import CNN
from tests.training_loop import train

from layerscope.runs.store import Run
from layerscope.schedule import every


@pytest.fixture(scope="session")
def recorded(tmp_path_factory):
    """Folder of a CNN's run of 6 steps in epochs of 2, a checkpoint per epoch; do not write."""
    path = tmp_path_factory.mktemp("recorded") / "run"
    settings = {"checkpoints": every(2), "measure": every(2), "steps_per_epoch": 2}
    train(CNN, 6, path=path, task=CNN.task, batch=CNN.batch(0), **settings)
    return path


@pytest.fixture
def run(recorded, tmp_path):
    """A copy of that run of one's own."""
    import shutil

    return Run.open(shutil.copytree(recorded, tmp_path / "run"))


@pytest.fixture
def weights(run):
    """Weights at every checkpoint: a list of tensors in the order of ``run.layers``."""
    return [run.layers.values(run.checkpoint(step)) for step in run.steps]
