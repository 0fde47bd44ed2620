from __future__ import annotations

import dataclasses
import math
from itertools import product

import pytest
import torch
from torch import nn

from layerscope.config import FCN, CustomModel, ResidualFCN
from layerscope.errors import LayerscopeError
from layerscope.models import build
from layerscope.models.fcn import fcn, residual_fcn
from layerscope.networks.layers import LayerMap
from layerscope.networks.names import unique_state
from layerscope.networks.task import Task
from layerscope.networks.variants import evaluate_variants
from reference import variants as reference

ACTIVATIONS = ("relu", "sigmoid", "tanh", "gelu", "silu", "identity")
NORMALISATIONS = ("none", "batch", "layer", "group")
BRANCHES = {  # of three linear layers and of two
    "between": (
        "linear1 norm1 activation1 linear2 norm2 activation2 linear3",
        "linear1 norm1 activation linear2",
    ),
    "before": (
        "norm1 activation1 linear1 norm2 activation2 linear2 norm3 activation3 linear3",
        "norm1 activation1 linear1 norm2 activation2 linear2",
    ),
    "after": (
        "linear1 norm1 activation1 linear2 norm2 activation2 linear3 norm3 activation3",
        "linear1 norm1 activation1 linear2 norm2 activation2",
    ),
}
FORMS = tuple(product(BRANCHES, NORMALISATIONS))


def size(model):
    return sum(p.numel() for p in model.parameters())


def residual(seed=0, **settings):
    """Blocks of three and two linear layers; what initialisation leaves at 0 or 1 is random."""
    torch.manual_seed(seed)
    settings = {"blocks": 2, "width": 6, "depths": (3, 2), "groups": 2} | settings
    model = residual_fcn((4,), 3, **settings).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 2)
    return model


def normalised(x, normalisation):
    """Zero mean and unit variance: of units over the batch, of rows, of halves of rows."""
    dim = 0 if normalisation == "batch" else -1
    parts = x.split(3, -1) if normalisation == "group" else [x]
    scaled = [
        (part - part.mean(dim, keepdim=True))
        / (part.var(dim, correction=0, keepdim=True) + 1e-5).sqrt()
        for part in parts
    ]
    return torch.cat(scaled, -1)


def recomputed(model, x, branch, normalisation):
    """The output, step by step from the weights."""
    state = model.state_dict()

    def affine(name, x):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    z = affine("input", x)
    for block, steps in enumerate(BRANCHES[branch]):
        y = z
        for step in steps.split():
            name = f"blocks.{block}.{step}"
            if step.startswith("linear"):
                y = affine(name, y)
            elif step.startswith("activation"):
                y = y.clamp(min=0)
            elif normalisation != "none":
                y = normalised(y, normalisation) * state[f"{name}.weight"] + state[f"{name}.bias"]
        z = z + y
    return affine("output", z)


@pytest.mark.parametrize(
    ("config", "shape", "outputs", "expected"),
    [
        (FCN(3, 32, "sigmoid"), (1,), 1, 2_209),  # 1-32-32-32-1 of Fig. 1a
        (FCN(3, 256), (1, 28, 28), 10, 335_114),  # FCN 3x256 on MNIST
        (FCN(1, 5), (4,), 3, 43),
        (FCN(3, 256, normalisation="batch"), (1, 28, 28), 10, 335_114 + 3 * 512),
        (FCN(2, 6, normalisation="group", groups=3), (4,), 3, 30 + 42 + 21 + 2 * 12),
        (ResidualFCN(4, 128), (1,), 1, 132_481),  # "132k" of Table 2
        (ResidualFCN(2, 6), (4,), 3, 30 + 2 * 84 + 21),
        # seven linear layers inside, however they are spread over the blocks (Fig. 20)
        (ResidualFCN(depths=(4, 1, 1, 1), branch="before"), (1,), 1, 256 + 7 * 129 * 128 + 129),
        (ResidualFCN(depths=(1, 1, 4, 1), branch="after"), (1,), 1, 256 + 7 * 129 * 128 + 129),
        # a weight and a bias for every unit of each of the four or eight activations
        (ResidualFCN(normalisation="batch"), (1,), 1, 132_481 + 4 * 256),
        (ResidualFCN(normalisation="layer", branch="after"), (1,), 1, 132_481 + 8 * 256),
        (ResidualFCN(normalisation="group", branch="before"), (1,), 1, 132_481 + 8 * 256),
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


def plain(seed=0, **settings):
    """Two hidden layers; what initialisation leaves at 0 or 1 is random."""
    torch.manual_seed(seed)
    model = fcn((4,), 3, **{"depth": 2, "width": 6, "groups": 2} | settings).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 2)
    return model


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_a_fully_connected_network_step_by_step(normalisation):
    model = plain(normalisation=normalisation)
    state, x = model.state_dict(), torch.randn(9, 4, dtype=torch.float64)
    z = x
    for i in (1, 2):
        z = z @ state[f"layer{i}.weight"].T + state[f"layer{i}.bias"]
        if normalisation != "none":
            z = normalised(z, normalisation)
            z = z * state[f"norm{i}.weight"] + state[f"norm{i}.bias"]
        z = z.clamp(min=0)
    expected = z @ state["output.weight"].T + state["output.bias"]
    torch.testing.assert_close(model(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("normalisation", NORMALISATIONS[1:])
def test_every_hidden_layer_is_normalised_and_the_layers_are_modules(normalisation):
    config = FCN(2, 16, normalisation=normalisation)
    model = build(config, (4,), 3)
    hidden = [f"{part}{i}" for i in (1, 2) for part in ("layer", "norm", "activation")]
    assert [name for name, _ in model.named_children()] == ["flatten", *hidden, "output"]
    layers = LayerMap.from_model(model, torch.zeros(2, 4), unit=config.unit)
    assert layers.names == ("layer1", "norm1", "layer2", "norm2", "output")


def test_outputs_are_normalised_on_request():
    model = build(FCN(1, 16, normalisation="batch", output_norm=True), (4,), 3)
    assert [name for name, _ in model.named_children()][-2:] == ["output", "output_norm"]
    outputs = model(torch.randn(64, 4))
    torch.testing.assert_close(outputs.mean(0), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(outputs.var(0, correction=0), torch.ones(3), atol=1e-3, rtol=0)
    with pytest.raises(LayerscopeError, match="normalisation is 'none'"):
        build(FCN(1, 16, output_norm=True), (4,), 3)
    with pytest.raises(LayerscopeError, match="outputs 3 is not a multiple of groups"):
        build(FCN(1, 16, normalisation="group", output_norm=True), (4,), 3)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("initialisation", ["torch", "he"])
def test_fully_connected_networks_of_all_normalisations_draw_the_same_weights(
    normalisation, initialisation
):
    found = plain(normalisation=normalisation, initialisation=initialisation).state_dict()
    for name, tensor in plain(initialisation=initialisation).state_dict().items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


def test_he_initialisation_of_a_fully_connected_network():
    torch.manual_seed(0)
    model = fcn((300,), 200, depth=2, width=400, initialisation="he")
    for layer, variance in ((model.layer1, 2 / 300), (model.layer2, 2 / 400)):
        assert float(layer.weight.detach().var()) == pytest.approx(variance, rel=0.04)
    assert float(model.output.weight.detach().var()) == pytest.approx(1 / 400, rel=0.04)
    assert not any(layer.bias.any() for layer in (model.layer1, model.layer2, model.output))


def test_fan_out_leaves_the_weights_of_linear_layers_and_zeroes_their_biases():
    torched, found = (plain(initialisation=how).state_dict() for how in ("torch", "fan_out"))
    for name, tensor in found.items():
        expected = torch.zeros_like(tensor) if name.endswith("bias") else torched[name]
        assert torch.equal(tensor, expected)


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


def test_default_residual_network_is_drawn_as_before_it_had_other_forms():
    torch.manual_seed(0)
    model = residual_fcn((5,), 3, blocks=2, width=7)
    torch.manual_seed(0)
    shapes = {"input": (5, 7)}
    shapes |= {f"blocks.{i}.linear{j}": (7, 7) for i in (0, 1) for j in (1, 2)}
    layers = {name: nn.Linear(*shape) for name, shape in (shapes | {"output": (7, 3)}).items()}
    expected = {
        f"{name}.{key}": tensor
        for name, layer in layers.items()
        for key, tensor in layer.state_dict().items()
    }
    assert list(model.state_dict()) == list(expected)
    torch.testing.assert_close(dict(model.state_dict()), expected, rtol=0, atol=0)
    names = [name for name, _ in model.named_modules()]
    block = ["", ".linear1", ".activation", ".linear2"]
    blocks = [f"blocks.{i}{name}" for i in (0, 1) for name in block]
    assert names == ["", "flatten", "input", "blocks", *blocks, "output"]


@pytest.mark.parametrize(("branch", "normalisation"), FORMS)
def test_a_residual_network_step_by_step(branch, normalisation):
    model = residual(branch=branch, normalisation=normalisation)
    x = torch.randn(9, 4, dtype=torch.float64)
    expected = recomputed(model, x, branch, normalisation)
    torch.testing.assert_close(model(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("branch", "normalisation"), FORMS)
def test_parts_of_a_branch(branch, normalisation):
    model = residual(branch=branch, normalisation=normalisation)
    for block, steps in zip(model.blocks, BRANCHES[branch], strict=True):
        found = [name for name, _ in block.named_children()]
        kept = [s for s in steps.split() if normalisation != "none" or "norm" not in s]
        assert found == kept


@pytest.mark.parametrize(("branch", "normalisation"), FORMS)
def test_gradients_reach_every_parameter(branch, normalisation):
    model = residual(branch=branch, normalisation=normalisation)
    model(torch.randn(9, 4, dtype=torch.float64)).square().sum().backward()
    still = {name for name, p in model.named_parameters() if p.grad.abs().max() < 1e-9}
    cancelled = {"between": ("0.linear1", "0.linear2", "1.linear1"), "before": ("0.linear1",)}
    cancelled["before"] += ("0.linear2", "1.linear1")
    cancelled["after"] = ("0.linear1", "0.linear2", "0.linear3", "1.linear1", "1.linear2")
    expected = cancelled[branch] if normalisation == "batch" else ()
    assert still == {f"blocks.{name}.bias" for name in expected}


@pytest.mark.parametrize(("branch", "normalisation"), FORMS)
def test_variants_are_evaluated_together(branch, normalisation):
    model = residual(branch=branch, normalisation=normalisation)
    x = torch.randn(9, 4, dtype=torch.float64)
    model(x)
    data, task = [(x, torch.arange(9) % 3)], Task.classification()
    layers = LayerMap.from_model(model, x, unit=ResidualFCN().unit)
    other = unique_state(residual(seed=1, branch=branch, normalisation=normalisation))
    variants = [{}, *({name: other[name] for name in layer.parameters} for layer in layers)]
    found = evaluate_variants(model, variants, data, task)
    losses, correct = reference.evaluate(model, variants, data, task)
    torch.testing.assert_close(found.losses, losses, rtol=1e-9, atol=1e-9)
    assert torch.equal(found.correct, correct)
    assert len(losses.mean(1).unique()) == len(variants)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_all_normalisations_draw_the_same_weights(normalisation):
    found = residual(normalisation=normalisation).state_dict()
    for name, tensor in residual().state_dict().items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("initialisation", ["torch", "he", "glorot"])
def test_scales_multiply_the_input_layer_and_the_last_linear_layers(initialisation):
    base = residual(initialisation=initialisation).state_dict()
    found = residual(initialisation=initialisation, input_scale=0.5, branch_scale=4.0)
    factors = {"input": 0.5, "blocks.0.linear3": 4.0, "blocks.1.linear2": 4.0}
    expected = {
        name: factors.get(name.rpartition(".")[0], 1.0) * tensor for name, tensor in base.items()
    }
    torch.testing.assert_close(dict(found.state_dict()), expected, rtol=0, atol=0)


def test_he_initialisation_doubles_the_variance_except_in_the_output():
    torch.manual_seed(0)
    model = residual_fcn((300,), 200, blocks=1, width=400, initialisation="he")
    for layer, variance in ((model.input, 2 / 300), (model.blocks[0].linear2, 2 / 400)):
        assert float(layer.weight.detach().std()) == pytest.approx(math.sqrt(variance), rel=0.02)
        assert not layer.bias.any()
    deviation = float(model.output.weight.detach().std())
    assert deviation == pytest.approx(math.sqrt(1 / 400), rel=0.02)


def test_he_uniform_initialisation():
    torch.manual_seed(0)
    model = residual_fcn((300,), 200, blocks=1, width=400, initialisation="he_uniform")
    for layer, bound in (
        (model.input, math.sqrt(6 / 300)),
        (model.blocks[0].linear2, math.sqrt(6 / 400)),
        (model.output, math.sqrt(3 / 400)),
    ):
        assert 0.99 * bound < float(layer.weight.detach().abs().max()) <= bound
        deviation = float(layer.weight.detach().std())
        assert deviation == pytest.approx(bound / math.sqrt(3), rel=0.02)
        assert not layer.bias.any()


def test_glorot_initialisation():
    torch.manual_seed(0)
    model = residual_fcn((300,), 200, blocks=1, width=400, initialisation="glorot")
    for layer, sizes in ((model.input, 700), (model.blocks[0].linear1, 800), (model.output, 600)):
        bound = math.sqrt(6 / sizes)
        assert 0.99 * bound < float(layer.weight.detach().abs().max()) <= bound
        assert not layer.bias.any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depths": (2, 2, 2)}, r"depths is \(2, 2, 2\), which is 3 blocks, but blocks is 2"),
        ({"depths": (2, 0)}, r"depths is \(2, 0\)"),
        ({"depths": (2, 1)}, 'one linear layer has no activation.*\n.*branch="before"'),
        ({"branch": "inside"}, "unknown branch 'inside'"),
        ({"activation": "rleu"}, "unknown activation 'rleu'.*\n.*'relu'"),
        ({"normalisation": "instance"}, "unknown normalisation 'instance'"),
        ({"normalisation": "group", "groups": 4}, "width 6 is not a multiple of groups, 4"),
        ({"normalisation": "group", "groups": 0}, "groups is 0"),
        ({"normalisation": "group", "groups": 6}, "group normalisation of single units"),
        ({"normalisation": "layer", "width": 1}, "layer normalisation of single units"),
        ({"initialisation": "xavier"}, "unknown initialisation 'xavier'"),
        ({"input_scale": -1.0}, "input_scale is -1.0"),
        ({"branch_scale": math.nan}, "branch_scale is nan"),
    ],
)
def test_residual_networks_that_cannot_be_built_are_named(settings, message):
    with pytest.raises(LayerscopeError, match=message):
        residual(**settings)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fcn((1,), 1, activation="rleu"), "unknown activation 'rleu'"),
        (lambda: fcn((1,), 1, depth=0), "depth is 0"),
        (lambda: fcn((1,), 1, width=-3), "width is -3"),
        (lambda: fcn((1,), 0), "outputs is 0"),
        (lambda: fcn((1,), 1, normalisation="bach"), "unknown normalisation 'bach'.*\n.*'batch'"),
        (lambda: fcn((1,), 1, normalisation="group", groups=7), "width 256 is not a multiple of"),
        (lambda: fcn((1,), 1, width=1, normalisation="layer"), "normalisation of single units"),
        (lambda: fcn((1,), 1, initialisation="hee"), "unknown initialisation 'hee'.*\n.*'he'"),
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
        ("torch.nn:Linear", "[1, 2]", r"does not take the arguments \[1, 2\].*: a list"),
        ("torch.nn:Linear", "[" * 100_000, r"does not take the arguments \[{200}\.\.\."),
        ("torch.nn:Linear", '{"in_features": -1, "out_features": 2}', "RuntimeError: .*negative"),
        ("builtins:dict", "{}", "returned dict, not a torch.nn.Module"),
        ("math:pi", "{}", "not callable"),
        ("torch.nn:", "{}", "cannot import the model factory 'torch.nn:'"),
    ],
)
def test_a_factory_that_is_wrong_is_named(factory, arguments, message):
    with pytest.raises(LayerscopeError, match=message):
        build(CustomModel(factory, arguments), (1,), 1)


@pytest.mark.parametrize("depths", [(), (4, 1, 1)])
def test_layers_of_a_residual_network_are_its_blocks(depths):
    config = ResidualFCN(3, 6, depths=depths, branch="after")
    model = build(config, (2,), 1)
    layers = LayerMap.from_model(model, torch.zeros(2, 2), unit=config.unit)
    assert layers.names == ("input", "blocks.0", "blocks.1", "blocks.2", "output")
    assert set(layers.parameter_names) == {name for name, _ in model.named_parameters()}
