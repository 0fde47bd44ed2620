"""Safetensors: one file, or several models beside one another. Nothing in them can be run."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from layerscope.runs.checkpoints import Tensors
from layerscope.runs.sources.contents import Contents, Entry


def safetensors_file(path: Path) -> Contents:
    """The contents of one file; its header is read.

    Raises:
        LayerscopeError: The file is missing, truncated, damaged or of another format.
    """
    tensors = Tensors(path)
    return Contents(path, "safetensors", entries(tensors, tensors), _read, (path,))


def several(folder: Path, paths: dict[str, Path]) -> Contents:
    """Several models, each in a file, by name.

    Raises:
        LayerscopeError: One is truncated, damaged or of another format.
    """
    parts = {name: Tensors(path) for name, path in paths.items()}
    tree = {name: entries(part, part) for name, part in parts.items()}
    return Contents(folder, "safetensors", tree, _read, tuple(paths.values()))


def entries(tensors: Tensors, place: Tensors) -> dict[str, Entry]:
    """The tensors of a file, to be read from an open one."""
    return {n: Entry(tensors.shape(n), tensors.dtype(n), (place, n)) for n in tensors}


def _read(entry: Entry) -> Tensor:
    tensors, name = entry.place
    return tensors[name]
