"""Nothing that a file asks for is done, in whatever place of whatever format it asks."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import subprocess
import sys
import zipfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.breaking import no_longer_than
from tests.runs.sources.hostile import BESIDE, KINDS, REFUSED, WEIGHTS, archive

from layerscope.errors import LayerscopeError
from layerscope.runs.sources import read_state_dict
from layerscope.runs.sources.descriptions import RefusedError
from layerscope.runs.sources.pickles import unpickle
from layerscope.runs.sources.sharded import sharded
from layerscope.runs.sources.torch_files import open_archive
from layerscope.runs.store import Run

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "executed"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "step1").mkdir()
    return tmp_path / "step1"


@pytest.mark.parametrize("kind", KINDS)
def test_the_files_would_do_it(kind, marker):
    """Else nothing below could fail; in a process of its own, as it is meant to be executed."""
    code = f"import pickle; pickle.loads({pickle.dumps(KINDS[kind](marker))!r})"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert marker.exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", REFUSED, ids=lambda place: place.__name__)
def test_code_in_the_place_of_weights_is_refused_and_not_run(folder, marker, place, kind):
    path = place(folder, KINDS[kind](marker))
    with pytest.raises(LayerscopeError) as said:
        read_state_dict(path)
    assert str(path) in said.value.message
    assert "safetensors" in said.value.remedy or "Nothing of it was run" in said.value.remedy
    assert not marker.exists()
    with pytest.raises(LayerscopeError):
        Run.from_checkpoints(folder.parent / "run", {1: path}, copy=True)
    assert not marker.exists()


@pytest.mark.parametrize("place", BESIDE, ids=lambda place: place.__name__)
def test_what_is_beside_the_weights_is_not_run(folder, marker, place):
    for kind in ("call", "state"):
        found = read_state_dict(place(folder, KINDS[kind](marker)))
        assert found.keys() == WEIGHTS.keys()
        assert all(torch.equal(found[name], value) for name, value in WEIGHTS.items())
    with pytest.raises(LayerscopeError, match=r"asks for posix\.system.*\n.*Nothing of it was run"):
        read_state_dict(place(folder, KINDS["command"](marker)))
    assert not marker.exists()


def rebuilt(size, stride, offset=0, numbers=4, function="_rebuild_tensor_v2", more=""):
    """The pickle of one tensor in a dictionary, of any size."""
    storage = f"(V{'storage'}\nctorch\nFloatStorage\nV0\nVcpu\nI{numbers}\ntQ"
    parts = [f"({''.join(f'I{n}' + chr(10) for n in values)}t" for values in (size, stride)]
    call = f"ctorch._utils\n{function}\n({storage}I{offset}\n{''.join(parts)}I00\nN{more}tR"
    return f"(dVw\n{call}s.".encode()


ABSURD = {
    "larger than its numbers": rebuilt([9], [1]),
    "repeated without end": rebuilt([10**15], [0]),
    "behind the end": rebuilt([2], [1], offset=3),
    "before the beginning": rebuilt([2], [1], offset=-1),
    "far strides": rebuilt([2, 2], [10**12, 1]),
    "negative size": rebuilt([-4], [1]),
    "strides missing": rebuilt([2, 2], [1]),
    "claimed numbers": rebuilt([10**12], [1], numbers=10**12),
    "as another type": rebuilt(
        [4], [1], function="_rebuild_tensor_v3", more="ctorch\nfloat64\n(dVconj\nI00\ns"
    ),
    "endless stride": rebuilt([1], [2**70]),
    "empty, and endless": rebuilt([0, 2**40, 2**40], [1, 1, 1]),
    "many dimensions": rebuilt([1] * 70, [1] * 70),
    "conjugated": rebuilt([2], [1], more="(dVconj\nI01\ns"),
}


@pytest.mark.parametrize("content", ABSURD.values(), ids=ABSURD)
def test_tensors_that_cannot_be_are_refused(tmp_path, content):
    path = archive(tmp_path / "a.pt", content, **{"0": bytes(16)})
    with pytest.raises(LayerscopeError, match=r"a\.pt"):
        read_state_dict(path)


def test_the_same_description_of_a_possible_one_is_read(tmp_path):
    path = archive(tmp_path / "a.pt", rebuilt([2, 2], [1, 2]), **{"0": bytes(16)})
    assert torch.equal(read_state_dict(path)["w"], torch.zeros(2, 2))


# Lists of ten times the list before, 99 levels deep.
SHARED = [b"](" + b"h%c" % (n - 1) * 10 + b"eq%c" % n for n in range(1, 100)]
PICKLES = {
    "memo": b"\x80\x02]r\xff\xff\xff\x7f.",
    "bytearray": b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b".",
    "bytes": b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b".",
    "frame": b"\x80\x04\x95" + (2**62).to_bytes(8, "little") + b".",
    "extension": b"\x80\x02\x82\x01.",
    "instance": b"(ios\nsystem\n.",
    "object": b"(cos\nsystem\no.",
    "deep": b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b".",
    "shared": b"(lp0\n"
    + b"".join(b"(lp%d\n" % n + b"g%d\na" % (n - 1) * 10 for n in range(1, 99))
    + b".",
    "changed class": b"ccollections\nOrderedDict\n}X\x01\x00\x00\x00aK\x01sb.",
    "no end": b"\x80\x02]",
    "deep key": b"\x80\x02})" + b"\x85" * 200_000 + b"Ns.",
    "endless key": b"\x80\x02})" + b"2\x86" * 40 + b"Ns.",
    "endless member": b"\x80\x04\x8f()" + b"2\x86" * 40 + b"\x90.",
    "endless frozen member": b"\x80\x04()" + b"2\x86" * 40 + b"\x91.",
    "endless key of a dictionary": b"()" + b"2\x86" * 40 + b"Nd.",
    "endless kind": b"(Vstorage\n]" + b"2\x86" * 40 + b"V0\nVcpu\nI4\ntQ.",
    "copied without end": b"\x80\x02]("
    + b"N" * 99
    + b"eq\x00("
    + b"ctorch\nSize\nh\x00\x85R" * 9
    + b"l.",
    "endless line": b"c" + b"a" * 10**6,
}


@pytest.mark.parametrize("content", PICKLES.values(), ids=PICKLES)
def test_pickles_made_to_harm_do_none(tmp_path, content):
    path = archive(tmp_path / "a.pt", content)
    with no_longer_than(20), pytest.raises(LayerscopeError, match=r"a\.pt"):
        read_state_dict(path)


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "builtins.eval",
        "__builtin__.exec",
        "subprocess.Popen",
        "importlib.import_module",
    ],
)
def test_what_runs_commands_is_named(name):
    module, function = name.rsplit(".", 1)
    content = f"c{module}\n{function}\n(S'1'\ntR.".encode()
    with pytest.raises(RefusedError, match=name.replace(".", r"\.")):
        unpickle(io.BytesIO(content))


def compressed(path):
    torch.save(WEIGHTS, path)
    with zipfile.ZipFile(path) as old:
        records = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name, content in records.items():
            new.writestr(name, content)


def bomb(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/data.pkl", bytes(2**24))


def script(path):
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), path)


def big_endian(path):
    archive(path, pickle.dumps({}))
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", pickle.dumps({}))
        file.writestr("a/byteorder", "big")


ARCHIVES = {
    "compressed": (compressed, "compressed or encrypted"),
    "bomb": (bomb, "compressed or encrypted"),
    "TorchScript": (script, "TorchScript program"),
    "another byte order": (big_endian, "byte order"),
    "no archive of torch": (lambda p: zipfile.ZipFile(p, "w").close(), "none of torch.save"),
    "plain pickle": (lambda p: p.write_bytes(pickle.dumps({"a": 1})), "none of torch.save"),
}


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize(("make", "message"), ARCHIVES.values(), ids=ARCHIVES)
def test_archives_that_torch_save_does_not_write_are_refused(tmp_path, make, message):
    make(tmp_path / "a.pt")
    with pytest.raises(LayerscopeError, match=rf"a\.pt (is|holds) .*{message}"):
        read_state_dict(tmp_path / "a.pt")


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "..", "", "a/b.bin", "a\\b", 3]
)
def test_an_index_names_files_beside_it_only(tmp_path, name):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(LayerscopeError, match=r"which is not a file beside it.\n.*not read"):
        sharded(index)


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "nul"])
def test_an_index_that_is_none_is_said_to_be(tmp_path, content):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(LayerscopeError, match=r"index\.json"):
        read_state_dict(tmp_path)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_is_an_error_and_never_another(tmp_path_factory, data):
    """Whatever bytes change, a file is read or refused; what is read has the right shapes."""
    path = tmp_path_factory.getbasetemp() / "damaged.pt"
    new = data.draw(st.booleans())
    torch.save(WEIGHTS, path, _use_new_zipfile_serialization=new)
    content = bytearray(path.read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(LayerscopeError):
        assert all(isinstance(value, torch.Tensor) for value in read_state_dict(path).values())


@settings(max_examples=150, deadline=None)
@given(content=st.binary(max_size=60))
def test_any_bytes_are_read_as_data_or_not_at_all(tmp_path_factory, content):
    path = archive(tmp_path_factory.getbasetemp() / "bytes.pt", content)
    with contextlib.suppress(LayerscopeError):
        open_archive(path)
