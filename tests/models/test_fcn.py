from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from layerscope.config import FCN, CustomModel, ResidualFCN
from layerscope.errors import LayerscopeError
from layerscope.models import build
from layerscope.models.fcn import fcn, residual_fcn

ACTIVATIONS = ("relu", "sigmoid", "tanh", "gelu", "silu", "identity")


def size(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("config", "shape", "outputs", "expected"),
    [
        (FCN(3, 32, "sigmoid"), (1,), 1, 2_209),  # 1-32-32-32-1 of Fig. 1a
        (FCN(3, 256), (1, 28, 28), 10, 335_114),  # FCN 3x256 on MNIST
        (FCN(1, 5), (4,), 3, 43),
        (ResidualFCN(4, 128), (1,), 1, 132_481),  # "132k" of Table 2
        (ResidualFCN(2, 6), (4,), 3, 30 + 2 * 84 + 21),
    ],
)
def test_parameter_counts(config, shape, outputs, expected):
    assert size(build(config, shape, outputs)) == expected


@pytest.mark.parametrize("config", [FCN(2, 8), ResidualFCN(2, 8)])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(1,), (3, 4, 4)])
def test_shapes(config, activation, shape):
    model = build(dataclasses.replace(config, activation=activation), shape, 5)
    assert model(torch.randn(7, *shape)).shape == (7, 5)


def test_names_and_order():
    names = [name for name, _ in fcn((4,), 3, depth=2, width=8).named_children()]
    assert names == ["flatten", "layer1", "activation1", "layer2", "activation2", "output"]


def test_initialisation_is_pytorchs_uniform():
    torch.manual_seed(0)
    model = fcn((100,), 10, depth=1, width=400)
    bound = 1 / 100**0.5
    weight = model.layer1.weight.detach()
    assert float(weight.abs().max()) <= bound
    assert float(weight.std()) == pytest.approx(bound / 3**0.5, rel=0.02)


def test_block_contributions_of_a_residual_network_sum_to_its_output():
    torch.manual_seed(0)
    model = residual_fcn((4,), 3, blocks=5, width=16).double()
    x = torch.randn(9, 4, dtype=torch.float64)
    z, contributions = model.input(x), []
    contributions.append(model.output(z))  # the bias of the read-out counts once
    for block in model.blocks:
        branch = block(z) - z
        contributions.append(branch @ model.output.weight.T)
        z = z + branch
    torch.testing.assert_close(sum(contributions), model(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fcn((1,), 1, depth=0), "depth is 0"),
        (lambda: fcn((1,), 1, width=-3), "width is -3"),
        (lambda: fcn((1,), 0), "outputs is 0"),
        (lambda: residual_fcn((1,), 1, blocks=0), "blocks is 0"),
        (lambda: residual_fcn((1,), 1, width=0), "width is 0"),
    ],
)
def test_sizes_must_be_positive(make, message):
    with pytest.raises(LayerscopeError, match=message):
        make()


def test_a_model_of_ones_own():
    config = CustomModel("torch.nn:Linear", '{"in_features": 3, "out_features": 2}')
    assert isinstance(build(config, (3,), 2), nn.Linear)


@pytest.mark.parametrize(
    ("factory", "arguments", "message"),
    [
        ("", "{}", "cannot import the model factory ''"),
        ("torch.nn", "{}", "cannot import the model factory 'torch.nn'"),
        ("no_such_package:f", "{}", "cannot import the model factory 'no_such_package:f'"),
        ("torch.nn:Linaer", "{}", "cannot import the model factory 'torch.nn:Linaer'"),
        ("torch.nn:Linear", '{"width": 3}', "does not take the arguments"),
        ("torch.nn:Linear", "{width", "does not take the arguments"),
        ("builtins:dict", "{}", "returned dict, not a torch.nn.Module"),
    ],
)
def test_a_factory_that_is_wrong_is_named(factory, arguments, message):
    with pytest.raises(LayerscopeError, match=message):
        build(CustomModel(factory, arguments), (1,), 1)
