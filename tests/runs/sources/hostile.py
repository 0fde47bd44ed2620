"""Files that would run a command if they were unpickled, one for each place in each format."""

from __future__ import annotations

import io
import json
import os
import pathlib
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import metadata as described
from torch.distributed.checkpoint.filesystem import _StorageInfo

WEIGHTS = {"layer.weight": torch.ones(2, 3), "layer.bias": torch.zeros(2)}


class Command:
    """Unpickled, it makes a file by a command of the shell."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


class Call:
    """Unpickled, it makes the file by a function that has nothing suspicious in its name."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return pathlib.Path.touch, (self.marker,)


class State(dict):
    """Unpickled, it is given a state, which a class may use to run anything."""

    def __init__(self, marker: Path) -> None:
        super().__init__(a=1)
        self.inside = Call(marker)


KINDS: dict[str, Callable[[Path], Any]] = {"command": Command, "call": Call, "state": State}


def zipped(folder, evil):
    torch.save(evil, folder / "step1.pt")
    return folder / "step1.pt"


def legacy(folder, evil):
    torch.save(evil, folder / "step1.pt", _use_new_zipfile_serialization=False)
    return folder / "step1.pt"


def among_weights(folder, evil):
    return zipped(folder, WEIGHTS | {"layer.extra": evil})


def shard(folder, evil):
    torch.save({"layer.weight": torch.ones(2, 3)}, folder / "pytorch_model-1.bin")
    torch.save({"layer.bias": evil}, folder / "pytorch_model-2.bin")
    places = {"layer.weight": "pytorch_model-1.bin", "layer.bias": "pytorch_model-2.bin"}
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    return folder


def lightning_weights(folder, evil):
    state = {"pytorch-lightning_version": "2.6.0", "state_dict": WEIGHTS | {"layer.extra": evil}}
    torch.save(state, folder / "step=1.ckpt")
    return folder / "step=1.ckpt"


def metadata(folder, evil):
    dcp.save(WEIGHTS, checkpoint_id=folder, no_dist=True)
    (folder / ".metadata").write_bytes(pickle.dumps(evil))
    return folder


def metadata_inside(folder, evil):
    dcp.save(WEIGHTS, checkpoint_id=folder, no_dist=True)
    found = pickle.loads((folder / ".metadata").read_bytes())
    found.planner_data = {"x": evil}
    (folder / ".metadata").write_bytes(pickle.dumps(found))
    return folder


def chunk(folder, evil):
    stream = io.BytesIO()
    torch.save(evil, stream)
    (folder / "__0_0.distcp").write_bytes(stream.getvalue())
    one = described.ChunkStorageMetadata(torch.Size([0]), torch.Size([2]))
    tensor = described.TensorStorageMetadata(
        described.TensorProperties(torch.float32), torch.Size([2]), [one]
    )
    index = described.MetadataIndex("layer.weight", torch.Size([0]))
    info = _StorageInfo("__0_0.distcp", 0, len(stream.getvalue()))
    whole = described.Metadata({"layer.weight": tensor}, None, {index: info})
    (folder / ".metadata").write_bytes(pickle.dumps(whole))
    return folder


REFUSED = [
    *(zipped, legacy, among_weights, shard, lightning_weights),
    *(metadata, metadata_inside, chunk),
]
"""What stands in the place of weights, or of what says where they are."""


def beside_optimiser(folder, evil):
    torch.save({"model": WEIGHTS, "optimizer": {"state": {0: evil}}}, folder / "step1.pt")
    return folder / "step1.pt"


def beside_legacy(folder, evil):
    state = {"model": WEIGHTS, "args": evil}
    torch.save(state, folder / "step1.pt", _use_new_zipfile_serialization=False)
    return folder / "step1.pt"


def beside_lightning(folder, evil):
    state = {"pytorch-lightning_version": "2.6.0", "state_dict": WEIGHTS, "hyper_parameters": evil}
    torch.save(state, folder / "step=1.ckpt")
    return folder / "step=1.ckpt"


BESIDE = [beside_optimiser, beside_legacy, beside_lightning]
"""What stands beside the weights."""


def archive(path: Path, pickled: bytes, **records: bytes) -> Path:
    """A file as ``torch.save`` makes it, of any pickle."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", pickled)
        file.writestr("a/byteorder", "little")
        for name, content in records.items():
            file.writestr(f"a/data/{name}", content)
    return path
