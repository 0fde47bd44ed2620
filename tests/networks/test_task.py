from __future__ import annotations

import pickle
import re
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from tests.cases import CASES, CLASSIFY, FCN, TIED, classes
from torch import nn

from layerscope.errors import LayerscopeError
from layerscope.networks.attacks import FGSM, UNBOUNDED, Pixels, correct_under_attack
from layerscope.networks.task import Task, move
from layerscope.networks.variants import evaluate_variants

REGRESSION = Task.regression()


class Pair(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_loss_is_the_mean_of_the_losses(case):
    model, batch = case.model().eval(), case.batch(3)
    outputs = case.task.forward(model, batch)
    losses = case.task.losses(outputs, batch)
    assert losses.shape == (
        len(next(iter(batch.values())) if isinstance(batch, dict) else batch[0]),
    )
    torch.testing.assert_close(case.task.loss(outputs, batch), losses.mean())


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


LOGITS = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
SOME = torch.tensor([2, -100, 0, -100])
NONE = torch.full((4,), -100)


def test_ignored_examples_are_neither_losses_nor_errors():
    expected = -torch.log_softmax(LOGITS, 1)[[0, 2], [2, 0]]
    torch.testing.assert_close(CLASSIFY.losses(LOGITS, (None, SOME)), expected)
    torch.testing.assert_close(CLASSIFY.loss(LOGITS, (None, SOME)), expected.mean())
    right = (LOGITS.argmax(1) == SOME)[[0, 2]]
    assert CLASSIFY.correct(LOGITS, (None, SOME)).tolist() == right.tolist()


@pytest.mark.parametrize("ignored", [[1, 4, 5], [0, 1, 2, 3]])
def test_ignored_examples_leave_no_trace_in_what_is_measured(ignored):
    model, (inputs, labels) = FCN.model().eval(), FCN.batch(1)
    kept = [i for i in range(len(labels)) if i not in ignored]
    marked = labels.clone()
    marked[ignored] = -100
    with_them = [(inputs[:4], marked[:4]), (inputs[4:], marked[4:])]
    without = [(inputs[kept], labels[kept])]
    variants = [{}, {"layer1.bias": torch.ones(8)}]
    found, expected = (
        evaluate_variants(model, variants, d, CLASSIFY) for d in (with_them, without)
    )
    torch.testing.assert_close(found.losses, expected.losses)
    assert torch.equal(found.correct, expected.correct)
    right = [
        correct_under_attack(model, d, CLASSIFY, FGSM(0.5), Pixels(bounds=UNBOUNDED))
        for d in (with_them, without)
    ]
    assert torch.equal(*right)


def test_every_counted_pixel_is_an_example():
    logits = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[[0, 1], [2, 0]], [[1, -100], [2, 2]]])
    counted = labels.flatten() != -100
    flat, of = logits.movedim(1, -1).reshape(8, 3)[counted], labels.flatten()[counted]
    for function in (CLASSIFY.loss, CLASSIFY.losses, CLASSIFY.correct):
        torch.testing.assert_close(function(logits, (None, labels)), function(flat, (None, of)))


def test_a_token_example_without_counted_tokens_is_left_out():
    ids = torch.tensor([[1, 2, 0], [2, 2, 1], [0, 0, 1]])
    labels = torch.tensor([[1, 2, 0], [2, -100, -100], [0, 0, 1]])
    logits = torch.randn(3, 3, 4, generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "labels": labels}
    rest = {"input_ids": ids[[0, 2]], "labels": labels[[0, 2]]}
    for function in (TIED.task.loss, TIED.task.losses, TIED.task.correct):
        torch.testing.assert_close(function(logits, batch), function(logits[[0, 2]], rest))
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(TIED.task.losses(logits, batch).sum(), logits)
    assert gradient.isfinite().all()
    assert gradient.flatten(1).any(1).tolist() == [True, False, True]


NOTHING_COUNTS = {
    "classification": (CLASSIFY, LOGITS, (None, NONE)),
    "language model": (
        TIED.task,
        torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)),
        {"labels": torch.tensor([[1, -100, -100], [2, -100, -100]])},
    ),
}


@pytest.mark.parametrize("name", NOTHING_COUNTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_without_counted_labels_has_loss_and_gradient_zero(name, dtype):
    task, outputs, batch = NOTHING_COUNTS[name]
    outputs = outputs.to(dtype).requires_grad_()
    loss = task.loss(outputs, batch)
    assert (float(loss.detach()), loss.dtype) == (0.0, dtype)
    (gradient,) = torch.autograd.grad(loss, outputs, create_graph=True)
    assert not gradient.any()
    assert not torch.autograd.grad(gradient.sum(), outputs)[0].any()
    assert task.losses(outputs, batch).shape == task.correct(outputs, batch).shape == (0,)


def test_losses_and_gradients_are_those_of_torch_bit_for_bit():
    labels = torch.tensor([2, 1, 0, 0])
    outputs, twin = (LOGITS.clone().requires_grad_() for _ in range(2))
    ours, theirs = CLASSIFY.loss(outputs, (None, labels)), F.cross_entropy(twin, labels)
    assert torch.equal(ours, theirs)
    assert torch.equal(*(torch.autograd.grad(*p)[0] for p in ((ours, outputs), (theirs, twin))))
    losses = F.cross_entropy(LOGITS, labels, reduction="none")
    assert torch.equal(CLASSIFY.losses(LOGITS, (None, labels)), losses)
    bytes_ = labels.to(torch.uint8)
    assert torch.equal(CLASSIFY.losses(LOGITS, (None, bytes_)), losses)


def test_a_byte_label_that_looks_like_the_ignored_one_counts():
    logits = torch.zeros(1, 200)
    batch = (None, torch.tensor([156], dtype=torch.uint8))  # -100 modulo 256
    assert len(CLASSIFY.losses(logits, batch)) == len(CLASSIFY.correct(logits, batch)) == 1


HOT = F.one_hot(torch.tensor([0, 1, 2, 0]), 3)
IDS = torch.tensor([[1, 2, 0], [2, 2, 1]])
LANGUAGE = torch.zeros(2, 3, 4)
NO_FIT = {
    "one-hot": (CLASSIFY, LOGITS, (None, HOT), r"labels of shape \(4, 3\).*\(4, 3\)", "argmax"),
    "soft": (CLASSIFY, LOGITS, (None, HOT / 1.0), r"labels are torch.float32", "argmax"),
    "int32": (CLASSIFY, LOGITS, (None, SOME.int()), r"labels are torch.int32", r"\.long\(\)"),
    "bool": (CLASSIFY, LOGITS, (None, SOME > 0), r"labels are torch.bool", r"\.long\(\)"),
    "a list": (CLASSIFY, LOGITS, (None, [0, 1, 2, 0]), r"labels are list", "tensor"),
    "columns": (CLASSIFY, LOGITS, (None, SOME[:, None]), r"shape \(4, 1\)", r"\(4,\)"),
    "rows": (CLASSIFY, LOGITS, (None, SOME[:3]), r"shape \(3,\)", r"\(4,\)"),
    "no classes": (CLASSIFY, LOGITS[:, 0], (None, SOME), r"outputs of shape \(4,\)", "classes"),
    "an object": (CLASSIFY, SimpleNamespace(logits=0), (None, SOME), "SimpleNamespace", "forward"),
    "a tuple": (CLASSIFY, (LOGITS, 0), (None, SOME), "outputs are tuple", "forward"),
    "complex": (CLASSIFY, LOGITS + 0j, (None, SOME), "outputs are torch.complex64", "forward"),
    "class": (CLASSIFY, LOGITS, (None, SOME + 1), "class 3 among the labels", "data set"),
    "negative": (CLASSIFY, LOGITS, (None, SOME.clamp(-1)), "class -1 among the labels", "-100"),
    "inputs": (CLASSIFY, LOGITS, (LOGITS,), "a tuple of 1", r"\(inputs, labels\)"),
    "a dict": (CLASSIFY, LOGITS, {"labels": SOME}, "batch is a dict", r"\(inputs, labels\)"),
    "a tensor": (REGRESSION, LOGITS, LOGITS, "batch is a Tensor", r"\(inputs, targets\)"),
    "outputs": (REGRESSION, (LOGITS,), (None, LOGITS), "outputs are tuple", "forward"),
    "targets": (REGRESSION, LOGITS, (None, [1.0]), "targets are list", "tensor"),
    "complex targets": (
        REGRESSION,
        LOGITS + 0j,
        (None, LOGITS + 0j),
        "outputs are torch.complex64",
        "forward",
    ),
    "no tokens": (TIED.task, LANGUAGE, {"x": IDS}, r"entries x, .* input_ids", "labels"),
    "a pair": (TIED.task, LANGUAGE, (IDS, IDS), "batch is a tuple", "dict"),
    "positions": (TIED.task, LANGUAGE, {"labels": IDS[:, :2]}, r"\(2, 2\).*\(2, 3, 4\)", "same"),
    "vocabulary": (TIED.task, LANGUAGE, {"labels": IDS + 2}, "class 4 among", "data set"),
    "one logit": (TIED.task, LOGITS, {"labels": IDS}, r"outputs of shape \(4, 3\)", "positions"),
    "float ids": (TIED.task, LANGUAGE, {"labels": IDS / 1.0}, "labels are torch.float32", "long"),
}


JUDGES = [
    (name, function)
    for name, (task, _, _, message, _) in NO_FIT.items()
    for function in ("loss", "losses", "correct")
    if function != "correct" or (task.correct and not message.startswith("class "))
]  # a class that the model does not have is a wrong prediction


@pytest.mark.parametrize(("name", "function"), JUDGES)
def test_outputs_and_labels_that_do_not_fit_are_named(name, function):
    task, outputs, batch, message, remedy = NO_FIT[name]
    with pytest.raises(LayerscopeError, match=message) as found:
        getattr(task, function)(outputs, batch)
    assert re.search(remedy, found.value.remedy)


BATCHES = {
    "a tensor": (CLASSIFY, LOGITS, "batch is a Tensor", r"\(inputs, labels\)"),
    "a dict": (REGRESSION, {"x": LOGITS}, "batch is a dict", r"\(inputs, targets\)"),
    "empty": (CLASSIFY, (), "a tuple of 0", r"\(inputs, labels\)"),
    "a pair": (TIED.task, (IDS, IDS), "batch is a tuple", "dict"),
}


@pytest.mark.parametrize("name", BATCHES)
def test_batches_of_another_kind_are_named(name):
    task, batch, message, remedy = BATCHES[name]
    with pytest.raises(LayerscopeError, match=message) as found:
        task.forward(nn.Linear(3, 3), batch)
    assert re.search(remedy, found.value.remedy)


@pytest.mark.parametrize("task", [Task.classification, Task.regression, Task.language_model])
def test_tasks_are_equal_and_travel_to_other_processes(task):
    assert pickle.loads(pickle.dumps(task())) == task()


def test_only_the_inputs_are_needed_to_run_a_model():
    assert CLASSIFY.forward(nn.Identity(), (LOGITS,)) is LOGITS


@pytest.mark.parametrize("returned", [LANGUAGE, (LANGUAGE,), SimpleNamespace(logits=None)])
def test_a_language_model_without_logits_is_named(returned):
    class Model(nn.Module):
        def forward(self, input_ids):
            return returned

    kind = type(returned).__name__
    with pytest.raises(LayerscopeError, match=f"Model returned a {kind}, .* no logits") as found:
        TIED.task.forward(Model(), {"input_ids": IDS})
    assert "forward=" in found.value.remedy


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
    assert float(task.loss(task.forward(Double(), batch), batch)) == 2.0
    assert task.name == "custom"


@pytest.mark.parametrize(
    "batch",
    [
        classes(4)(0),
        {"a": torch.ones(1), "b": [torch.ones(2), "text"]},
        torch.ones(3),
        Pair(torch.ones(1), torch.ones(2)),
    ],
)
def test_move_keeps_the_shape_of_a_batch(batch):
    moved = move(batch, "meta")
    assert type(moved) is type(batch)
    flat = moved if isinstance(moved, tuple) else (moved,)
    for value in flat:
        tensor = value["b"][0] if isinstance(value, dict) else value
        assert tensor.device.type == "meta"
