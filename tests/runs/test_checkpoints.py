from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from layerscope.errors import LayerscopeError
from layerscope.runs.checkpoints import CHECKS, Tensors, check_parameters, kinds, write_tensors


def wave(*shape, dtype=torch.float32):
    return torch.arange(torch.Size(shape).numel()).view(shape).to(dtype)


SHARED = wave(3, 4)
TENSORS = {
    "half": wave(5, dtype=torch.bfloat16),
    "double": wave(2, 2, dtype=torch.float64),
    "counter": torch.tensor(7),
    "complex": torch.complex(wave(3), wave(3)),
    "mask": torch.tensor([True, False]),
    "empty": torch.zeros(0, 3),
    "transposed": wave(3, 2).T,
    "strided": wave(10)[::3],
    "expanded": torch.ones(1, 3).expand(2, 3),
    "tracked": wave(3).requires_grad_(),
    "same": SHARED,
    "again": SHARED,
    "row": SHARED[1],
    "not a number": torch.tensor([float("nan"), float("inf")]),
}


def test_every_kind_of_tensor_comes_back_bit_for_bit(tmp_path):
    write_tensors(tmp_path / "a.safetensors", TENSORS, {"kind": "test"})
    found = Tensors(tmp_path / "a.safetensors")
    assert set(found) == set(TENSORS)
    assert (len(found), found.metadata) == (len(TENSORS), {"kind": "test"})
    for name, value in TENSORS.items():
        torch.testing.assert_close(found[name], value.detach(), rtol=0, atol=0, equal_nan=True)


def test_working_in_place_on_what_was_read_leaves_the_file(tmp_path):
    source = torch.zeros(3)
    write_tensors(tmp_path / "a.safetensors", {"w": source})
    Tensors(tmp_path / "a.safetensors")["w"].add_(1)
    source.add_(2)
    assert Tensors(tmp_path / "a.safetensors")["w"].tolist() == [0.0, 0.0, 0.0]


def test_unknown_names_and_missing_files(tmp_path):
    write_tensors(tmp_path / "a.safetensors", {"layer1.weight": torch.ones(1)})
    file = Tensors(tmp_path / "a.safetensors")
    assert "layer2.weight" not in file
    assert file.metadata == {}
    with pytest.raises(LayerscopeError, match=r"tensor of a.safetensors 'layer1.wieght'"):
        file["layer1.wieght"]
    with pytest.raises(LayerscopeError, match=r"no checkpoint file .*b.safetensors"):
        Tensors(tmp_path / "b.safetensors")


def flipped(path, inside: bytes) -> None:
    """Change one bit of the first byte of a piece of a file."""
    content = bytearray(path.read_bytes())
    content[content.index(inside)] ^= 1
    path.write_bytes(content)


def test_a_flipped_bit_of_a_tensor_is_an_error_and_the_others_can_be_read(tmp_path):
    path = tmp_path / "a.safetensors"
    tensors = {"a": torch.tensor([0.1234567]), "b": torch.tensor([0.7654321])}
    write_tensors(path, tensors)
    flipped(path, tensors["b"].numpy().tobytes())
    file = Tensors(path)
    assert torch.equal(file["a"], tensors["a"])
    with pytest.raises(LayerscopeError, match=r"a.safetensors is damaged: the values of 'b'"):
        file["b"]


@pytest.mark.parametrize(
    ("inside", "message"),
    [
        (b"F32", "truncated|damaged|cannot be read"),
        (b"weight", "other tensors than were written"),
        (b"secret", "metadata are not those"),
    ],
)
def test_a_flipped_bit_of_the_header_is_an_error(tmp_path, inside, message):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"weight": torch.ones(2)}, {"kind": "secret"})
    flipped(path, inside)
    with pytest.raises(LayerscopeError, match=rf"a.safetensors.*{message}"):
        Tensors(path)["weight"]


@pytest.mark.parametrize("checks", ["", "[]", "{", '{"": "x"}', "null", "[" * 5000])
def test_checksums_that_are_none_are_an_error(tmp_path, checks):
    save_file({"w": torch.ones(1)}, tmp_path / "a.safetensors", {CHECKS: checks})
    with pytest.raises(LayerscopeError, match=r"a.safetensors is damaged: its checksums"):
        Tensors(tmp_path / "a.safetensors")


def test_another_type_or_shape_with_the_same_bytes_is_an_error(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"w": torch.ones(2, 3)})
    text = Tensors(path)._file.metadata()[CHECKS]
    for other in (torch.ones(3, 2), torch.ones(2, 3).view(torch.int32)):
        save_file({"w": other}, path, {CHECKS: text})
        with pytest.raises(LayerscopeError, match="the values of 'w' are not those"):
            Tensors(path)["w"]


def test_files_without_checksums_are_read(tmp_path):
    save_file({"w": torch.ones(1)}, tmp_path / "a.safetensors", {"kind": "old"})
    file = Tensors(tmp_path / "a.safetensors")
    assert (file["w"].item(), file.metadata) == (1.0, {"kind": "old"})


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.ones(2).to_sparse(), "tensor 'w' is sparse"),
        (torch.ones(2, dtype=torch.complex128), "safetensors has no type torch.complex128"),
    ],
    ids=["sparse", "complex128"],
)
def test_tensors_that_the_format_has_not_are_refused(tmp_path, tensor, message):
    with pytest.raises(LayerscopeError, match=message):
        write_tensors(tmp_path / "a.safetensors", {"w": tensor})
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_torch_saved_is_not_to_be_deleted(tmp_path):
    torch.save({"w": torch.ones(1)}, tmp_path / "a.safetensors")
    with pytest.raises(LayerscopeError, match=r"must not be called .safetensors") as caught:
        Tensors(tmp_path / "a.safetensors")
    assert "elete" not in str(caught.value)


PARAMETERS = {"w": torch.ones(2), "n": torch.ones(2).int(), "z": torch.ones(2).cfloat()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"w": torch.ones(3)}, r"'w' has shape \(3,\), not \(2,\)"),
        ({"w": None}, "lacks 'w'"),
        ({"w": torch.ones(2).bool()}, "'w' holds boolean numbers"),
        ({"w": torch.ones(2).to(torch.uint8)}, "'w' holds integer numbers"),
        ({"z": torch.ones(2)}, "'z' holds floating numbers"),
        ({"w": torch.ones(2).half(), "extra": torch.ones(1)}, ""),
    ],
)
def test_checkpoints_are_compared_with_the_manifest(tmp_path, change, message):
    changed = {name: v for name, v in (PARAMETERS | change).items() if v is not None}
    write_tensors(tmp_path / "a.safetensors", changed)
    file, shapes = Tensors(tmp_path / "a.safetensors"), dict.fromkeys(PARAMETERS, (2,))
    found = json.loads(json.dumps(kinds(PARAMETERS, PARAMETERS)))
    if not message:
        check_parameters(file, shapes, found)
        return
    with pytest.raises(LayerscopeError, match=rf"a.safetensors does not fit .*{message}"):
        check_parameters(file, shapes, found)


@pytest.mark.parametrize("length", [1, 9, 17, 33])
def test_what_is_read_lies_in_memory_as_what_was_written(tmp_path, length):
    write_tensors(tmp_path / "a.safetensors", {"w": torch.ones(64)}, {"note": "x" * length})
    assert Tensors(tmp_path / "a.safetensors")["w"].data_ptr() % 64 == 0
