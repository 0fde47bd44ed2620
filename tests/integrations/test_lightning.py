from __future__ import annotations

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from tests.integrations.loops import assert_equal, loader, network, sgd
from torch import nn

from layerscope.integrations.lightning import LayerscopeCallback
from layerscope.networks.task import Task
from layerscope.probes import DistanceFromInitialisation, GradientMagnitude, WeightChange, measure
from layerscope.runs.store import Run
from layerscope.schedule import every

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*`isinstance\\(treespec, LeafSpec\\)` is deprecated"),
    pytest.mark.filterwarnings("ignore:.*tensorboardX"),
]
PROBES = (WeightChange(), GradientMagnitude(), DistanceFromInitialisation())


class Classifier(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, inputs):
        return self.net(inputs)

    def training_step(self, batch, index):
        inputs, labels = batch
        loss = nn.functional.cross_entropy(self(inputs), labels)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return sgd(self)


def fit(folder, callbacks=(), module=Classifier, resume=None, **options):
    settings = {
        "max_epochs": 2,
        "accumulate_grad_batches": 2,
        "precision": "bf16-mixed",
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    } | options
    made = module()
    torch.manual_seed(7)
    trainer = pl.Trainer(default_root_dir=folder, callbacks=list(callbacks), **settings)
    trainer.fit(made, loader(), ckpt_path=resume)
    return trainer, {name: value.clone() for name, value in made.state_dict().items()}


def callback(path, **options):
    options = {"task": Task.classification(), "probes": PROBES, "measure": every(1)} | options
    return LayerscopeCallback(path, **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run, and weights and random states without and with it."""
    folder, found = tmp_path_factory.mktemp("trained"), []
    for callbacks in ([], [callback(folder / "run")]):
        _, weights = fit(folder, callbacks)
        found.append((weights, torch.get_rng_state()))
    return Run.open(folder / "run"), *found


def test_training_is_the_same_bit_for_bit(trained):
    _, (weights, random_state), (others, other_state) = trained
    assert_equal(weights, others)
    assert torch.equal(random_state, other_state)


def test_steps_are_those_of_the_optimiser(trained):
    run = trained[0]
    # 5 batches, two for a step and one for the last of an epoch
    assert (run.status, run.steps_per_epoch, run.steps) == ("complete", 3, [0, 3, 6])
    assert run.manifest["total_steps"] == 6
    assert run.results("weight_change")["step"].values.tolist() == [1, 2, 3, 4, 5, 6]
    assert "failed_probes" not in run.manifest["notes"]


def test_losses_and_what_is_logged_are_kept(trained):
    losses = trained[0].results("training")["loss"]
    assert losses["step"].values.tolist() == [1, 2, 3, 4, 5, 6]
    assert bool((losses > 0.5).all())
    assert trained[0].results("evaluation")["train_loss"]["step"].values.tolist() == [3, 6]


def test_a_loss_is_the_mean_of_the_micro_batches(trained):
    """The last step of an epoch has one batch, whose loss the module logs."""
    run = trained[0]
    logged = run.results("evaluation")["train_loss"].sel(step=3)
    np.testing.assert_allclose(run.results("training")["loss"].sel(step=3), logged, rtol=1e-5)


def test_live_is_as_from_checkpoints(trained):
    run = trained[0]
    live = run.results("gradient_magnitude")["gradient_magnitude"].sel(step=[0, 3, 6])
    found = measure(GradientMagnitude(), run, model=Classifier(), task=Task.classification())
    np.testing.assert_allclose(found["gradient_magnitude"].values, live.values, rtol=1e-5)
    assert live["layer"].values.tolist() == ["net.0", "net.1", "net.4"]


def test_without_a_task_weights_are_measured(tmp_path):
    fit(tmp_path, [callback(tmp_path / "run", task=None, probes=[WeightChange()])])
    assert Run.open(tmp_path / "run").results("weight_change").sizes["step"] == 6


def test_a_training_that_resumes_goes_on_with_the_run(tmp_path):
    whole, first = callback(tmp_path / "whole"), callback(tmp_path / "run")
    fit(tmp_path, [whole])

    class Killer(pl.Callback):
        def on_train_epoch_end(self, trainer, module):
            trainer.save_checkpoint(tmp_path / "saved.ckpt")
            raise ValueError("killed")

    with pytest.raises(ValueError, match="killed"):
        fit(tmp_path, [first, Killer()])
    run = Run.open(tmp_path / "run")
    assert run.status == "interrupted"
    assert "killed" in run.manifest["notes"]["error"]
    fit(tmp_path, [callback(tmp_path / "run")], resume=tmp_path / "saved.ckpt")
    run, expected = Run.open(tmp_path / "run"), Run.open(tmp_path / "whole")
    assert (run.status, run.steps[-1]) == ("complete", 6)
    for key in ("weight_change", "distance_from_initialisation"):
        steps = run.results(key)["step"].values.tolist()
        assert steps == expected.results(key)["step"].values.tolist()


class Adversarial(Classifier):
    """Two optimisers in turn."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, index):
        inputs, labels = batch
        first, last = self.optimizers()
        for optimizer in (first, first, last):
            loss = nn.functional.cross_entropy(self(inputs), labels)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

    def configure_optimizers(self):
        return [sgd(self.net[0]), torch.optim.Adam(self.net[4].parameters())]


def test_several_optimisers_are_named(tmp_path):
    options = {"module": Adversarial, "accumulate_grad_batches": 1, "max_epochs": 1}
    fit(tmp_path, [callback(tmp_path / "run")], **options)
    run = Run.open(tmp_path / "run")
    found = {n: one["steps"] for n, one in run.manifest["notes"]["optimizers"].items()}
    assert found == {"optimizer0": 10, "optimizer1": 5}
    assert run.results("weight_change")["step"].values.tolist() == [1, 2, 3, 4, 5]
