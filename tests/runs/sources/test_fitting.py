from __future__ import annotations

from math import inf, nan

import pytest
import torch
from safetensors.torch import save_file
from tests.breaking import IRREGULAR, no_longer_than
from tests.cases import FCN, TIED
from torch import nn

from layerscope.errors import LayerscopeError
from layerscope.networks.names import named_state
from layerscope.runs.sources import read_state_dict
from layerscope.runs.sources.fitting import _equal, fit
from layerscope.runs.store import Run

# The weight of TIED is `output.weight`, which comes first, and `embedding.weight`.


def tied_state():
    model = TIED.model()
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("left_out", ["output.weight", "embedding.weight", None])
def test_a_tied_tensor_may_have_any_of_its_names(tmp_path, left_out):
    state = tied_state()
    expected = state["output.weight"]
    state.pop(left_out, None)
    save_file(state, tmp_path / "model.safetensors")
    run = Run.from_checkpoints(tmp_path / "run", {0: tmp_path / "model.safetensors"}, TIED.model(1))
    assert torch.equal(run.checkpoint(0)["output.weight"], expected)
    assert "embedding.weight" not in run.checkpoint(0)
    loaded = run.load(TIED.model(2), 0)
    assert torch.equal(loaded.embedding.weight, expected)


def test_the_own_checkpoints_of_a_tied_run_make_a_run(tmp_path):
    model = TIED.model()
    run = Run.from_checkpoints(tmp_path / "a", {3: model.state_dict()}, model)
    again = Run.from_checkpoints(tmp_path / "b", {s: run.checkpoint(s) for s in run.steps}, model)
    assert {*again.checkpoint(3)} == {*run.checkpoint(3)} == {"output.weight", *named_hidden(model)}
    assert all(torch.equal(again.checkpoint(3)[n], v) for n, v in run.checkpoint(3).items())


def named_hidden(model):
    return {name for name in named_state(model) if name.startswith("hidden")}


def test_names_of_one_tensor_must_agree(tmp_path):
    state = tied_state()
    state["embedding.weight"][0, 0] += 1
    with pytest.raises(
        LayerscopeError, match=r"'output.weight' and 'embedding.weight' differ in .* step 7"
    ):
        Run.from_checkpoints(tmp_path / "run", {7: state}, TIED.model())
    state["output.weight"][0, 0] = state["embedding.weight"][0, 0] = torch.nan
    assert fit(state, TIED.model(), "it")["output.weight"] == "output.weight"


def test_a_tied_run_loads_into_a_model_that_is_not_tied_and_the_reverse_must_agree(tmp_path):
    model = TIED.model()
    run = Run.from_checkpoints(tmp_path / "a", {0: model.state_dict()}, model)
    untied = TIED.model(1)
    untied.output.weight = nn.Parameter(torch.zeros(11, 8))
    run.load(untied, 0)
    assert torch.equal(untied.output.weight, untied.embedding.weight)
    untied.output.weight.data.add_(1)
    other = Run.from_checkpoints(tmp_path / "b", {0: untied.state_dict()}, untied)
    with pytest.raises(LayerscopeError, match=r"do not fit Tied: .*differ"):
        other.load(model, 0)


SHARDED = "_fsdp_wrapped_module."
WRAPPED = {
    "parallel": lambda n: f"module.{n}",
    "compiled": lambda n: f"_orig_mod.{n}",
    "both": lambda n: f"module._orig_mod.{n}",
    "part": lambda n: n.replace("layer1.", "layer1._orig_mod."),
    "sharded": lambda n: (
        f"_fsdp_wrapped_module.{n.replace('layer1.', 'layer1._fsdp_wrapped_module.')}"
    ),
    "checkpointed": lambda n: n.replace("layer1.", "layer1._checkpoint_wrapped_module."),
    "twice": lambda n: f"_orig_mod._orig_mod.{n}",
    "Lightning": lambda n: f"model.{n}",
    "another attribute": lambda n: f"net.{n}",
    "all": lambda n: f"module.model._orig_mod.{n}",
}


@pytest.mark.parametrize("rename", WRAPPED.values(), ids=WRAPPED)
def test_prefixes_of_wrappers_are_left_out(tmp_path, rename):
    model = FCN.model()
    state = {rename(name): value for name, value in model.state_dict().items()}
    run = Run.from_checkpoints(tmp_path / "run", {0: state}, FCN.model(1))
    assert {*run.checkpoint(0)} == {*model.state_dict()}
    assert torch.equal(run.checkpoint(0)["layer1.weight"], model.layer1.weight)


@pytest.mark.parametrize("name", ["parallel", "compiled", "both", "sharded", "twice"])
def test_without_a_model_prefixes_that_only_wrappers_add_are_left_out(tmp_path, name):
    own = FCN.model().state_dict()
    state = {WRAPPED[name](n): value for n, value in own.items()}
    run = Run.from_checkpoints(tmp_path / "run", {0: state})
    assert {*run.checkpoint(0)} == {*own}
    kept = {f"model.{n}": value for n, value in own.items()}
    assert {*Run.from_checkpoints(tmp_path / "kept", {0: kept}).checkpoint(0)} == {*kept}


def test_what_was_left_out_of_names_is_noted(tmp_path):
    state = {f"module._orig_mod.{n}": v for n, v in FCN.model().state_dict().items()}
    for model in (None, FCN.model()):
        run = Run.from_checkpoints(tmp_path / str(model is None), {0: state}, model)
        assert run.manifest["notes"]["imported"]["prefixes"] == ["_orig_mod.", "module."]


def test_two_tensors_of_one_name_are_refused(tmp_path):
    state = FCN.model().state_dict()
    state["_orig_mod.layer1.weight"] = state["layer1.weight"]
    with pytest.raises(LayerscopeError, match=r"both 'layer1\.weight' in the checkpoint"):
        Run.from_checkpoints(tmp_path / "run", {0: state})


def test_tensors_that_a_model_says_it_ignores_are_left_out(tmp_path):
    model = FCN.model()
    state = model.state_dict() | {"layer1.masked_bias": torch.ones(1)}
    model._keys_to_ignore_on_load_unexpected = [r"masked_bias"]
    run = Run.from_checkpoints(tmp_path / "run", {0: state}, model)
    assert run.manifest["notes"]["imported"]["left_out"] == ["layer1.masked_bias"]
    assert "layer1.masked_bias" not in run.checkpoint(0)


def test_a_prefix_that_only_some_names_have_is_no_wrapper_and_the_error_says_so(tmp_path):
    state = {f"module.{name}": value for name, value in FCN.model().state_dict().items()}
    state["layer1.weight"] = state.pop("module.layer1.weight")
    with pytest.raises(LayerscopeError, match=r"unknown tensor 'module\.layer1\.bias'"):
        Run.from_checkpoints(tmp_path / "run", {0: state}, FCN.model())
    with pytest.raises(LayerscopeError, match=r"lacks 'layer1.weight'.\n.*'module\.'"):
        Run.from_checkpoints(tmp_path / "run", {0: {}}, FCN.model())


class Inner(nn.Module):
    """A model whose own submodule is called as wrappers call theirs, with extra state."""

    def __init__(self):
        super().__init__()
        self.module = nn.Linear(2, 2)
        self.counter = 5

    def get_extra_state(self):
        return {"counter": self.counter}

    def set_extra_state(self, state):
        self.counter = state["counter"]


def test_names_of_the_model_itself_stay_and_extra_state_is_left_out(tmp_path):
    model = Inner()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    assert {*read_state_dict(tmp_path / "model.pt")} == {"module.weight", "module.bias"}
    sources = {0: tmp_path / "model.pt", 1: model.state_dict()}
    run = Run.from_checkpoints(tmp_path / "run", sources, model)
    assert {*run.checkpoint(0)} == {*run.checkpoint(1)} == {"module.weight", "module.bias"}
    other = Inner()
    other.counter = 8
    run.load(other, 1)
    assert torch.equal(other.module.weight, model.module.weight)
    assert other.counter == 8


@pytest.mark.parametrize(
    ("checkpoints", "message"),
    [
        ({}, "there are no checkpoints"),
        ({"0": None}, "the step '0' is no integer"),
        ({0.5: None}, "the step 0.5 is no integer"),
        ({-1: None}, "the step -1 is no integer from 0 on"),
        ({True: None}, "the step True is no integer"),
        ({0: {}, None: None}, "the step None is no integer"),
    ],
)
def test_steps_are_integers_from_zero_on(tmp_path, checkpoints, message):
    with pytest.raises(LayerscopeError, match=message):
        Run.from_checkpoints(tmp_path / "run", checkpoints, FCN.model())
    assert not (tmp_path / "run").exists()


def test_integers_of_numpy_are_steps(tmp_path):
    import numpy as np

    run = Run.from_checkpoints(tmp_path / "a", {np.int64(3): FCN.model().state_dict()}, FCN.model())
    assert run.steps == [3]


@pytest.mark.parametrize("kind", IRREGULAR)
@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_what_is_no_file_is_no_checkpoint(tmp_path, kind, name):
    IRREGULAR[kind](tmp_path / name)
    with (
        no_longer_than(20),
        pytest.raises(LayerscopeError, match=rf"{name}(:| is a (pipe|folder))"),
    ):
        Run.from_checkpoints(tmp_path / "run", {0: tmp_path / name}, FCN.model())
    assert not (tmp_path / "run").exists()


def test_a_pickle_that_is_called_safetensors_is_not_to_be_deleted(tmp_path):
    torch.save(FCN.model().state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(
        LayerscopeError, match=r"model.safetensors .*\n.*must not be called"
    ) as said:
        Run.from_checkpoints(tmp_path / "run", {0: tmp_path / "model.safetensors"}, FCN.model())
    assert "elete" not in str(said.value)


@pytest.mark.parametrize("model", [nn.ReLU(), nn.Sequential()])
def test_a_model_without_parameters_has_no_layers(tmp_path, model):
    with pytest.raises(LayerscopeError, match="has no parameters"):
        Run.from_checkpoints(tmp_path / "run", {0: {}}, model)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("existed", [False, True])
def test_a_failure_leaves_nothing_behind(tmp_path, existed, monkeypatch):
    path = tmp_path / "run"
    if existed:
        path.mkdir()
        (path / "mine.txt").write_text("kept")
    write = Run.write_checkpoint

    def failing(run, step, tensors):
        if step:
            raise KeyboardInterrupt
        write(run, step, tensors)

    monkeypatch.setattr(Run, "write_checkpoint", failing)
    states = {step: FCN.model().state_dict() for step in (0, 1)}
    with pytest.raises(KeyboardInterrupt):
        Run.from_checkpoints(path, states, FCN.model())
    assert [p.name for p in path.rglob("*")] == (["mine.txt"] if existed else [])
    monkeypatch.undo()
    assert Run.from_checkpoints(path, states, FCN.model()).steps == [0, 1]


def test_a_run_that_is_there_stays(tmp_path):
    states = {0: FCN.model().state_dict()}
    Run.from_checkpoints(tmp_path / "run", states, FCN.model())
    with pytest.raises(LayerscopeError, match="already holds a run"):
        Run.from_checkpoints(tmp_path / "run", states, FCN.model())
    assert Run.open(tmp_path / "run").steps == [0]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ([nan, 1.0, inf], [nan, 1.0, inf], True),
        ([0.0, -0.0], [-0.0, 0.0], True),
        ([nan, 1.0], [0.0, 1.0], False),
        ([inf, 1.0], [torch.finfo(torch.float32).max, 1.0], False),
        ([1.0, 2.0], [1.0, 3.0], False),
    ],
)
def test_tied_tensors_are_the_same_where_every_number_is(one, other, same):
    state = {"a": torch.tensor(one), "b": torch.tensor(other)}
    assert _equal(state, "a", "b") == same


def test_tied_tensors_of_8_bits_are_compared():
    numbers = torch.tensor([1.0, -0.0]).to(torch.float8_e4m3fn)
    assert _equal({"a": numbers, "b": numbers.clone()}, "a", "b")
    assert _equal({"a": numbers, "b": torch.tensor([1.0, 0.0]).to(torch.float8_e4m3fn)}, "a", "b")
    assert not _equal({"a": numbers, "b": torch.tensor([2.0, 0.0]).to(numbers.dtype)}, "a", "b")
