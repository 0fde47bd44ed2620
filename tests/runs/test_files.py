from __future__ import annotations

import errno
import json
import os
import subprocess
import sys

import pytest
import xarray as xr
from tests.breaking import IRREGULAR, no_longer_than, truncated

from layerscope.errors import LayerscopeError
from layerscope.runs import checkpoints
from layerscope.runs.checkpoints import Tensors, write_tensors
from layerscope.runs.files import (
    TEMPORARY,
    check_name,
    read_json,
    remove_temporaries,
    replacing,
    write_json,
)
from layerscope.runs.results import read_dataset, write_dataset
from layerscope.runs.sources import read_state_dict


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
    def full(file, *_):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "stream", full)
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


READERS = {
    "a.json": read_json,
    "a.safetensors": Tensors,
    "a.nc": read_dataset,
    "a.pt": read_state_dict,
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", IRREGULAR)
def test_only_regular_files_are_read(tmp_path, name, kind):
    IRREGULAR[kind](tmp_path / name)
    with (
        no_longer_than(20),
        pytest.raises(LayerscopeError, match=rf"{name}(: Too many| is a (pipe|folder))"),
    ):
        READERS[name](tmp_path / name)


@pytest.mark.parametrize("name", READERS)
def test_a_link_to_a_file_is_read_like_the_file(tmp_path, name):
    import torch

    write_json(tmp_path / "real.json", {})
    write_dataset(tmp_path / "real.nc", xr.Dataset({"x": 1.0}))
    write_tensors(tmp_path / "real.safetensors", {"x": torch.ones(1)})
    torch.save({"x": torch.ones(1)}, tmp_path / "real.pt")
    (tmp_path / name).symlink_to(tmp_path / name.replace("a.", "real."))
    READERS[name](tmp_path / name)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "recursion"),
        ("[" * 500 + "]" * 500, "nested more than 100 levels"),
        ('{"a": NaN}', "NaN is no JSON number"),
        ("9" * 5000, "limit"),
    ],
    ids=["endless", "deep", "nan", "long"],
)
def test_json_beyond_use_names_the_file(tmp_path, text, reason):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(LayerscopeError, match=rf"a.json is not valid JSON: .*{reason}"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("name", [os.fsdecode(b"run\xff"), "a\0b"])
def test_a_path_that_is_no_text_is_refused(tmp_path, name):
    with pytest.raises(LayerscopeError, match="is not valid UTF-8"):
        check_name(tmp_path / name)
    check_name(tmp_path / "Übung \N{SNOWMAN}")


FULL = """
import resource, signal, sys
from pathlib import Path
import torch, xarray as xr
from layerscope.runs.checkpoints import write_tensors
from layerscope.errors import LayerscopeError
from layerscope.runs.files import write_json
from layerscope.runs.results import write_dataset
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
for name, write, value in (
    ("a.json", write_json, list(range(1000))),
    ("a.safetensors", write_tensors, {"x": torch.ones(1000)}),
    ("a.nc", write_dataset, xr.Dataset({"x": ("step", [1.0] * 1000)})),
):
    try:
        write(Path(sys.argv[1]) / name, value)
    except LayerscopeError as error:
        print(error.message)
"""


@pytest.mark.slow
def test_nothing_but_the_error_is_printed_on_a_full_disk(tmp_path):
    command = [sys.executable, "-c", FULL, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        f"cannot write {tmp_path / name}" for name in ("a.json", "a.safetensors", "a.nc")
    ]
    assert all("File too large" in line for line in lines)
    assert (done.stderr, names(tmp_path)) == ("", [])
