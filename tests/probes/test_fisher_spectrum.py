from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import xarray as xr
from tests.cases import CLASSIFY, FCN, Tied, classes, tokens
from tests.reference import fisher as reference
from torch import nn

from layerscope.errors import DivergedError, LayerscopeError
from layerscope.models.fcn import fcn
from layerscope.networks import fisher
from layerscope.networks.layers import LayerMap
from layerscope.networks.task import Task
from layerscope.probes import Conditioning, FisherSpectrum
from layerscope.probes.base import Moment

SHARES = (0.1, 0.5, 1.0)
LABELS = {"exact": "model", "empirical": "data"}


def moment_of(model, batch, task=CLASSIFY, layers=None):
    layers = layers or LayerMap.from_model(model, batch, forward=task.forward)
    weights = dict(model.state_dict())
    return layers, Moment(0, weights, model=model, task=task, batch=batch)


def measured(probe, model, batch, task=CLASSIFY, layers=None):
    layers, moment = moment_of(model, batch, task, layers)
    rows = probe.rows(probe.select(layers), moment)
    return rows, probe.measure(moment, rows), moment


def at(rows, found, name):
    """The numbers of a row, as floats."""
    return {variable: float(values[rows.names.index(name)]) for variable, values in found.items()}


def normalised(epsilon=0.1):
    """Without an epsilon a direction of each unit would have no curvature, but for rounding."""
    torch.manual_seed(0)
    model = fcn((4,), 3, depth=2, width=5, normalisation="batch").double()
    model.norm1.eps = model.norm2.eps = epsilon
    return model


def convolutions():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, groups=2), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3)
    ).double()


def doubled(*shape, n):
    inputs, labels = classes(*shape, n=n)(0)
    return inputs.double(), labels


CASES = {
    "normalised": (normalised, doubled(4, n=12), ["layer1.weight", "layer2.weight"]),
    "few examples": (normalised, doubled(4, n=3), ["layer1.weight", "output.weight"]),
    "convolutions": (convolutions, doubled(2, 5, 5, n=9), ["0.weight", "3.weight"]),
}


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("case", CASES)
def test_blocks_are_those_of_gradients_example_by_example(case, kind, mode):
    build, batch, names = CASES[case]
    model = build()
    probe = FisherSpectrum(fisher=kind, mode=mode, shares=SHARES)
    rows, found, moment = measured(probe, model, batch)
    for name in names:
        expected = expectation(model, batch, kind, mode, [name])
        row = name.removesuffix(".weight")
        assert row not in moment.missing
        assert at(rows, found, row) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("case", CASES)
def test_the_whole_network_is_one_block_of_all_matrices(case, kind):
    build, batch, _ = CASES[case]
    model = build()
    probe = FisherSpectrum(fisher=kind, shares=SHARES, whole=True)
    rows, found, _ = measured(probe, model, batch)
    names = [n for n, p in model.named_parameters() if n.endswith("weight") and p.ndim > 1]
    assert set(rows["network"].parameters) == set(names)
    expected = expectation(model, batch, kind, "train", names)
    assert at(rows, found, "network") == pytest.approx(expected, rel=1e-7)


def expectation(model, batch, kind, mode, names):
    """The slow twin: a forward and a backward pass for every example and label."""
    gradients = reference.sample_gradients(
        model,
        CLASSIFY,
        batch,
        reference.classes,
        LABELS[kind],
        names=names,
        training=mode == "train",
    )
    values = reference.spectrum(gradients, torch.finfo(torch.float64).eps)
    return reference.condition_numbers(values, SHARES)


def test_drawn_labels_are_those_of_the_library():
    model, batch, names = normalised(), *CASES["normalised"][1:]
    rows, found, _ = measured(FisherSpectrum(fisher="mc", seed=3), model, batch)
    options = {"names": names[:1], "training": True, "seed": 3}
    values = fisher.fisher_spectrum(model, batch, CLASSIFY, "mc", **options)
    assert at(rows, found, "layer1")["largest"] == pytest.approx(float(values[0]))
    assert at(rows, found, "layer1")["trace"] == pytest.approx(float(values.sum()))


def test_directions_without_curvature_are_found_in_float32_too():
    """The scale of what is normalised away: one direction for every unit."""
    model, (inputs, labels) = normalised(1e-30), doubled(4, n=40)
    double = measured(FisherSpectrum(), model, (inputs, labels))
    single = measured(FisherSpectrum(), copy.deepcopy(model).float(), (inputs.float(), labels))
    for name in ("layer1", "layer2"):
        a, b = (at(rows, found, name) for rows, found, _ in (single, double))
        assert a["rank"] == b["rank"] == double[0][name].n_parameters - 5
        assert a["largest"] == pytest.approx(b["largest"], rel=1e-4)
        assert a["kappa_100"] == b["kappa_100"] == math.inf


def test_only_as_many_examples_as_asked_for():
    model, (inputs, labels), _ = normalised(), *CASES["normalised"][1:]
    rows, found, _ = measured(FisherSpectrum(samples=5), model, (inputs, labels))
    _, few, _ = measured(FisherSpectrum(), model, (inputs[:5], labels[:5]))
    assert at(rows, found, "output") == at(rows, few, "output")


def test_blocks_that_do_not_fit_together_are_measured_one_by_one(monkeypatch):
    model, batch = normalised(), CASES["normalised"][1]
    rows, together, _ = measured(FisherSpectrum(), model, batch)
    monkeypatch.setattr(fisher, "LARGEST", 25)
    _, apart, moment = measured(FisherSpectrum(), model, batch)
    for name in ("layer1", "layer2", "output"):
        assert name not in moment.missing
        assert at(rows, apart, name) == pytest.approx(at(rows, together, name), rel=1e-9)


def test_a_block_that_is_too_large_says_so_and_the_others_have_values(monkeypatch):
    model, batch = normalised(), CASES["normalised"][1]
    rows, whole, _ = measured(FisherSpectrum(), model, batch)
    monkeypatch.setattr(fisher, "LARGEST", 20)
    _, found, moment = measured(FisherSpectrum(), model, batch)
    assert "25 parameters with 36 gradients are more than 20 by 20" in moment.missing["layer2"]
    assert all(map(math.isnan, at(rows, found, "layer2").values()))
    for name in ("layer1", "output"):
        assert at(rows, found, name) == pytest.approx(at(rows, whole, name), rel=1e-9)
    monkeypatch.setattr(fisher, "LARGEST", 10)
    with pytest.raises(LayerscopeError, match="more than 10 by 10"):
        measured(FisherSpectrum(), model, batch)


def test_a_whole_network_that_is_too_large_is_refused(monkeypatch):
    monkeypatch.setattr(fisher, "LARGEST", 30)
    with pytest.raises(LayerscopeError, match="60 parameters with 36 gradients"):
        measured(FisherSpectrum(whole=True), normalised(), CASES["normalised"][1])


def test_fewer_gradients_than_parameters_leave_zeros():
    model, batch = normalised(), CASES["few examples"][1]
    rows, found, _ = measured(FisherSpectrum(fisher="empirical", whole=True), model, batch)
    numbers = at(rows, found, "network")
    assert numbers["rank"] <= 3
    assert numbers["kappa_50"] == math.inf
    assert math.isfinite(numbers["kappa"])


def test_a_matrix_without_a_block_of_its_own_says_why():
    rows, found, moment = measured(FisherSpectrum(), Tied(), tokens(0), Task.language_model())
    assert "shares it" in moment.missing["embedding"]
    assert moment.missing["embedding"] == moment.missing["output"]
    assert math.isfinite(at(rows, found, "hidden")["largest"])
    _, _, moment = measured(FisherSpectrum(), normalised(), CASES["normalised"][1])
    assert moment.missing["norm1"] == "has its exact matrix in Conditioning"


def test_of_a_shared_parameter_the_whole_network_has_one():
    rows, _, _ = measured(FisherSpectrum(whole=True), Tied(), tokens(0), Task.language_model())
    assert set(rows["network"].parameters) == {"output.weight", "hidden.weight"}


def test_of_selected_layers_the_whole_network_has_those():
    model, batch = FCN.model(), FCN.batch(0)
    layers = FCN.map(model).only(["layer*"])
    rows, _, _ = measured(FisherSpectrum(whole=True), model, batch, layers=layers)
    assert set(rows["network"].parameters) == {"layer1.weight", "layer2.weight"}


def test_layers_without_a_matrix_are_refused():
    layers = LayerMap.from_model(normalised(), CASES["normalised"][1][0]).only(["norm*"])
    for whole, match in ((False, "block of its own: 'norm1' has"), (True, "no matrices that are")):
        probe = FisherSpectrum(whole=whole)
        with pytest.raises(LayerscopeError, match=match):
            measured(probe, normalised(), CASES["normalised"][1], layers=layers)


def test_weights_that_are_not_finite_are_a_divergence():
    model = normalised()
    with torch.no_grad():
        model.layer1.weight[0, 0] = torch.nan
    with pytest.raises(DivergedError):
        measured(FisherSpectrum(), model, CASES["normalised"][1])


def test_it_has_the_variables_of_conditioning_for_one_matrix():
    shares = (0.2, 0.995)
    theirs = Conditioning(shares=shares).variables
    assert set(FisherSpectrum(shares=shares).variables) == {
        name for name in theirs if not name.endswith(("_input", "_gradient"))
    }


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"samples": 0}, "samples 0"),
        ({"shares": (0.0,)}, r"shares \(0.0,\)"),
        ({"fisher": "true"}, "kind of Fisher matrix"),
        ({"mode": "test"}, "mode of FisherSpectrum"),
    ],
)
def test_what_is_no_setting_is_refused(settings, match):
    with pytest.raises(LayerscopeError, match=match):
        FisherSpectrum(**settings)


def test_figures_leave_out_what_is_infinite_everywhere():
    names = {"largest": 1.0, "kappa_50": np.inf}
    coords = {"layer": ["a", "b"], "step": [0, 1]}
    values = {name: (("step", "layer"), np.full((2, 2), x)) for name, x in names.items()}
    (figure,) = FisherSpectrum(whole=True).figures(xr.Dataset(values, coords))
    assert figure.key.endswith("largest")
    assert "Fisher matrix of the network" in figure.caption
    (figure,) = FisherSpectrum(fisher="empirical").figures(xr.Dataset(values, coords))
    assert "of the second moment of sample gradients of each layer" in figure.caption
