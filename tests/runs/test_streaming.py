"""Files that are written tensor by tensor, against safetensors' own reader and writer."""

from __future__ import annotations

import json

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from safetensors.torch import load, save
from tests.memory import peak_bytes

from layerscope.runs.checkpoints import Tensors, write_tensors
from layerscope.runs.streaming import CODES, layout

NAMES = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8).filter(
    lambda name: name != "__metadata__"
)
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
SHAPES = st.lists(st.integers(0, 4), max_size=3)


@st.composite
def tensors(draw):
    """Tensors of every type and of random bytes, some of them transposed."""
    found = {}
    for name in draw(st.lists(NAMES, max_size=5, unique=True)):
        dtype, shape = draw(st.sampled_from(list(CODES))), draw(SHAPES)
        n = torch.Size(shape).numel() * dtype.itemsize
        high = 2 if dtype == torch.bool else 256
        content = torch.tensor(
            draw(st.lists(st.integers(0, high - 1), min_size=n, max_size=n)), dtype=torch.uint8
        )
        tensor = content.view(dtype).view(shape)
        found[name] = tensor.transpose(0, -1) if len(shape) > 1 and draw(st.booleans()) else tensor
    return found


def raw(tensor):
    return tensor.contiguous().flatten().view(torch.uint8).tolist()


@settings(max_examples=80, deadline=None)
@given(tensors=tensors(), metadata=st.dictionaries(NAMES, TEXTS, max_size=3))
def test_safetensors_reads_what_was_written_to_the_byte(tensors, metadata, tmp_path_factory):
    path = tmp_path_factory.mktemp("a") / "a.safetensors"
    write_tensors(path, tensors, metadata)
    found = load(path.read_bytes())
    assert {k: (t.dtype, t.shape, raw(t)) for k, t in found.items()} == {
        k: (t.dtype, t.shape, raw(t)) for k, t in tensors.items()
    }
    ours = Tensors(path)
    assert ours.metadata == metadata
    assert all(raw(ours[name]) == raw(tensor) for name, tensor in tensors.items())


@settings(max_examples=40, deadline=None)
@given(tensors=tensors())
def test_values_lie_side_by_side_where_their_type_can_be_viewed(tensors, tmp_path_factory):
    path = tmp_path_factory.mktemp("a") / "a.safetensors"
    write_tensors(path, tensors)
    content, theirs = path.read_bytes(), save({k: t.contiguous() for k, t in tensors.items()})
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    assert size % 8 == 0
    end = 0
    for name in layout(tensors):
        begin, after = header[name]["data_offsets"]
        assert (begin, begin % tensors[name].element_size()) == (end, 0)
        end = after
    assert 8 + size + end == len(content)
    assert end == len(theirs) - 8 - int.from_bytes(theirs[:8], "little")


def test_one_tensor_at_a_time_is_read_and_copied(tmp_path):
    asked = []
    shapes = {f"w{i}": torch.empty(2**16, i + 1, device="meta") for i in range(4)}

    def read(name):
        asked.append(name)
        return torch.ones(shapes[name].shape[::-1]).T

    def write():
        write_tensors(tmp_path / "a.safetensors", shapes, read=read)

    largest = 4 * 2**16 * 4
    assert peak_bytes(write) < 2.1 * largest  # made, and made contiguous; all are 2.5
    assert asked == layout(shapes)
    assert all(bool((t == 1).all()) for t in Tensors(tmp_path / "a.safetensors").values())


def test_contiguous_tensors_are_written_where_they_are(tmp_path):
    tensors = {f"w{i}": torch.ones(2**18) for i in range(4)}
    assert peak_bytes(lambda: write_tensors(tmp_path / "a.safetensors", tensors)) < 4096


@pytest.mark.parametrize("name", ["ü", "a\nb", "\U0001f600", '"'])
def test_names_that_json_escapes_come_back(tmp_path, name):
    write_tensors(tmp_path / "a.safetensors", {name: torch.ones(2)}, {name: name})
    file = Tensors(tmp_path / "a.safetensors")
    assert (list(file), file.metadata, file[name].tolist()) == ([name], {name: name}, [1.0, 1.0])
