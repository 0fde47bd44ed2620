from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from tests.integrations.loops import assert_equal
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from layerscope.errors import LayerscopeError
from layerscope.integrations.transformers import LayerscopeCallback
from layerscope.networks.task import Task
from layerscope.probes import DistanceFromInitialisation, GradientMagnitude, WeightChange, measure
from layerscope.runs.store import Run
from layerscope.schedule import every

PROBES = (WeightChange(), GradientMagnitude(), DistanceFromInitialisation())
CONFIG = GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=8, vocab_size=32)


class Texts(Dataset):
    def __init__(self):
        generator = torch.Generator().manual_seed(2)
        self.tokens = torch.randint(32, (24, 8), generator=generator)

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, index):
        return {"input_ids": self.tokens[index], "labels": self.tokens[index]}


def model():
    torch.manual_seed(0)
    return GPT2LMHeadModel(CONFIG)


def trainer(path, callbacks=(), **options):
    settings = {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "bf16": True,
        "num_train_epochs": 2,
        "learning_rate": 1e-2,
        "logging_steps": 2,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
    } | options
    arguments = TrainingArguments(str(path), **settings)
    return Trainer(model(), arguments, train_dataset=Texts(), callbacks=list(callbacks))


def callback(path, **options):
    options = {"task": Task.language_model(), "probes": PROBES, "measure": every(1)} | options
    return LayerscopeCallback(path, **options)


def state(one):
    return {name: value.clone() for name, value in one.model.state_dict().items()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A training with and one without, each with the weights and random states it ends in."""
    folder = tmp_path_factory.mktemp("trained")
    found = []
    for callbacks in ([], [callback(folder / "run")]):
        one = trainer(folder / "out", callbacks)
        one.train()
        found.append((state(one), torch.get_rng_state(), random.getstate(), np.random.get_state()))
    return folder / "run", *found


def test_training_is_the_same_bit_for_bit(trained):
    _, (weights, torches, pythons, numpys), (others, *random_states) = trained
    assert_equal(weights, others)
    assert torch.equal(torches, random_states[0])
    assert pythons == random_states[1]
    assert np.array_equal(numpys[1], random_states[2][1])


def test_steps_are_those_of_the_optimiser(trained):
    run = Run.open(trained[0])
    # 24 texts are 6 batches of 4, two for a step
    assert (run.status, run.steps_per_epoch, run.steps) == ("complete", 3, [0, 3, 6])
    assert run.manifest["total_steps"] == 6
    assert run.results("weight_change")["step"].values.tolist() == [1, 2, 3, 4, 5, 6]
    assert run.manifest["notes"]["optimizers"]["optimizer"]["steps"] == 6
    assert "failed_probes" not in run.manifest["notes"]


def test_the_last_checkpoint_is_what_was_trained(trained):
    last = Run.open(trained[0]).checkpoint(6)
    assert all(torch.equal(value, trained[2][0][name]) for name, value in last.items())


def test_live_is_as_from_checkpoints(trained):
    run = Run.open(trained[0])
    live = run.results("gradient_magnitude")["gradient_magnitude"]
    found = measure(GradientMagnitude(), run, model=model(), task=Task.language_model())
    assert found["step"].values.tolist() == [0, 3, 6]
    expected = live.sel(step=[0, 3, 6]).values
    np.testing.assert_allclose(found["gradient_magnitude"].values, expected, rtol=1e-5)


def test_what_the_trainer_logs_is_kept(trained):
    found = Run.open(trained[0]).results("evaluation")
    assert {"loss", "learning_rate", "grad_norm"} <= {*found}
    assert found["loss"].dropna("step")["step"].values.tolist() == [2, 4, 6]


def test_the_fixed_batch_is_the_first_of_the_training_data(trained):
    assert {name: tuple(x.shape) for name, x in Run.open(trained[0]).batch.items()} == {
        "input_ids": (4, 8),
        "labels": (4, 8),
    }


def test_a_training_that_resumes_goes_on_with_the_run(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 4, "max_steps": 6}
    whole = callback(tmp_path / "whole")
    trainer(tmp_path / "out", [whole], **options).train()

    class Killed(LayerscopeCallback):
        def on_save(self, *args, **kwargs):
            raise KeyboardInterrupt

    options["logging_steps"] = 1
    killed = Killed(tmp_path / "run", task=Task.language_model(), probes=PROBES, measure=every(1))
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "other", [killed], **options).train()
    killed.recorder.close(KeyboardInterrupt())
    assert Run.open(tmp_path / "run").status == "interrupted"
    again = trainer(tmp_path / "other", [callback(tmp_path / "run")], **options)
    again.train(resume_from_checkpoint=True)
    run, expected = Run.open(tmp_path / "run"), Run.open(tmp_path / "whole")
    assert (run.status, run.steps[-1]) == ("complete", 6)
    for key in ("weight_change", "distance_from_initialisation"):
        found = run.results(key)
        assert found["step"].values.tolist() == expected.results(key)["step"].values.tolist()
        for name, values in found.data_vars.items():
            np.testing.assert_array_equal(values, expected.results(key)[name])


def test_the_checkpoints_of_the_trainer_are_referred_to(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6}
    one = trainer(tmp_path / "out", [callback(tmp_path / "run", refer=True)], **options)
    one.train()
    run = Run.open(tmp_path / "run")
    assert (run.status, run.steps, run.missing) == ("complete", [2, 4, 6], "")
    assert not list((tmp_path / "run").rglob("checkpoints/*.safetensors"))
    live = run.results("weight_change")["change"]
    found = measure(WeightChange(), run)["change"]
    assert found["layer"].values.tolist() == live["layer"].values.tolist()
    assert bool((found > 0).all())
    weights, last = state(one), run.checkpoint(6)
    assert all(torch.equal(last[name], weights[name]) for name in last)


def test_a_checkpoint_that_cannot_be_referred_to_does_not_end_the_training(tmp_path, caplog):
    options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2}

    class Odd(LayerscopeCallback):
        def on_save(self, args, state, control, **kwargs):
            (tmp_path / "out" / "checkpoint-2" / "model.safetensors").write_bytes(b"no")
            super().on_save(args, state, control, **kwargs)

    trainer(tmp_path / "out", [Odd(tmp_path / "run", refer=True)], **options).train()
    assert Run.open(tmp_path / "run").status == "complete"
    assert "is not referred to" in caplog.text


def test_a_mistyped_argument_is_found_before_training(tmp_path):
    with pytest.raises(LayerscopeError, match="mesure") as error:
        LayerscopeCallback(tmp_path / "run", mesure=every(1))
    assert "measure" in error.value.remedy


def test_there_is_no_recorder_before_training(tmp_path):
    with pytest.raises(LayerscopeError, match="no training has started"):
        _ = LayerscopeCallback(tmp_path / "run").recorder
