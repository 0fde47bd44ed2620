"""Fisher matrices against loops of plain backward passes and the divergence they measure."""

from __future__ import annotations

import copy
import dataclasses
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.awkward import AWKWARD
from tests.cases import CASES, CLASSIFY, Case, Tied, Unused, classes, cnn
from tests.reference import fisher as reference
from tests.zoo.inventory import changes, inventory
from torch import nn

from layerscope.errors import LayerscopeError
from layerscope.functional import krylov
from layerscope.networks import fisher
from layerscope.networks.curvature import gradients
from layerscope.networks.fisher import (
    fisher_exact,
    fisher_product,
    fisher_spectrum,
    sample_gradients,
)
from layerscope.networks.names import every_tensor
from layerscope.networks.task import Task

REGRESS, LANGUAGE = Task.regression(), Task.language_model()


class Attending(nn.Module):
    """A tiny language model that looks back."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.mix = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.1, batch_first=True)
        self.output = nn.Linear(4, 7)

    def forward(self, input_ids, labels=None):
        mask = nn.Transformer.generate_square_subsequent_mask(input_ids.shape[1])
        hidden = self.mix(self.embedding(input_ids), src_mask=mask.to(self.output.weight))
        return SimpleNamespace(logits=self.output(hidden))


class Recurring(nn.Module):
    """One weight that is used twice."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Linear(4, 4)
        self.last = nn.Linear(4, 3)

    def forward(self, x):
        return self.last(torch.tanh(self.shared(torch.tanh(self.shared(x)))))


def perceptron():
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def normalised():
    return nn.Sequential(
        nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3), nn.Dropout(0.2)
    )


def some_ignored(seed):
    inputs, labels = classes(4, n=6)(seed)
    return inputs, torch.where(torch.arange(6) == 2, -100, labels)


def targets(seed):
    inputs, _ = classes(4, n=6)(seed)
    return inputs, torch.randn(6, 3, generator=torch.Generator().manual_seed(seed))


def sentences(vocabulary):
    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        return {"input_ids": torch.randint(vocabulary, (2, 4), generator=generator)}

    return draw


def labelled_sentences(seed):
    batch = sentences(7)(seed)
    kept = torch.arange(4) != 2
    return batch | {"labels": torch.where(kept, batch["input_ids"], -100)}


SMALL = {
    "perceptron": (Case("", perceptron, some_ignored, CLASSIFY, ()), reference.classes),
    "normalised": (Case("", normalised, some_ignored, CLASSIFY, ()), reference.classes),
    "recurring": (Case("", Recurring, some_ignored, CLASSIFY, ()), reference.classes),
    "unused": (Case("", Unused, classes(4, n=4), CLASSIFY, ()), reference.classes),
    "cnn": (Case("", cnn, classes(1, 8, 8, n=4), CLASSIFY, ()), reference.classes),
    "regression": (Case("", perceptron, targets, REGRESS, ()), reference.squares),
    "tied": (Case("", Tied, sentences(11), LANGUAGE, ()), reference.tokens),
    "language model": (Case("", Attending, labelled_sentences, LANGUAGE, ()), reference.tokens),
}
small = pytest.mark.parametrize(("case", "terms"), SMALL.values(), ids=SMALL)
modes = pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
SQUARED = Task(
    lambda model, batch: model(batch[0]),
    lambda outputs, batch: ((outputs - batch[1]) ** 2).mean(),
    lambda outputs, batch: ((outputs - batch[1]) ** 2).mean(1),
)
"""A regression as a task of one's own."""


def near(found, expected, tolerance=1e-5):
    scale = float(np.abs(expected).max())
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * scale)


@small
@modes
@pytest.mark.parametrize("labels", ["model", "data"])
def test_gradients_and_their_mean_square_are_those_of_a_loop(case, terms, training, labels):
    model, batch = case.model(), case.batch(0)
    kind = "exact" if labels == "model" else "empirical"
    arguments = model, batch, case.task, kind
    found = sample_gradients(*arguments, training=training)
    assert found.dtype == torch.float64
    expected = reference.sample_gradients(model, case.task, batch, terms, labels, training=training)
    near(found, expected)
    matrix = reference.mean_outer(expected)
    near(fisher_exact(*arguments, training=training), matrix)
    values = fisher_spectrum(*arguments, training=training)
    assert len(values) == len(matrix)
    near(values, np.linalg.eigvalsh(matrix)[::-1])


@pytest.mark.parametrize("name", ["perceptron", "normalised", "regression", "language model"])
@modes
def test_it_is_the_curvature_of_the_divergence(name, training):
    """KL(theta || theta + d) + KL(theta || theta - d) = d^T F d to fourth order."""
    case, terms = SMALL[name]
    model, batch = case.model().double().train(training), case.batch(0)
    if isinstance(batch, tuple):
        batch = tuple(x.double() if x.is_floating_point() else x for x in batch)
    matrix = fisher_exact(model, batch, case.task, training=training)
    steps = torch.randn(4, len(matrix), generator=torch.Generator().manual_seed(0)).double()
    for step in steps:
        step = 1e-3 * step / step.norm()
        here, there, back = (
            shifted_outputs(model, case.task, batch, s * step) for s in (0.0, 1.0, -1.0)
        )
        found = sum(reference.divergence(here, o, batch, terms) for o in (there, back))
        assert found == pytest.approx(float(step @ matrix @ step), rel=1e-4)


def shifted_outputs(model, task, batch, step):
    twin = copy.deepcopy(model)
    with torch.no_grad():
        flat = nn.utils.parameters_to_vector(twin.parameters())
        nn.utils.vector_to_parameters(flat + step, twin.parameters())
        torch.manual_seed(0)
        return task.forward(twin, batch)


@pytest.mark.parametrize("name", ["perceptron", "regression"])
def test_drawn_labels_converge_to_all(name):
    case, _ = SMALL[name]
    model, (inputs, labels) = case.model(), case.batch(0)
    exact = fisher_exact(model, (inputs, labels), case.task)
    errors = []
    for repeats in (10, 1000):
        many = inputs.repeat(repeats, 1), labels.repeat(repeats, *[1] * (labels.ndim - 1))
        drawn = sample_gradients(model, many, case.task, "mc")
        assert drawn.shape[1] == 1
        drawn = drawn[:, 0].T @ drawn[:, 0] / len(drawn)
        errors.append(float((drawn - exact).norm() / exact.norm()))
    assert errors[1] < 0.1
    assert errors[1] < errors[0] / 3


def test_drawn_labels_repeat():
    case, _ = SMALL["perceptron"]
    arguments = case.model(), case.batch(0), CLASSIFY, "mc"
    first = fisher_exact(*arguments, seed=1)
    assert torch.equal(first, fisher_exact(*arguments, seed=1))
    assert not torch.equal(first, fisher_exact(*arguments, seed=2))


@small
def test_the_mean_of_empirical_gradients_is_the_gradient_of_the_loss(case, terms):
    del terms
    model, batch = case.model().train(), case.batch(0)
    found = sample_gradients(model, batch, case.task, "empirical", training=True)[:, 0].mean(0)
    torch.manual_seed(0)
    loss = case.task.loss(case.task.forward(model, batch), batch)
    expected = torch.cat([g.flatten() for g in gradients(loss, list(model.parameters()))])
    near(found, expected.numpy())


RUN = [c for c in (*CASES, *AWKWARD) if c.name != "none beside"]


@pytest.mark.parametrize("case", RUN, ids=lambda case: case.name)
@modes
def test_products_are_those_of_the_matrix_and_the_model_is_left_as_found(case, training, caplog):
    model, batch = case.model(), case.batch(1)
    before = inventory(model)
    names = some_parameters(model)
    for kind in ("exact", "mc", "empirical"):
        options = {"names": names, "training": training}
        matrix = fisher_exact(model, batch, case.task, kind, **options)
        with fisher_product(model, batch, case.task, kind, **options) as (product, size):
            vector = krylov.random_direction(size, 3)
            found = product(vector)
        assert found.dtype == torch.float64
        assert matrix.trace() > 0
        near(found, (matrix @ vector).numpy(), 2e-5)
    assert changes(before, inventory(model)) == []
    assert ("example by example" in caplog.text) == (case.name == "sparse")


def some_parameters(model, most=1000):
    """The first ones, of at most so many numbers in all."""
    names, total = [], 0
    for name, tensor in every_tensor(model).items():
        if isinstance(tensor, nn.Parameter) and total + 2 * tensor.numel() <= most:
            names.append(name)
            total += 2 * tensor.numel()
    return names


@pytest.mark.parametrize("name", ["cnn", "regression", "tied"])
def test_the_spectrum_of_products_is_that_of_the_matrix(name):
    case, _ = SMALL[name]
    model, batch = case.model(), case.batch(0)
    names = [next(iter(dict(model.named_parameters())))]
    matrix = fisher_exact(model, batch, case.task, names=names)
    values = torch.linalg.eigvalsh(matrix)
    with fisher_product(model, batch, case.task, names=names) as (product, size):
        top = krylov.largest(product, krylov.random_direction(size))
        found = krylov.spectral_density(product, size, vectors=2, steps=5)
    assert size == len(values)
    assert top == pytest.approx(float(values[-1]), rel=1e-3)
    expected = krylov.spectral_density(lambda v: matrix @ v, size, vectors=2, steps=5)
    for power in (1, 2, 3):
        assert float(found.weights @ found.eigenvalues**power) == pytest.approx(
            float(expected.weights @ expected.eigenvalues**power), rel=1e-4
        )


class Doubling(torch.autograd.Function):
    """Twice a tensor, with a derivative that neither autograd nor vmap sees through."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, slope):
        return torch.from_numpy(2 * slope.detach().numpy())


class Opaque(nn.Module):
    """The same in a network."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 5)
        self.last = nn.Linear(5, 3)

    def forward(self, x):
        return self.last(torch.tanh(Doubling.apply(self.first(x))))


@pytest.mark.parametrize("kind", ["exact", "empirical"])
def test_what_cannot_be_batched_or_differentiated_twice_goes_one_by_one(kind, caplog):
    model, batch = Opaque(), some_ignored(0)
    labels = "model" if kind == "exact" else "data"
    rows = reference.sample_gradients(model, CLASSIFY, batch, reference.classes, labels)
    with caplog.at_level(logging.INFO):
        near(sample_gradients(model, batch, CLASSIFY, kind), rows)
        assert "Opaque run one by one" in caplog.text
        with fisher_product(model, batch, CLASSIFY, kind) as (product, size):
            vector = krylov.random_direction(size)
            found = product(vector)
    assert "its second derivative is not that of its first" in caplog.text
    near(found, reference.mean_outer(rows) @ vector.numpy())


@small
def test_passes_that_run_together_have_the_numbers_of_single_ones(case, terms, monkeypatch, caplog):
    del terms
    model, batch = case.model(), case.batch(0)
    with caplog.at_level(logging.INFO):
        together = sample_gradients(model, batch, case.task, training=True)
    assert "one by one" not in caplog.text
    monkeypatch.setattr(fisher, "AT_ONCE", 1)
    near(together, sample_gradients(model, batch, case.task, training=True).numpy(), 1e-6)
    monkeypatch.setattr(fisher, "AT_ONCE", 5)
    monkeypatch.setattr(torch.autograd, "grad", single_only(torch.autograd.grad))
    near(together, sample_gradients(model, batch, case.task, training=True).numpy(), 1e-6)


def single_only(grad):
    def alone(*arguments, is_grads_batched=False, **options):
        if is_grads_batched:
            raise RuntimeError("no batching rule")
        return grad(*arguments, **options)

    return alone


def test_unused_parameters_have_zeros_and_frozen_ones_do_not():
    model = Unused()
    model.first.bias.requires_grad_(False)
    found = sample_gradients(model, classes(4, n=4)(0), CLASSIFY)
    moves = {"first.weight", "first.bias", "last.weight", "last.bias"}
    start = 0
    for name, parameter in model.named_parameters():
        part = found[..., start : start + parameter.numel()]
        assert bool(part.any()) == (name in moves)
        start += parameter.numel()
    assert not model.first.bias.requires_grad
    batch = classes(4, n=4)(0)
    assert not fisher_spectrum(model, batch, CLASSIFY, names=["spare.bias", "spare.weight"]).any()
    with fisher_product(model, batch, CLASSIFY, names=["spare.bias"]) as (product, size):
        assert product(krylov.random_direction(size)).tolist() == [0.0] * 7


def test_columns_are_in_the_order_of_the_names_under_any_of_them():
    model, batch = Tied(), sentences(11)(0)
    whole = sample_gradients(model, batch, LANGUAGE)
    sizes = [p.numel() for p in model.parameters()]
    names = [n for n, _ in model.named_parameters()]
    parts = dict(zip(names, whole.split(sizes, -1), strict=True))
    found = sample_gradients(model, batch, LANGUAGE, names=["hidden.bias", "embedding.weight"])
    near(found, torch.cat([parts["hidden.bias"], parts["output.weight"]], -1).numpy())


def test_other_weights_take_the_place_of_the_models_own():
    model, other, batch = perceptron(), perceptron(), some_ignored(0)
    found = fisher_exact(model, batch, CLASSIFY, weights=other.state_dict())
    assert torch.equal(found, fisher_exact(other, batch, CLASSIFY))


def test_a_task_of_ones_own_has_its_second_moment():
    model, batch = perceptron(), targets(0)
    found = fisher_exact(model, batch, SQUARED, "empirical")
    near(found, fisher_exact(model, batch, REGRESS, "empirical").numpy())
    rows = reference.sample_gradients(model, SQUARED, batch, reference.squares, "data")
    near(found, reference.mean_outer(rows))
    with fisher_product(model, batch, SQUARED, "empirical") as (product, size):
        vector = krylov.random_direction(size)
        near(product(vector), (found @ vector).numpy())


def test_places_of_an_image_are_examples():
    model, labels = nn.Conv2d(1, 3, 2), torch.randint(3, (2, 3, 3))
    batch = torch.randn(2, 1, 4, 4), labels.index_fill(1, torch.tensor(1), -100)
    found = sample_gradients(model, batch, CLASSIFY)
    assert found.shape == (12, 3, 15)

    def flat(module, given):
        return module(given[0]).movedim(1, -1).flatten(0, 2)

    task = dataclasses.replace(CLASSIFY, forward=flat)
    near(found, sample_gradients(model, (batch[0], batch[1].flatten()), task).numpy())


def test_what_cannot_be_is_refused():
    model, batch = perceptron(), some_ignored(0)
    with pytest.raises(LayerscopeError, match=r"unknown parameter '0.weigth'(.|\n)*'0.weight'"):
        fisher_exact(model, batch, CLASSIFY, names=["0.weigth"])
    names = ["output.weight", "embedding.weight"]
    with pytest.raises(LayerscopeError, match=r"'embedding.weight' is named twice"):
        fisher_exact(Tied(), sentences(11)(0), LANGUAGE, names=names)
    with pytest.raises(LayerscopeError, match="there are no parameters"):
        fisher_exact(nn.Identity(), batch, CLASSIFY)
    with pytest.raises(LayerscopeError, match="kind of Fisher matrix"):
        fisher_exact(model, batch, CLASSIFY, "exakt")  # type: ignore[arg-type]
    with pytest.raises(LayerscopeError, match="no example of the batch counts"):
        fisher_exact(model, (batch[0], torch.full((6,), -100)), CLASSIFY)
    with pytest.raises(LayerscopeError, match="does not run"):
        fisher_exact(model, (torch.randn(6, 3), batch[1]), CLASSIFY)
    with pytest.raises(LayerscopeError, match="how labels are distributed"):
        fisher_exact(model, targets(0), SQUARED)
    with pytest.raises(LayerscopeError, match="how labels are distributed"):
        fisher_product(model, targets(0), SQUARED).__enter__()
    every = dataclasses.replace(SQUARED, losses=lambda o, b: ((o - b[1]) ** 2).flatten())
    with pytest.raises(LayerscopeError, match="18 losses for 6 rows"):
        fisher_exact(model, targets(0), every, "empirical")
    whole = dataclasses.replace(SQUARED, forward=lambda model, batch: {"logits": model(batch[0])})
    with pytest.raises(LayerscopeError, match="outputs are a dict"):
        fisher_exact(model, targets(0), whole, "empirical")
    with pytest.raises(TypeError, match="trainning"):
        fisher_exact(model, batch, CLASSIFY, trainning=True)  # type: ignore[call-arg]


def test_what_is_too_large_is_refused(monkeypatch):
    model, batch = perceptron(), some_ignored(0)  # 43 parameters, 15 gradients
    monkeypatch.setattr(fisher, "LARGEST", 42)
    with pytest.raises(LayerscopeError, match="43 by 43 parameters"):
        fisher_exact(model, batch, CLASSIFY)
    assert len(fisher_spectrum(model, batch, CLASSIFY)) == 43
    monkeypatch.setattr(fisher, "LARGEST", 25)
    for function in (fisher_spectrum, sample_gradients):
        with pytest.raises(LayerscopeError, match="15 gradients by 43 parameters"):
            function(model, batch, CLASSIFY)
    with fisher_product(model, batch, CLASSIFY) as (product, size):
        assert product(krylov.random_direction(size)).any()


@pytest.mark.parametrize("kind", ["exact", "mc", "empirical"])
@pytest.mark.parametrize("n", [2, 8])
def test_moments_of_blocks_are_those_of_their_columns(kind, n):
    model, batch = perceptron(), classes(4, n=n)(0)
    blocks = [["0.weight"], ["2.bias", "0.bias"], ["2.weight"]]
    found = fisher.block_moments(model, batch, CLASSIFY, kind, blocks=blocks)
    for block, moment in zip(blocks, found, strict=True):
        gradients = sample_gradients(model, batch, CLASSIFY, kind, names=block).numpy()
        np.testing.assert_allclose(
            moment.matrix()[0], reference.mean_outer(gradients), rtol=1e-6, atol=1e-9
        )
        assert (moment.examples, moment.epsilon) == (n, torch.finfo(torch.float32).eps ** 2)


def test_a_parameter_is_in_one_block_only():
    with pytest.raises(LayerscopeError, match="named twice"):
        fisher.block_moments(
            perceptron(), classes(4)(0), CLASSIFY, blocks=[["0.weight"], ["0.weight"]]
        )


def test_blocks_that_are_too_large_together_are_refused(monkeypatch):
    monkeypatch.setattr(fisher, "LARGEST", 20)
    blocks = [["0.weight"], ["2.weight"]]
    with pytest.raises(fisher.TooLargeError, match="blocks of 20, 15 parameters with 24 gradients"):
        fisher.block_moments(perceptron(), classes(4)(0), CLASSIFY, blocks=blocks)
    assert len(fisher.block_moments(perceptron(), classes(4)(0), CLASSIFY, blocks=blocks[1:])) == 1
