from __future__ import annotations

import warnings
from collections import Counter

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812
from tests.cases import CLASS_TOKEN, CNN, TRANSFORMER
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from layerscope.errors import LayerscopeError
from layerscope.networks.discovery import blocks, matching
from layerscope.networks.layers import LayerMap


@pytest.fixture(scope="module")
def process_group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")


def compiled_inside(model: nn.Module) -> nn.Module:
    name, child = max(model.named_children(), key=lambda item: len(list(item[1].modules())))
    setattr(model, name, compiled(child))
    return model


def compiled_in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="eager")
    next(model.children()).compile(backend="eager")
    return model


WRAPPED = {
    "DistributedDataParallel": nn.parallel.DistributedDataParallel,
    "DataParallel": nn.DataParallel,
    "torch.compile": compiled,
    "model.compile": compiled_in_place,
    "a compiled submodule": compiled_inside,
    "both": lambda model: nn.DataParallel(compiled(model)),
}
UNITS = ("tensor", "module", "block", "stage", ["encoder.layers.*"])


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize("unit", UNITS, ids=str)
def test_layers_of_wrapped_models_are_those_of_the_bare_model(wrap, unit, process_group):
    bare = TRANSFORMER.map(TRANSFORMER.model(), unit=unit)
    wrapped = wrap(TRANSFORMER.model())
    assert TRANSFORMER.map(wrapped, unit=unit) == bare
    assert LayerMap.from_model(wrapped, TRANSFORMER.batch(0)[0], unit=unit) == bare
    assert len(matching(wrapped, ["encoder.layers.*"])) == 2
    assert blocks(wrapped) == ["encoder.layers.0", "encoder.layers.1"]


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_the_root_of_a_wrapped_model_is_called_as_it_is(wrap, process_group):
    model = CLASS_TOKEN.model()
    assert CLASS_TOKEN.map(wrap(model)).names == ("ClassToken", "embed", "head")


def test_wrappers_are_not_run(process_group):
    """One that keeps processes in step would wait for the others."""

    def forward(*_):
        raise AssertionError

    wrapped = nn.parallel.DistributedDataParallel(TRANSFORMER.model())
    wrapped.forward = forward
    assert TRANSFORMER.map(wrapped) == TRANSFORMER.map(TRANSFORMER.model())


def test_messages_name_the_users_own_module():
    with pytest.raises(LayerscopeError, match=r"^Sequential does not run on the example"):
        LayerMap.from_model(nn.DataParallel(CNN.model()), torch.ones(1, 2, 8, 8))


class Symmetric(nn.Module):
    def forward(self, x):
        return x.triu() + x.triu(1).transpose(-1, -2)


class LowRank(nn.Module):
    """A parametrisation with parameters, and a parametrised module, of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.down = parametrizations.weight_norm(nn.Linear(4, 1, bias=False))
        self.up = nn.Parameter(torch.ones(4, 1))

    def forward(self, x):
        return x + self.up @ self.down.weight


def registered(parametrisation: nn.Module) -> nn.Module:
    linear = nn.Linear(4, 4)
    parametrize.register_parametrization(linear, "weight", parametrisation)
    return linear


WEIGHT = "parametrizations.weight"
PARAMETRISED = {
    "weight_norm": (
        lambda: parametrizations.weight_norm(nn.Linear(4, 4)),
        {"bias": (4,), f"{WEIGHT}.original0": (4, 1), f"{WEIGHT}.original1": (4, 4)},
        {},
    ),
    "spectral_norm": (
        lambda: parametrizations.spectral_norm(nn.Linear(4, 4)),
        {"bias": (4,), f"{WEIGHT}.original": (4, 4)},
        {f"{WEIGHT}.0._u": (4,), f"{WEIGHT}.0._v": (4,)},
    ),
    "orthogonal": (
        lambda: parametrizations.orthogonal(nn.Linear(4, 4)),
        {"bias": (4,), f"{WEIGHT}.original": (4, 4)},
        {f"{WEIGHT}.0.base": (4, 4)},
    ),
    "without parameters": (
        lambda: registered(Symmetric()),
        {"bias": (4,), f"{WEIGHT}.original": (4, 4)},
        {},
    ),
    "with parameters": (
        lambda: registered(LowRank()),
        {
            "bias": (4,),
            f"{WEIGHT}.original": (4, 4),
            f"{WEIGHT}.0.up": (4, 1),
            f"{WEIGHT}.0.down.{WEIGHT}.original0": (1, 1),
            f"{WEIGHT}.0.down.{WEIGHT}.original1": (1, 4),
        },
        {},
    ),
}


class Between(nn.Module):
    """A linear layer, one whose weights are used by the module around it, and another."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.last = nn.Linear(4, 3)
        self.middle = middle
        self.first = nn.Linear(4, 4)

    def forward(self, x):
        return self.last(F.linear(self.first(x), self.middle.weight, self.middle.bias))


@pytest.mark.parametrize("build", [lambda m: nn.Sequential(nn.Linear(4, 4), m), Between])
@pytest.mark.parametrize("name", PARAMETRISED)
def test_a_parametrised_module_is_one_layer(name, build):
    make, parameters, buffers = PARAMETRISED[name]
    torch.manual_seed(0)
    model = build(make())
    layers = LayerMap.from_model(model, torch.ones(2, 4))
    names = ("first", "middle", "last") if build is Between else ("0", "1")
    assert layers.names == names
    layer = layers[names[1]]
    assert (layer.kind, layer.modules, layer.trained) == ("Linear", (names[1],), True)
    assert layer.parameters == {f"{names[1]}.{n}": shape for n, shape in parameters.items()}
    assert layer.buffers == {f"{names[1]}.{n}": shape for n, shape in buffers.items()}
    assert Counter(layers.parameter_names) == Counter(n for n, _ in model.named_parameters())


def test_a_parametrised_module_by_tensors_and_patterns():
    model = nn.Sequential(nn.Linear(4, 4), parametrizations.weight_norm(nn.Linear(4, 4)))
    tensors = LayerMap.from_model(model, torch.ones(2, 4), unit="tensor")
    assert {(x.kind, x.modules) for x in tensors} == {("Linear", ("0",)), ("Linear", ("1",))}
    assert f"1.{WEIGHT}.original0" in tensors.names
    assert LayerMap.from_model(model, torch.ones(2, 4), unit=["1*"]).names == ("0", "1")
    with pytest.raises(LayerscopeError, match=r"no module matches the pattern '\*original"):
        matching(model, ["*original*"])


def test_old_weight_norm_is_one_layer_too():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it is deprecated
        model = nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 3)))
    (layer,) = LayerMap.from_model(model, torch.ones(2, 4))
    assert (layer.name, set(layer.parameters)) == ("0", {"0.bias", "0.weight_g", "0.weight_v"})


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 4, dtype=torch.complex64))

    def forward(self, x):
        return (x.to(self.weight.dtype) @ self.weight.T).abs()


class Quantised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 4, dtype=torch.int8), requires_grad=False)
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return x @ self.weight.to(x.dtype).T * self.scale


class Empty(nn.Module):
    """Room for adapters of which there are none."""

    def __init__(self) -> None:
        super().__init__()
        self.adapters = nn.Parameter(torch.ones(0, 4))
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        return self.linear(x + self.adapters.sum(0))


IDS = torch.tensor([[0, 1], [2, 3]])
UNUSUAL = {
    "complex": (Complex, torch.ones(2, 4), {"Complex": {"weight": (3, 4)}}),
    "int8": (Quantised, torch.ones(2, 4), {"Quantised": {"weight": (3, 4), "scale": (3,)}}),
    "zero size": (
        Empty,
        torch.ones(2, 4),
        {
            "Empty": {"adapters": (0, 4)},
            "linear": {"linear.weight": (3, 4), "linear.bias": (3,)},
        },
    ),
    "two inputs": (
        lambda: nn.Bilinear(4, 5, 3),
        (torch.ones(2, 4), torch.ones(2, 5)),
        {"Bilinear": {"weight": (3, 4, 5), "bias": (3,)}},
    ),
    "bags": (
        lambda: nn.Sequential(nn.EmbeddingBag(4, 5), nn.Linear(5, 3)),
        IDS,
        {"0": {"0.weight": (4, 5)}, "1": {"1.weight": (3, 5), "1.bias": (3,)}},
    ),
    "sparse bags": (
        lambda: nn.EmbeddingBag(4, 5, sparse=True, mode="sum"),
        (IDS.flatten(), torch.tensor([0, 2])),
        {"EmbeddingBag": {"weight": (4, 5)}},
    ),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_parameters_and_inputs(name):
    build, example, expected = UNUSUAL[name]
    model = build()
    layers = LayerMap.from_model(model, example)
    assert {layer.name: dict(layer.parameters) for layer in layers} == expected
    assert sum(x.n_parameters for x in layers) == sum(p.numel() for p in model.parameters())
    assert LayerMap.from_json(layers.to_json()) == layers


def test_what_no_gradient_reaches_is_not_trained():
    layers = LayerMap.from_model(Quantised(), torch.ones(2, 4), unit="tensor")
    assert {x.name: x.trained for x in layers} == {"weight": False, "scale": True}


def scripted(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript is deprecated
        return torch.jit.script(model)


def traced(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.trace(model, torch.ones(2, 4))


@pytest.mark.parametrize("convert", [scripted, traced])
@pytest.mark.parametrize("example", [None, torch.ones(2, 4)])
def test_torchscript_is_refused_and_the_remedy_named(convert, example):
    for model, name in (
        (convert(nn.Linear(4, 4)), "the model"),
        (nn.Sequential(nn.Linear(4, 4), convert(nn.Linear(4, 4))), "'1'"),
    ):
        with pytest.raises(LayerscopeError, match=f"{name}.* is a TorchScript module") as found:
            LayerMap.from_model(model, example)
        assert "Pass the module that it was scripted or traced from" in str(found.value)


@pytest.mark.parametrize("unit", ["module", "block", "tensor"])
def test_a_model_without_parameters_is_an_error(unit):
    with pytest.raises(LayerscopeError, match=r"ReLU has no parameters.\n.*torch.nn.Parameter"):
        LayerMap.from_model(nn.ReLU(), torch.ones(1), unit=unit)


@pytest.mark.parametrize("model", [lambda: nn.Linear(4, 3), None, "resnet18"])
def test_what_is_no_module_is_refused(model):
    with pytest.raises(LayerscopeError, match=r"not a torch\.nn\.Module"):
        LayerMap.from_model(model, torch.ones(2, 4))


def test_a_batch_without_a_task_asks_for_one():
    batch = CNN.batch(0)
    for example in (batch, list(batch)):
        with pytest.raises(LayerscopeError, match="does not run on the example") as found:
            LayerMap.from_model(CNN.model(), example)
        assert "For a batch (inputs, labels) say what it means: task=" in str(found.value)
    for example, forward in ((batch[0][:, :, :1], None), ((batch[0][:, :, :1], batch[1]), run)):
        with pytest.raises(LayerscopeError, match="Pass an input of the shape, type") as found:
            LayerMap.from_model(CNN.model(), example, forward=forward)
        assert "task" not in str(found.value)


def run(model, batch):
    return model(batch[0])
