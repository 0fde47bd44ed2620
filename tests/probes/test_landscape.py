"""Landscapes are those of the plain loops, and the middle is the trained network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.cases import CNN, DEEP, FCN
from tests.reference import landscape as reference
from tests.training_loop import train

from layerscope.errors import LayerscopeError
from layerscope.functional.landscape import scaled_direction
from layerscope.networks.isolation import mixed_seed
from layerscope.probes import LossLandscape, measure
from layerscope.runs.store import Run

PROBE = LossLandscape(points=3, draws=3, extent=0.7)


def mean_loss(task):
    return lambda model, batch: task.loss(task.forward(model, batch), batch)


def recorded(case, path):
    train(case, 2, path=path, task=case.task, batch=case.batch(0), steps_per_epoch=1)
    return Run.open(path)


SURFACES = (FCN, CNN, DEEP[0], pytest.param(DEEP[2], marks=pytest.mark.slow))


@pytest.mark.parametrize("case", SURFACES, ids=lambda case: getattr(case, "name", None))
def test_surface_and_rise_are_those_of_the_plain_loops(case, tmp_path):
    run = recorded(case, tmp_path / "run")
    found = measure(PROBE, run, model=case.model(), task=case.task)
    model = run.load(case.model(), run.steps[-1]).eval()
    state, batches = dict(run.checkpoint(run.steps[-1])), [case.batch(0)]
    loss = mean_loss(case.task)
    names = list(found["layer"].values)
    for name in names[:: max(1, len(names) // 4)]:
        own = {n: state[n] for n in run.layers[name].parameters}
        seed = mixed_seed("landscape", run.manifest["seed"] or 0, 0, next(iter(own)))
        generator = torch.Generator().manual_seed(seed)
        d1, d2, *others = (scaled_direction(own, generator) for _ in range(5))
        grid = [-0.7, 0.0, 0.7]
        surface = reference.surface(model, loss, list(own), d1, d2, grid, batches)
        np.testing.assert_allclose(found["loss"].sel(layer=name), surface, rtol=1e-5)
        rise = reference.mean_increase(model, loss, list(own), others, 0.5, batches)
        assert float(found["increase"].sel(layer=name)) == pytest.approx(rise, abs=2e-6, rel=1e-4)


def test_the_middle_is_the_trained_network(run):
    found = measure(PROBE, run, model=CNN.model(), task=CNN.task)
    model = run.load(CNN.model(), run.steps[-1]).eval()
    loss = mean_loss(CNN.task)(model, CNN.batch(0)).item()
    np.testing.assert_allclose(found["loss"].sel(beta1=0, beta2=0), loss, rtol=1e-6)
    assert float(found["loss"].std("layer").max()) > 1e-4


def test_layers_without_a_direction_are_left_out(run):
    found = measure(PROBE, run, model=CNN.model(), task=CNN.task)
    assert list(found["layer"].values) == ["0", "4", "9"]  # not the normalisations


def test_relative_curvature_is_that_of_a_layer_of_length_one(run):
    found = measure(PROBE, run, model=CNN.model(), task=CNN.task)
    weights = run.checkpoint(run.steps[-1])
    for layer in run.layers:
        if layer.name in found["layer"]:
            flat = torch.cat([weights[name].flatten() for name in layer.parameters]).double()
            ratio = (found["relative_curvature"] / found["curvature"]).sel(layer=layer.name)
            assert float(ratio) == pytest.approx(float(flat @ flat))


def test_another_checkpoint(run):
    probe = LossLandscape(points=1, draws=0, hessian=False, checkpoint=2)
    found = measure(probe, run, model=CNN.model(), task=CNN.task)
    model = run.load(CNN.model(), 2).eval()
    loss = mean_loss(CNN.task)(model, CNN.batch(0)).item()
    np.testing.assert_allclose(found["loss"].values, loss, rtol=1e-6)
    assert set(found.data_vars) == {"loss"}


BAD = {
    "even": (LossLandscape(points=4), "points is 4"),
    "draws": (LossLandscape(draws=1), "draws is 1"),
    "radius": (LossLandscape(points=1, radius=0), "radius is 0"),
    "budget": (LossLandscape(points=1, budget_mb=0), "budget is 0"),
    "checkpoint": (LossLandscape(points=1, checkpoint=7), "7"),
}


@pytest.mark.parametrize(("probe", "message"), BAD.values(), ids=BAD)
def test_bad_settings_are_named(run, probe, message):
    with pytest.raises(LayerscopeError, match=message):
        measure(probe, run, model=CNN.model(), task=CNN.task)


def test_figures(run):
    found = measure(PROBE, run, model=CNN.model(), task=CNN.task)
    keys = [figure.key for figure in PROBE.figures(found)]
    ends = [key.rpartition("-")[2] for key in keys[1:]]
    assert ends == ["increase", "curvature", "relative_curvature"]
