from __future__ import annotations

import dataclasses
import json

import pytest

from layerscope.config import (
    FCN,
    MODELS,
    OPTIMIZERS,
    SGD,
    VGG,
    Adagrad,
    Adam,
    AdamW,
    CustomModel,
    Digits,
    FreezeWhenSettled,
    Images,
    ModelConfig,
    Plateau,
    ResidualFCN,
    ResNet,
    RMSprop,
    RunConfig,
    Sine,
    Start,
    ViT,
    from_dict,
    to_dict,
)
from layerscope.errors import LayerscopeError
from layerscope.models import build

EXAMPLE = RunConfig(
    model=FCN(depth=3, width=32, activation="sigmoid"),
    data=Sine(),
    optimizer=SGD(learning_rate=0.01, momentum=0.9),
    milestones=(10, 20),
    epochs=30,
    seed=7,
)
CONFIGS = (
    RunConfig(),
    EXAMPLE,
    RunConfig(model=ResidualFCN(), optimizer=Adam(), data=Images(limit=10)),
    RunConfig(model=CustomModel("a:b", '{"sizes": [1, 2], "type": "wide"}')),
    RunConfig(optimizer=AdamW(), schedule="cosine", warmup=5, start=Start(path="a", step=3)),
    RunConfig(schedule="plateau", plateau=Plateau(3, 0.01)),
    RunConfig(start=Start(run=RunConfig(start=Start(run=EXAMPLE)), fresh=("output*", "norm*"))),
)
OTHERS = {
    "groups": ("a=b",),
    "scaled": ("layer1=2",),
    "freeze_when_settled": FreezeWhenSettled(0.1),
    "plateau": Plateau(3),
}
OTHER = {str: "other", int: 91, float: 0.123, bool: True, tuple: (1,), type(None): 5}
OPTIMISERS = (SGD(), Adam(), AdamW(), Adagrad(), RMSprop())
PARTS = (
    FCN(),
    ResidualFCN(),
    ResNet(),
    MODELS["cifar_resnet"](),
    CustomModel(),
    Digits(),
    Sine(),
    Images(),
    *OPTIMISERS,
    Start(),
    FreezeWhenSettled(),
    Plateau(),
)
FIELDS = [(part, field.name) for part in PARTS for field in dataclasses.fields(part)]
SIMPLE = [
    f.name for f in dataclasses.fields(RunConfig) if f.name not in ("model", "data", "optimizer")
]


@dataclasses.dataclass(frozen=True)
class Unbuilt(ModelConfig):
    """Says nothing of what builds it."""


@dataclasses.dataclass(frozen=True)
class Narrow(FCN):
    """With another default."""

    width: int = 2


@dataclasses.dataclass(frozen=True)
class Lost(ModelConfig, builder="layerscope.models.fcn:nothing"):
    """Names a function that is not there."""


def place(part):
    """A run with ``part`` in its place."""
    places = {"model": MODELS.values(), "optimizer": OPTIMIZERS.values(), "start": (Start,)}
    places |= {"freeze_when_settled": (FreezeWhenSettled,), "plateau": (Plateau,)}
    for name, kinds in places.items():
        if isinstance(part, tuple(kinds)):
            return RunConfig(**{name: part})
    return RunConfig(data=part)


def test_the_hash_is_the_same_on_every_machine_and_in_every_version():
    assert EXAMPLE.hash == "217155775bf6"
    assert RunConfig().hash == "62ae1387b0aa"
    paper = RunConfig(
        model=FCN(3, 256),
        data=Images(name="mnist"),
        optimizer=SGD(learning_rate=0.01, momentum=0.9),
        milestones=(30, 60, 90),
        decay=0.2,
        epochs=100,
        batch_size=128,
        seed=0,
        checkpoints="epochs(1)",
    )
    assert paper.hash == "e5f2bdff3857"


RESNET = ResNet(depth=50, stages=(1, 2))
HASHES = {
    "0dace6416a83": RunConfig(model=RESNET, data=Images(name="cifar10")),
    "140350c221ea": RunConfig(model=VGG(11, True), data=Digits(image_size=32)),
    "1227ebc53e22": RunConfig(
        model=MODELS["cifar_resnet"](110, last_norm="linear"), augmentation="reflect_crop_flip"
    ),
    "70bf129fe2fa": RunConfig(model=FCN(20, 256, normalisation="batch", initialisation="he")),
    "66226b8e9070": RunConfig(model=ViT(expansions=(4, 4)), optimizer=AdamW(), schedule="cosine"),
    "784c13459d9e": RunConfig(
        model=ResidualFCN(depths=(4, 1, 1, 1)), data=Sine(components=2), unit="module"
    ),
    "fe38ac675fed": RunConfig(
        model=CustomModel("a:b", '{"width": 3}'), start=Start(path="a", step=3)
    ),
}


@pytest.mark.parametrize(("expected", "config"), HASHES.items())
def test_hashes_of_every_kind_of_part(expected, config):
    assert config.hash == expected


def test_factors_of_weights_are_written_as_on_the_command_line():
    assert RunConfig().factors == {}
    assert RunConfig(scaled=("layer1=30", "stage*.conv1=-.5")).factors == {
        "layer1": 30.0,
        "stage*.conv1": -0.5,
    }
    with pytest.raises(LayerscopeError, match="one text"):
        RunConfig(scaled="layer1=3")


@pytest.mark.parametrize("text", ["layer1", "=3", "layer1=", "layer1=x", "layer1=0", "layer1=inf"])
def test_factors_that_say_nothing_are_an_error(text):
    with pytest.raises(LayerscopeError, match=f"scaled has '{text}'"):
        RunConfig(scaled=(text,))
    with pytest.raises(LayerscopeError, match="scaled has 'a=2'"):
        RunConfig(scaled=("a=1", "a=2"))


def test_a_derived_configuration_is_built_as_its_base_is_and_has_no_name():
    assert type(build(Narrow(), (4,), 2)) is type(build(FCN(), (4,), 2))
    assert (Narrow.known_as, FCN.known_as) == ("", "fcn")


@pytest.mark.parametrize("cls", [Unbuilt, Lost])
def test_a_configuration_that_nothing_builds_is_an_error(cls):
    with pytest.raises(LayerscopeError, match=f"(?s)cannot be built.*class {cls.__name__}"):
        build(cls(), (1, 8, 8), 10)


@pytest.mark.parametrize(("part", "name"), FIELDS, ids=lambda v: getattr(type(v), "__name__", v))
def test_the_hash_differs_with_every_setting_of_a_part(part, name):
    value = getattr(part, name)
    changed = not value if isinstance(value, bool) else OTHER[type(value)]
    other = dataclasses.replace(part, **{name: changed})
    assert place(other).hash != place(part).hash


@pytest.mark.parametrize("name", SIMPLE)
def test_the_hash_differs_with_every_setting_of_a_run(name):
    value = OTHERS[name] if name in OTHERS else OTHER[type(getattr(EXAMPLE, name))]
    other = dataclasses.replace(EXAMPLE, **{name: value})
    assert other.hash != EXAMPLE.hash


def test_equal_configurations_have_one_hash():
    assert RunConfig(optimizer=SGD(learning_rate=1)).hash == RunConfig(optimizer=SGD(1.0)).hash
    assert RunConfig(milestones=[3]).hash == RunConfig(milestones=(3,)).hash


def test_parts_with_equal_fields_differ_by_their_type():
    assert len({place(part).hash for part in OPTIMISERS}) == len(OPTIMISERS)


def test_the_hash_differs_with_every_setting_of_the_run_to_start_from():
    starts = (EXAMPLE, dataclasses.replace(EXAMPLE, seed=8), RunConfig())
    configs = [RunConfig(), *(RunConfig(start=Start(run=run)) for run in starts)]
    assert len({config.hash for config in configs}) == 4


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.hash)
def test_round_trip_through_json(config):
    again = from_dict(json.loads(json.dumps(to_dict(config))))
    assert again == config
    assert again.hash == config.hash


def test_an_unknown_field_suggests_the_nearest():
    values = to_dict(RunConfig()) | {"optimiser": {}}
    with pytest.raises(LayerscopeError, match=r"field of RunConfig 'optimiser'.\n.*'optimizer'"):
        from_dict(values)


def test_an_unknown_type_suggests_the_nearest():
    with pytest.raises(LayerscopeError, match="Did you mean 'ResidualFCN'"):
        from_dict({"type": "ResidualFNC"})


@pytest.mark.parametrize("name", ["epochs", "batch_size", "probe_batch"])
def test_sizes_must_be_positive(name):
    with pytest.raises(LayerscopeError, match=f"{name} is 0"):
        RunConfig(**{name: 0})


def test_groups_are_written_as_on_the_command_line():
    assert RunConfig().layer_groups is None
    assert RunConfig(groups=("thirds",)).layer_groups == "thirds"
    groups = ("early = a, b.*", "late=c")
    assert RunConfig(groups=groups).layer_groups == {"early": ("a", "b.*"), "late": ("c",)}


BAD_GROUPS = {
    "no patterns": (("early",), "groups has 'early'.\n.*label=pattern"),
    "no label": (("=a",), "groups has '=a'"),
    "empty pattern": (("a=b,",), "groups has 'a=b,'"),
    "thirds and more": (("thirds", "a=b"), "groups has 'thirds'.\n.*thirds alone"),
    "twice": (("a=b", "a=c"), "groups has 'a' twice"),
    "one text": ("thirds", r"groups is 'thirds', one text.\n.*\('thirds',\)"),
}


@pytest.mark.parametrize(("groups", "message"), BAD_GROUPS.values(), ids=BAD_GROUPS)
def test_groups_that_say_nothing_are_an_error(groups, message):
    with pytest.raises(LayerscopeError, match=message):
        RunConfig(groups=groups)


def test_nothing_can_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        EXAMPLE.seed = 1
