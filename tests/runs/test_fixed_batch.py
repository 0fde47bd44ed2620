from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from tests.cases import FCN

from layerscope.errors import LayerscopeError
from layerscope.runs.fixed_batch import FILE, flatten
from layerscope.runs.store import Run

X = torch.arange(6.0).view(2, 3)


def kinds(batch):
    """Types of everything in a batch, outermost first."""
    parts = batch.values() if isinstance(batch, dict) else batch
    return type(batch), () if isinstance(batch, torch.Tensor) else tuple(map(kinds, parts))


@pytest.fixture
def run(tmp_path):
    run = Run.create(tmp_path / "a", FCN.map(FCN.model()))
    yield run
    run.finish("complete")


@pytest.mark.parametrize(
    "batch",
    [
        X,
        (X, X + 1),
        {"x": X, "y": X + 1},
        (X,),
        {"x": (X, X + 1), "a/b": [X + 2, {"1": X + 3}], "empty": ()},
        [[X], (X + 1,)],
    ],
    ids=["tensor", "pair", "dict", "one", "nested", "lists"],
)
def test_a_batch_comes_back(run, batch):
    run.store_batch(batch)
    found = run.batch
    assert kinds(found) == kinds(batch)
    torch.testing.assert_close(found, batch, rtol=0, atol=0)


@pytest.mark.parametrize("batch", ["text", (X, "text"), None, (X, None), 3])
def test_what_is_no_tensor_cannot_be_stored(run, batch):
    with pytest.raises(LayerscopeError, match="cannot be stored"):
        run.store_batch(batch)
    assert run.batch is None


@pytest.mark.parametrize(
    ("batch", "kind"), [(X, "tuple"), ((X, X + 1), "tuple"), ({"x": X, "y": X + 1}, "dict")]
)
def test_files_from_before_nested_ones_are_read(run, batch, kind):
    save_file(flatten(batch), run.path / FILE, {"kind": kind})
    torch.testing.assert_close(run.batch, batch, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        ({"/0": X, "/2": X + 1}, {"kind": "tuple"}),
        ({"/0": X}, {"kind": "list"}),
        ({"/x/0": X}, {"kind": "dict"}),
        ({"/0": X}, {"kind": "tuple", "nesting": '["set", [null]]'}),
        ({"/0": X}, {"kind": "tuple", "nesting": '["tuple", [null, null]]'}),
        ({"/0": X}, {"kind": "tuple", "nesting": "[" * 9}),
        ({"layer1.weight": X}, {}),
        ({"layer1.weight": X}, {"kind": "tuple"}),
    ],
)
def test_a_file_that_holds_no_batch_is_named(run, tensors, metadata):
    save_file(tensors, run.path / FILE, metadata)
    with pytest.raises(LayerscopeError, match=r"batch.safetensors holds no batch"):
        _ = run.batch


def test_the_batch_of_another_run_is_refused(run, tmp_path):
    run.store_batch(X)
    other = Run.create(tmp_path / "b", FCN.map(FCN.model()))
    (other.path / FILE).write_bytes((run.path / FILE).read_bytes())
    with pytest.raises(LayerscopeError, match=r"batch.safetensors is that of run"):
        _ = other.batch
    other.finish("complete")
