from __future__ import annotations

import pytest
import torch

from layerscope.checkpoints import Tensors, write_tensors
from layerscope.errors import LayerscopeError


def wave(*shape, dtype=torch.float32):
    return torch.arange(torch.Size(shape).numel()).view(shape).to(dtype)


SHARED = wave(3, 4)
TENSORS = {
    "half": wave(5, dtype=torch.bfloat16),
    "double": wave(2, 2, dtype=torch.float64),
    "counter": torch.tensor(7),
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
