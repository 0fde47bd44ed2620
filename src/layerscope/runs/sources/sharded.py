"""Weights in several files with an index: ``model.safetensors.index.json`` and the like.

The index says which file has a tensor. It may name files beside it, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from layerscope.errors import LayerscopeError
from layerscope.runs.files import check_readable, read_json
from layerscope.runs.sources.contents import Contents, Entry
from layerscope.runs.sources.descriptions import SAFE, Placeholder
from layerscope.runs.sources.safetensors_files import safetensors_file
from layerscope.runs.sources.torch_files import torch_file

INDEX = ".index.json"
AGAIN = "Copy the whole folder again, or save the model again."


def sharded(index: Path) -> Contents:
    """The contents of all files that an index names; their headers or pickles are read.

    Raises:
        LayerscopeError: The index is none, names files elsewhere, or does not say what its files
            hold; a file is missing or damaged.
    """
    parts = {name: _part(index, name) for name in part_names(index)}
    tree: dict[str, Entry] = {}
    for tensor, name in _files(index).items():
        found = parts[name].tree.get(tensor) if isinstance(parts[name].tree, Mapping) else None
        if not isinstance(found, Entry):
            if isinstance(found, Placeholder):
                what = f"an object of {found!r}, which is not built"
                raise LayerscopeError(f"{index}: {name} has {what}, as {tensor!r}.", SAFE)
            raise LayerscopeError(f"{index}: {name} does not hold {tensor!r}.", AGAIN)
        tree[tensor] = found._replace(place=(name, found))
    readers: dict[str, Callable[[Entry], Tensor]] = {n: part.read for n, part in parts.items()}

    def read(entry: Entry) -> Tensor:
        name, inside = entry.place
        return readers[name](inside)

    files = (index, *(index.parent / name for name in parts))
    form = f"sharded {next(iter(parts.values())).format}"
    return Contents(index.parent, form, tree, read, files, all(p.ordered for p in parts.values()))


def part_names(index: Path) -> list[str]:
    """The files that an index names.

    Raises:
        LayerscopeError: The index is none, or names files elsewhere.
    """
    return sorted({*_files(index).values()})


def _files(index: Path) -> dict[str, str]:
    """For every tensor the name of its file."""
    values = read_json(index)
    found = values.get("weight_map") if isinstance(values, dict) else None
    if not isinstance(found, dict) or not found:
        raise LayerscopeError(f"{index} has no weight_map.", "Point to an index of shards.")
    for name in found.values():
        if not isinstance(name, str) or name in ("", ".", "..") or {*name} & {*"/\\\0"}:
            raise LayerscopeError(
                f"{index} names {str(name)!r}, which is not a file beside it.",
                "It is not read. Get the checkpoint from a source that you trust.",
            )
    return found


def _part(index: Path, name: str) -> Contents:
    path = index.parent / name
    check_readable(path, f"{path}, which {index.name} names, is missing.", AGAIN)
    return (safetensors_file if path.suffix == ".safetensors" else torch_file)(path)
