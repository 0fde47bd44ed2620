from __future__ import annotations

import json

import pytest
import xarray as xr
from safetensors import SafetensorError
from tests.breaking import truncated

from layerscope import checkpoints
from layerscope.checkpoints import Tensors, write_tensors
from layerscope.errors import LayerscopeError
from layerscope.files import TEMPORARY, read_json, remove_temporaries, replacing, write_json
from layerscope.results import read_dataset, write_dataset


def names(folder):
    return sorted(path.name for path in folder.rglob("*"))


def test_a_file_takes_its_place_when_the_block_succeeds(tmp_path):
    with replacing(tmp_path / "new" / "a.txt") as temporary:
        temporary.write_text("whole")
        assert names(tmp_path / "new") == [temporary.name]
        assert temporary.name.endswith(TEMPORARY)
    assert names(tmp_path / "new") == ["a.txt"]


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
def test_an_exception_inside_leaves_the_old_file_and_no_temporary(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), replacing(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise error
    assert names(tmp_path) == ["a.txt"]
    assert path.read_text() == "old"


@pytest.mark.parametrize("values", [{"a": float("nan")}, {"a": object()}])
def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path, values):
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises((ValueError, TypeError)):
        write_json(tmp_path / "a.json", values)
    assert read_json(tmp_path / "a.json") == {"a": 1}
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("below", ["a.txt", "sub/a.txt"])
def test_a_folder_that_cannot_be_written_is_an_error(tmp_path, below):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LayerscopeError, match=r"cannot write .*file"):
        write_json(tmp_path / "file" / below, {})
    assert names(tmp_path) == ["file"]


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path, monkeypatch):
    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(LayerscopeError, match=r"cannot write .*No space left"):
        write_tensors(tmp_path / "a.safetensors", {})
    assert names(tmp_path) == []


def test_what_a_killed_writer_left_is_removed(tmp_path):
    for name in ("a.nc", "sub/.a.nc.123.tmp", ".b.json.9.tmp", "sub/kept.tmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    remove_temporaries(tmp_path)
    assert names(tmp_path) == ["a.nc", "kept.tmp", "sub"]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_truncated_json_names_the_file(tmp_path, share):
    write_json(tmp_path / "a.json", {"a": [1, 2, 3]})
    truncated(tmp_path / "a.json", share)
    with pytest.raises(LayerscopeError, match=r"a.json is not valid JSON"):
        read_json(tmp_path / "a.json")


def test_binary_is_no_json_and_nothing_is_none(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LayerscopeError, match="is not valid JSON"):
        read_json(tmp_path / "a.json")
    with pytest.raises(LayerscopeError, match=r"b.json does not exist"):
        read_json(tmp_path / "b.json")


@pytest.mark.parametrize("values", [{}, {"a": [1, None, "x"]}, [1, 2]])
def test_json_round_trip(tmp_path, values):
    write_json(tmp_path / "a.json", values)
    assert json.loads((tmp_path / "a.json").read_text()) == values == read_json(tmp_path / "a.json")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.99])
def test_truncated_files_of_numbers_name_the_file(tmp_path, share):
    import torch

    write_tensors(tmp_path / "a.safetensors", {"w": torch.ones(300)})
    write_dataset(tmp_path / "a.nc", xr.Dataset({"x": ("step", [1.0] * 300)}))
    truncated(tmp_path / "a.safetensors", share)
    truncated(tmp_path / "a.nc", share)
    with pytest.raises(LayerscopeError, match=r"a.safetensors is truncated or no safetensors file"):
        Tensors(tmp_path / "a.safetensors")["w"]
    with pytest.raises(LayerscopeError, match=r"a.nc is truncated or no netCDF file"):
        read_dataset(tmp_path / "a.nc")
