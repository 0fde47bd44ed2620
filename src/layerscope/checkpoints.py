"""Weights on disk: one safetensors file per step, read lazily, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from layerscope.errors import LayerscopeError, unknown
from layerscope.files import replacing


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors to a safetensors file that is whole or absent; shared memory is written twice.

    Raises:
        LayerscopeError: The folder cannot be written.
    """
    with replacing(path) as temporary:
        try:
            save_file(_apart(tensors), temporary, dict(metadata) if metadata else None)
        except SafetensorError as error:
            raise OSError(f"{error}") from error


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors on the CPU, none of which lives in the memory of another."""
    plain: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        found = tensor.detach().cpu().contiguous()
        if found.untyped_storage().data_ptr() in storages:
            found = found.clone()
        storages.add(found.untyped_storage().data_ptr())
        plain[name] = found
    return plain


def _damaged(path: Path, error: Exception) -> LayerscopeError:
    return LayerscopeError(
        f"{path} is truncated or no safetensors file: {error}.",
        "Delete it to use the other checkpoints, or train again to write it anew.",
    )


class Tensors(Mapping[str, Tensor]):
    """The tensors of one safetensors file, each read when it is asked for.

    Args:
        path: The file.
        device: Where tensors are put.

    Raises:
        LayerscopeError: The file is missing, truncated or of another format; a name is unknown.
    """

    def __init__(self, path: Path, device: torch.device | str = "cpu") -> None:
        self.path = path
        try:
            self._file = safe_open(path, framework="pt", device=str(device))
        except FileNotFoundError as error:
            raise LayerscopeError(
                f"there is no checkpoint file {path}.", "Check the step and the folder."
            ) from error
        except SafetensorError as error:
            raise _damaged(path, error) from error
        self._names = tuple(self._file.keys())

    @property
    def metadata(self) -> dict[str, str]:
        """Text stored beside the tensors."""
        return self._file.metadata() or {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise unknown(f"tensor of {self.path.name}", name, self._names)
        try:
            return self._file.get_tensor(name)
        except SafetensorError as error:
            raise _damaged(self.path, error) from error

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
