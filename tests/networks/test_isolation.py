from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from tests.cases import CASES, CNN, FCN
from tests.training_loop import random_state
from torch import nn

from layerscope.networks.isolation import isolated
from layerscope.networks.names import unwrap


def draw():
    return random.random(), np.random.rand(), float(torch.rand(()))


@pytest.mark.parametrize("training", [True, False])
def test_the_random_state_is_left_as_found_and_seeded_inside(training):
    model = FCN.model()
    expected, inside = random_state(), []
    for seed in (0, 0, 1):
        with isolated(model, training, seed):
            inside.append(draw())
    assert random_state() == expected
    assert inside[0] == inside[1]
    assert not set(inside[1]) & set(inside[2])


def test_an_exception_inside_leaves_everything_as_found():
    model = CNN.model()
    expected = random_state(), [m.training for m in model.modules()], model[1].running_mean.tolist()
    with pytest.raises(ZeroDivisionError), isolated(model):  # noqa: PT012
        draw()
        model[1].running_mean.add_(1)
        raise ZeroDivisionError
    found = random_state(), [m.training for m in model.modules()], model[1].running_mean.tolist()
    assert found == expected


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("training", [True, False])
def test_running_a_model_inside_leaves_its_state_and_modes(case, training):
    model = case.model().train(not training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with isolated(model, training), torch.no_grad():
        assert all(module.training is training for module in model.modules())
        case.task.forward(model, case.batch(0))
    assert all(module.training is not training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Buffers(nn.Module):
    """Every way to change a buffer."""

    def __init__(self, value):
        super().__init__()
        self.register_buffer("inplace", value.clone())
        self.register_buffer("replaced", value.clone())
        self.register_buffer("empty", None)

    def forward(self):
        self.inplace.zero_()
        self.replaced = torch.zeros(1)
        self.empty = torch.zeros(2)
        self.register_buffer("new", torch.zeros(3))


VALUES = [
    torch.ones(3),
    torch.tensor([float("nan"), 1.0]),
    torch.tensor([True]),
    torch.tensor([3]),
    torch.tensor([1 + 2j]),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: str(value.dtype))
def test_buffers_come_back_however_they_were_changed(value):
    model = Buffers(value)
    inplace, replaced = model.inplace, model.replaced
    with isolated(model):
        model()
    assert model.inplace is inplace
    assert model.replaced is replaced
    torch.testing.assert_close(model.inplace, value, equal_nan=True)
    assert model.empty is None
    assert set(model._buffers) == {"inplace", "replaced", "empty"}


def test_a_backward_pass_that_waits_is_not_disturbed():
    model = CNN.model().eval()
    loss = CNN.task.loss(CNN.task.forward(model, CNN.batch(0)), CNN.batch(0))
    with isolated(model, training=True), torch.no_grad():
        pass
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_autocast_is_off_inside():
    model = FCN.model()
    with torch.autocast("cpu", torch.bfloat16):
        with isolated(model):
            assert model(torch.ones(2, 4)).dtype == torch.float32
        assert model(torch.ones(2, 4)).dtype == torch.bfloat16


def test_unwrap_finds_the_users_own_module():
    model = FCN.model()
    compiled = torch.compile(model, backend="eager")
    assert unwrap(compiled) is model
    assert unwrap(model) is model


def test_compiled_code_is_bypassed():
    calls = []

    def backend(graph, _):
        calls.append(graph)
        return graph.forward

    model = FCN.model()
    compiled = torch.compile(model, backend=backend)
    with isolated(model), torch.no_grad():
        compiled(torch.ones(2, 4))
    assert not calls
    compiled(torch.ones(2, 4))
    assert calls
