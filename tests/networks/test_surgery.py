import contextlib

import pytest
import torch
from scipy import stats
from tests.cases import CNN, FCN
from torch import nn

from layerscope.errors import LayerscopeError
from layerscope.models.resnet import resnet
from layerscope.networks.names import unique_state
from layerscope.networks.surgery import (
    freeze,
    fresh_weights,
    frozen,
    reinitialised,
    rerandomised,
    scale,
    without,
)


class Wide(nn.Module):
    """Initialises its second layer in its own way."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(20, 200), nn.Linear(200, 50)
        nn.init.normal_(self.second.weight, std=3.0)


def test_draws_come_from_each_layers_own_initialiser():
    model = Wide()
    fresh = fresh_weights(model, ["first", "second"], 7, factory=Wide)
    for name in ("first.weight", "second.weight"):
        own, drawn = (t[name].flatten() for t in (model.state_dict(), fresh))
        assert stats.ks_2samp(own.numpy(), drawn.numpy()).pvalue > 0.01
        assert not torch.equal(own, drawn)
    # reset_parameters knows nothing of what the constructor did afterwards
    reset = fresh_weights(model, ["second"], 7)["second.weight"].flatten()
    assert stats.ks_2samp(model.second.weight.detach().flatten().numpy(), reset).pvalue < 1e-6


@pytest.mark.parametrize("factory", [None, Wide])
def test_draws_repeat_by_seed_and_leave_everything_as_found(factory):
    model = Wide()
    before, state = [p.clone() for p in model.parameters()], torch.get_rng_state()
    first, again, other = (fresh_weights(model, ["first"], s, factory) for s in (1, 1, 2))
    assert set(first) == {"first.weight", "first.bias"}
    assert torch.equal(first["first.weight"], again["first.weight"])
    assert not torch.equal(first["first.weight"], other["first.weight"])
    assert all(map(torch.equal, before, model.parameters()))
    assert torch.equal(state, torch.get_rng_state())


def test_a_module_that_cannot_reset_itself_needs_a_factory():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

    model = nn.Sequential(Scale())
    with pytest.raises(LayerscopeError, match=r"'0' \(Scale\) has no reset_parameters"):
        fresh_weights(model, ["0"], 0)
    found = fresh_weights(model, ["0"], 0, factory=lambda: nn.Sequential(Scale()))
    assert torch.equal(found["0.scale"], torch.ones(3))


def test_a_factory_of_another_model_is_refused():
    with pytest.raises(LayerscopeError, match=r"does not fit .* 'first.weight'"):
        fresh_weights(
            Wide(), ["first"], 0, factory=lambda: nn.ModuleDict({"first": nn.Linear(2, 2)})
        )


def test_layers_are_set_back_inside_the_context_only():
    model, other = CNN.model(), unique_state(CNN.model(seed=1))
    before = {name: tensor.clone() for name, tensor in unique_state(model).items()}
    layers = [CNN.map(model)["0"], CNN.map(model)["1"]]
    with contextlib.suppress(KeyError), reinitialised(model, layers, other):
        inside = unique_state(model)
        for name, tensor in inside.items():
            expected = other if name.startswith(("0.", "1.")) else before
            assert torch.equal(tensor, expected[name])
        raise KeyError
    assert all(torch.equal(before[n], t) for n, t in unique_state(model).items())


def test_layers_are_drawn_anew_inside_the_context_only():
    model = FCN.model()
    layer = FCN.map(model)["layer2"]
    drawn = fresh_weights(model, ["layer2"], 5, FCN.build)
    before = model.layer2.weight.clone()
    with rerandomised(model, layer, 5, FCN.build):
        assert torch.equal(model.layer2.weight, drawn["layer2.weight"])
    assert torch.equal(model.layer2.weight, before)


def test_weights_that_do_not_fit_are_named():
    model = FCN.model()
    with (
        pytest.raises(LayerscopeError, match=r"'layer1.weight' is missing, or of another shape"),
        reinitialised(model, FCN.map(model)["layer1"], {}),
    ):
        pass


def test_frozen_layers_do_not_train():
    model = FCN.model()
    with frozen(model, ["layer*"]):
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
        before = {name: tensor.clone() for name, tensor in unique_state(model).items()}
        for step in range(3):
            optimizer.zero_grad()
            FCN.task.loss(model(FCN.batch(step)[0]), FCN.batch(step)).backward()
            optimizer.step()
    changed = {n for n, t in unique_state(model).items() if not torch.equal(t, before[n])}
    assert changed == {"output.weight", "output.bias"}
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(("patterns", "message"), [(["*"], "every parameter"), (["x"], "'x'")])
def test_freezing_everything_or_nothing_is_an_error(patterns, message):
    with pytest.raises(LayerscopeError, match=message):
        freeze(FCN.model(), patterns)


def test_matrices_and_filters_are_scaled_and_nothing_else():
    model, before = CNN.model(), CNN.model().state_dict()
    names = scale(model, {"*": 2.0, name_of_first(model): -1.5})
    matrices = {name for name, tensor in before.items() if tensor.ndim > 1}
    assert set(names) == matrices
    for name, tensor in model.state_dict().items():
        first = name.startswith(f"{name_of_first(model)}.")
        factor = (2.0 * (-1.5 if first else 1.0)) if name in matrices else 1.0
        assert torch.equal(tensor, before[name] * factor), name


def name_of_first(model):
    return next(name for name, module in model.named_modules() if hasattr(module, "weight"))


@pytest.mark.parametrize("pattern", ["nothing", "norm"])
def test_what_has_no_weights_cannot_be_scaled(pattern):
    model = nn.Sequential()
    model.add_module("norm", nn.BatchNorm1d(3))
    with pytest.raises(LayerscopeError, match=pattern):
        scale(model, {pattern: 2.0})


def small(stages):
    torch.manual_seed(0)
    return resnet((3, 8, 8), 5, stages=stages, width=1 / 16).eval()


@pytest.fixture
def images():
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_a_removed_block_equals_a_network_built_without_it(images):
    model, shorter = small((2, 2)), small((1, 2))
    cut = without(model, ["stage1.resblk2"], images)
    shorter.load_state_dict(
        {n: t for n, t in model.state_dict().items() if not n.startswith("stage1.resblk2.")}
    )
    assert torch.equal(cut(images), shorter(images))
    assert set(cut.state_dict()) == set(shorter.state_dict())
    assert isinstance(model.get_submodule("stage1.resblk2"), type(model.stage1.resblk1))


BAD_REMOVALS = {
    "shape": ("stage2.resblk1", r"'stage2.resblk1' cannot be removed: it maps \(3, 4, 8, 8\) to"),
    "stem": ("stage0", "'stage0' .* is no residual block"),
    "typo": ("stage9.*", "no module matches the pattern 'stage9"),
}


@pytest.mark.parametrize(("pattern", "message"), BAD_REMOVALS.values(), ids=BAD_REMOVALS)
def test_what_cannot_be_removed_is_named(pattern, message, images):
    with pytest.raises(LayerscopeError, match=message):
        without(small((2, 2)), [pattern], images)


def test_a_plain_network_has_no_blocks():
    with pytest.raises(LayerscopeError, match="This model has none"):
        without(FCN.model(), ["layer1"], FCN.batch(0)[0])


def test_layers_of_a_compiled_part_are_frozen_by_the_same_names():
    plain, compiled = FCN.model(), FCN.model()
    compiled.layer1 = torch.compile(compiled.layer1, backend="eager")
    names = freeze(compiled, ["layer1"])
    assert names == freeze(plain, ["layer1"]) == ("layer1.weight", "layer1.bias")
    assert not any(p.requires_grad for p in compiled.layer1.parameters())
    assert all(p.requires_grad for p in compiled.output.parameters())
