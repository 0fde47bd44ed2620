from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tests.breaking import IRREGULAR, no_longer_than
from tests.cases import CNN, FCN

from layerscope.errors import LayerscopeError
from layerscope.runs.resume import FILE, load_state, save_state, set_random_state
from layerscope.runs.store import Run

RECORDER = {"step": 4, "loss_sum": 1.5, "loss_count": 2, "mine": [1, "x"]}


def trained(seed, steps=2, kind=torch.optim.Adam, case=FCN):
    """A model and its optimiser after some steps."""
    model = case.model(seed)
    optimizer = kind(model.parameters(), lr=0.1)
    for step in range(steps):
        batch = case.batch(step)
        case.task.loss(case.task.forward(model, batch), batch).backward()
        optimizer.step()
    return model, optimizer


@pytest.fixture
def saved(tmp_path):
    """A folder with the state of an interrupted run."""
    model, optimizer = trained(0)
    run = Run.create(tmp_path / "a", FCN.map(model))
    previous = [None, {"layer1.weight": torch.ones(8, 4)}]
    save_state(run.path, model, optimizer, {**RECORDER, "previous": previous})
    run.finish("interrupted")
    return run.path


def test_everything_comes_back(saved):
    model, optimizer = trained(0)
    other, fresh = trained(1, 0)
    recorder, random = load_state(saved, other, fresh)
    previous = recorder.pop("previous")
    assert recorder == RECORDER
    assert previous[0] is None
    assert torch.equal(previous[1]["layer1.weight"], torch.ones(8, 4))
    assert all(torch.equal(other.state_dict()[n], v) for n, v in model.state_dict().items())
    found, expected = fresh.state_dict(), optimizer.state_dict()
    assert json.dumps(found["param_groups"]) == json.dumps(expected["param_groups"])
    for index, values in expected["state"].items():
        assert all(torch.equal(found["state"][index][k], v) for k, v in values.items())
    set_random_state(random)
    assert torch.equal(torch.get_rng_state(), random["random/cpu"])


def rewritten(folder, tensors=(), state=(), **metadata):
    """Change the file as if this was what had been written, without checksums."""
    path = folder / FILE
    with safe_open(path, "pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        text = file.metadata()
    text.pop("layerscope.xxh3")
    values = json.loads(text["state"])
    for place, value in dict(state).items():
        *parts, last = [int(p) if p.isdigit() else p for p in place.split("/")]
        into = values
        for part in parts:
            into = into[part]
        if value is ...:
            del into[last]
        else:
            into[last] = value
    found |= dict(tensors)
    found = {name: value for name, value in found.items() if value is not None}
    save_file(found, path, text | {"state": json.dumps(values)} | metadata)


FAULTS = {
    "no step": ({"recorder/step": ...}, {}, "recorder.*`step`"),
    "negative step": ({"recorder/step": -1}, {}, "recorder.step"),
    "step": ({"recorder/step": "4"}, {}, "recorder.step"),
    "loss sum": ({"recorder/loss_sum": "1.5"}, {}, "recorder.loss_sum"),
    "loss count": ({"recorder/loss_count": 1.5}, {}, "recorder.loss_count"),
    "no recorder": ({"recorder": ...}, {}, "`recorder`"),
    "recorder": ({"recorder": None}, {}, "recorder"),
    "previous": ({"n_previous": -2}, {}, "n_previous"),
    "groups": ({"groups": True}, {}, "groups"),
    "group": ({"groups/0": None}, {}, "groups"),
    "no groups": ({"groups": []}, {}, "groups"),
    "rate": ({"groups/0/lr": "0.1"}, {}, "groups/0/lr is '0.1'"),
    "betas": ({"groups/0/betas": None}, {}, "groups/0/betas is None"),
    "one beta": ({"groups/0/betas": [0.9]}, {}, r"groups/0/betas is \[0.9\]"),
    "decay": ({"groups/0/weight_decay": 0.5}, {}, "groups/0/weight_decay is 0.5, not 0"),
    "parameters": ({"groups/0/params": [0]}, {}, "groups"),
    "numbers": ({"numbers": [1]}, {}, "numbers"),
    "no weight": ({}, {"model/layer1.weight": None}, "'layer1.weight' is missing"),
    "shape": ({}, {"model/layer1.weight": torch.ones(1)}, "'layer1.weight' is .*shape"),
    "type": ({}, {"model/layer1.weight": torch.ones(8, 4).bool()}, "'layer1.weight' is torch.bool"),
    "no random": ({}, {"random/cpu": None}, "random/cpu"),
    "short random": ({}, {"random/cpu": torch.ones(9).byte()}, "random/cpu"),
    "random type": ({}, {"random/cpu": torch.ones(5056)}, "random/cpu"),
    "moment": ({}, {"optimizer/0/exp_avg": torch.ones(9)}, "optimizer/0/exp_avg has shape"),
    "index": ({}, {"optimizer/99/exp_avg": torch.ones(9)}, "optimizer/99"),
    "name": ({}, {"optimizer/x/exp_avg": torch.ones(9)}, "'optimizer/x/exp_avg' has no index"),
    "short name": ({}, {"optimizer/1": torch.ones(9)}, "'optimizer/1' has no index"),
    "previous name": ({}, {"previous/1/x": torch.ones(1)}, "'x' is missing"),
    "previous shape": ({}, {"previous/1/layer1.weight": torch.ones(1)}, "'layer1.weight' is"),
}


@pytest.mark.parametrize(("state", "tensors", "message"), FAULTS.values(), ids=FAULTS)
def test_what_is_wrong_is_named_and_nothing_is_changed(saved, state, tensors, message):
    rewritten(saved, tensors, state)
    model, optimizer = trained(1, 0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(LayerscopeError, match=rf"resume.safetensors .*{message}"):
        load_state(saved, model, optimizer)
    assert all(torch.equal(model.state_dict()[n], v) for n, v in before.items())


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 5000, "null"])
def test_metadata_that_are_no_state_are_named(saved, text):
    path = saved / FILE
    with safe_open(path, "pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(found, path, {"state": text})
    with pytest.raises(LayerscopeError, match=r"resume.safetensors"):
        load_state(saved, *trained(1, 0))


def test_settings_that_the_file_does_not_have_are_the_optimisers_own(saved):
    rewritten(saved, state={"groups/0/fused": ..., "groups/0/betas": ...})
    model, optimizer = trained(1, 0)
    optimizer.param_groups[0]["lr"] = 7.0
    load_state(saved, model, optimizer)
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"]) == (
        0.1,
        (0.9, 0.999),
    )


def test_the_state_of_another_run_or_model_is_refused(saved, tmp_path):
    other = Run.create(tmp_path / "b", FCN.map(FCN.model()))
    (other.path / FILE).write_bytes((saved / FILE).read_bytes())
    with pytest.raises(LayerscopeError, match=r"resume.safetensors .*belongs to the run"):
        load_state(other.path, *trained(0, 0))
    with pytest.raises(LayerscopeError, match=r"resume.safetensors .*is missing"):
        load_state(saved, *trained(0, 0, case=CNN))
    with pytest.raises(LayerscopeError, match=r"resume.safetensors .*groups/0"):
        load_state(saved, *trained(0, 0, kind=torch.optim.SGD))
    other.finish("interrupted")


@pytest.mark.parametrize("kind", sorted({*IRREGULAR} - {"loop"}))
def test_only_a_regular_file_is_read(saved, kind):
    (saved / FILE).unlink()
    IRREGULAR[kind](saved / FILE)
    with no_longer_than(20), pytest.raises(LayerscopeError, match=r"resume.safetensors is a"):
        load_state(saved, *trained(0, 0))
