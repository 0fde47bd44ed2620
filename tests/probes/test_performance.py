import numpy as np
import pytest
import torch
from tests.cases import CNN

from layerscope.networks.task import Task
from layerscope.probes import Performance, measure

DATA = [CNN.batch(5), CNN.batch(6)]


def test_loss_and_error_are_those_of_a_plain_evaluation(run):
    found = measure(
        Performance(checkpoints="all"), run, model=CNN.model(), task=CNN.task, data=DATA
    )
    inputs, labels = (torch.cat(parts) for parts in zip(*DATA, strict=True))
    for step in run.steps:
        model = run.load(CNN.model(), step).eval()
        with torch.no_grad():
            outputs = model(inputs)
        loss = torch.nn.functional.cross_entropy(outputs, labels)
        error = 100 * (outputs.argmax(1) != labels).double().mean()
        assert float(found["loss"].sel(step=step)) == pytest.approx(float(loss), rel=1e-5)
        assert float(found["error"].sel(step=step)) == pytest.approx(float(error))
    keys = [figure.key for figure in Performance().figures(found)]
    assert keys == ["performance-loss", "performance-error"]


def test_the_last_checkpoint_only_and_no_error_without_right_predictions(run):
    silent = Task(CNN.task.forward, CNN.task.loss, CNN.task.losses, None, "silent")
    found = measure(Performance(), run, model=CNN.model(), task=silent, data=DATA)
    assert list(found["step"].values) == [run.steps[-1]]
    assert set(found.data_vars) == {"loss"}
    assert np.isfinite(found["loss"]).all()
    (table,) = Performance().figures(found)
    assert table.row_names() == (f"epoch {run.steps[-1] / 2:g}",)
