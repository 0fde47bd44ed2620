from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from tests.cases import FCN

from layerscope.errors import LayerscopeError
from layerscope.probes import GradientMagnitude, measure
from layerscope.runs.fixed_batch import FILE, blaming_batch, store_batch, stored_batch
from layerscope.runs.store import Run

X = torch.arange(6.0).view(2, 3)


@pytest.fixture
def run(tmp_path):
    run = Run.create(tmp_path / "a", FCN.map(FCN.model()))
    yield run
    run.finish("complete")


@pytest.mark.parametrize(
    "batch", [X, (X, X + 1), {"x": X, "y": X + 1}, (X,)], ids=["tensor", "pair", "dict", "one"]
)
def test_a_batch_comes_back(run, batch):
    store_batch(run, batch)
    found = stored_batch(run)
    assert type(found) is type(batch)
    torch.testing.assert_close(found, batch, rtol=0, atol=0)


@pytest.mark.parametrize("batch", ["text", (X, "text"), None, (X, None), 3])
def test_what_is_no_tensor_cannot_be_stored(run, batch):
    with pytest.raises(LayerscopeError, match="cannot be stored"):
        store_batch(run, batch)
    assert stored_batch(run) is None


def test_a_nested_batch_is_passed_and_not_read(run):
    store_batch(run, {"x": (X, X)})
    with pytest.raises(LayerscopeError, match=r"batch.safetensors holds a nested batch"):
        stored_batch(run)


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        ({"/0": X, "/2": X + 1}, {"kind": "tuple"}),
        ({"/0": X}, {"kind": "list"}),
        ({"layer1.weight": X}, {}),
        ({"layer1.weight": X}, {"kind": "tuple"}),
    ],
)
def test_a_file_that_holds_no_batch_is_named(run, tensors, metadata):
    save_file(tensors, run.path / FILE, metadata)
    with pytest.raises(LayerscopeError, match=r"batch.safetensors holds no batch"):
        stored_batch(run)


def test_the_batch_of_another_run_is_refused(run, tmp_path):
    store_batch(run, X)
    other = Run.create(tmp_path / "b", FCN.map(FCN.model()))
    (other.path / FILE).write_bytes((run.path / FILE).read_bytes())
    with pytest.raises(LayerscopeError, match=r"batch.safetensors is that of run"):
        stored_batch(other)
    other.finish("complete")


@pytest.mark.parametrize(
    "batch",
    [
        (torch.ones(8, 5), torch.zeros(8).long()),
        (torch.ones(8, 4), torch.zeros(7).long()),
        (torch.ones(8, 4), torch.zeros(8)),
        (torch.ones(8, 4),),
        {"x": torch.ones(8, 4)},
    ],
    ids=["inputs", "labels", "type", "no labels", "names"],
)
def test_a_batch_that_does_not_fit_the_model_is_named(run, batch):
    run.write_checkpoint(0, FCN.model().state_dict())
    store_batch(run, batch)
    named = r"Sequential does not run on the batch|labels|the batch is a"
    with pytest.raises(LayerscopeError, match=named) as said:
        measure(GradientMagnitude(), run, model=FCN.model(), task=FCN.task)
    if "does not run" in said.value.message:  # else the task says what is wrong with it
        assert "batch.safetensors" in said.value.remedy


def test_what_fails_for_another_reason_is_left_alone():
    def failing(moment, layers):
        raise ZeroDivisionError

    fits = SimpleNamespace(model=FCN.model(), task=FCN.task, batch=FCN.batch(0))
    for moment in (fits, SimpleNamespace(batch=None)):
        with pytest.raises(ZeroDivisionError):
            blaming_batch(failing, moment, None)
