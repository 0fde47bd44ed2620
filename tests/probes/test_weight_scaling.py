from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
from tests.cases import CLASSIFY, Tied, Unused, classes, tokens
from tests.reference import scaling as reference
from tests.zoo.inventory import changes, inventory
from torch import nn

from layerscope.errors import LayerscopeError
from layerscope.models.cifar_resnet import cifar_resnet
from layerscope.models.fcn import fcn
from layerscope.networks.layers import LayerMap
from layerscope.networks.scaling import pass_chain
from layerscope.networks.task import Task
from layerscope.probes import WeightScaling
from layerscope.probes.base import Moment

SIDES = ("input", "gradient", "weight")
VECTORS, IMAGES = classes(6, n=32)(0), classes(3, 16, 16, n=16)(0)


def mlp(depth=4, **options):
    torch.manual_seed(0)
    return fcn((6,), 3, depth, 12, **{"bias": False} | options)


def images(kind="plain", normalisation="none"):
    torch.manual_seed(0)
    return cifar_resnet((3, 16, 16), 3, 8, kind, normalisation, 4, width=0.5)


def measured(model, batch=VECTORS, task=CLASSIFY, probe=None, **settings):
    probe = probe or WeightScaling(**settings)
    layers = LayerMap.from_model(model, batch, forward=task.forward)
    moment = Moment(0, dict(model.state_dict()), model=model, task=task, batch=batch)
    rows = probe.rows(probe.select(layers), moment)
    return rows, probe.measure(moment, rows), moment


def worst(found):
    return max(float(found[f"deviation_{side}"].max()) for side in SIDES)


@pytest.mark.parametrize(
    ("options", "theorem"),
    [
        ({}, reference.rectifier_network),
        ({"initialisation": "he"}, reference.rectifier_network),
        ({"normalisation": "batch", "output_norm": True}, reference.normalised_network),
        ({"normalisation": "layer", "output_norm": True}, reference.normalised_network),
    ],
)
def test_the_theorems_hold_to_a_millionth(options, theorem):
    """Theorem 4.1 of rectifier networks, 4.2 where a normalisation follows every layer."""
    probe = WeightScaling(draws=4, seed=3)
    rows, found, moment = measured(mlp(**options), probe=probe)
    assert rows.names == ("layer1", "layer2", "layer3", "layer4", "output")
    assert moment.missing == {}
    for draw in range(4):
        factors = (10 ** probe._decades(5, draw)).tolist()
        for side, expected in zip(SIDES, theorem(factors), strict=True):
            ratio = 10 ** found[f"measured_{side}"][:, draw]
            np.testing.assert_allclose(ratio, expected, rtol=1e-6)
            np.testing.assert_allclose(
                10 ** found[f"predicted_{side}"][:, draw], expected, rtol=1e-9
            )
    assert worst(found) < 1e-6


@pytest.mark.parametrize("normalisation", ["none", "batch", "layer", "group", "instance"])
def test_convolutions_of_which_some_layers_are_normalised(normalisation):
    _, found, moment = measured(images(normalisation=normalisation), IMAGES)
    assert moment.missing == {}
    assert worst(found) < 1e-6


@pytest.mark.parametrize("normalised", [False, True])
def test_signals_are_those_of_a_plain_loop(normalised):
    options = {"normalisation": "batch", "output_norm": True} if normalised else {}
    model = mlp(2, **options)
    found = pass_chain(model, VECTORS, CLASSIFY, epsilon=0.0)
    weights = [getattr(model, n).weight.detach().double() for n in ("layer1", "layer2", "output")]
    expected = reference.perceptron(
        [w.numpy() for w in weights],
        VECTORS[0].double().numpy(),
        found.cotangent.numpy(),
        [normalised] * 3,
    )
    for side, numbers in zip((found.input, found.gradient, found.weight), expected, strict=True):
        assert list(side) == ["layer1.weight", "layer2.weight", "output.weight"]
        for one, other in zip(side.values(), numbers, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9 * np.abs(other).max())
    assert list(found.normalised.values()) == [normalised] * 3


def test_the_gradient_at_the_outputs_is_that_of_the_loss_without_scaling():
    model = mlp(2)
    before = pass_chain(model, VECTORS, CLASSIFY)
    probabilities = torch.softmax(before.outputs, 1)
    expected = (probabilities - nn.functional.one_hot(VECTORS[1], 3)) / len(VECTORS[1])
    torch.testing.assert_close(before.cotangent, expected)
    scaled = pass_chain(
        model, VECTORS, CLASSIFY, scales={"layer1.weight": 3.0}, cotangent=before.cotangent
    )
    torch.testing.assert_close(scaled.outputs, 3 * before.outputs)
    assert torch.equal(scaled.cotangent, before.cotangent)


def test_epsilon_and_other_activations_show_as_deviations():
    batch = {"normalisation": "batch", "output_norm": True}
    assert worst(measured(mlp(**batch), epsilon=None)[1]) > 1e-4
    assert worst(measured(mlp(activation="tanh"))[1]) > 1e-2
    assert worst(measured(mlp(**batch, activation="tanh"))[1]) < 1e-6


def test_biases_before_a_batch_normalisation_and_in_the_last_layer_change_nothing():
    assert worst(measured(mlp(bias=True, normalisation="batch"))[1]) < 1e-6
    zero = mlp(bias=True)
    for name, parameter in zero.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
    assert worst(measured(zero)[1]) < 1e-6


def test_the_model_is_left_as_found():
    model = nn.Sequential(
        nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5), nn.ReLU(inplace=True), nn.Linear(5, 3)
    )
    before = inventory(model)
    assert worst(measured(model)[1]) < 1e-6
    assert changes(before, inventory(model)) == []


class Lstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 4, batch_first=True)
        self.last = nn.Linear(4, 3, bias=False)

    def forward(self, x):
        return self.last(self.lstm(x[:, None])[0][:, -1])


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 6, bias=False)

    def forward(self, x):
        return self.a(torch.relu(self.a(x)))


class Parallel(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = (nn.Linear(6, 3, bias=False) for _ in range(2))

    def forward(self, x):
        return torch.relu(self.a(x)) + self.b(x)


class Single(nn.Module):
    """Makes a tensor of a type of its own."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 6, bias=False)

    def forward(self, x):
        return self.a(x) @ torch.eye(6, dtype=torch.float32)


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 3, bias=False)

    def forward(self, x):
        return SimpleNamespace(logits=self.a(x))


class Detached(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 6, bias=False)
        self.b = nn.Linear(6, 3, bias=False)

    def forward(self, x):
        return self.b(self.a(x).detach())


NAMED = Task(
    CLASSIFY.forward,
    lambda outputs, batch: CLASSIFY.loss(outputs.logits, batch),
    lambda outputs, batch: CLASSIFY.losses(outputs.logits, batch),
)


@pytest.mark.parametrize(
    ("build", "batch", "task", "message"),
    [
        (lambda: mlp(bias=True), VECTORS, CLASSIFY, "depend on 'layer1.bias', which is not scaled"),
        (
            lambda: mlp(bias=True, normalisation="layer"),
            VECTORS,
            CLASSIFY,
            "depend on 'layer1.bias'",
        ),
        (lambda: images("resnet", "batch"), IMAGES, CLASSIFY, r"signals from .* go past"),
        (Parallel, VECTORS, CLASSIFY, r"signals from 'a.weight' go past 'b.weight'"),
        (Lstm, VECTORS, CLASSIFY, "depend on 'lstm.weight_ih_l0', which is not scaled"),
        (Twice, VECTORS, CLASSIFY, "no rule says .* 'a.weight' is used more than once"),
        (Tied, tokens(0), Task.language_model(), "'output.weight' is no matrix of its own"),
        (Single, VECTORS, CLASSIFY, "Single does not run in float64"),
        (Named, VECTORS, NAMED, "outputs are a SimpleNamespace, not a tensor"),
        (Detached, VECTORS, CLASSIFY, "do not depend on 'a.weight'"),
    ],
)
def test_what_has_no_rule_is_refused(build, batch, task, message):
    model = build()
    before = inventory(model)
    with pytest.raises(LayerscopeError, match=message):
        measured(model, batch, task)
    assert changes(before, inventory(model)) == []


def test_signals_that_are_not_finite_are_refused():
    with pytest.raises(LayerscopeError, match="are not finite"):
        measured(mlp(1), (VECTORS[0] * math.nan, VECTORS[1]))


def test_a_layer_that_does_not_run_has_no_value():
    model = Unused()
    for one in (model.first, model.last):
        nn.init.zeros_(one.bias)
    rows, found, moment = measured(model, classes(4)(0))
    assert moment.missing == {"spare.weight": "takes part in no product"}
    gone = torch.isnan(found["measured_input"]).all(1)
    assert gone.tolist() == [name == "spare.weight" for name in rows.names]


def test_layers_without_signals_have_no_value():
    model = mlp(2)
    nn.init.zeros_(model.layer2.weight)
    _, _, moment = measured(model)
    assert set(moment.missing) == {"layer1", "layer2", "output"}


@pytest.mark.parametrize("settings", [{"draws": 0}, {"spread": 0.0}, {"epsilon": -1.0}])
def test_settings_that_mean_nothing(settings):
    with pytest.raises(LayerscopeError, match=next(iter(settings))):
        WeightScaling(**settings)


def test_figures_show_the_largest_deviation():
    probe = WeightScaling(draws=2)
    values = {f"deviation_{s}": (("step", "layer", "draw"), [[[1e-9, 1e-8]]]) for s in SIDES}
    dataset = xr.Dataset(values, {"step": [0], "layer": ["a"]})
    (figure,) = probe.figures(dataset)
    np.testing.assert_allclose(figure.data, 1e-8)
    assert figure.data.dims == ("signal", "step", "layer")
