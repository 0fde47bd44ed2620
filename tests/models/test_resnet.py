from __future__ import annotations

import copy
import math
from functools import partial
from itertools import product

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from layerscope.config import ResNet
from layerscope.errors import LayerscopeError
from layerscope.models import build
from layerscope.models.blocks import PostactivationBlock, PreactivationBlock
from layerscope.models.resnet import resnet
from layerscope.networks.drawing import fresh_weights
from layerscope.networks.layers import LayerMap

BLOCKS = (PostactivationBlock, PreactivationBlock)
DEPTHS = (18, 34, 50, 101, 152)
TORCHVISION = {
    18: 11_689_512,
    34: 21_797_672,
    50: 25_557_032,
    101: 44_549_160,
    152: 60_192_808,
}
BUILDS = tuple(product((1, 2), (False, True), ("block", "layer")))
PROJECTIONS = 64 * 128 + 128 * 256 + 256 * 512 + 2 * (128 + 256 + 512)
"""Parameters of the normalised projections of a ResNet-18."""


def size(model):
    return sum(p.numel() for p in model.parameters())


def narrow(input_shape=(3, 16, 16), **settings):
    torch.manual_seed(0)
    return resnet(input_shape, 5, **{"width": 0.125} | settings)


def blocks(model):
    return [module for module in model.modules() if isinstance(module, BLOCKS)]


def names(**settings):
    config = ResNet(width=0.0625, **settings)
    model = build(config, (3, 16, 16), 5)
    layers = LayerMap.from_model(model, torch.zeros(2, 3, 16, 16), unit=config.unit)
    assert set(layers.parameter_names) == {name for name, _ in model.named_parameters()}
    return layers.names


@pytest.mark.parametrize("depth", DEPTHS)
def test_parameter_counts_are_those_of_torchvision(depth):
    with torch.device("meta"):
        model = resnet((3, 224, 224), 1000, depth, version=1, stem="imagenet")
    assert size(model) == TORCHVISION[depth]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # github.com/kuangliu/pytorch-cifar: ResNet18, and PreActResNet18 without the final norm
        ({"version": 1}, 11_173_962),
        ({"version": 2}, 11_171_146 + 2 * 512),
        # 64 channels leave the stem, 4 * 960 the convolutions of blocks and 896 the projections:
        # a normalisation had two parameters for each, a convolution has one bias
        ({"version": 1, "batch_norm": False}, 11_173_962 - 64 - 4 * 960 - 896),
        ({"version": 1, "residual": False}, 11_173_962 - PROJECTIONS),
        ({"version": 1, "last_norm": "linear"}, 11_173_962 + 2 * 512),
        ({"version": 1, "last_norm": "pooling", "dropout": 0.3}, 11_173_962 + 2 * 512),
        # stem, block of two convolutions, three normalisations, classifier
        ({"stages": (1,), "downsampling": "layer"}, 27 * 64 + 2 * 36_864 + 3 * 128 + 650),
        (
            {"stages": (1, 1), "downsampling": "layer"},
            (27 * 64 + 2 * 36_864 + 2 * 128)
            + (128 + 9 * 64 * 128)
            + (2 * 9 * 128 * 128 + 2 * 256)
            + (256 + 1290),
        ),
    ],
)
def test_parameter_counts_on_small_images(settings, expected):
    with torch.device("meta"):
        assert size(resnet((3, 32, 32), 10, 18, **settings)) == expected


@pytest.mark.parametrize(
    ("depth", "version", "batch_norm"), [*product(DEPTHS, (1, 2), (False, True))]
)
def test_shapes(depth, version, batch_norm):
    for stem in ("cifar", "imagenet"):
        config = ResNet(depth, version, batch_norm, 0.0625, stem)
        model = build(config, (3, 8, 8), 5).eval()
        with torch.no_grad():
            assert model(torch.randn(2, 3, 8, 8)).shape == (2, 5)


def test_strides():
    with torch.device("meta"):
        x = torch.zeros(1, 1, 224, 224)
        nets = [resnet((1, 224, 224), 5, stem=stem) for stem in ("cifar", "imagenet")]
        sides = [[net[:n](x).shape[-1] for n in range(2, 7)] for net in nets]
    assert sides == [[224, 224, 112, 56, 28], [56, 56, 28, 14, 7]]


def test_the_second_convolution_of_a_bottleneck_has_its_stride():
    body = narrow(depth=50).stage2.resblk1.body
    assert [body.conv1.stride[0], body.conv2.stride[0], body.conv3.stride[0]] == [1, 2, 1]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_layers(version, batch_norm):
    residual = tuple(f"stage{i}.resblk{j}" for i in range(1, 5) for j in (1, 2))
    norm = ("final_norm",) if version == 2 and batch_norm else ()
    expected = ("stage0", *residual, *norm, "final_linear")
    assert names(version=version, batch_norm=batch_norm) == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "stage1.resblk1 downsample2 stage2.resblk1"),
        ({"depth": 50}, "downsample1 stage1.resblk1 downsample2 stage2.resblk1"),
        ({"depth": 50, "version": 1}, "downsample1 stage1.resblk1 downsample2 stage2.resblk1"),
        ({"stages": (2,)}, "stage1.resblk1 stage1.resblk2"),
        ({"stages": (1,), "depth": 50}, "downsample1 stage1.resblk1"),
        (
            {"stages": (1, 1, 1)},
            "stage1.resblk1 downsample2 stage2.resblk1 downsample3 stage3.resblk1",
        ),
    ],
)
def test_a_layer_that_downsamples_leaves_every_shortcut_an_identity(settings, expected):
    settings = {"stages": (1, 1), "batch_norm": False, "downsampling": "layer"} | settings
    assert names(**settings) == ("stage0", *expected.split(), "final_linear")
    model = narrow(**settings)
    assert all(isinstance(block.shortcut, nn.Identity) for block in blocks(model))


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_block_without_its_last_convolution_is_the_identity(depth, batch_norm):
    block = narrow(depth=depth, batch_norm=batch_norm).stage2.resblk2
    last = block.body[-1]
    x = torch.randn(4, last.out_channels, 6, 6)
    assert not torch.allclose(block(x), x)
    nn.init.zeros_(last.weight)
    torch.testing.assert_close(block(x), x, rtol=0, atol=0)


def test_a_block_of_version_1_step_by_step():
    block = narrow(version=1).stage2.resblk1
    body, projection = block.body, block.shortcut
    x = torch.randn(4, 8, 6, 6)
    z = body.norm2(body.conv2(body.norm1(body.conv1(x)).relu()))
    torch.testing.assert_close(block(x), (z + projection.norm(projection.conv(x))).relu())


def test_a_block_of_version_2_projects_the_activated_input():
    block = narrow(version=2).stage2.resblk1
    x = torch.randn(4, 8, 6, 6)
    z = block.preactivation.norm(x).relu()
    expected = block.body.conv2(block.body.norm1(block.body.conv1(z)).relu()) + block.shortcut(z)
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize(("version", "batch_norm", "downsampling"), BUILDS)
def test_working_in_place_changes_nothing_and_gradients_reach_every_parameter(
    depth, version, batch_norm, downsampling
):
    assert_working_in_place_changes_nothing(
        narrow(
            depth=depth,
            version=version,
            batch_norm=batch_norm,
            downsampling=downsampling,
            stages=(2, 1),
        )
    )


def assert_working_in_place_changes_nothing(model):
    twin = copy.deepcopy(model)
    for module in twin.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    x = torch.randn(4, 3, 16, 16)
    found, expected = ((net(x), list(net.parameters())) for net in (model, twin))
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=0)
    gradients = [torch.autograd.grad(y.square().sum(), ps) for y, ps in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=0)
    assert all(gradient.any() for gradient in gradients[0])


@pytest.mark.parametrize(("version", "batch_norm", "downsampling"), BUILDS)
def test_the_output_of_a_block_is_not_changed_by_what_follows(version, batch_norm, downsampling):
    model = narrow(version=version, batch_norm=batch_norm, downsampling=downsampling)
    outputs, copies = [], []

    def keep(module, inputs, output):
        outputs.append(output)
        copies.append(output.clone())

    for block in (model.stage0, *blocks(model)):
        block.register_forward_hook(keep)
    model(torch.randn(4, 3, 16, 16))
    torch.testing.assert_close(outputs, copies, rtol=0, atol=0)


def test_normalisations_begin_as_the_identity_and_convolutions_without_them_have_a_bias():
    modules = list(narrow().modules())
    norms = [m for m in modules if isinstance(m, nn.BatchNorm2d)]
    assert all(norm.weight.eq(1).all() and norm.bias.eq(0).all() for norm in norms)
    assert all(m.bias is None for m in modules if isinstance(m, nn.Conv2d))
    plain = list(narrow(batch_norm=False).modules())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in plain)
    assert not any(m.bias.any() for m in plain if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: narrow(depth=20), "unknown depth of a ResNet '20'"),
        (lambda: narrow(version=3), "unknown version of a ResNet '3'"),
        (lambda: narrow(stem="mnist"), "unknown stem 'mnist'"),
        (lambda: narrow(downsampling="blocks"), "unknown downsampling 'blocks'"),
        (lambda: narrow(residual=False), r"version 2 .*residual connections.*\n.*version=1"),
        (lambda: narrow(initialisation="xavier"), "unknown initialisation 'xavier'"),
        (lambda: narrow(last_norm="pool"), "unknown last_norm 'pool'.*\n.*'pooling'"),
        (lambda: narrow(dropout=1.0), "dropout is 1.0"),
        (lambda: narrow(width=0.0), "width is 0.0"),
        (lambda: narrow(stages=(2, 0)), r"stages is \(2, 0\)"),
        (lambda: narrow(stages=(-1,)), r"stages is \(-1,\)"),
        (lambda: resnet((3, 32, 32), 0), "outputs is 0"),
        (lambda: narrow((4,)), r"the examples have the shape \(4,\)"),
    ],
)
def test_what_cannot_be_built_is_named(make, message):
    with pytest.raises(LayerscopeError, match=message):
        make()


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("last_norm", "parts"),
    [
        ("pooling", "last_norm average flatten dropout final_linear"),
        ("linear", "average flatten last_norm dropout final_linear"),
    ],
)
def test_what_enters_the_classifier_is_normalised_over_the_batch(version, last_norm, parts):
    settings = {"version": version, "last_norm": last_norm, "stages": (1, 1)}
    model, seen = narrow(**settings, dropout=0.3), []
    assert [name for name, _ in model.named_children()][-5:] == parts.split()
    model.last_norm.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model(torch.randn(16, 3, 16, 16))
    rows = seen[0].detach().transpose(0, 1).flatten(1)
    torch.testing.assert_close(rows.mean(1), torch.zeros(16), rtol=0, atol=1e-5)
    assert float(rows.var(1, correction=0).max()) == pytest.approx(1, abs=0.01)
    final = ("final_norm",) if version == 2 else ()
    expected = ("stage0", "stage1.resblk1", "stage2.resblk1", *final, "last_norm", "final_linear")
    assert names(**settings) == expected


PLAIN = tuple(product((18, 50), (False, True), ("block", "layer")))


def rectified(model, x):
    """Names of the ReLU modules in the order in which they run."""
    ran = []
    for name, module in model.named_modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda *_, name=name: ran.append(name))
    model(x)
    return ran


def test_without_residual_connections_resnet18_is_17_convolutions_and_a_classifier():
    """BaseNet18 of "Exploring the development of complexity over depth and time", Fig. 5."""
    convolutions = tuple(f"stage{i}.conv{j}" for i in range(1, 5) for j in range(1, 5))
    expected = ("stage0", *convolutions, "final_linear")
    assert names(version=1, residual=False, stem="imagenet") == expected
    model = narrow(version=1, residual=False, stem="imagenet")
    kinds = [[type(part) for part in model.get_submodule(name)] for name in expected[:-1]]
    assert kinds[0].pop() is nn.MaxPool2d
    assert kinds == [[nn.Conv2d, nn.BatchNorm2d, nn.ReLU]] * 17
    assert rectified(model, torch.randn(2, 3, 64, 64)) == [f"{n}.activation" for n in expected[:-1]]


def test_where_basenet18_halves_the_image():
    with torch.device("meta"):
        plain, residual = (
            resnet((3, 224, 224), 10, version=1, stem="imagenet", residual=residual)
            for residual in (False, True)
        )
        x = torch.zeros(1, 3, 224, 224)
        shapes = [[net[:n](x).shape for n in range(2, 7)] for net in (plain, residual)]
    assert shapes[0] == shapes[1]
    strides = [unit.conv.stride[0] for unit in plain.stage3]
    assert strides == [2, 1, 1, 1]


@pytest.mark.parametrize(("depth", "batch_norm", "downsampling"), PLAIN)
def test_a_network_without_residual_connections_is_that_of_the_bodies(
    depth, batch_norm, downsampling
):
    settings = {"depth": depth, "batch_norm": batch_norm, "downsampling": downsampling}
    twin = narrow(version=1, **settings)
    plain = narrow(version=1, residual=False, **settings)
    assert not blocks(plain)
    state = {k: v for k, v in twin.state_dict().items() if ".shortcut." not in k}
    plain.load_state_dict(dict(zip(plain.state_dict(), state.values(), strict=True)))
    for block in blocks(twin):
        block.shortcut = Nothing()
    x = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(plain(x), twin(x), rtol=0, atol=0)


class Nothing(nn.Module):
    """Adds nothing."""

    def forward(self, x):
        return torch.zeros(())


@pytest.mark.parametrize(("depth", "batch_norm", "downsampling"), PLAIN)
def test_without_residual_connections_gradients_reach_every_parameter(
    depth, batch_norm, downsampling
):
    model = narrow(
        depth=depth,
        version=1,
        batch_norm=batch_norm,
        downsampling=downsampling,
        residual=False,
        stages=(2, 1),
    )
    assert_working_in_place_changes_nothing(model)


def test_layers_that_downsample_stand_between_plain_stages_too():
    found = names(version=1, residual=False, downsampling="layer", stages=(1, 1))
    first, second = ([f"stage{i}.conv{j}" for j in (1, 2)] for i in (1, 2))
    assert found == ("stage0", *first, "downsample2", *second, "final_linear")


def test_the_activations_of_resnet50_run_in_the_order_of_their_names():
    model = narrow(depth=50, version=1, width=1 / 16)
    ran = rectified(model, torch.randn(2, 3, 16, 16))
    assert len(ran) == 49  # the stem's, and three of each of 16 blocks
    assert ran == [name for name, m in model.named_modules() if isinstance(m, nn.ReLU)]
    assert ran[:4] == [
        "stage0.activation",
        "stage1.resblk1.body.activation1",
        "stage1.resblk1.body.activation2",
        "stage1.resblk1.activation",
    ]


UNIFORM = ResNet(version=1, width=0.5, initialisation="he_uniform", residual=False)


def assert_he_uniform(weight, gain=2.0):
    fan_in, weight = weight[0].numel(), weight.detach()
    bound = math.sqrt(3 * gain / fan_in)
    assert 0.99 * bound < float(weight.abs().max()) <= bound
    assert float(weight.var()) == pytest.approx(gain / fan_in, rel=0.05)


def test_he_uniform_initialisation():
    torch.manual_seed(0)
    model = build(UNIFORM, (3, 16, 16), 100)
    for name in ("stage1.conv2", "stage2.conv1", "stage4.conv4"):
        assert_he_uniform(model.get_submodule(name).conv.weight)
    assert_he_uniform(model.final_linear.weight, gain=1.0)
    assert not model.final_linear.bias.any()
    assert not any(m.bias.any() for m in model.modules() if isinstance(m, nn.BatchNorm2d))


def test_he_uniform_weights_are_drawn_anew_as_they_were_drawn_first():
    factory = partial(build, UNIFORM, (3, 16, 16), 100)
    torch.manual_seed(0)
    model = factory()
    fresh = fresh_weights(model, ["stage2.conv1.conv", "final_linear"], seed=0, factory=factory)
    names = {"stage2.conv1.conv.weight", "final_linear.weight", "final_linear.bias"}
    assert set(fresh) == names
    assert not torch.equal(fresh["stage2.conv1.conv.weight"], model.stage2.conv1.conv.weight)
    assert_he_uniform(fresh["stage2.conv1.conv.weight"])
    assert_he_uniform(fresh["final_linear.weight"], gain=1.0)
    assert not fresh["final_linear.bias"].any()


@pytest.mark.parametrize("depth", [18, 50])
def test_gradients_of_narrow_networks_do_not_depend_on_the_layout_in_memory(depth):
    torch.manual_seed(0)
    model = resnet((3, 8, 8), 3, depth, width=1 / 16).eval()
    images, labels = torch.randn(8, 3, 8, 8), torch.randint(3, (8,))
    found = []
    for contiguous in (False, True):
        if contiguous:
            model.layout = nn.Identity()
        loss = F.cross_entropy(model(images), labels)
        found.append(torch.autograd.grad(loss, list(model.parameters())))
    for last, first in zip(*found, strict=True):
        size = float(first.abs().max())  # rounding differs between processors
        torch.testing.assert_close(last, first, rtol=1e-3, atol=1e-3 * size)
