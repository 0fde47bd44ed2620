"""What holds for every format: one suite over all of them."""

from __future__ import annotations

import shutil

import pytest
import torch
import xarray as xr
from tests.runs.sources.formats import FORMATS

from layerscope.errors import LayerscopeError
from layerscope.probes import DistanceFromInitialisation, WeightChange, measure_all
from layerscope.runs.checkpoints import TYPES
from layerscope.runs.sources import read_state_dict
from layerscope.runs.sources.opening import open_path
from layerscope.runs.sources.state_dicts import opened
from layerscope.runs.store import Run

pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning"),
    pytest.mark.filterwarnings("ignore:The `?'?train_dataloader"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.`"),
    pytest.mark.filterwarnings("ignore:You are trying to `self.log"),
]


@pytest.fixture(scope="module", params=FORMATS, ids=str)
def written(request, tmp_path_factory):
    """A format, a model, and the model in that format."""
    model = request.param.build()
    path = request.param.write(tmp_path_factory.mktemp("written"), model)
    return request.param, model, path


@pytest.fixture
def copied(written, tmp_path):
    """The same, to be damaged."""
    form, model, path = written
    if path.is_dir():
        return form, model, shutil.copytree(path, tmp_path / path.name)
    return form, model, shutil.copy2(path, tmp_path / path.name)


def test_names_shapes_types_and_values_are_those_of_the_model(written):
    form, model, path = written
    found, own = opened(path, form.key), model.state_dict()
    assert (found.contents.format, found.key) == (form.says, form.found)
    names = {name.removeprefix(form.prefix): name for name in found.state}
    assert names.keys() <= own.keys()
    assert own.keys() - names.keys() <= {"lm_head.weight"}
    for name, stored in names.items():
        assert found.state.shape(stored) == own[name].shape
        assert found.state.dtype(stored) == TYPES[own[name].dtype]
        value = found.state[stored]
        assert (value.dtype, value.is_contiguous()) == (own[name].dtype, True)
        assert torch.equal(value, own[name])


def test_it_is_imported_by_reference_and_measured_as_the_state_dict(written, tmp_path):
    form, model, path = written
    start = form.build(1).state_dict()
    runs = {
        "there": Run.from_checkpoints(tmp_path / "a", {0: start, 7: path}, model, key=form.key),
        "copied": Run.from_checkpoints(
            tmp_path / "b", {0: start, 7: path}, model, key=form.key, copy=True
        ),
        "memory": Run.from_checkpoints(tmp_path / "c", {0: start, 7: model.state_dict()}, model),
    }
    assert (runs["there"].steps, runs["there"].missing) == ([0, 7], "")
    assert sorted(p.name for p in (tmp_path / "a" / "checkpoints").iterdir()) == [
        "000000000.safetensors",
        "000000007.json",
    ]
    probes = [WeightChange(), DistanceFromInitialisation()]
    found = {name: measure_all(probes, run) for name, run in runs.items()}
    for probe in probes:
        for name in ("there", "copied"):
            xr.testing.assert_equal(found[name][probe.key], found["memory"][probe.key])
    assert float(found["there"]["weight_change"]["change"].min()) > 0
    assert runs["there"].manifest["notes"]["imported"]["prefixes"] == (
        [form.prefix] if form.prefix else []
    )
    loaded = Run.open(tmp_path / "a").load(form.build(2), 7).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in model.state_dict().items())


def test_without_a_model_layers_come_from_names_and_the_step_too(written, tmp_path):
    form, model, path = written
    run = Run.from_checkpoints(tmp_path / "run", path, key=form.key)
    assert run.steps == [7]
    own = model.state_dict()
    stripped = {name.removeprefix(form.prefix): value for name, value in run.checkpoint(7).items()}
    assert all(torch.equal(own[name], value) for name, value in stripped.items())
    parameters = {name for name, _ in model.named_parameters()} - {"lm_head.weight"}
    assert {n.removeprefix(form.prefix) for n in run.layers.parameter_names} == parameters
    numbered = [name for name in run.layers.names if "inner" in name]
    assert numbered == [f"{form.prefix}inner.{i}" for i in range(len(numbered))]


def weights(path, form):
    """The files that hold tensors, an index aside."""
    files = open_path(path).files
    return [f for f in files if f.suffix != ".json" and f.name != ".metadata"] or list(files)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_truncated_files_are_named(copied, share):
    form, _, path = copied
    file = max(weights(path, form), key=lambda f: f.stat().st_size)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(LayerscopeError, match=rf"{file.name}.* is (truncated|damaged|empty)"):
        read_state_dict(path, form.key)


def test_a_missing_file_is_named(copied):
    form, _, path = copied
    file = weights(path, form)[-1]
    file.unlink()
    name = file.name if form.shards or form.says == "distributed checkpoint" else path.name
    with pytest.raises(LayerscopeError, match=rf"{name}|model_1") as said:
        read_state_dict(path, form.key)
    assert said.value.remedy


def test_a_file_that_was_changed_is_noticed(copied, tmp_path):
    form, model, path = copied
    run = Run.from_checkpoints(tmp_path / "run", {7: path}, model, key=form.key)
    file = weights(path, form)[-1]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(LayerscopeError, match=rf"{file.name}.* was changed since"):
        run.checkpoint(7)


def test_a_wrong_key_lists_what_there_is(written):
    _, _, path = written
    with pytest.raises(LayerscopeError, match=r"no weights at key 'nothing\.here'.\n.*It has \w"):
        read_state_dict(path, "nothing.here")
