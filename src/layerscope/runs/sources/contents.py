"""What a file or folder of weights holds, found without reading a tensor.

Every format gives `Contents`: a tree of mappings with an `Entry` in the place of every tensor, and
a way to read one of them. `Chosen` is the part of the tree that holds the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from layerscope.errors import unknown
from layerscope.runs.checkpoints import LazyTensors


class Entry(NamedTuple):
    """A tensor that was not read.

    Attributes:
        shape: Its shape.
        dtype: Its type as safetensors writes it.
        place: Where it is, for the format that reads it.
    """

    shape: tuple[int, ...]
    dtype: str
    place: Any


@dataclass(frozen=True)
class Contents:
    """A checkpoint before anything of it is read.

    Attributes:
        path: The file or folder.
        format: What it is, for people.
        tree: Mappings of mappings; tensors are `Entry`.
        read: Reads one of the entries, to the CPU.
        files: All files that belong to it.
        ordered: Whether its names stand in the order in which the model registered them.
    """

    path: Path
    format: str
    tree: Any
    read: Callable[[Entry], Tensor]
    files: tuple[Path, ...]
    ordered: bool = False


class Chosen(LazyTensors):
    """Some tensors of a checkpoint under their own or other names, each read when asked for.

    Args:
        contents: The checkpoint.
        entries: Those tensors by name.
        device: Where they are put.
    """

    def __init__(
        self,
        contents: Contents,
        entries: Mapping[str, Entry],
        device: torch.device | str = "cpu",
    ) -> None:
        self.path = contents.path
        self._read = contents.read
        self._entries = entries
        self._device = torch.device(device)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        return self._known(name).shape

    def dtype(self, name: str) -> str:
        """Type of a tensor as safetensors writes it, e.g. ``F32``, without reading it."""
        return self._known(name).dtype

    def is_one(self, a: str, b: str) -> bool:
        """Whether two names are of the same numbers in the same place; nothing is read."""
        return self._known(a) == self._known(b)

    def _known(self, name: str) -> Entry:
        if name not in self._entries:
            raise unknown(f"tensor of {self.path.name}", name, self._entries)
        return self._entries[name]

    def __getitem__(self, name: str) -> Tensor:
        return self._read(self._known(name)).to(self._device)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
