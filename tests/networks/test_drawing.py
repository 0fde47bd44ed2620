"""A fresh draw is one of the layer's own initialiser, whatever its weight is made of."""

from __future__ import annotations

import pytest
import torch
from tests.awkward import DERIVED, derived
from tests.cases import FCN, TIED
from torch import nn
from torch.nn.utils import parametrize

from layerscope.errors import LayerscopeError
from layerscope.networks.drawing import fresh_weights
from layerscope.networks.isolation import isolated
from layerscope.networks.names import unique_state

MIDDLE = ["2"]


def built(wrap):
    torch.manual_seed(0)
    model = derived(wrap)().eval()
    with torch.no_grad():  # as trained: far from any draw, and scaled
        for parameter in model.parameters():
            parameter.mul_(3).add_(0.01)
    return model


def effective(model, weights):
    """The weight that the middle layer computes with."""
    with isolated(model, weights=weights), torch.no_grad():
        model(torch.zeros(2, 4))
        return model[2].weight.clone()


@pytest.mark.parametrize("wrap", DERIVED.values(), ids=DERIVED)
def test_a_derived_weight_is_drawn_and_not_the_trained_one(wrap):
    model = built(wrap)
    trained = effective(model, {})
    fresh = fresh_weights(model, MIDDLE, seed=0)
    assert set(fresh) == {n for n in unique_state(model) if n.startswith("2.")}
    drawn = effective(model, fresh)
    assert not torch.allclose(drawn, trained)
    again = effective(model, fresh_weights(model, MIDDLE, seed=1))
    assert not torch.allclose(drawn, again)
    assert all(torch.equal(a, b) for a, b in zip(
        fresh.values(), fresh_weights(model, MIDDLE, seed=0).values(), strict=True
    ))  # fmt: skip


@pytest.mark.parametrize("name", ["old weight_norm", "weight_norm"])
def test_a_normalised_weight_is_that_of_a_plain_layer(name):
    model = built(DERIVED[name])
    entries = torch.cat([
        effective(model, fresh_weights(model, MIDDLE, seed)).flatten() for seed in range(60)
    ])  # fmt: skip
    bound = 1 / 8**0.5  # uniform, as nn.Linear draws it
    assert float(entries.abs().max()) <= bound * 1.0001
    assert float(entries.std()) == pytest.approx(bound / 3**0.5, rel=0.05)


@pytest.mark.parametrize("name", ["old spectral_norm", "spectral_norm"])
def test_a_spectrally_normalised_weight_has_a_largest_singular_value_of_one(name):
    model = built(DERIVED[name])
    for seed in range(3):
        weight = effective(model, fresh_weights(model, MIDDLE, seed))
        assert float(torch.linalg.matrix_norm(weight, 2)) == pytest.approx(1, rel=1e-3)


def test_the_mask_of_a_pruned_layer_stays():
    model = built(DERIVED["pruned"])
    weight = effective(model, fresh_weights(model, MIDDLE, 0))
    assert torch.equal(weight == 0, model[2].weight_mask == 0)


def test_an_orthogonal_weight_stays_orthogonal():
    model = built(DERIVED["orthogonal"])
    weight = effective(model, fresh_weights(model, MIDDLE, 0))
    torch.testing.assert_close(weight @ weight.T, torch.eye(8), atol=1e-5, rtol=0)


class Symmetric(nn.Module):
    """A parametrisation without an inverse, so that what it is given defines the layer."""

    def forward(self, matrix):
        return matrix.triu() + matrix.triu(1).T


def test_a_parametrisation_without_an_inverse_draws_what_defines_it():
    model = nn.Sequential(nn.Linear(4, 4))
    parametrize.register_parametrization(model[0], "weight", Symmetric())
    before = model[0].weight.detach().clone()
    with isolated(model, weights=fresh_weights(model, ["0"], 0)), torch.no_grad():
        after = model[0].weight.clone()
    torch.testing.assert_close(after, after.T)
    assert not torch.allclose(after, before)


class Half(nn.Linear):
    """An initialiser that forgets one parameter."""

    def __init__(self):
        super().__init__(4, 4)
        self.gain = nn.Parameter(torch.ones(4))


class Learning(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, matrix):
        return self.scale * matrix


def parametrised():
    linear = nn.Linear(4, 4)
    parametrize.register_parametrization(linear, "weight", Learning())
    return linear


REFUSED = {
    "a forgotten parameter": (Half, "leaves 'gain' as it is"),
    "a parametrisation that learns": (parametrised, "that learns itself"),
}


@pytest.mark.parametrize(("build", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_drawn_is_refused_by_name(build, message):
    model = nn.Sequential(build())
    with pytest.raises(LayerscopeError, match=rf"(?s)module '0'.*{message}.*factory"):
        fresh_weights(model, ["0"], 0)
    fresh = fresh_weights(model, ["0"], 0, lambda: nn.Sequential(build()))
    assert set(fresh) == set(unique_state(model))


def test_tied_weights_are_found_from_whichever_module_owns_them():
    model = TIED.model()
    layers = TIED.map(model)
    fresh = fresh_weights(model, layers["embedding"].modules, 0, TIED.build)
    assert list(fresh) == list(layers["embedding"].parameters)


def test_a_factory_that_builds_no_module_is_an_error():
    with pytest.raises(LayerscopeError, match="factory returned int"):
        fresh_weights(FCN.model(), ["layer1"], 0, lambda: 3)
