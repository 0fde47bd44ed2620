from __future__ import annotations

import copy
import math
from itertools import product

import pytest
import torch
from torch import nn

from layerscope.config import FCN, VGG, CustomModel
from layerscope.errors import LayerscopeError
from layerscope.models import build
from layerscope.models.vgg import vgg
from layerscope.networks.layers import LayerMap

DEPTHS = (11, 13, 16, 19)
CHANNELS = {11: 2752, 13: 2944, 16: 4224, 19: 5504}  # of all convolutions together
TORCHVISION = {11: 132_863_336, 13: 133_047_848, 16: 138_357_544, 19: 143_667_240}


def size(model):
    return sum(p.numel() for p in model.parameters())


def narrow(batch_norm=False, **settings):
    torch.manual_seed(0)
    return vgg((3, 32, 32), 5, batch_norm=batch_norm, **{"width": 0.125} | settings)


@pytest.mark.parametrize("depth", DEPTHS)
def test_parameter_counts_are_those_of_torchvision(depth):
    with torch.device("meta"):
        plain = vgg((3, 224, 224), 1000, depth, stem="imagenet")
        normalised = vgg((3, 224, 224), 1000, depth, batch_norm=True, stem="imagenet")
    assert size(plain) == TORCHVISION[depth]
    # torchvision's vgg16_bn has 138,365,992: its convolutions keep a bias before the norm
    assert size(normalised) == TORCHVISION[depth] + CHANNELS[depth]


def test_only_the_fully_connected_layers_differ_on_small_images():
    with torch.device("meta"):
        small, large = vgg((3, 32, 32), 1000), vgg((3, 224, 224), 1000, stem="imagenet")
    convolutions = TORCHVISION[16] - (7 * 7 * 512 + 1) * 4096 - 4097 * 4096 - 4097 * 1000
    assert size(large[:-4]) == size(small[:-4]) == convolutions
    assert size(small) == convolutions + 2 * 513 * 512 + 513 * 1000


@pytest.mark.parametrize(
    ("depth", "batch_norm", "stem"), [*product(DEPTHS, (False, True), ("cifar", "imagenet"))]
)
def test_shapes(depth, batch_norm, stem):
    config = VGG(depth, batch_norm, 0.0625, stem)
    for shape in ((1, 32, 32), (3, 70, 40)):
        assert build(config, shape, 5).eval()(torch.randn(2, *shape)).shape == (2, 5)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_layers(batch_norm):
    config = VGG(16, batch_norm, 0.0625)
    model = build(config, (3, 32, 32), 5)
    layers = LayerMap.from_model(model, torch.zeros(2, 3, 32, 32), unit=config.unit)
    convolutions = tuple(f"conv{i}" for i in range(1, 14))
    assert layers.names == (*convolutions, "fc1", "fc2", "final_linear")
    assert set(layers.parameter_names) == {name for name, _ in model.named_parameters()}
    owned = {"norm.weight", "norm.bias"} if batch_norm else {"conv.bias"}
    assert set(layers["conv3"].parameters) == {f"conv3.{n}" for n in owned | {"conv.weight"}}


def test_a_linear_classifier_stands_on_the_convolutions():
    config = VGG(19, True, classifier="linear")
    with torch.device("meta"):
        model = build(config, (3, 32, 32), 100)
        layers = LayerMap.from_model(model, None, unit=config.unit)
    assert layers.names == (*(f"conv{i}" for i in range(1, 17)), "final_linear")
    assert tuple(model.final_linear.weight.shape) == (100, 512)


@pytest.mark.parametrize("config", [FCN(), CustomModel()])
def test_layers_of_other_families_are_modules(config):
    assert config.unit == "module"


@pytest.mark.parametrize("batch_norm", [False, True])
def test_working_in_place_changes_nothing_and_gradients_reach_every_parameter(batch_norm):
    model = narrow(batch_norm)
    twin = copy.deepcopy(model)
    for module in twin.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    x = torch.randn(8, 3, 32, 32)
    found, expected = ((net(x), list(net.parameters())) for net in (model, twin))
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=0)
    gradients = [torch.autograd.grad(y.square().sum(), ps) for y, ps in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=0)
    assert all(gradient.any() for gradient in gradients[0])


@pytest.mark.parametrize(("stem", "expected"), [("cifar", 0), ("imagenet", 2)])
def test_dropout_is_for_large_images_only(stem, expected):
    assert sum(isinstance(m, nn.Dropout) for m in narrow(stem=stem).modules()) == expected


def test_he_initialisation():
    model = narrow(width=1.0, depth=11)
    for layer in (model.conv5.conv, model.fc1.linear):
        fan_in = layer.weight[0].numel()
        assert float(layer.weight.detach().std()) == pytest.approx(math.sqrt(2 / fan_in), rel=0.02)
        assert not layer.bias.any()
    final = model.final_linear
    assert float(final.weight.detach().std()) == pytest.approx(math.sqrt(1 / 512), rel=0.05)
    assert not final.bias.any()


@pytest.mark.parametrize(
    ("how", "bound", "zero"),
    [
        ("glorot", math.sqrt(6 / (9 * 16 + 9 * 32)), True),
        ("he_uniform", math.sqrt(6 / (9 * 16)), True),
        ("torch", 1 / math.sqrt(9 * 16), False),
    ],
)
def test_uniform_initialisations(how, bound, zero):
    layer = narrow(initialisation=how, width=0.25, depth=11).conv2.conv
    assert 0.99 * bound < float(layer.weight.detach().abs().max()) <= bound
    assert layer.bias.any() == (not zero)


def test_weights_come_from_the_global_random_state():
    first, second = narrow(), narrow()
    third = vgg((3, 32, 32), 5, width=0.125)
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)
    assert not torch.equal(first.conv1.conv.weight, third.conv1.conv.weight)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: narrow(depth=12), "unknown depth of a VGG '12'"),
        (lambda: narrow(stem="mnist"), "unknown stem 'mnist'"),
        (lambda: narrow(initialisation="xavier"), "unknown initialisation 'xavier'"),
        (lambda: narrow(width=0), "width is 0"),
        (lambda: narrow(width=-1.0), "width is -1.0"),
        (lambda: narrow(width=math.nan), "width is nan"),
        (lambda: vgg((3, 32, 32), 0), "outputs is 0"),
        (lambda: vgg((4,), 5), r"the examples have the shape \(4,\)"),
        (lambda: vgg((0, 32, 32), 5), r"the examples have the shape \(0, 32, 32\)"),
        (lambda: vgg((1, 8, 8), 5), "images of 8x8 pixels are too small.*\n.*at least 32x32"),
        (lambda: vgg((1, 28, 28), 5), "images of 28x28 pixels"),
        (lambda: vgg((1, 64, 31), 5, stem="imagenet"), "images of 64x31 pixels"),
    ],
)
def test_what_cannot_be_built_is_named(make, message):
    with pytest.raises(LayerscopeError, match=message):
        make()
