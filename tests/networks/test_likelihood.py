"""Gradients at the outputs: against definitions written out, example by example."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from layerscope.errors import LayerscopeError
from layerscope.networks.likelihood import cotangents, counted
from layerscope.networks.task import Task


def _fisher(task: Task, outputs: Tensor, batch: Any, kind: Any, seed: int = 0) -> Tensor:
    """Sum over labels of v v^T, example by example, from what `cotangents` gives."""
    vs = [v.flatten(1) for v in cotangents(task, outputs, batch, kind, seed)]
    return sum(torch.einsum("ni,nj->nij", v, v) for v in vs)  # type: ignore[return-value]


def test_exact_fisher_of_a_classification_is_that_of_the_softmax() -> None:
    torch.manual_seed(0)
    outputs = torch.randn(5, 4, dtype=torch.float64)
    found = _fisher(Task.classification(), outputs, (None, torch.tensor([0, 1, 2, 3, 0])), "exact")
    for n in range(5):
        p = outputs[n].softmax(0)
        torch.testing.assert_close(found[n], torch.diag(p) - torch.outer(p, p))


def test_empirical_is_the_gradient_of_each_examples_own_loss() -> None:
    torch.manual_seed(0)
    outputs, labels = torch.randn(6, 3), torch.tensor([0, -100, 2, 1, 1, 0])
    (found,) = cotangents(Task.classification(), outputs, (None, labels), "empirical")
    for n, label in enumerate(labels.tolist()):
        x = outputs[n].clone().requires_grad_(True)
        if label == -100:
            assert torch.equal(found[n], torch.zeros(3))
            continue
        (expected,) = torch.autograd.grad(-x.log_softmax(0)[label], x)
        torch.testing.assert_close(found[n], expected)


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_mc_has_the_exact_one_as_its_mean(kind: str) -> None:
    torch.manual_seed(0)
    outputs = torch.randn(1, 3, dtype=torch.float64).expand(40_000, 3).contiguous()
    task = Task.regression() if kind == "regression" else Task.classification()
    batch = (None, outputs if kind == "regression" else torch.zeros(len(outputs)).long())
    drawn = _fisher(task, outputs, batch, "mc").mean(0)
    exact = _fisher(task, outputs[:1], (None, batch[1][:1]), "exact")[0]
    torch.testing.assert_close(drawn, exact, atol=0.02, rtol=0)
    again = _fisher(task, outputs, batch, "mc").mean(0)
    assert torch.equal(drawn, again)
    assert not torch.equal(drawn, _fisher(task, outputs, batch, "mc", seed=1).mean(0))


def test_regression_is_the_hessian_of_the_squared_error() -> None:
    outputs, targets = torch.randn(2, 3), torch.randn(2, 3)
    found = _fisher(Task.regression(), outputs, (None, targets), "exact")
    torch.testing.assert_close(found, (2 / 3 * torch.eye(3)).expand(2, 3, 3))
    hessian = torch.autograd.functional.hessian(
        lambda x: Task.regression().losses(x[None], (None, targets[:1]))[0], outputs[0]
    )
    torch.testing.assert_close(found[0], hessian)


def test_tokens_count_and_the_last_position_predicts_nothing() -> None:
    torch.manual_seed(0)
    task, logits = Task.language_model(), torch.randn(2, 4, 5)
    batch = {"input_ids": torch.randint(5, (2, 4)), "labels": None}
    assert counted(task, logits, batch) == 6
    for kind in ("empirical", "mc", "exact"):
        vs = list(cotangents(task, logits, batch, kind))  # type: ignore[arg-type]
        assert len(vs) == (5 if kind == "exact" else 1)
        for v in vs:
            assert v.shape == logits.shape
            assert torch.equal(v[:, -1], torch.zeros(2, 5))
            assert v[:, :-1].abs().sum() > 0
    (own,) = cotangents(task, logits, batch, "empirical")
    x = logits[0, 1].clone().requires_grad_(True)
    (expected,) = torch.autograd.grad(-x.log_softmax(0)[batch["input_ids"][0, 2]], x)
    torch.testing.assert_close(own[0, 1], expected)


def test_places_of_an_image_are_examples() -> None:
    logits, labels = torch.randn(2, 3, 4, 4), torch.randint(3, (2, 4, 4))
    assert counted(Task.classification(), logits, (None, labels)) == 32
    total = torch.zeros(2, 4, 4)
    for v in cotangents(Task.classification(), logits, (None, labels), "exact"):
        total += v.square().sum(1)
    p = logits.softmax(1)
    torch.testing.assert_close(total, 1 - p.square().sum(1))


def test_a_task_of_ones_own_has_empirical_only() -> None:
    own = Task(
        forward=lambda model, batch: model(batch[0]),
        loss=lambda outputs, batch: outputs.square().mean(),
        losses=lambda outputs, batch: outputs.square().mean(1),
    )
    outputs = torch.randn(4, 2)
    (found,) = cotangents(own, outputs, (None, None), "empirical")
    torch.testing.assert_close(found, outputs)
    with pytest.raises(LayerscopeError, match="how labels are distributed"):
        list(cotangents(own, outputs, (None, None), "exact"))
    with pytest.raises(LayerscopeError, match="kind of Fisher"):
        list(cotangents(own, outputs, (None, None), "exakt"))  # type: ignore[arg-type]


def test_a_regression_asks_for_targets_of_the_shape_of_the_outputs() -> None:
    with pytest.raises(LayerscopeError, match="shape"):
        list(cotangents(Task.regression(), torch.randn(4, 2), (None, torch.randn(4)), "exact"))
    assert math.isclose(
        sum(
            float(v.square().sum())
            for v in cotangents(
                Task.regression(), torch.randn(4, 2), (None, torch.randn(4, 2)), "exact"
            )
        ),
        8.0,
    )
