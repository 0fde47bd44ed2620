"""What is read of a file, and that it is what the slow way of reading gives."""

from __future__ import annotations

import io
import pickle
import tracemalloc
from contextlib import suppress
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tests.memory import peak_bytes
from tests.reference.chunks import assembled
from torch.distributed.checkpoint import metadata as described
from torch.distributed.checkpoint.filesystem import _StorageInfo

from layerscope.errors import LayerscopeError
from layerscope.probes import DistanceFromInitialisation, WeightChange, measure_all
from layerscope.runs.checkpoints import TYPES
from layerscope.runs.sources import read_state_dict
from layerscope.runs.sources.state_dicts import opened
from layerscope.runs.store import Run

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
DTYPES = sorted(TYPES, key=str)


def numbers(dtype, size, seed=0):
    drawn = torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 8
    if dtype == torch.float8_e8m0fnu:
        return drawn.abs().to(dtype)
    return (drawn.abs() if not dtype.is_signed else drawn).to(dtype)


def same(a, b):
    """Equal to the bit, also for types that cannot be compared."""
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    flat = (torch.empty(t.shape, dtype=t.dtype).copy_(t).flatten() for t in (a, b))
    return torch.equal(*(t.view(torch.uint8) for t in flat))


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_types_are_kept(tmp_path, dtype, new):
    state = {"a": numbers(dtype, (3, 2)), "b": numbers(dtype, ())}
    torch.save(state, tmp_path / "a.pt", _use_new_zipfile_serialization=new)
    found = opened(tmp_path / "a.pt")
    assert [found.state.dtype(name) for name in state] == [TYPES[dtype]] * 2
    assert all(same(found.state[name], value) for name, value in state.items())


@st.composite
def views(draw):
    """A tensor that is a view of another: offset, strides, transposed, several of one storage."""
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool]))
    size = draw(st.lists(st.integers(0, 4), max_size=3))
    base = numbers(dtype, size, draw(st.integers(0, 9)))
    view = base
    for dim in range(base.dim()):
        start = draw(st.integers(0, base.shape[dim]))
        view = view[(slice(None),) * dim + (slice(start, None, draw(st.integers(1, 2))),)]
    if view.dim() > 1 and draw(st.booleans()):
        view = view.transpose(0, 1)
    return {"base": base, "view": view, "parameter": torch.nn.Parameter(view, requires_grad=False)}


@settings(max_examples=60, deadline=None)
@given(state=views(), new=st.booleans())
def test_views_are_read_as_torch_reads_them(tmp_path_factory, state, new):
    path = tmp_path_factory.getbasetemp() / "views.pt"
    torch.save(state, path, _use_new_zipfile_serialization=new)
    expected = torch.load(path, weights_only=True)
    found = read_state_dict(path)
    assert {*found} == {*expected}
    assert all(same(found[name], value) for name, value in expected.items())


def split(draw, size):
    """Chunks that make up a size: it is cut along each dimension."""
    chunks = [((), ())]
    for length in size:
        cuts = sorted({0, length, *draw(st.lists(st.integers(0, length), max_size=2))})
        parts = [(a, b - a) for a, b in pairwise(cuts)] or [(0, 0)]
        chunks = [((*o, a), (*s, n)) for o, s in chunks for a, n in parts]
    return chunks


def write_chunks(folder, size, chunks, whole):
    """A folder as torch.distributed.checkpoint writes it, each second chunk by a second process."""
    found, infos, streams = [], {}, [io.BytesIO(), io.BytesIO()]
    for i, (offsets, sizes) in enumerate(chunks):
        stream, part = streams[i % 2], whole
        for dim, (offset, length) in enumerate(zip(offsets, sizes, strict=True)):
            part = part.narrow(dim, offset, length)
        start = stream.tell()
        saved = io.BytesIO()
        torch.save(part.clone(), saved)
        stream.write(saved.getvalue())
        info = _StorageInfo(f"__{i % 2}_0.distcp", start, stream.tell() - start)
        infos[described.MetadataIndex("w", torch.Size(offsets))] = info
        found.append(described.ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes)))
    properties = described.TensorProperties(whole.dtype)
    tensor = described.TensorStorageMetadata(properties, torch.Size(size), found)
    metadata = described.Metadata({"w": tensor}, None, infos)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    for i, stream in enumerate(streams):
        (folder / f"__{i}_0.distcp").write_bytes(stream.getvalue())


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_chunks_are_put_together_as_number_by_number(tmp_path_factory, data):
    size = data.draw(st.lists(st.integers(1, 5), max_size=3))
    whole, chunks = numbers(torch.float64, size), split(data.draw, size)
    folder = tmp_path_factory.getbasetemp() / "chunks"
    folder.mkdir(exist_ok=True)
    write_chunks(folder, size, chunks, whole)
    parts = []
    for offsets, sizes in chunks:
        at = tuple(slice(o, o + n) for o, n in zip(offsets, sizes, strict=True))
        parts.append((offsets, whole.numpy()[at]))
    expected = assembled(size, parts, np.dtype("float64"))
    assert np.array_equal(read_state_dict(folder)["w"].numpy(), expected)


WRONG_CHUNKS = {
    "one missing": ([((0,), (2,))], "do not make up"),
    "outside": ([((0,), (2,)), ((3,), (2,))], "do not make up"),
    "another dimension": ([((0, 0), (2, 2))], "do not make up"),
}


@pytest.mark.parametrize(("chunks", "message"), WRONG_CHUNKS.values(), ids=WRONG_CHUNKS)
def test_chunks_that_are_not_the_tensor_are_refused(tmp_path, chunks, message):
    flat = [(offsets[:1], sizes[:1]) for offsets, sizes in chunks]
    write_chunks(tmp_path, (4,), flat, torch.zeros(8))
    found = pickle.loads((tmp_path / ".metadata").read_bytes())
    tensor = found.state_dict_metadata["w"]
    tensor.chunks = [
        described.ChunkStorageMetadata(torch.Size(o), torch.Size(s)) for o, s in chunks
    ]
    infos = list(found.storage_data.values())
    found.storage_data = {
        described.MetadataIndex("w", c.offsets): i
        for c, i in zip(tensor.chunks, infos, strict=True)
    }
    (tmp_path / ".metadata").write_bytes(pickle.dumps(found))
    with pytest.raises(LayerscopeError, match=message):
        read_state_dict(tmp_path)


def test_a_shape_that_no_file_has_numbers_for_is_refused_before_it_is_made(tmp_path):
    write_chunks(tmp_path, (4,), [((0,), (4,))], torch.zeros(4))
    found = pickle.loads((tmp_path / ".metadata").read_bytes())
    tensor = found.state_dict_metadata["w"]
    tensor.size = tensor.chunks[0].sizes = torch.Size([2**50])
    (tmp_path / ".metadata").write_bytes(pickle.dumps(found))
    with pytest.raises(LayerscopeError, match=r"__0_0.distcp is truncated: it ends before 'w'"):
        opened(tmp_path)


@settings(max_examples=100, deadline=None)
@given(at=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=3))
def test_a_damaged_description_of_chunks_is_an_error_and_never_another(tmp_path_factory, at):
    folder = tmp_path_factory.getbasetemp() / "damaged chunks"
    folder.mkdir(exist_ok=True)
    write_chunks(folder, (4,), [((0,), (2,)), ((2,), (2,))], torch.ones(4))
    content = bytearray((folder / ".metadata").read_bytes())
    for place, value in at:
        content[int(place * len(content))] = value
    (folder / ".metadata").write_bytes(content)
    with suppress(LayerscopeError):
        assert all(isinstance(value, torch.Tensor) for value in read_state_dict(folder).values())


def test_the_folder_that_trainers_under_fsdp_write_is_found(tmp_path):
    inside = tmp_path / "checkpoint-5" / "pytorch_model_fsdp_0"
    inside.mkdir(parents=True)
    write_chunks(inside, (2, 2), [((0, 0), (1, 2)), ((1, 0), (1, 2))], torch.eye(2))
    run = Run.from_checkpoints(tmp_path / "run", f"{tmp_path}/checkpoint-*")
    assert torch.equal(run.checkpoint(5)["w"], torch.eye(2))


def test_names_of_one_tensor_in_a_file_are_compared_without_reading_it(tmp_path):
    weight = torch.ones(2, 2)
    torch.save({"a": weight, "b": weight, "c": weight.clone()}, tmp_path / "step1.pt")
    state = opened(tmp_path / "step1.pt").state
    assert (state.is_one("a", "b"), state.is_one("a", "c")) == (True, False)


MEGABYTE = 2**20
SIZE = 4 * MEGABYTE


def write_large(folder, form, step):
    state = {f"layer{i}.weight": torch.full((256, 1024), float(step + i)) for i in range(4)}
    path = folder / f"step{step}"
    if form == "safetensors":
        save_file(state, path := path.with_suffix(".safetensors"))
    elif form == "distributed":
        import torch.distributed.checkpoint as dcp

        dcp.save(state, checkpoint_id=path, no_dist=True)
    else:
        torch.save(
            state, path := path.with_suffix(".pt"), _use_new_zipfile_serialization=form == "zip"
        )
    return path


def held(work):
    """Most bytes that Python, and tensors, held at once."""
    tracemalloc.start()
    tensors = peak_bytes(work)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak, tensors


@pytest.mark.parametrize("form", ["safetensors", "zip", "legacy", "distributed"])
def test_opening_reads_no_tensor_and_measuring_holds_three_checkpoints(tmp_path, form):
    for step in range(6):
        write_large(tmp_path, form, step)
    mapped = 2 * SIZE if form == "safetensors" else 0  # a file that is mapped counts as held
    probes = [WeightChange(), DistanceFromInitialisation()]
    first = Run.from_checkpoints(tmp_path / "first", f"{tmp_path}/step*")
    held(lambda: measure_all(probes, first))  # imports what all need
    runs = []
    opening = held(lambda: runs.append(Run.from_checkpoints(tmp_path / "run", f"{tmp_path}/step*")))
    assert sum(opening) < mapped + MEGABYTE
    assert runs[0].steps == [*range(6)]
    one = held(lambda: runs[0].checkpoint(3)["layer2.weight"])
    assert sum(one) < mapped + 2.2 * MEGABYTE
    found = held(lambda: measure_all(probes, runs[0]))
    assert sum(found) < mapped + 4.5 * SIZE
