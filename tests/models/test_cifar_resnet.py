from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from layerscope.config import MODELS
from layerscope.errors import LayerscopeError
from layerscope.models import build
from layerscope.models.cifar_resnet import KINDS, NORMALISATIONS, CifarResNet, cifar_resnet
from layerscope.networks.layers import LayerMap
from reference import cifar_resnet as reference

LAST = ("none", "pooling", "linear")
BODIES = tuple(product(KINDS, ("none", *NORMALISATIONS)))


def size(model):
    return sum(p.numel() for p in model.parameters())


def narrow(seed=0, **settings):
    """Two blocks in each stage, of 4, 8 and 16 channels."""
    torch.manual_seed(seed)
    return cifar_resnet((3, 10, 12), 5, **{"depth": 14, "width": 0.25, "groups": 2} | settings)


def images(n=6, dtype=torch.float32):
    return torch.randn(n, 3, 10, 12, dtype=dtype, generator=torch.Generator().manual_seed(1))


def inputs_of(model, name, x):
    """What enters a module when the model runs."""
    seen = []
    model.get_submodule(name).register_forward_pre_hook(lambda _, inputs: seen.append(*inputs))
    model(x)
    return seen[0]


@pytest.mark.parametrize(
    ("depth", "millions"),
    [(20, "0.27"), (32, "0.46"), (44, "0.66"), (56, "0.85"), (110, "1.7"), (1202, "19.4")],
)
def test_parameter_counts_are_those_of_the_residual_networks_of_2015(depth, millions):
    """Table 6 of "Deep residual learning for image recognition"."""
    with torch.device("meta"):
        found = size(cifar_resnet((3, 32, 32), 10, depth))
    assert f"{found / 1e6:.{len(millions.partition('.')[2])}f}" == millions


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 269_722),
        ({"kind": "plain"}, 269_722),
        # no normalisation after the stem, one before the pooling; in the first blocks of stages 2
        # and 3 one has the channels of the stage before
        ({"kind": "preresnet"}, 269_722 - 2 * 16 + 2 * 64 - 2 * (16 + 32)),
        ({"kind": "preresnet_v1"}, 269_722 - 2 * 16 - 2 * (16 + 32)),
        # a bias of each channel where a normalisation had two parameters
        ({"normalisation": "none"}, 269_722 - 16 - 6 * (16 + 32 + 64)),
        ({"last_norm": "pooling"}, 269_722 + 128),
        ({"last_norm": "linear", "normalisation": "instance"}, 269_722 + 128),
    ],
)
def test_parameter_counts(settings, expected):
    with torch.device("meta"):
        assert size(cifar_resnet((3, 32, 32), 10, **settings)) == expected


def test_1202_layers_are_built_without_weights_that_are_not_theirs():
    with torch.device("meta"):
        model = cifar_resnet((3, 32, 32), 10, 1202)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert (len(layers), len(model.stage2)) == (1202, 200)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 5, 9), (2, 8, 8)])
@pytest.mark.parametrize("kind", KINDS)
def test_shapes(kind, shape):
    model = build(CifarResNet(8, kind, width=0.25), shape, 7)
    assert model(torch.randn(2, *shape)).shape == (2, 7)


def randomised(model):
    """What initialisation leaves at 0 or 1 is random."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 2)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.3)
    return model.double()


@pytest.mark.parametrize(("kind", "normalisation"), BODIES)
@pytest.mark.parametrize("last_norm", LAST)
def test_outputs_and_gradients_are_those_of_the_plain_loop(kind, normalisation, last_norm):
    divisor = 1.0 if last_norm == "pooling" else 3.0
    settings = {"kind": kind, "normalisation": normalisation, "last_norm": last_norm}
    model = randomised(narrow(**settings, divisor=divisor))
    x, weights = images(dtype=torch.float64), dict(model.named_parameters())
    expected = reference.outputs(weights, x, 2, **settings, groups=2, divisor=divisor)
    found = model(x)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    first, second = (
        torch.autograd.grad(y.square().sum(), list(weights.values())) for y in (found, expected)
    )
    torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-7)
    if last_norm == "none":
        assert all(gradient.abs().max() > 1e-7 for gradient in first)


@pytest.mark.parametrize(("kind", "normalisation"), BODIES)
def test_the_output_of_a_block_is_not_changed_by_what_follows(kind, normalisation):
    model = narrow(kind=kind, normalisation=normalisation)
    outputs, copies = [], []

    def keep(module, inputs, output):
        outputs.append(output)
        copies.append(output.clone())

    for name, module in model.named_modules():
        if name == "stage0" or name.rpartition(".")[2].startswith("resblk"):
            module.register_forward_hook(keep)
    model(images())
    assert len(outputs) == (1 if kind == "plain" else 7)
    torch.testing.assert_close(outputs, copies, rtol=0, atol=0)


class Additions(TorchDispatchMode):
    """Counts additions of tensors of images."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.count += function.overloadpacket is torch.ops.aten.add and arguments[0].ndim == 4
        return function(*arguments, **keywords or {})


@pytest.mark.parametrize("kind", KINDS)
def test_every_block_adds_and_a_plain_network_never_does(kind):
    model = narrow(kind=kind, depth=20)
    with Additions() as additions:
        model(images())
    assert additions.count == (0 if kind == "plain" else 9)


def test_shortcuts_have_no_parameters():
    for kind in ("resnet", "preresnet"):
        assert not any("shortcut" in name for name in narrow(kind=kind).state_dict())


NAMES = {
    "resnet": "stage{}.resblk1 stage{}.resblk2",
    "preresnet": "stage{}.resblk1 stage{}.resblk2",
    "preresnet_v1": "stage{}.resblk1 stage{}.resblk2",
    "plain": "stage{0}.conv1 stage{0}.conv2 stage{0}.conv3 stage{0}.conv4",
}


@pytest.mark.parametrize("last_norm", LAST)
@pytest.mark.parametrize(("kind", "normalisation"), BODIES)
def test_layers(kind, normalisation, last_norm):
    config = CifarResNet(14, kind, normalisation, 4, last_norm, width=0.25)
    model = build(config, (3, 8, 8), 5)
    layers = LayerMap.from_model(model, torch.zeros(2, 3, 8, 8), unit=config.unit)
    stages = " ".join(NAMES[kind].format(i, i) for i in (1, 2, 3)).split()
    final = ["final_norm"] if kind == "preresnet" and normalisation != "none" else []
    last = ["last_norm"] if last_norm != "none" else []
    assert layers.names == ("stage0", *stages, *final, *last, "final_linear")
    assert set(layers.parameter_names) == {name for name, _ in model.named_parameters()}


def test_the_family_is_found_by_its_name():
    config = MODELS["cifar_resnet"](depth=8)
    assert isinstance(config, CifarResNet)
    assert len(build(config, (3, 8, 8), 5).stage3) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_what_enters_the_classifier_is_normalised_over_the_batch(kind):
    x = images(32)
    plain = inputs_of(narrow(kind=kind), "final_linear", x)
    assert (plain >= 0).all()  # activated before the pooling, whatever the kind
    assert not torch.allclose(plain.mean(0), torch.zeros(16), atol=1e-2)
    last = inputs_of(narrow(kind=kind, last_norm="linear"), "final_linear", x)
    torch.testing.assert_close(last.mean(0), torch.zeros(16), rtol=0, atol=1e-5)
    variance = plain.var(0, correction=0)
    unit = variance / (variance + 1e-5)  # that of batch normalisation with its epsilon
    torch.testing.assert_close(last.var(0, correction=0), unit, rtol=1e-3, atol=1e-5)
    assert (unit > 0.9).any()
    pooled = inputs_of(narrow(kind=kind, last_norm="pooling"), "average", x)
    torch.testing.assert_close(pooled.mean((0, 2, 3)), torch.zeros(16), rtol=0, atol=1e-5)
    assert float(pooled.detach().var((0, 2, 3), correction=0).max()) == pytest.approx(1, abs=0.01)


def test_dropout_drops_what_enters_the_classifier_in_training_only():
    model = narrow(dropout=0.4)
    assert [type(part) for part in model][-2:] == [nn.Dropout, nn.Linear]
    dropped = inputs_of(model, "final_linear", images(500)) == 0
    assert float(dropped.double().mean()) == pytest.approx(0.4, abs=0.03)
    model.eval()
    assert torch.equal(model(images()), model(images()))


def test_initial_weights():
    torch.manual_seed(0)
    model = cifar_resnet((3, 32, 32), 100, 20)
    for name, fan_out in (
        ("stage0", 9 * 16),
        ("stage1.resblk2.body.conv1", 9 * 16),
        ("stage2.resblk1.body.conv1", 9 * 32),
        ("stage3.resblk3.body.conv2", 9 * 64),
    ):
        module = model.get_submodule(name)
        weight = (module.conv if name == "stage0" else module).weight.detach()
        error = 5 * math.sqrt(2 / weight.numel())  # five standard errors of a variance
        assert float(weight.var()) == pytest.approx(2 / fan_out, rel=error)
        assert float(weight.abs().max()) > 2.5 * math.sqrt(2 / fan_out)  # not uniform
    linear = model.final_linear
    assert 0.99 / 8 < float(linear.weight.detach().abs().max()) <= 1 / 8
    assert not linear.bias.any()


@pytest.mark.parametrize("normalisation", ["none", *NORMALISATIONS])
def test_convolutions_have_a_bias_without_normalisation_only_and_it_begins_at_0(normalisation):
    biases = [
        module.bias
        for module in narrow(normalisation=normalisation).modules()
        if isinstance(module, nn.Conv2d)
    ]
    if normalisation == "none":
        assert not any(bias.any() for bias in biases)
    else:
        assert biases == [None] * 13


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        *(({"depth": depth}, f"is {depth}.\n.*6n") for depth in (-4, 2, 18, 19, 21)),
        ({"kind": "resent"}, "unknown kind of a CifarResNet 'resent'.*\n.*'resnet'"),
        ({"normalisation": "bach"}, "unknown normalisation 'bach'.*\n.*'batch'"),
        ({"normalisation": "group", "groups": 3}, "channels 4 is not a multiple of groups, 3"),
        ({"normalisation": "group", "groups": 0}, "groups is 0"),
        ({"last_norm": "lineal"}, "unknown last_norm 'lineal'.*\n.*'linear'"),
        ({"divisor": 0.0}, "divisor is 0.0"),
        ({"divisor": math.nan}, "divisor is nan"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"dropout": -0.1}, "dropout is -0.1"),
        ({"width": 0.0}, "width is 0.0"),
        ({"initialisation": "fan_in"}, "unknown initialisation 'fan_in'.*\n.*'fan_out'"),
    ],
)
def test_what_cannot_be_built_is_named(settings, message):
    with pytest.raises(LayerscopeError, match=message):
        narrow(**settings)


def test_images_that_do_not_fit_are_named():
    with pytest.raises(LayerscopeError, match="4x3 pixels leave single pixels"):
        cifar_resnet((3, 4, 3), 5, 8, normalisation="instance")
    with pytest.raises(LayerscopeError, match=r"shape \(4,\)"):
        cifar_resnet((4,), 5)
