"""Folders of ``torch.distributed.checkpoint``: tensors in chunks, written by many processes.

``.metadata`` is a pickle; it is read as data (`layerscope.runs.sources.pickles`), and may name the
few classes that such files are made of and nothing else. It says in which file, and where in it,
every chunk stands. A chunk is what ``torch.save`` made of a tensor, and read as such. Of a tensor
that is asked for only its own chunks are read, one after the other. What is no tensor is not read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from layerscope.errors import LayerscopeError
from layerscope.runs.checkpoints import TYPES
from layerscope.runs.files import check_readable
from layerscope.runs.sources.contents import Contents, Entry
from layerscope.runs.sources.descriptions import (
    SAFE,
    Placeholder,
    RefusedError,
    are_sizes,
    hashed,
    is_shape,
    said,
)
from layerscope.runs.sources.pickles import unpickle
from layerscope.runs.sources.torch_files import open_archive

METADATA = ".metadata"
AGAIN = "Copy the whole folder again, or save the checkpoint again."
_MODULES = {
    "torch.distributed.checkpoint.metadata": (
        *("Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata"),
        *("MetadataIndex", "TensorProperties", "StorageMeta", "_MEM_FORMAT_ENCODING"),
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo", "_StoragePrefix"),
    "torch.distributed._shard.sharded_tensor.metadata": ("TensorProperties", "MEM_FORMAT_ENCODING"),
    "torch.serialization": ("_get_layout",),
    "torch": ("Size", *(str(dtype).removeprefix("torch.") for dtype in TYPES)),
    "collections": ("OrderedDict", "defaultdict"),
    "pathlib": ("PosixPath", "WindowsPath", "PurePosixPath", "Path"),
    "pathlib._local": ("PosixPath", "WindowsPath"),
    "builtins": ("set", "frozenset"),
}
KNOWN = frozenset(f"{module}.{name}" for module, names in _MODULES.items() for name in names)


class Chunk(NamedTuple):
    """A part of a tensor: where in it, how large, and where on disk."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str
    start: int
    length: int


def distributed(folder: Path) -> Contents:
    """The contents of a folder; ``.metadata`` is read.

    Raises:
        LayerscopeError: It is missing, damaged or asks for code, or describes what cannot be.
    """
    path = folder / METADATA
    check_readable(path, f"{path} is missing.", AGAIN)
    try:
        with path.open("rb") as file:
            entries, paths = _described(unpickle(file, only=KNOWN))
        tree = _nested(entries, paths)
    except RefusedError as error:
        raise LayerscopeError(f"{path} is refused: {error}.", SAFE) from error
    except Exception as error:  # a damaged file can fail anywhere
        reason = str(error) or type(error).__name__
        raise LayerscopeError(f"{path} is truncated or damaged: {reason}.", AGAIN) from error
    names = {chunk.file for entry in entries.values() for chunk in entry.place[1]}
    files = (path, *(folder / name for name in sorted(names)))
    for file in files:
        check_readable(file, f"{file} is missing.", AGAIN)
    sizes = {name: (folder / name).stat().st_size for name in names}
    for name, entry in entries.items():
        _check_places(folder, name, entry, sizes)

    def read(entry: Entry) -> Tensor:
        return _read(folder, entry)

    return Contents(folder, "distributed checkpoint", tree, read, files)


def _described(metadata: Any) -> tuple[dict[str, Entry], Mapping[str, Any]]:
    """Every tensor by its flat name, and where names stand in nested dictionaries."""
    state = _state(metadata, "Metadata")
    infos = {}
    for index, info in _mapping(state["storage_data"]).items():
        at = _state(index, "MetadataIndex")
        infos[hashed(at["fqn"]), _offset(at.get("offset"))] = _state(info, "_StorageInfo")
    found: dict[str, Entry] = {}
    for name, value in _mapping(state["state_dict_metadata"]).items():
        if isinstance(value, Placeholder) and value.name.endswith(".TensorStorageMetadata"):
            found[name] = _entry(name, value.state, infos)
        else:
            _state(value, "BytesStorageMetadata")
    return found, state.get("planner_data") or {}


def _entry(name: str, state: Mapping[str, Any], infos: Mapping[Any, Any]) -> Entry:
    properties = state["properties"].state
    dtype = properties["dtype"] if isinstance(properties, Mapping) else properties[0]
    size, chunks = _numbers(state["size"]), []
    if not isinstance(dtype, torch.dtype):
        raise RefusedError(f"{name!r} has no type of numbers")
    for chunk in state["chunks"]:
        part = _state(chunk, "ChunkStorageMetadata")
        offsets, sizes = _numbers(part["offsets"]), _numbers(part["sizes"])
        info = infos[name, offsets]
        if info.get("transform_descriptors"):
            raise RefusedError(f"{name!r} is compressed or otherwise transformed")
        file, start, length = info["relative_path"], *_numbers((info["offset"], info["length"]))
        if type(file) is not str or file in ("", ".", "..") or {*file} & {*"/\\\0"}:
            raise RefusedError(f"it names {str(file)!r}, which is not a file beside it")
        chunks.append(Chunk(offsets, sizes, file, start, length))
    _check_tiling(name, size, chunks)
    return Entry(size, TYPES[dtype], (dtype, tuple(chunks)))


def _offset(value: Any) -> tuple[int, ...] | None:
    return None if value is None else _numbers(value)


def _check_tiling(name: str, size: tuple[int, ...], chunks: list[Chunk]) -> None:
    """Refuse chunks that do not make up a tensor exactly: inside, as many numbers, none twice."""
    if not is_shape(size):
        raise RefusedError(f"{name!r} has more numbers than there can be")
    inside = all(
        len(c.offsets) == len(c.sizes) == len(size)
        and all(o + n <= whole for o, n, whole in zip(c.offsets, c.sizes, size, strict=True))
        for c in chunks
    )
    if not inside or sum(math.prod(c.sizes) for c in chunks) != math.prod(size):
        raise RefusedError(f"the chunks of {name!r} do not make up its shape {size}")
    held = [chunk for chunk in chunks if math.prod(chunk.sizes)]
    if len({(c.file, c.start) for c in held}) != len(held) or _overlap(held):
        raise RefusedError(f"chunks of {name!r} overlap")


def _overlap(chunks: list[Chunk]) -> bool:
    """Whether two chunks have a place in common: by a sweep along the dimension that parts most."""
    if len(chunks) < 2:
        return False
    dims = range(len(chunks[0].offsets))
    along = max(dims, key=lambda d: len({c.offsets[d] for c in chunks}), default=None)
    if along is None:  # numbers without dimensions, several of them
        return True
    open_: list[Chunk] = []
    for chunk in sorted(chunks, key=lambda c: c.offsets[along]):
        start = chunk.offsets[along]
        open_ = [c for c in open_ if c.offsets[along] + c.sizes[along] > start]
        if any(_meet(chunk, other) for other in open_):
            return True
        open_.append(chunk)
    return False


def _meet(a: Chunk, b: Chunk) -> bool:
    sides = zip(a.offsets, a.sizes, b.offsets, b.sizes, strict=True)
    return all(x < y + m and y < x + n for x, n, y, m in sides)


def _check_places(folder: Path, name: str, entry: Entry, sizes: Mapping[str, int]) -> None:
    """Refuse a tensor that has more numbers than its chunks have bytes for, before it is made."""
    dtype, chunks = entry.place
    for chunk in chunks:
        needed = math.prod(chunk.sizes) * dtype.itemsize
        if chunk.start + chunk.length > sizes[chunk.file] or needed > chunk.length:
            raise LayerscopeError(
                f"{folder / chunk.file} is truncated: it ends before {name!r} does.", AGAIN
            )


def _nested(entries: Mapping[str, Entry], paths: Mapping[str, Any]) -> dict[str, Any]:
    """The dictionaries that were flattened when they were written; flat where nothing says how."""
    tree: dict[str, Any] = {}
    for name, entry in entries.items():
        path = paths.get(name, (name,))
        node = tree
        if type(path) is not tuple or not path or any(type(p) not in (str, int) for p in path):
            raise RefusedError(f"it has {said(path)} in the place of names")
        for part in path[:-1]:
            node = _mapping(node.setdefault(str(part), {}))
        node[str(path[-1])] = entry
    return tree


def _read(folder: Path, entry: Entry) -> Tensor:
    dtype, chunks = entry.place
    if len(chunks) == 1:
        return _chunk(folder, chunks[0], entry.dtype)
    whole = torch.empty(entry.shape, dtype=dtype)
    for chunk in chunks:
        part = whole
        for dim, (offset, size) in enumerate(zip(chunk.offsets, chunk.sizes, strict=True)):
            part = part.narrow(dim, offset, size)
        part.copy_(_chunk(folder, chunk, entry.dtype))
    return whole


def _chunk(folder: Path, chunk: Chunk, dtype: str) -> Tensor:
    path = folder / chunk.file
    archive = open_archive(path, chunk.start, chunk.length)
    held = archive.tree
    if not isinstance(held, Entry) or (held.shape, held.dtype) != (chunk.sizes, dtype):
        found = f"a tensor of {held.shape}" if isinstance(held, Entry) else said(held)
        raise LayerscopeError(
            f"{path} holds {found} where {METADATA} has a tensor of {chunk.sizes}.",
            f"{AGAIN} Nothing of it was run.",
        )
    return archive.read(held)


def _state(value: Any, kind: str) -> Mapping[str, Any]:
    if not isinstance(value, Placeholder) or value.name.rpartition(".")[2] != kind:
        raise RefusedError(f"it has {said(value)} in the place of {kind}")
    return value.state if value.state is not None else {}


def _mapping(value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise RefusedError(f"it has a {type(value).__name__} in the place of a dictionary")
    return value


def _numbers(values: Any) -> tuple[int, ...]:
    if not isinstance(values, tuple) or not are_sizes(values):
        raise RefusedError("it has something else in the place of sizes")
    return values
