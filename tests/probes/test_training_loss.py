"""The loss of training: what was recorded, and that of one batch in train mode."""

import pytest
import torch
from tests.cases import CNN
from torch import nn

from layerscope import Recorder, Run
from layerscope.errors import LayerscopeError
from layerscope.networks.task import Task
from layerscope.probes import TrainingLoss, measure

TASK = Task.classification()


def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)
    )


def batch(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(16, 4, generator=generator), torch.arange(16) % 3


@pytest.fixture
def trained(tmp_path):
    """A run of six steps, three an epoch, and the loss of every step."""
    net, losses = model(), []
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with Recorder(net, tmp_path / "run", task=TASK, batch=batch(99), steps_per_epoch=3) as recorder:
        for step in range(6):
            optimizer.zero_grad()
            loss = TASK.loss(net(batch(step)[0]), batch(step))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            recorder.step(loss=loss)
    return Run.open(tmp_path / "run"), losses


def test_the_recorded_loss_is_the_mean_over_the_steps_of_an_epoch(trained):
    run, losses = trained
    found = measure(TrainingLoss(), run)
    assert found["step"].values.tolist() == [3, 6]
    means = [sum(losses[:3]) / 3, sum(losses[3:]) / 3]
    assert found["loss"].values.tolist() == pytest.approx(means, rel=1e-6)
    (figure,) = TrainingLoss().figures(found)
    assert figure.key == "training-loss"


def test_the_loss_of_a_batch_is_that_of_train_mode_at_every_checkpoint(trained):
    run, _ = trained
    probe, used = TrainingLoss(over="batch"), model()
    found = measure(probe, run, model=used, task=TASK, batch=run.batch)
    assert torch.equal(used[1].running_mean, model()[1].running_mean)
    for step in run.steps:
        net = run.load(model(), step)
        net[3].p = 0.0
        whole = TASK.loss(net.train()(run.batch[0]), run.batch).item()
        dropped = float(found["loss"].sel(step=step))
        assert dropped != pytest.approx(whole, rel=1e-6)  # dropout is on
    again = measure(probe, run, model=used, task=TASK, batch=run.batch)
    assert again["loss"].values.tolist() == found["loss"].values.tolist()
    used[3].p = 0.0
    plain = measure(probe, run, model=used, task=TASK, batch=run.batch)
    last = run.load(model(), run.steps[-1]).train()
    last[3].p = 0.0
    expected = TASK.loss(last(run.batch[0]), run.batch).item()
    assert float(plain["loss"][-1]) == pytest.approx(expected, rel=1e-6)


def test_a_run_without_losses_says_what_to_do(tmp_path):
    with Recorder(
        CNN.model(), tmp_path / "run", task=CNN.task, batch=CNN.batch(0), steps_per_epoch=1
    ) as recorder:
        recorder.step()
    with pytest.raises(LayerscopeError, match=r"(?s)no training loss.*recorder\.step"):
        measure(TrainingLoss(), Run.open(tmp_path / "run"))
    with pytest.raises(LayerscopeError, match="over of TrainingLoss"):
        TrainingLoss(over="epochs")
