from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tests.cases import CASES, CLASSIFY, TIED, classes
from torch import nn

from layerscope.errors import LayerscopeError
from layerscope.task import Program, Task, move

REGRESSION = Task.regression()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_loss_is_the_mean_of_the_losses(case):
    model, batch = case.model().eval(), case.batch(3)
    outputs = case.task.forward(model, batch)
    losses = case.task.losses(outputs, batch)
    assert losses.shape == (
        len(next(iter(batch.values())) if isinstance(batch, dict) else batch[0]),
    )
    torch.testing.assert_close(case.task.loss(outputs, batch), losses.mean())
    torch.testing.assert_close(Program(model, case.task)(batch), losses.mean())


def test_classification_counts_what_is_right():
    batch = (None, torch.tensor([0, 1, 1]))
    outputs = torch.tensor([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0]])
    assert CLASSIFY.correct(outputs, batch).tolist() == [True, True, False]
    expected = [-torch.log_softmax(o, 0)[y] for o, y in zip(outputs, batch[1], strict=True)]
    torch.testing.assert_close(CLASSIFY.losses(outputs, batch), torch.stack(expected))


def test_regression_is_the_mean_square_over_examples_and_outputs():
    batch = (None, torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    outputs = torch.tensor([[1.0, 3.0], [1.0, 3.0]])
    assert REGRESSION.losses(outputs, batch).tolist() == [5.0, 2.0]
    assert float(REGRESSION.loss(outputs, batch)) == 3.5
    assert REGRESSION.correct is None


@pytest.mark.parametrize("function", [REGRESSION.loss, REGRESSION.losses])
def test_regression_refuses_shapes_that_would_broadcast(function):
    with pytest.raises(LayerscopeError, match=r"\(4, 1\) against targets of \(4,\)"):
        function(torch.ones(4, 1), (None, torch.ones(4)))


def test_language_model_predicts_the_next_token():
    ids = torch.tensor([[1, 2, 0], [2, 2, 1]])
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    expected = torch.stack(
        [
            torch.stack([-torch.log_softmax(logits[i, t - 1], 0)[ids[i, t]] for t in (1, 2)])
            for i in (0, 1)
        ]
    )
    torch.testing.assert_close(TIED.task.losses(logits, {"input_ids": ids}), expected.mean(1))
    torch.testing.assert_close(TIED.task.loss(logits, {"input_ids": ids}), expected.mean())
    best = logits[:, :-1].argmax(-1) == ids[:, 1:]
    assert TIED.task.correct(logits, {"input_ids": ids}).tolist() == best.flatten().tolist()


def test_labels_of_minus_100_do_not_count():
    ids = torch.tensor([[1, 2, 0], [2, 2, 1]])
    batch = {"input_ids": ids, "labels": torch.tensor([[1, -100, 0], [2, 2, -100]])}
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    whole = -torch.log_softmax(logits, 2)
    expected = torch.stack([whole[0, 1, 0], whole[1, 0, 2]])
    torch.testing.assert_close(TIED.task.losses(logits, batch), expected)
    torch.testing.assert_close(TIED.task.loss(logits, batch), expected.mean())
    assert len(TIED.task.correct(logits, batch)) == 2


def test_four_functions_of_ones_own():
    class Double(nn.Module):
        def forward(self, x):
            return SimpleNamespace(y=2 * x)

    task = Task(
        lambda model, batch: model(batch["x"]).y,
        lambda outputs, batch: (outputs - batch["y"]).abs().mean(),
        lambda outputs, batch: (outputs - batch["y"]).abs(),
    )
    batch = {"x": torch.tensor([1.0, 2.0]), "y": torch.tensor([2.0, 0.0])}
    assert float(Program(Double(), task)(batch)) == 2.0
    assert task.name == "custom"


@pytest.mark.parametrize(
    "batch", [classes(4)(0), {"a": torch.ones(1), "b": [torch.ones(2), "text"]}, torch.ones(3)]
)
def test_move_keeps_the_shape_of_a_batch(batch):
    moved = move(batch, "meta")
    assert type(moved) is type(batch)
    flat = moved if isinstance(moved, tuple) else (moved,)
    for value in flat:
        tensor = value["b"][0] if isinstance(value, dict) else value
        assert tensor.device.type == "meta"
