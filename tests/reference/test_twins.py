"""The twins against what can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.cases import CASES, CNN, FCN, RESIDUAL, TIED
from torch import nn

from reference import contributions, frequency, hessian, landscape, predictiveness


def mean_square(model, batch):
    return ((model(batch[0]) - batch[1]) ** 2).mean()


def task_loss(case):
    return lambda model, batch: case.task.loss(case.task.forward(model, batch), batch)


def owned(layers):
    return [[*layer.parameters, *layer.buffers] for layer in layers]


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def chain(*weights):
    """``x -> w_L ... w_1 x`` on numbers."""
    model = nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in weights)).double()
    for linear, weight in zip(model, weights, strict=True):
        nn.init.constant_(linear.weight, weight)
    return model


def linear(weight):
    """A linear map without bias of that weight matrix."""
    model = nn.Linear(*reversed(weight.shape), bias=False).double()
    model.weight.data = weight.double()
    return model


def example(x, y):
    return torch.tensor([x], dtype=torch.float64), torch.tensor([y], dtype=torch.float64)


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


# predictiveness


def test_data_cosines_of_a_linear_map():
    """Squared error of w x at w = 0: the gradient is -2 y x, so cosines are those of y x."""
    model = linear(torch.zeros(1, 2))
    batches = [example([1.0, 0.0], [1.0]), example([0.0, 3.0], [2.0]), example([1.0, 1.0], [-1.0])]
    found = predictiveness.data(model, mean_square, [["weight"]], batches)
    np.testing.assert_allclose(found, [(0 - math.sqrt(0.5) - math.sqrt(0.5)) / 3], rtol=1e-14)


def test_parameter_cosine_changes_sign_with_the_other_layer():
    """d/dw1 (w2 w1 x - y)^2 = 2 (w2 w1 x - y) w2 x: w2 -> -w2 at w1 = 0 turns it round."""
    model = chain(0.0, 1.0)
    before, after = state(chain(0.0, 1.0)), state(chain(5.0, -1.0))
    layers = [["0.weight"], ["1.weight"]]
    found = predictiveness.parameters(
        model, mean_square, layers, before, after, [example([1.0], [1.0])]
    )
    assert found[0] == -1
    assert np.isnan(found[1])  # at w1 = 0 the gradient of w2 is zero


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_nothing_moved_is_fully_predictive(case):
    model = case.model()
    weights = state(model)
    layers = owned(case.map(model))
    batches = [case.batch(0), case.batch(1)]
    loss = task_loss(case)
    found = predictiveness.parameters(model, loss, layers, weights, weights, batches)
    unused = [name == "spare" for name in case.layers]
    np.testing.assert_array_equal(np.isnan(found), unused)
    np.testing.assert_allclose(found[~np.array(unused)], 1, rtol=1e-12)
    same = predictiveness.data(model, loss, layers, [batches[0], batches[0]])
    np.testing.assert_allclose(same[~np.array(unused)], 1, rtol=1e-12)


def test_a_layer_that_alone_moved_is_fully_predictive_also_with_its_statistics():
    model = CNN.model()
    layers = owned(CNN.map(model))
    before = state(model)
    after = before | {name: before[name] + 1 for name in layers[1]}  # the first BatchNorm
    found = predictiveness.parameters(model, task_loss(CNN), layers, before, after, [CNN.batch(0)])
    np.testing.assert_allclose(found[1], 1, rtol=1e-12)
    assert (found[[0, 2, 3, 4]] < 1 - 1e-6).all()


def test_tied_weights_are_held_under_either_name():
    model = TIED.model()
    layers = owned(TIED.map(model))
    before = state(model)
    after = {name: tensor + 1 for name, tensor in before.items()}
    name = layers[0][0]
    held = predictiveness.loaded(model, after, {name: before[name]})
    assert torch.equal(held.output.weight, before[name])
    assert torch.equal(held.embedding.weight, before[name])
    assert torch.equal(held.hidden.weight, after["hidden.weight"])


def test_the_model_is_left_as_found():
    model = CNN.model().train()
    before = state(model)
    layers = owned(CNN.map(model))
    after = {name: tensor + 1 for name, tensor in before.items()}
    predictiveness.parameters(model, task_loss(CNN), layers, before, after, [CNN.batch(0)])
    landscape.surface(model, task_loss(CNN), [], {}, {}, [0.0], [CNN.batch(0)])
    hessian.top_eigenvalue(model, task_loss(CNN), layers[4], [CNN.batch(0)])
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


# landscape


def test_directions_have_the_size_of_what_they_move():
    weights = {name: tensor.double() for name, tensor in CNN.model().named_parameters()}
    found = landscape.directions(weights, weights, torch.Generator().manual_seed(0))
    for name, theta in weights.items():
        d = found[name]
        if theta.ndim == 1:
            assert not d.any()
        elif theta.ndim == 2:
            torch.testing.assert_close(d.norm(), theta.norm())
        else:
            torch.testing.assert_close(d.flatten(1).norm(dim=1), theta.flatten(1).norm(dim=1))


def test_a_zero_filter_has_no_direction():
    theta = normal(3, 2, 2, 2)
    theta[1] = 0
    d = landscape.normalised(theta, normal(3, 2, 2, 2, seed=1))
    assert not d[1].any()
    assert d[0].any()


def test_surface_of_a_quadratic():
    """At w = y the loss of (w + b1 d1 + b2 d2) x is (b1 d1 + b2 d2)^2 mean x^2."""
    model = chain(2.0)
    batches = [example([x], [2 * x]) for x in (1.0, 3.0)]
    batches.append((torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])))
    grid = [-1.0, 0.0, 0.5]
    d1, d2 = ({"0.weight": torch.tensor([[x]]).double()} for x in (3.0, 0.5))
    found = landscape.surface(model, mean_square, ["0.weight"], d1, d2, grid, batches)
    expected = [[(3 * b1 + 0.5 * b2) ** 2 * 5 for b2 in grid] for b1 in grid]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_examples_weigh_the_same_in_batches_of_any_size():
    model = FCN.model().double()
    inputs, labels = normal(8, 4), torch.arange(8) % 3
    whole = [(inputs, labels)]
    parts = [(inputs[:3], labels[:3]), (inputs[3:4], labels[3:4]), (inputs[4:], labels[4:])]
    d = landscape.directions(
        dict(model.named_parameters()), ["layer1.weight"], torch.Generator().manual_seed(0)
    )
    arguments = (model, task_loss(FCN), ["layer1.weight"], [d, d], 0.5)
    assert landscape.mean_increase(*arguments, whole) == pytest.approx(
        landscape.mean_increase(*arguments, parts), rel=1e-12
    )
    assert hessian.top_eigenvalue(*arguments[:3], whole) == pytest.approx(
        hessian.top_eigenvalue(*arguments[:3], parts), rel=1e-9
    )


def test_increase_and_surface_agree():
    model, loss, batches = (
        FCN.model().double(),
        task_loss(FCN),
        [(normal(8, 4), torch.arange(8) % 3)],
    )
    names = ["layer1.weight", "layer1.bias"]
    generator = torch.Generator().manual_seed(0)
    weights = dict(model.named_parameters())
    d1, d2 = (landscape.directions(weights, names, generator) for _ in range(2))
    found = landscape.surface(model, loss, names, d1, d2, [0.0, 0.3], batches)
    increase = landscape.mean_increase(model, loss, names, [d1, d2], 0.3, batches)
    assert increase == pytest.approx((found[1, 0] + found[0, 1]) / 2 - found[0, 0], rel=1e-9)


# Hessian


def test_hessian_of_least_squares():
    """Mean over examples and outputs of |W x - y|^2: H = 2 / outputs (I kron mean x x^T)."""
    inputs, targets = normal(7, 3), normal(7, 2, seed=1)
    model = linear(normal(2, 3, seed=2))
    batches = [(inputs[:2], targets[:2]), (inputs[2:], targets[2:])]
    moments = (inputs.T @ inputs / 7).numpy()
    found = hessian.hessian(model, mean_square, ["weight"], batches)
    np.testing.assert_allclose(found, np.kron(np.eye(2), moments), atol=1e-14)
    top = hessian.top_eigenvalue(model, mean_square, ["weight"], batches)
    assert top == pytest.approx(np.linalg.eigvalsh(moments)[-1], rel=1e-12)


def test_the_top_eigenvalue_has_a_sign():
    """(w2 w1 x - y)^2 is not convex: [[2 w2^2, 4 w1 w2 - 2y], [.., 2 w1^2]] at x = 1."""
    names = ["0.weight", "1.weight"]
    found = hessian.hessian(chain(0.5, 2.0), mean_square, names, [example([1.0], [3.0])])
    np.testing.assert_allclose(found, [[8, -2], [-2, 0.5]], rtol=1e-12)

    def concave(model, batch):
        return -mean_square(model, batch)

    assert hessian.top_eigenvalue(chain(2.0), concave, ["0.weight"], [example([3.0], [1.0])]) == -18


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_hessian_is_the_derivative_of_the_gradient(case):
    """Every model: one layer's Hessian times a direction, by central differences."""
    model = case.model().double().eval()
    names = [name for name, p in model.named_parameters() if p.ndim > 1][:1]
    batches = [hessian.as_double(case.batch(0))]
    found = hessian.hessian(model, task_loss(case), names, batches)
    d = normal(found.shape[0]).reshape(dict(model.named_parameters())[names[0]].shape)
    step = 1e-6

    def gradient(b):
        twin = landscape.moved(model, names, [(b, {names[0]: d})])
        return predictiveness.gradient(twin, task_loss(case), names, batches[0])

    slope = (gradient(step) - gradient(-step)) / (2 * step)
    np.testing.assert_allclose(found @ d.flatten().numpy(), slope, atol=1e-7)
    np.testing.assert_allclose(found, found.T, atol=1e-12)


# frequency


@pytest.mark.parametrize("c", [3.0, -0.5])
def test_a_multiple_of_a_rotation_responds_with_it(c):
    q = torch.linalg.qr(normal(5, 5)).Q
    plain, relative = frequency.response(
        lambda x: c * x @ q.T, normal(20, 5, seed=1), 1e-3 * normal(20, 5, seed=2)
    )
    assert plain == pytest.approx(abs(c), rel=1e-10)
    assert relative == pytest.approx(1, rel=1e-10)
    out, into = frequency.linear_closed_form(c * q, 0.1)
    assert out / into == pytest.approx(abs(c), rel=1e-12)


WEIGHTS = {
    "orthogonal": 2 * torch.linalg.qr(normal(4, 4)).Q,
    "orthonormal columns": -0.3 * torch.linalg.qr(normal(6, 4)).Q,
    "rank one": torch.outer(normal(3), normal(5, seed=1)),
    "one output": normal(1, 5),
    "one input": normal(5, 1),
}


@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS.keys())
def test_closed_forms_are_the_integral(weight):
    closed = frequency.linear_closed_form(weight, 0.1)
    assert closed == pytest.approx(frequency.linear_by_integral(weight, 0.1), rel=1e-9)


def test_gaussian_lengths():
    assert frequency.gaussian_length(1) == pytest.approx(math.sqrt(2 / math.pi))
    assert frequency.gaussian_length(2, 3.0) == pytest.approx(3 * math.sqrt(math.pi / 2))


def test_no_closed_form_for_any_matrix():
    weight = normal(3, 4)
    with pytest.raises(ValueError, match="neither"):
        frequency.linear_closed_form(weight)
    dx = normal(10_000, 4, seed=1)
    out, into = frequency.linear_by_integral(weight)
    plain, _ = frequency.response(lambda x: x @ weight.T, torch.ones_like(dx), dx)
    assert plain == pytest.approx(out / into, rel=0.02)  # standard error below 0.005


# contributions


def test_contributions_sum_to_the_output():
    model = RESIDUAL.model().double()
    z = normal(7, 6)
    blocks = [lambda z, k=k: torch.tanh(normal(6, 6, seed=k) @ z.T).T for k in range(4)]
    found = contributions.contributions(model.output, blocks, z)
    assert len(found) == 4
    torch.testing.assert_close(sum(found), contributions.output(model.output, blocks, z))


def test_the_bias_counts_once():
    readout = chain(2.0)[0]
    readout.bias = nn.Parameter(torch.tensor([10.0], dtype=torch.float64))
    blocks = [lambda z: z, lambda z: 3 * z]  # z: 1, 2, 8
    found = contributions.contributions(readout, blocks, torch.ones(1, 1).double())
    assert [part.item() for part in found] == [14, 12]
