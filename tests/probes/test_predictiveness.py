"""Gradient predictiveness is that of the plain passes, one model per layer."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from tests.cases import CASES, CLASSIFY, DEEP, FCN, Case
from tests.reference import predictiveness as reference
from torch import nn

from layerscope.errors import LayerscopeError
from layerscope.networks.layers import LayerMap
from layerscope.networks.names import unique_state
from layerscope.networks.task import Task, rows
from layerscope.probes import GradientPredictiveness, measure
from layerscope.probes.base import Moment
from layerscope.recording.recorder import Recorder
from layerscope.schedule import every


def moment(model, task, batch, rate=0.1):
    return Moment(0, unique_state(model), model=model, task=task, batch=batch, learning_rate=rate)


def mean_loss(task):
    return lambda model, batch: task.loss(task.forward(model, batch), batch)


def gradient_step(model, task, layers, batch, rate):
    """Parameters after one step of gradient descent, buffers as they are."""
    state = {name: tensor.clone() for name, tensor in unique_state(model).items()}
    parameters = dict(model.named_parameters())
    names = layers.parameter_names
    loss = task.loss(task.forward(model.eval(), batch), batch)
    wanted = [parameters[name] for name in names]
    for name, g in zip(names, torch.autograd.grad(loss, wanted, allow_unused=True), strict=True):
        state[name] -= 0 if g is None else rate * g
    return state


def compare(case, rate=0.1, n=2):
    model, batch = case.model().eval(), case.batch(3)
    layers, task = case.map(model), case.task
    probe = GradientPredictiveness(batches=n)
    found = probe.measure(moment(model, task, batch, rate), layers)
    size = len(next(iter(batch.values())) if isinstance(batch, dict) else batch[0]) // n
    batches = [rows(batch, i * size, (i + 1) * size) for i in range(n)]
    names, loss = [list(layer.parameters) for layer in layers], mean_loss(task)
    data = reference.data(model, loss, names, batches)
    np.testing.assert_allclose(found["data"], np.nan_to_num(data), atol=1e-5)
    before = unique_state(model)
    each = [
        reference.parameters(
            model, loss, names, before, gradient_step(model, task, layers, b, rate), [b]
        )
        for b in batches
    ]
    expected = np.nan_to_num(np.mean(each, 0))
    np.testing.assert_allclose(found["parameters"], expected, atol=1e-5)
    assert all(p.grad is None for p in model.parameters())
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_values_are_those_of_one_pass_per_layer(case):
    compare(case)


RESNETS = [pytest.param(case, marks=pytest.mark.slow) for case in DEEP[1:3]]


@pytest.mark.parametrize(
    "case", [*RESNETS, *DEEP[3:]], ids=lambda case: getattr(case, "name", None)
)
def test_values_of_deep_networks(case):
    found = compare(case, rate=1.0)
    assert float(found["parameters"].min()) < 0.9  # such a step does change gradients


def test_equal_batches_and_small_steps_are_predictive_on_a_quadratic():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 2, bias=False))
    inputs, targets = torch.randn(5, 3), torch.randn(5, 2)
    batch = (inputs.repeat(2, 1), targets.repeat(2, 1))
    layers = LayerMap.from_model(model, batch[0])
    task = Task.regression()
    small, large = (
        GradientPredictiveness(batches=2, learning_rate=rate).measure(
            moment(model, task, batch), layers
        )
        for rate in (1e-6, 3.0)
    )
    torch.testing.assert_close(small["data"], torch.ones(2, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        small["parameters"], torch.ones(2, dtype=torch.float64), atol=1e-6, rtol=0
    )
    assert (large["parameters"] < 0.9).all()


def test_opposite_batches_have_cosine_minus_one():
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    batch = (torch.ones(2, 1), torch.tensor([[1.0], [-1.0]]))
    layers = LayerMap.from_model(model, batch[0])
    found = GradientPredictiveness(batches=2).measure(
        moment(model, Task.regression(), batch), layers
    )
    assert float(found["data"]) == pytest.approx(-1)


def test_a_vanishing_gradient_predicts_nothing():
    case = next(case for case in CASES if case.name == "unused")
    model = case.model()
    found = GradientPredictiveness(batches=2).measure(
        moment(model, case.task, case.batch(0)), case.map(model)
    )
    assert found["data"][1] == found["parameters"][1] == 0


def test_live_and_offline_agree(tmp_path):
    model, batch = FCN.model(), FCN.batch(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    probe = GradientPredictiveness(batches=2)
    with Recorder(
        model,
        tmp_path,
        task=FCN.task,
        batch=batch,
        probes=[probe],
        checkpoints=every(1),
        measure=every(1),
        learning_rate=lambda step: optimizer.param_groups[0]["lr"] / (1 + step),
    ) as recorder:
        for seed in range(3):
            optimizer.zero_grad()
            loss = FCN.task.loss(FCN.task.forward(model, FCN.batch(seed)), FCN.batch(seed))
            loss.backward()
            optimizer.step()
            recorder.step(loss=loss)
    run = recorder.run
    live = run.results(probe.key)
    for step, rate in zip(run.steps, (0.5, 0.25, 0.5 / 3, 0.125), strict=True):
        offline = measure(
            GradientPredictiveness(batches=2, learning_rate=rate),
            run,
            model=FCN.model(),
            task=FCN.task,
            steps=[step],
        )
        for name in ("data", "parameters"):
            np.testing.assert_allclose(
                live[name].sel(step=step), offline[name].sel(step=step), atol=1e-6
            )


@pytest.mark.parametrize("batches", [1, 0, 9])
def test_a_batch_that_cannot_be_cut_is_named(batches):
    model = FCN.model()
    with pytest.raises(LayerscopeError, match="8 examples cannot be cut into"):
        GradientPredictiveness(batches=batches).measure(
            moment(model, FCN.task, FCN.batch(0)), FCN.map(model)
        )


def test_a_run_of_unknown_learning_rate_is_named(run):
    from tests.cases import CNN

    with pytest.raises(LayerscopeError, match="learning rate of this run is not known"):
        measure(GradientPredictiveness(batches=2), run, model=CNN.model(), task=CNN.task)
    found = measure(
        GradientPredictiveness(batches=2, learning_rate=0.1), run, model=CNN.model(), task=CNN.task
    )
    assert [f.key for f in GradientPredictiveness().figures(found)] == [
        "gradient-predictiveness-data",
        "gradient-predictiveness-parameters",
    ]


def test_more_batches_are_all_compared():
    inputs = torch.randn(6, 4)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    case = Case("six", FCN.build, lambda _: (inputs, labels), CLASSIFY, FCN.layers)
    found = compare(case, n=3)
    model, loss = case.model().eval(), mean_loss(CLASSIFY)
    names = [list(layer.parameters) for layer in case.map(model)]
    batches = [rows((inputs, labels), i, i + 2) for i in (0, 2, 4)]
    pairs = [
        reference.data(model, loss, names, list(p)) for p in itertools.combinations(batches, 2)
    ]
    np.testing.assert_allclose(found["data"], np.mean(pairs, 0), atol=1e-5)


def test_layers_that_are_not_measured_move_too():
    model, batch = FCN.model(), FCN.batch(0)
    probe = GradientPredictiveness(batches=2)
    every = probe.measure(moment(model, FCN.task, batch, 2.0), FCN.map(model))
    one = probe.measure(moment(model, FCN.task, batch, 2.0), FCN.map(model, include=["layer1"]))
    torch.testing.assert_close(one["parameters"], every["parameters"][:1])
    assert float(one["parameters"]) < 0.999


def test_frozen_parameters_do_not_move():
    model, batch = FCN.model(), FCN.batch(0)
    probe = GradientPredictiveness(batches=2)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("layer1"))
    found = probe.measure(moment(model, FCN.task, batch, 2.0), FCN.map(model))
    assert float(found["parameters"][0]) == pytest.approx(1)
    assert (found["parameters"][1:] < 0.9999).all()
