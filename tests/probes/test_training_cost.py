"""Operations are those that torch's own counter finds, whichever parameters train."""

from __future__ import annotations

import pytest
import torch
from tests.cases import CNN, FCN, TIED, TRANSFORMER
from torch.utils.flop_counter import FlopCounterMode

from layerscope.probes.training_cost import operations


def by_torch(case, training):
    """Forward and backward operations of an own copy of the model, by FlopCounterMode."""
    model = case.model().train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in training)
    batch = case.batch(0)
    with FlopCounterMode(display=False) as forward:
        loss = case.task.loss(case.task.forward(model, batch), batch)
    with FlopCounterMode(display=False) as backward:
        if loss.requires_grad:
            loss.backward()
    return forward.get_total_flops(), backward.get_total_flops()


@pytest.mark.parametrize("part", ["all", "last", "first", "none"])
@pytest.mark.parametrize("case", [FCN, CNN, TRANSFORMER, TIED], ids=lambda case: case.name)
def test_operations_are_those_of_torchs_counter(case, part):
    model = case.model()
    names = [name for name, _ in model.named_parameters()]
    training = {"all": names, "last": names[-2:], "first": names[:1], "none": []}[part]
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    found = operations(model, case.task, case.batch(0), training)
    assert found == by_torch(case, training)
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before
    assert all(p.grad is None for p in model.parameters())
    if part == "none":
        assert found[1] == 0
    assert found[0] > 0


def test_a_hook_on_the_way_does_not_disturb_counting():
    model, calls = CNN.model(), []
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *_: calls.append(1))
    try:
        found = operations(model, CNN.task, CNN.batch(0), [])
    finally:
        handle.remove()
    assert found == by_torch(CNN, [])
