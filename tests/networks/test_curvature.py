"""The largest eigenvalue is that of the Hessian written out."""

from __future__ import annotations

import pytest
import torch
from tests.cases import CASES, DEEP
from tests.reference import hessian as reference

from layerscope.errors import DivergedError
from layerscope.networks.curvature import gradients, top_eigenvalue
from layerscope.networks.names import unique_state
from layerscope.networks.sharing import shared_loss


def mean_loss(task):
    return lambda model, batch: task.loss(task.forward(model, batch), batch)


@pytest.mark.parametrize("case", [*CASES, DEEP[-1]], ids=lambda case: case.name)
def test_top_eigenvalue_is_that_of_the_dense_hessian(case):
    model, batch = case.model().eval(), case.batch(1)
    layers = case.map(model)
    groups = [tuple(layer.parameters) for layer in layers]
    state, chosen = unique_state(model), groups[:: max(1, len(groups) // 4)]
    with shared_loss(model, groups, batch, case.task) as loss:
        found = [top_eigenvalue(loss, {name: state[name] for name in names}) for names in chosen]
    for names, value in zip(chosen, found, strict=True):
        expected = reference.top_eigenvalue(model, mean_loss(case.task), names, [batch])
        assert value == pytest.approx(expected, rel=2e-3, abs=2e-5)


def of(loss):
    """A function of tensors by name, with the leaves it can be differentiated by."""

    def differentiable(weights):
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in weights.items()}
        return loss(leaves), list(leaves.values())

    return differentiable


def test_a_quadratic_in_closed_form():
    scales = torch.tensor([1.0, 5.0, -7.0])
    value = top_eigenvalue(of(lambda w: 0.5 * (scales * w["w"] ** 2).sum()), {"w": torch.ones(3)})
    assert value == pytest.approx(5, rel=1e-4)  # the largest, not the largest in magnitude


def test_one_weight_and_none_that_matters():
    assert top_eigenvalue(of(lambda w: 3 * w["w"].sum() ** 2), {"w": torch.ones(1)}) == 6
    assert top_eigenvalue(of(lambda w: w["w"].sum()), {"w": torch.ones(4)}) == 0
    assert top_eigenvalue(of(lambda w: torch.tensor(1.0)), {"w": torch.ones(4)}) == 0


def test_gradients_of_what_does_not_matter_are_zero():
    a, b = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    first, second = gradients((a**2).sum(), [a, b])
    assert first.tolist() == [2, 2]
    assert not second.any()
    assert not gradients(torch.tensor(1.0), [a])[0].any()


def test_a_hessian_that_is_not_finite_is_named():
    with pytest.raises(DivergedError, match="not finite"):
        top_eigenvalue(of(lambda w: (w["w"] * float("inf")).square().sum()), {"w": torch.ones(3)})
