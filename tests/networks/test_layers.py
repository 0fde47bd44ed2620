from __future__ import annotations

import json
from collections import Counter

import pytest
import torch
from tests.cases import CASES, CLASS_TOKEN, CNN, FCN, FUNCTIONAL, RESIDUAL, TIED, TRANSFORMER
from tests.training_loop import hooks, random_state
from torch import nn

from layerscope.errors import LayerscopeError
from layerscope.networks.layers import LayerMap

UNITS = ("tensor", "module", "block", "stage")
LISTED = (RESIDUAL, TRANSFORMER)  # the cases that have blocks
EVERY_UNIT = [(c, u) for c in CASES for u in UNITS if c in LISTED or u in ("tensor", "module")]
by_name = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@by_name
def test_layers_stand_in_order_of_execution(case):
    layers = case.map(case.model())
    assert layers.names == case.layers
    assert [layer.depth for layer in layers] == list(range(len(layers)))


@pytest.mark.parametrize(("case", "unit"), EVERY_UNIT, ids=lambda v: getattr(v, "name", v))
def test_every_parameter_is_in_exactly_one_layer(case, unit):
    model = case.model()
    found = Counter(case.map(model, unit=unit).parameter_names)
    assert found == Counter(name for name, _ in model.named_parameters())


@by_name
def test_every_buffer_is_in_exactly_one_layer(case):
    model = case.model()
    found = Counter(name for layer in case.map(model) for name in layer.buffers)
    assert found == Counter(name for name, _ in model.named_buffers())


@by_name
def test_shapes_and_sizes_are_those_of_the_model(case):
    model = case.model()
    layers, shapes = case.map(model), {n: tuple(p.shape) for n, p in model.named_parameters()}
    assert {n: s for layer in layers for n, s in layer.parameters.items()} == shapes
    assert sum(layer.n_parameters for layer in layers) == sum(p.numel() for p in model.parameters())
    counted = Counter(layers.owner.tolist())
    assert [counted[i] for i in range(len(layers))] == [len(layer.parameters) for layer in layers]


@by_name
@pytest.mark.parametrize("training", [True, False])
def test_the_model_and_the_process_are_left_as_found(case, training):
    model = case.model().train(training)
    next(model.children()).train(not training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = (random_state(), [m.training for m in model.modules()], hooks(model))
    case.map(model)
    assert (random_state(), [m.training for m in model.modules()], hooks(model)) == expected
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_a_failing_example_leaves_everything_as_found_too():
    model = CNN.model().train()
    expected = (random_state(), hooks(model))
    with pytest.raises(LayerscopeError, match="Sequential does not run on the example input"):
        LayerMap.from_model(model, torch.ones(1, 2, 8, 8))
    assert (random_state(), hooks(model)) == expected
    assert all(module.training for module in model.modules())


def test_without_an_example_layers_stand_in_order_of_registration():
    assert LayerMap.from_model(CLASS_TOKEN.model(), None).names == ("ClassToken", "head", "embed")


@pytest.mark.parametrize(
    "example", [torch.ones(2, 4), (torch.ones(2, 4),), [torch.ones(2, 4)], {"x": torch.ones(2, 4)}]
)
def test_an_example_is_a_tensor_a_tuple_or_a_dict(example):
    assert LayerMap.from_model(FUNCTIONAL.model(), example).names == ("a", "b")


@pytest.mark.parametrize(
    ("case", "unit", "names"),
    [
        (
            FCN,
            "tensor",
            [
                "layer1.weight",
                "layer1.bias",
                "layer2.weight",
                "layer2.bias",
                "output.weight",
                "output.bias",
            ],
        ),
        (RESIDUAL, "block", ["input", "blocks.0", "blocks.1", "output"]),
        (RESIDUAL, "stage", ["input", "blocks", "output"]),
        (TRANSFORMER, "block", ["embed", "encoder.layers.0", "encoder.layers.1", "head"]),
        (TRANSFORMER, "stage", ["embed", "encoder.layers", "head"]),
        (TRANSFORMER, ["encoder"], ["embed", "encoder", "head"]),
        (RESIDUAL, ["blocks.*"], ["input", "blocks.0", "blocks.1", "output"]),
        (
            RESIDUAL,
            ["blocks.0", "blocks.*.linear1"],
            ["input", "blocks.0", "blocks.1.linear1", "blocks.1.linear2", "output"],
        ),
    ],
)
def test_units(case, unit, names):
    assert list(case.map(case.model(), unit=unit).names) == names


def test_a_block_owns_everything_inside_it():
    block = TRANSFORMER.map(TRANSFORMER.model(), unit="block")["encoder.layers.0"]
    assert (block.kind, block.depth, len(block.modules)) == ("TransformerEncoderLayer", 1, 6)
    assert len(block.parameters) == 12


def test_tied_weights_belong_to_the_layer_that_uses_them_first():
    layers = TIED.map(TIED.model())
    assert dict(layers.aliases) == {"embedding.weight": "output.weight"}
    assert list(layers["embedding"].parameters) == ["output.weight"]
    assert "output" not in layers.names


def test_include_exclude_and_depth():
    model = CNN.model()
    assert CNN.map(model, include=["0", "4", "9"], exclude=["9"]).names == ("0", "4")
    assert [layer.depth for layer in CNN.map(model, exclude=["0", "1"])] == [0, 1, 2]


def test_groups():
    model = CNN.model()
    assert [x.group for x in CNN.map(model, groups="thirds")] == [
        "early",
        "early",
        "middle",
        "middle",
        "late",
    ]
    labelled = CNN.map(model, groups={"conv": ["0", "4"], "head": ["9"]})
    assert [layer.group for layer in labelled] == ["conv", "", "conv", "", "head"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unit": "modul"}, "Did you mean 'module'"),
        ({"unit": ["nothing.*"]}, r"no module matches the pattern 'nothing"),
        ({"unit": "block"}, "has no block"),
        ({"include": ["layer9"]}, "include pattern 'layer9' matches no layer"),
        ({"exclude": ["layer9"]}, "exclude pattern 'layer9' matches no layer"),
        ({"exclude": ["*"]}, "no layer with parameters is left"),
        ({"groups": "halves"}, "unknown grouping 'halves'"),
        ({"groups": {"a": ["zzz"]}}, "group 'a' pattern 'zzz' matches no layer"),
        (
            {"groups": {"a": ["layer*"], "b": ["layer2"]}},
            "layer 'layer2' belongs to groups 'a' and 'b'",
        ),
    ],
)
def test_what_matches_nothing_is_an_error(options, message):
    with pytest.raises(LayerscopeError, match=message):
        FCN.map(FCN.model(), **options)


@pytest.mark.parametrize("example", [None, torch.ones(2, 4)])
def test_lazy_modules_are_refused_and_stay_lazy(example):
    model = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d())
    with pytest.raises(LayerscopeError, match=r"'0.weight' is lazy"):
        LayerMap.from_model(model, example)
    assert isinstance(model[0].weight, nn.UninitializedParameter)


def test_two_layers_of_one_name_or_with_one_parameter_are_errors():
    one, two = FCN.map(FCN.model()).layers[:2]
    with pytest.raises(LayerscopeError, match="two layers are called 'layer1'"):
        LayerMap((one, one))
    shared = type(two)("other", 1, "Linear", ("layer1",), one.parameters)
    with pytest.raises(LayerscopeError, match=r"'layer1.weight' belongs to layers"):
        LayerMap((one, shared))


@by_name
def test_json_round_trip(case):
    layers = case.map(case.model(), groups="thirds")
    assert LayerMap.from_json(json.loads(json.dumps(layers.to_json()))) == layers


def test_matrices_only():
    layers = CNN.map(CNN.model()).with_dimensions(2)
    assert layers.parameter_names == ("0.weight", "4.weight", "9.weight")
    assert [layer.depth for layer in layers] == [0, 2, 4]
    with pytest.raises(LayerscopeError, match="no parameter has 5 or more dimensions"):
        layers.with_dimensions(5)


def test_an_unknown_layer_suggests_the_nearest():
    with pytest.raises(LayerscopeError, match="Did you mean 'layer1'"):
        FCN.map(FCN.model())["layr1"]


def test_layers_from_names_and_shapes_alone():
    shapes = {"a.weight": (3, 2), "a.bias": (3,), "b.0.weight": (2, 3), "a.mean": (3,), "scale": ()}
    found = LayerMap.from_shapes(shapes, buffers={"a.mean"})
    assert found.names == ("a", "b.0", "scale")
    assert [layer.depth for layer in found] == [0, 1, 2]
    assert dict(found["a"].parameters) == {"a.weight": (3, 2), "a.bias": (3,)}
    assert dict(found["a"].buffers) == {"a.mean": (3,)}
    assert LayerMap.from_json(found.to_json()) == found


def test_buffers_alone_are_no_layer():
    assert LayerMap.from_shapes({"a.w": (1,), "b.m": (1,)}, {"b.m"}).names == ("a",)
    with pytest.raises(LayerscopeError, match="no tensor that could be a parameter"):
        LayerMap.from_shapes({"b.m": (1,)}, {"b.m"})
