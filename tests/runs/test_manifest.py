from __future__ import annotations

import json

import pytest
from tests.breaking import IRREGULAR, no_longer_than
from tests.cases import FCN, TIED

from layerscope.config import RunConfig, to_dict
from layerscope.errors import LayerscopeError
from layerscope.runs.manifest import read_manifest, run_id
from layerscope.runs.store import Run

CONFIG = to_dict(RunConfig())
LATER = ("id", "checkpoints", "kinds", "checks")
"""Fields that manifests did not have from the beginning."""


@pytest.fixture
def run(tmp_path):
    """A complete run with one checkpoint."""
    case = FCN
    options = {"steps_per_epoch": 12, "total_steps": 120, "seed": 3, "config": CONFIG}
    run = Run.create(tmp_path / "a", case.map(case.model()), **options)
    run.write_checkpoint(0, case.model().state_dict())
    run.finish("complete", test_error=0.25, mine={"a": [1, None]})
    return run


def edit(run, change, checked=False):
    """Change the manifest on disk; with no checks left, any change is taken for meant."""
    path = run.path / "run.json"
    values = json.loads(path.read_text())
    if not checked:
        values["checks"] = {}
    change(values)
    path.write_text(json.dumps(values))


def put(place, value):
    """A change that puts a value in a place such as ``layers/layers/0/name``."""

    def change(values):
        *path, last = [int(p) if p.isdigit() else p for p in place.split("/")]
        for part in path:
            values = values[part]
        values[last] = value

    return change


def without(place):
    """A change that deletes a field."""

    def change(values):
        *path, last = [int(p) if p.isdigit() else p for p in place.split("/")]
        for part in path:
            values = values[part]
        del values[last]

    return change


REQUIRED = ("status", "created", "seed", "steps_per_epoch", "total_steps", "config", "layers")


@pytest.mark.parametrize("name", [*REQUIRED, "environment", "notes"])
def test_a_field_that_is_missing_is_named(run, name):
    edit(run, without(name))
    with pytest.raises(LayerscopeError, match=rf"run.json is not valid: .*missing.*`{name}`"):
        Run.open(run.path)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("notes", None),
        ("notes", [1]),
        ("notes/test_error", "0.25"),
        ("notes/epochs", "ten"),
        ("notes/learning_rate_drops", [-1]),
        ("status", "finished"),
        ("status", 1),
        ("created", None),
        ("seed", "3"),
        ("seed", 2**70),
        ("seed", 1.5),
        ("seed", True),
        ("steps_per_epoch", [12]),
        ("steps_per_epoch", 0),
        ("steps_per_epoch", -12),
        ("steps_per_epoch", "12"),
        ("total_steps", -1),
        ("total_steps", {}),
        ("environment", "here"),
        ("environment/torch", 2),
        ("config", "RunConfig"),
        ("config/epochs", 0),
        ("config/optimizer", None),
        ("config/optimizer/type", 3),
        ("layers", []),
        ("layers/layers", {}),
        ("layers/aliases", []),
        ("layers/aliases", {"a": 1}),
        ("layers/layers/0", None),
        ("layers/layers/0/name", 5),
        ("layers/layers/0/depth", -1),
        ("layers/layers/0/modules", "layer1"),
        ("layers/layers/0/parameters", {}),
        ("layers/layers/0/parameters", {"layer1.weight": [4, -8]}),
        ("layers/layers/0/parameters", {"layer1.weight": [4, 8.5]}),
        ("layers/layers/0/parameters", {"layer1.weight": "4x8"}),
        ("layers/layers/0/trained", "yes"),
        ("checkpoints", [0, "4"]),
        ("kinds", [1]),
        ("checks", {"seed": "x"}),
    ],
)
def test_a_value_of_another_type_or_out_of_range_is_named(run, place, value):
    edit(run, put(place, value))
    field = place.split("/")[0] if place.startswith("environment") else place.split("/")[-1]
    field = "layers" if field.isdigit() else field
    with pytest.raises(LayerscopeError, match=rf"run.json is not valid: .*{field}") as said:
        Run.open(run.path)
    assert said.value.remedy


@pytest.mark.parametrize("name", ["model", "data", "optimizer", "epochs", "seed"])
def test_a_part_of_the_configuration_that_is_missing_is_named(run, name):
    edit(run, without(f"config/{name}"))
    with pytest.raises(LayerscopeError, match=rf"run.json is not valid: config: .*`{name}`"):
        Run.open(run.path)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("config/model/width", "wide", "width of FCN is 'wide'"),
        ("config/model/type", "FNC", "unknown configuration type 'FNC'"),
        ("config/optimizer/learning_rate", [1], r"learning_rate of SGD is \(1,\)"),
        ("config/batchsize", 3, "unknown field of RunConfig 'batchsize'"),
        ("config/model", {"type": "SGD"}, r"model of RunConfig is SGD"),
    ],
)
def test_the_configuration_is_built_when_it_is_asked_for(run, place, value, message):
    edit(run, put(place, value))
    found = Run.open(run.path)
    with pytest.raises(LayerscopeError, match=rf"run.json: {message}"):
        _ = found.config


@pytest.mark.parametrize("text", ["[]", "null", "3", '"run"', "{}"])
def test_what_is_no_manifest_is_named(run, text):
    (run.path / "run.json").write_text(text)
    with pytest.raises(LayerscopeError, match=r"run.json"):
        Run.open(run.path)


@pytest.mark.parametrize("version", [0, -1, True, 1.0])
def test_a_version_that_never_was_is_refused(run, version):
    edit(run, put("format_version", version))
    with pytest.raises(LayerscopeError, match=rf"format version {version}"):
        Run.open(run.path)


def test_two_layers_with_one_tensor_are_named(run):
    edit(run, lambda v: v["layers"]["layers"].append(v["layers"]["layers"][0] | {"name": "x"}))
    with pytest.raises(LayerscopeError, match=r"run.json: 'layer1.weight' belongs to layers"):
        Run.open(run.path)


@pytest.mark.parametrize("kind", sorted({*IRREGULAR} - {"loop"}))
def test_a_pipe_in_the_place_of_the_manifest_does_not_hang(tmp_path, kind):
    (tmp_path / "a").mkdir()
    IRREGULAR[kind](tmp_path / "a" / "run.json")
    with no_longer_than(20), pytest.raises(LayerscopeError, match=r"run.json is a (pipe|folder)"):
        Run.open(tmp_path / "a")


# Changes that no type shows


@pytest.mark.parametrize(
    ("place", "value", "field"),
    [
        ("steps_per_epoch", 13, "steps_per_epoch"),
        ("seed", 4, "seed"),
        ("created", "2020-01-01T00:00:00+00:00", "created"),
        ("layers/layers/1/name", "other", "layers"),
        ("notes/test_error", 0.26, "notes/test_error"),
        ("config/model/width", 255, "config/model"),
        ("config", None, "config/type"),
        ("checkpoints", [0, 1], "checkpoints"),
        ("environment/torch", "1.0", "environment"),
    ],
)
def test_a_value_that_was_changed_is_named(run, place, value, field):
    edit(run, put(place, value), checked=True)
    with pytest.raises(LayerscopeError, match=rf"run.json: {field} is (not what|missing)") as said:
        Run.open(run.path)
    assert f"delete {field!r} from its checks" in said.value.remedy


def test_what_is_gone_and_was_there_is_named(run):
    edit(run, without("notes/mine"), checked=True)
    with pytest.raises(LayerscopeError, match="notes/mine is missing"):
        Run.open(run.path)


def test_a_change_that_is_meant_is_accepted(run):
    edit(run, put("steps_per_epoch", 13), checked=True)
    edit(run, without("checks/steps_per_epoch"), checked=True)
    assert Run.open(run.path).steps_per_epoch == 13


def test_fields_and_notes_of_others_are_kept(run):
    edit(run, put("owner", {"name": ["me"]}), checked=True)
    edit(run, put("notes/theirs", 5), checked=True)
    edit(run, put("layers/layers/0/colour", "red"))
    found = Run.open(run.path)
    found.note(more=1)
    again = Run.open(run.path).manifest
    assert again["owner"] == {"name": ["me"]}
    assert again["layers"]["layers"][0]["colour"] == "red"
    assert again["notes"] == {"test_error": 0.25, "mine": {"a": [1, None]}, "theirs": 5, "more": 1}


def test_a_manifest_from_before_opens(run):
    edit(run, lambda values: [values.pop(name, None) for name in LATER[:3]])
    found = Run.open(run.path)
    assert (found.status, found.missing, found.mark) == ("complete", "", {})
    assert found.config == RunConfig()
    assert len(found.checkpoint(0)) == 6
    assert run_id(run.path) is None


# What is written can be read


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"seed": -5, "steps_per_epoch": 1, "total_steps": 0},
        {"steps_per_epoch": 12.5},
        {"config": {"x": (1, 2), 3: None}},
        {"config": {"type": "mine", "model": 3}},
        {"config": CONFIG},
    ],
)
@pytest.mark.parametrize("case", [FCN, TIED], ids=lambda case: case.name)
def test_what_is_made_is_valid(tmp_path, case, options):
    run = Run.create(tmp_path / "a", case.map(case.model()), **options)
    run.finish("diverged", diverged_at=3, error="x", test_error=None, anything=("a", 1))
    manifest = read_manifest(tmp_path / "a")
    assert manifest == json.loads(json.dumps(run.manifest))
    assert Run.open(tmp_path / "a").layers == run.layers


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps_per_epoch": 0}, "steps_per_epoch"),
        ({"seed": 2**70}, "seed"),
        ({"total_steps": -1}, "total_steps"),
        ({"config": {"x": object()}}, "cannot be kept as JSON"),
        ({"config": {"x": float("nan")}}, "cannot be kept as JSON"),
        ({"config": CONFIG | {"epochs": 2.5}}, "epochs"),
        ({"config": CONFIG | {"frozen": "layer1"}}, "frozen of RunConfig is 'layer1'"),
    ],
)
def test_what_could_not_be_read_back_is_refused_before_there_is_a_run(tmp_path, options, message):
    with pytest.raises(LayerscopeError, match=message):
        Run.create(tmp_path / "a", FCN.map(FCN.model()), **options)
    assert not (tmp_path / "a").exists()


def test_a_note_that_reports_could_not_use_is_refused_and_changes_nothing(run):
    before = (run.path / "run.json").read_text()
    for notes in ({"test_error": "low"}, {"x": object()}, {"x": float("inf")}):
        with pytest.raises(LayerscopeError):
            run.note(**notes)
    assert (run.path / "run.json").read_text() == before
    run.note(test_error=0.5)
    assert Run.open(run.path).manifest["notes"]["test_error"] == 0.5


def test_checks_that_are_gone_are_missed_where_there_were_some(run):
    edit(run, lambda values: values.pop("checks"), checked=True)
    with pytest.raises(LayerscopeError, match=r"run.json: checks is missing"):
        Run.open(run.path)
    edit(run, lambda values: values.pop("id"), checked=False)
    path = run.path / "run.json"
    values = json.loads(path.read_text())
    del values["checks"]
    path.write_text(json.dumps(values))
    assert Run.open(run.path).status == "complete"  # of before there were any
