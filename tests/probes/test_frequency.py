"""Responses are those of the plain functions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.cases import CLASSIFY, CNN, DEEP, FCN
from tests.reference import frequency as reference
from torch import nn

from layerscope.errors import LayerscopeError
from layerscope.networks.isolation import mixed_seed
from layerscope.networks.layers import LayerMap
from layerscope.networks.names import unique_state
from layerscope.probes import ResponseFrequency, measure
from layerscope.probes.base import Moment


def moment(model, batch, task=CLASSIFY):
    return Moment(0, unique_state(model), model=model, task=task, batch=batch)


@pytest.mark.parametrize("case", [FCN, CNN], ids=lambda case: case.name)
def test_responses_are_those_of_the_modules(case):
    model, layers = case.model().eval(), case.map(case.model())
    probe = ResponseFrequency(examples=5, deviation=0.1)
    found = probe.measure(moment(model, case.batch(0)), layers)
    seen = {}
    for name in layers.names:
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, inputs, name=name: seen.update({name: inputs[0].shape[1:]})
        )
    model(case.batch(0)[0])
    for i, name in enumerate(layers.names):
        generator = torch.Generator().manual_seed(mixed_seed("response", 0, name))
        x = torch.randn((5, *seen[name]), generator=generator)
        dx = 0.1 * torch.randn((5, *seen[name]), generator=generator)
        with torch.no_grad():
            expected = reference.response(model.get_submodule(name), x, dx)
        actual = [float(found["response"][i]), float(found["relative_response"][i])]
        np.testing.assert_allclose(actual, expected, rtol=1e-4)


@pytest.mark.parametrize(
    "weight",
    [
        3
        * torch.linalg.qr(
            torch.randn(6, 6, dtype=torch.double, generator=torch.Generator().manual_seed(0))
        )[0],
        torch.outer(torch.arange(1.0, 5).double(), torch.tensor([1.0, -2, 0.5]).double()),
    ],
    ids=["orthogonal", "rank one"],
)
def test_a_linear_layer_has_its_closed_form(weight):
    model = nn.Sequential(nn.Linear(weight.shape[1], weight.shape[0]))
    with torch.no_grad():
        model[0].weight.copy_(weight)
    batch = (torch.randn(2, weight.shape[1]), torch.zeros(2, dtype=torch.long))
    probe = ResponseFrequency(examples=20_000)
    found = probe.measure(moment(model, batch), LayerMap.from_model(model, batch[0]))
    dy, dx = reference.linear_closed_form(weight, 0.01)
    assert float(found["response"]) == pytest.approx(dy / dx, rel=0.02)


def test_scale_does_not_count_in_the_relative_response():
    values = []
    for scale in (1.0, 100.0):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 3))
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(scale)
        batch = (torch.randn(2, 4), torch.zeros(2, dtype=torch.long))
        layers = LayerMap.from_model(model, batch[0])
        values.append(ResponseFrequency().measure(moment(model, batch), layers))
    first, second = values
    torch.testing.assert_close(second["response"], 100 * first["response"], rtol=1e-4, atol=0)
    torch.testing.assert_close(
        second["relative_response"], first["relative_response"], rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("unit", ["block", "stage"])
def test_blocks_and_stages(unit):
    case = DEEP[2]
    model = case.model().eval()
    layers = LayerMap.from_model(model, case.batch(0)[0], unit=unit)
    found = ResponseFrequency(examples=4).measure(moment(model, case.batch(0)), layers)
    assert found["response"].shape == (len(layers),)
    assert (found["response"] > 0).all()


def test_weights_of_the_checkpoint_are_used(run):
    found = measure(ResponseFrequency(), run, model=CNN.model(9), task=CNN.task)
    model = run.load(CNN.model(), run.steps[-1])
    last = ResponseFrequency().measure(moment(model, CNN.batch(0)), run.layers)
    np.testing.assert_allclose(found["response"].isel(step=-1), last["response"], rtol=1e-5)
    assert float(found["response"].std("step").max()) > 0
    keys = [figure.key for figure in ResponseFrequency().figures(found)]
    assert keys == ["response-frequency-response", "response-frequency-relative_response"]


def test_what_cannot_be_measured_is_named():
    model = FCN.model()
    layers = LayerMap.from_model(model, FCN.batch(0)[0], unit="tensor")
    with pytest.raises(LayerscopeError, match=r"'layer1\.weight' is no module"):
        ResponseFrequency().measure(moment(model, FCN.batch(0)), layers)
    with pytest.raises(LayerscopeError, match="deviation is 0"):
        ResponseFrequency(deviation=0).measure(moment(model, FCN.batch(0)), FCN.map(model))


class Odd(nn.Module):
    """Layers that have no response: an embedding, two inputs, a tuple, and one that never runs."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.plain = nn.Linear(4, 4)
        self.pair = nn.Bilinear(4, 4, 4)
        self.memory = nn.LSTM(4, 3, batch_first=True)
        self.spare = nn.Linear(2, 2)

    def forward(self, ids):
        x = self.plain(self.embed(ids))
        return self.memory(self.pair(x, x))[0].mean(1)


def test_layers_without_a_response_are_missing_with_the_reason_and_others_are_measured():
    torch.manual_seed(0)
    model = Odd()
    batch = (torch.randint(5, (6, 3)), torch.zeros(6, dtype=torch.long))
    layers = LayerMap.from_model(model, batch[0])
    here = moment(model, batch)
    found = ResponseFrequency(examples=500).measure(here, layers)["response"]
    assert list(here.missing) == ["embed", "pair", "memory", "spare"]
    assert here.missing["embed"] == "is given no tensor of real numbers"
    assert here.missing["pair"].startswith("does not run on its first input alone")
    assert here.missing["memory"] == "does not give one tensor of real numbers"
    assert here.missing["spare"] == "is not called by the model"
    values = dict(zip(layers.names, found.tolist(), strict=True))
    assert all(values[name] != values[name] for name in here.missing)
    frobenius = float(model.plain.weight.detach().norm()) / 4**0.5
    assert values["plain"] == pytest.approx(frobenius, rel=0.2)


class InPlace(nn.Module):
    """A block that overwrites its input, and a layer tied to another."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 4))])
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.blocks[0][1].weight

    def forward(self, x):
        return self.tied(self.blocks[0](x + 0))


def test_modules_that_work_in_place_or_share_weights():
    model, other = InPlace(), InPlace()
    batch = (torch.randn(2, 4), torch.zeros(2, dtype=torch.long))
    layers = LayerMap.from_model(model, batch[0], unit=["blocks.*", "tied"])
    probe = ResponseFrequency()
    weights = {n: w for n, w in unique_state(model).items() if n not in layers.aliases}
    here = Moment(0, weights, model=model, task=CLASSIFY, batch=batch)
    found = probe.measure(here, layers)
    elsewhere = Moment(0, weights, model=other, task=CLASSIFY, batch=batch)
    for name, values in probe.measure(elsewhere, layers).items():
        torch.testing.assert_close(values, found[name])
    for p in model.blocks[0]:
        p.inplace = False
    for name, values in probe.measure(here, layers).items():
        torch.testing.assert_close(values, found[name])
