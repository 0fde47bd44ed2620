from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.cases import CASES, CNN
from tests.reference.gradient import mean_gradients

from layerscope.probes import GradientMagnitude, measure
from layerscope.probes.base import Moment
from layerscope.probes.gradient import batch_gradients


def moment(case, model, batch):
    tied = case.map(model).aliases
    weights = {name: value for name, value in model.state_dict().items() if name not in tied}
    return Moment(0, weights, model=model, task=case.task, batch=batch)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_values_are_those_of_plain_backward(case):
    model, batch = case.model(), case.batch(3)
    layers = case.map(model)
    found = GradientMagnitude().measure(moment(case, model, batch), layers)["gradient_magnitude"]
    expected = mean_gradients(model, case.task, batch, layers)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-10)
    assert all(p.grad is None for p in model.parameters())


def test_values_from_checkpoints(run):
    model = CNN.model(8)
    found = measure(GradientMagnitude(), run, model=model, task=CNN.task)["gradient_magnitude"]
    for step in run.steps:
        twin = run.load(CNN.model(), step)
        expected = mean_gradients(twin, CNN.task, CNN.batch(0), run.layers)
        np.testing.assert_allclose(found.sel(step=step), expected, rtol=1e-5)


def test_an_unused_parameter_has_a_zero_gradient():
    case = next(case for case in CASES if case.name == "unused")
    model = case.model()
    names = case.map(model).parameter_names
    gradients = batch_gradients(moment(case, model, case.batch(0)), names)
    assert [bool(g.any()) for g in gradients] == [True, True, False, False, True, True]


def test_train_mode_repeats_and_differs_from_eval():
    model = CNN.model()
    values = [
        GradientMagnitude(mode=mode).measure(moment(CNN, model, CNN.batch(0)), CNN.map(model))
        for mode in ("train", "train", "eval")
    ]
    train, again, evaluated = (value["gradient_magnitude"] for value in values)
    assert torch.equal(train, again)
    assert not torch.allclose(train, evaluated)
    assert int(model[1].num_batches_tracked) == 0


def test_key_and_figures(run):
    assert GradientMagnitude(mode="train").key == "gradient_magnitude,mode=train"
    probe = GradientMagnitude()
    figures = probe.figures(measure(probe, run, model=CNN.model(), task=CNN.task))
    assert [figure.key for figure in figures] == ["gradient-magnitude"]
