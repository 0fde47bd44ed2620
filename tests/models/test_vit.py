from __future__ import annotations

import math

import pytest
import torch

from layerscope.config import ViT
from layerscope.errors import LayerscopeError
from layerscope.models import build
from layerscope.models.vit import vit
from layerscope.networks.layers import LayerMap
from layerscope.networks.names import unique_state
from layerscope.networks.task import Task
from layerscope.networks.variants import evaluate_variants
from reference import variants as reference

SHAPE = (3, 8, 12)


def size(model):
    return sum(p.numel() for p in model.parameters())


def narrow(input_shape=SHAPE, seed=0, **settings):
    torch.manual_seed(seed)
    settings = {"patch_size": 4, "width": 6, "heads": 2, "expansions": (2, 3)} | settings
    return vit(input_shape, 5, **settings)


def disturbed(**settings):
    """A small model whose parameters are all random, also those that begin at 0 or 1."""
    model = narrow(**settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return model


def images(n=7):
    return torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(0))


def recomputed(state, image):
    """The output for one image, step by step from the weights."""

    def affine(name, x):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name, x):
        deviation = (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        scaled = (x - x.mean(-1, keepdim=True)) / deviation
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    def attention(name, x):
        joint = x @ state[f"{name}.in_proj_weight"].T + state[f"{name}.in_proj_bias"]
        heads = []
        for head in (slice(0, 3), slice(3, 6)):
            query, key, value = (part[:, head] for part in joint.split(6, 1))
            scores = (query @ key.T / math.sqrt(3)).exp()
            heads.append(scores / scores.sum(1, keepdim=True) @ value)
        return affine(f"{name}.out_proj", torch.cat(heads, 1))

    filters = state["patch_embedding.conv.weight"].flatten(1)
    bias = state["patch_embedding.conv.bias"]
    patches = [image[:, i : i + 4, j : j + 4] for i in (0, 4) for j in (0, 4, 8)]
    embedded = [filters @ patch.flatten() + bias for patch in patches]
    z = torch.stack([state["patch_embedding.class_token"][0, 0], *embedded])
    z = z + state["patch_embedding.positions"][0]
    for encoder in ("encoders.0", "encoders.1"):
        z = z + attention(f"{encoder}.self_attn", norm(f"{encoder}.norm1", z))
        hidden = affine(f"{encoder}.linear1", norm(f"{encoder}.norm2", z))
        gelu = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        z = z + affine(f"{encoder}.linear2", gelu)
    return affine("final_linear", norm("final_norm", z[0]))


def test_the_network_of_the_paper_has_its_number_of_parameters():
    with torch.device("meta"):
        model = vit((3, 224, 224), 1000, 16, 256, 8, (4,) * 12)
    attention = 256 * 3 * 256 + 3 * 256 + 256 * 256 + 256
    feed_forward = 256 * 1024 + 1024 + 1024 * 256 + 256
    encoders = 12 * (attention + feed_forward + 2 * 2 * 256)
    patches = 3 * 16 * 16 * 256 + 256
    tokens = 256 + (1 + 14 * 14) * 256
    rest = 2 * 256 + 256 * 1000 + 1000
    assert size(model) == patches + tokens + encoders + rest == 9_982_184
    assert size(model) - tokens == 9_931_496  # "9.9M" of Table 2


def test_the_variants_of_the_paper_are_equally_large():
    wider = (2,) * 6 + (4,) * 3 + (8,) * 3
    with torch.device("meta"):
        sizes = [
            size(vit((3, 224, 224), 1000, 16, 256, 8, expansions))
            for expansions in (wider, (4,) * 12, wider[::-1])
        ]
    assert sizes == [9_982_184] * 3


def test_expansions_stand_in_their_order():
    encoders = narrow(expansions=(1, 3, 2)).encoders
    assert [encoder.linear1.out_features for encoder in encoders] == [6, 18, 12]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 4, 4), (3, 16, 4)])
def test_shapes(shape):
    model = build(ViT(4, 8, 2, (2, 1)), shape, 5)
    assert model(torch.randn(7, *shape)).shape == (7, 5)


@pytest.mark.parametrize("training", [True, False])
def test_the_forward_pass_step_by_step(training):
    model, x = disturbed().train(training), images()
    expected = torch.stack([recomputed(model.state_dict(), image) for image in x])
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():  # PyTorch has kernels of its own for encoders that need no gradients
        torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_the_forward_pass_step_by_step():
    model, x = disturbed().double(), images(3).double()
    parameters = dict(model.named_parameters())
    found = torch.autograd.grad(model(x).square().sum(), list(parameters.values()))

    def loss(state):
        return torch.stack([recomputed(state, image) for image in x]).square().sum()

    expected = torch.func.grad(loss)({name: p.detach() for name, p in parameters.items()})
    torch.testing.assert_close(found, tuple(expected[name] for name in parameters))
    assert all(gradient.any() for gradient in found)


def test_dropout_works_in_training_only():
    model, x = narrow(dropout=0.5), images()
    assert not torch.equal(model(x), model(x))
    embedding = model.patch_embedding
    assert not torch.equal(embedding(x), embedding(x))
    model.eval()
    without = narrow().eval()
    torch.testing.assert_close(model(x), without(x), rtol=0, atol=0)


def test_layers():
    config = ViT(4, 6, 2, (2, 3))
    model = build(config, SHAPE, 5)
    layers = LayerMap.from_model(model, images(2), unit=config.unit)
    encoders = ("encoders.0", "encoders.1")
    assert layers.names == ("patch_embedding", *encoders, "final_norm", "final_linear")
    assert set(layers.parameter_names) == {name for name, _ in model.named_parameters()}
    owned = ("class_token", "positions", "conv.weight", "conv.bias")
    assert set(layers["patch_embedding"].parameters) == {f"patch_embedding.{n}" for n in owned}
    assert LayerMap.from_model(model, images(2), unit="block").names == layers.names


def test_initialisation():
    torch.manual_seed(0)
    model = vit((3, 64, 64), 10, 4, 96, 4, (4, 4))
    embedding, encoder = model.patch_embedding, model.encoders[0]
    positions = embedding.positions.detach()
    assert positions.shape == (1, 257, 96)
    assert float(positions.std()) == pytest.approx(0.02, rel=0.02)
    assert float(positions.mean()) == pytest.approx(0, abs=0.001)
    assert float(embedding.class_token.detach().std()) == pytest.approx(0.02, rel=0.2)
    bounds = {
        embedding.conv.weight: 1 / math.sqrt(3 * 4 * 4),
        encoder.self_attn.in_proj_weight: math.sqrt(6 / (96 + 3 * 96)),
        encoder.self_attn.out_proj.weight: 1 / math.sqrt(96),
        encoder.linear1.weight: 1 / math.sqrt(96),
        encoder.linear2.weight: 1 / math.sqrt(4 * 96),
    }
    for weight, bound in bounds.items():
        assert 0.99 * bound < float(weight.detach().abs().max()) <= bound
    assert not encoder.self_attn.in_proj_bias.any()
    assert not encoder.self_attn.out_proj.bias.any()


def test_weights_come_from_the_global_random_state_and_differ_between_encoders():
    first, second, third = narrow(), narrow(), narrow(seed=1)
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)
    assert not torch.equal(first.patch_embedding.positions, third.patch_embedding.positions)
    blocks = narrow(expansions=(2, 2)).encoders
    assert not torch.equal(blocks[0].linear1.weight, blocks[1].linear1.weight)


def test_variants_are_evaluated_together():
    model, task = disturbed(), Task.classification()
    data = [(images(), torch.arange(7) % 5)]
    layers = LayerMap.from_model(model, images(), unit=ViT().unit)
    other = unique_state(disturbed(seed=1))
    variants = [{}, *({name: other[name] for name in layer.parameters} for layer in layers)]
    found = evaluate_variants(model, variants, data, task)
    losses, correct = reference.evaluate(model, variants, data, task)
    torch.testing.assert_close(found.losses, losses, rtol=1e-5, atol=1e-5)
    assert torch.equal(found.correct, correct)
    assert len(losses.mean(1).unique()) == len(variants)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: narrow((4,)), r"the examples have the shape \(4,\)"),
        (lambda: narrow((3, 8, 10)), "patches of 4 pixels do not tile images of 8x10 pixels"),
        (lambda: narrow((3, 3, 8)), "patches of 4 pixels do not tile images of 3x8 pixels"),
        (lambda: narrow((3, 8, 8), patch_size=16), "patches of 16 pixels do not tile"),
        (lambda: narrow(patch_size=0), "patch_size is 0"),
        (lambda: narrow(width=0), "width is 0"),
        (lambda: narrow(heads=0), "heads is 0"),
        (lambda: narrow(heads=4), "width 6 is not a multiple of heads, 4"),
        (lambda: narrow(expansions=()), r"expansions is \(\)"),
        (lambda: narrow(expansions=(2, 0)), r"expansions is \(2, 0\)"),
        (lambda: narrow(dropout=1.0), "dropout is 1.0"),
        (lambda: narrow(dropout=-0.1), "dropout is -0.1"),
        (lambda: vit(SHAPE, 0), "outputs is 0"),
    ],
)
def test_what_cannot_be_built_is_named(make, message):
    with pytest.raises(LayerscopeError, match=message):
        make()
