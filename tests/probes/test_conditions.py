"""Results are read back only where what they were measured with is known to be the same."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from tests.cases import CASES, FCN, Tied
from tests.training_loop import train
from torch import nn

from layerscope import config as configs
from layerscope.models.fcn import fcn
from layerscope.networks.task import Task
from layerscope.probes import GradientMagnitude, Reinitialisation, measure
from layerscope.probes.conditions import fingerprint
from layerscope.runs.store import Run
from layerscope.schedule import every
from layerscope.training.problem import problem


@pytest.fixture
def recorded_fcn(tmp_path):
    path = tmp_path / "run"
    train(FCN, 4, path=path, task=FCN.task, batch=FCN.batch(0), measure=every(2),
          checkpoints=every(2))  # fmt: skip
    return Run.open(path)


def test_another_task_or_activation_is_measured_again(recorded_fcn):
    probe, data = Reinitialisation(draws=0), [FCN.batch(1)]
    relu = measure(probe, recorded_fcn, model=FCN.model(), task=FCN.task, data=data)
    never = replace(FCN.task, correct=lambda outputs, batch: torch.zeros(len(batch[1])).bool())
    wrong = measure(probe, recorded_fcn, model=FCN.model(), task=never, data=data)
    assert float(wrong["base_error"]) == 100
    assert float(relu["base_error"]) < 100
    slopes = [
        measure(GradientMagnitude(), recorded_fcn, model=model, task=FCN.task)
        for model in (FCN.model(), fcn((4,), 3, depth=2, width=8, activation="tanh"))
    ]
    assert not slopes[0].equals(slopes[1])


def test_layers_are_part_of_what_was_measured(recorded_fcn):
    given = {"model": FCN.model(), "task": FCN.task}
    some = measure(GradientMagnitude(), recorded_fcn, layers=["layer*"], **given)
    assert some["layer"].values.tolist() == ["layer1", "layer2"]
    every_layer = measure(GradientMagnitude(), recorded_fcn, **given)
    assert every_layer["layer"].values.tolist() == ["layer1", "layer2", "output"]
    assert some["gradient_magnitude"].equals(
        every_layer["gradient_magnitude"].sel(layer=["layer1", "layer2"])
    )


KNOWN = {
    "fcn": (lambda: FCN.model(), lambda: FCN.model(5)),
    "torch": (lambda: nn.Sequential(nn.Linear(2, 3), nn.ReLU()),) * 2,
    "task": (Task.classification, Task.classification),
    "factory": (lambda: partial(fcn, (4,), 3, depth=2, width=8),) * 2,
}
DIFFERENT = {
    "activation": (nn.Sequential(nn.Linear(2, 3), nn.ReLU()),
                   nn.Sequential(nn.Linear(2, 3), nn.Tanh())),
    "setting": (nn.Sequential(nn.LeakyReLU(0.1)), nn.Sequential(nn.LeakyReLU(0.2))),
    "task": (Task.classification(), Task.regression()),
    "factory": (partial(fcn, (4,), 3, depth=2, width=8), partial(fcn, (4,), 3, depth=2, width=9)),
}  # fmt: skip


@pytest.mark.parametrize(("first", "second"), KNOWN.values(), ids=KNOWN)
def test_what_computes_the_same_has_one_fingerprint(first, second):
    assert fingerprint(first()) == fingerprint(second())


@pytest.mark.parametrize(("first", "second"), DIFFERENT.values(), ids=DIFFERENT)
def test_what_computes_something_else_has_another(first, second):
    assert fingerprint(first) != fingerprint(second)


@pytest.mark.parametrize(
    "foreign",
    [Tied(), Task(lambda m, b: m(b), sum, sum), lambda: 3, next(iter(CASES)).build],
    ids=["model", "task", "factory", "closure"],
)
def test_what_cannot_be_compared_is_never_equal(foreign):
    assert fingerprint(foreign) != fingerprint(foreign)


def test_a_hook_or_another_forward_makes_a_model_unknown():
    model = FCN.model()
    model.layer1.register_forward_hook(lambda *_: None)
    assert fingerprint(model) != fingerprint(model)


def test_what_code_means_does_not_depend_on_the_room_it_stands_in():
    """Measurements of before there were rooms, and before runs had groups, are read back."""
    assert fingerprint(Task.classification()) == "eb5a697df4bc53b8"
    config = configs.RunConfig(
        model=configs.FCN(2, 32), data=configs.Digits(), epochs=6, batch_size=64
    )
    factory = problem(config).factory
    assert fingerprint(factory) == "3a8831e55a7a31ca"
    grouped = problem(replace(config, groups=("thirds",))).factory
    assert fingerprint(grouped) == fingerprint(factory)
    live = problem(replace(config, live=("weight_change",))).factory
    assert fingerprint(live) == fingerprint(factory)


def test_a_setting_that_came_later_counts_where_it_is_not_its_default():
    images = configs.Digits(image_size=32)
    found = [
        fingerprint(problem(configs.RunConfig(model=model, data=images)).factory)
        for model in (configs.VGG(width=0.1), configs.VGG(width=0.1, classifier="linear"))
    ]
    assert found[0] == "65e7cf9e0205a2a5"
    assert found[1] != found[0]
