import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from layerscope.errors import LayerscopeError
from layerscope.models.fcn import fcn
from layerscope.probes import DistanceFromInitialisation, measure
from layerscope.runs.sources import read_state_dict
from layerscope.runs.sources.state_dicts import opened
from layerscope.runs.store import Run

TENSORS = {"a": torch.arange(3.0), "b": torch.ones(2, 2)}


def saved(folder, kind):
    path = folder / f"model.{kind}"
    save_file(TENSORS, path) if kind == "safetensors" else torch.save(TENSORS, path)
    return path


@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_every_format_reads_alike(tmp_path, kind):
    found = read_state_dict(saved(tmp_path, kind))
    assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_truncated_files_are_named(tmp_path, kind):
    path = saved(tmp_path, kind)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(LayerscopeError, match=r"model\.\w+ is truncated"):
        read_state_dict(path)


class Code:
    def __reduce__(self):
        return (print, ("executed",))


def test_pickled_code_is_never_run(tmp_path, capsys):
    torch.save(Code(), tmp_path / "model.pt")
    with pytest.raises(LayerscopeError, match=r"an object of __builtin__\.print, which"):
        read_state_dict(tmp_path / "model.pt")
    assert "executed" not in capsys.readouterr().out


NESTED = {
    "one": ({"model": TENSORS, "epoch": 3}, None, "model"),
    "deeper": ({"app": {"model": TENSORS, "optim": {"state": {0: TENSORS}}}}, None, "app.model"),
    "the same twice": ({"model": TENSORS, "net": TENSORS}, None, "model"),
    "given": ({"model": TENSORS, "ema": {"a": torch.ones(1)}}, "model", "model"),
    "dots in names": ({"a.b": {"c": TENSORS}, "a": {"x": TENSORS}}, "a.b.c", "a.b.c"),
    "beginning of names": ({f"app.net.{n}": v for n, v in TENSORS.items()}, "app.net", "app.net"),
    "extra state": (TENSORS | {"module._extra_state": 5}, None, ""),
}


@pytest.mark.parametrize(("saved", "key", "found"), NESTED.values(), ids=NESTED)
def test_weights_are_found_in_a_training_state(tmp_path, saved, key, found):
    torch.save(saved, tmp_path / "model.pt")
    state = opened(tmp_path / "model.pt", key)
    assert (state.key, {*state.state}) == (found, {*TENSORS})
    assert all(torch.equal(state.state[name], value) for name, value in TENSORS.items())


NOT_FOUND = {
    "several": (
        {"model": TENSORS, "ema": {"a": torch.ones(1)}},
        r"weights more than once: 'model', 'ema'\.\n.*key='model'",
    ),
    "none": ({"epoch": 3, "lr": 0.1}, r"it has 'epoch' \(a int\), 'lr' \(a float\)"),
    "mixed": ({"a": torch.ones(1), "version": 3}, r"it has 'version' \(a int\)"),
    "numbers for names": ({0: torch.ones(1)}, "no dictionary of nothing but tensors"),
    "empty": ({}, "it is empty"),
    "tensor": (torch.ones(3), "holds one tensor, not a state dict"),
    "list": ([TENSORS], "holds a list, not a state dict"),
    "whole model": (nn.Linear(2, 2), "object of torch.nn.modules.linear.Linear, which is not"),
    "sparse": ({"a": torch.eye(2).to_sparse()}, "_rebuild_sparse_tensor, which is not built"),
}


@pytest.mark.parametrize(("saved", "message"), NOT_FOUND.values(), ids=NOT_FOUND)
def test_what_holds_no_weights_or_several_says_what_it_holds(tmp_path, saved, message):
    torch.save(saved, tmp_path / "model.pt")
    with pytest.raises(LayerscopeError, match=message):
        read_state_dict(tmp_path / "model.pt")


def test_a_run_of_checkpoints_can_be_measured(tmp_path):
    model = fcn((4,), 2, depth=1, width=3)
    states = {}
    for step in (0, 10, 20):
        states[step] = {k: v + step for k, v in model.state_dict().items()}
    torch.save(states[20], tmp_path / "last.pt")
    run = Run.from_checkpoints(tmp_path / "run", states | {20: tmp_path / "last.pt"}, model)
    distance = measure(DistanceFromInitialisation(), run)["rms_distance"]
    assert run.status == "complete"
    assert distance.sel(step=20).values == pytest.approx([20, 20], rel=1e-5)


MISFITS = {
    "missing": (lambda s: s.pop("output.bias"), "lacks 'output.bias'"),
    "unknown": (lambda s: s.update(extra=torch.ones(1)), "unknown tensor 'extra'"),
    "shape": (lambda s: s.update({"output.bias": torch.ones(9)}), "'output.bias' has shape"),
}


@pytest.mark.parametrize(("change", "message"), MISFITS.values(), ids=MISFITS)
def test_checkpoints_that_do_not_fit_are_named(tmp_path, change, message):
    model = fcn((4,), 2, depth=1, width=3)
    state = dict(model.state_dict())
    change(state)
    with pytest.raises(LayerscopeError, match=message):
        Run.from_checkpoints(tmp_path / "run", {0: state}, model)
    assert not (tmp_path / "run").exists()
