"""State dicts: in memory, safetensors files, and ``torch.save`` files read without running code."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from layerscope.errors import LayerscopeError
from layerscope.runs.checkpoints import Tensors
from layerscope.runs.files import check_readable

StateDict = Mapping[str, Tensor]


def read_state_dict(source: StateDict | str | Path) -> dict[str, Tensor]:
    """The tensors of one checkpoint by name.

    What modules keep beside tensors (``get_extra_state``) is left out.

    Args:
        source: A state dict, a ``.safetensors`` file, or a file that ``torch.save`` made of a
            state dict; the last is read with ``weights_only=True``, which executes no code.

    Raises:
        LayerscopeError: The file is missing, damaged, or holds something else.
    """
    return dict(open_state_dict(source))


def open_state_dict(source: StateDict | str | Path) -> StateDict:
    """As `read_state_dict`, but tensors of a file are read when they are asked for."""
    if isinstance(source, Tensors):
        return source
    if isinstance(source, Mapping):
        return _only_tensors(source, "the state dict")
    path = Path(source)
    if path.suffix == ".safetensors":
        return Tensors(path)
    check_readable(path, f"there is no checkpoint file {path}.", "Check the path.")
    try:
        lazily = zipfile.is_zipfile(path)  # the older format cannot be mapped
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=lazily)
    except Exception as error:  # a damaged pickle can fail anywhere
        raise LayerscopeError(
            f"{path} is truncated or no file of plain tensors: {error}.",
            "Save model.state_dict() with torch.save or safetensors.",
        ) from error
    return _only_tensors(loaded, str(path))


def _only_tensors(found: Any, where: str) -> dict[str, Tensor]:
    if not isinstance(found, Mapping):
        raise LayerscopeError(
            f"{where} holds a {type(found).__name__}, not a state dict.", "Pass model.state_dict()."
        )
    kept = {name: value for name, value in found.items() if not is_extra(name)}
    others = [name for name, value in kept.items() if not isinstance(value, Tensor)]
    if others:
        raise LayerscopeError(
            f"{where} holds more than tensors: {', '.join(map(str, others[:5]))}.",
            'Load it yourself and pass the state dict inside, e.g. loaded["model"].',
        )
    return kept


def is_extra(name: object) -> bool:
    """Whether a name of a state dict is that of a module's extra state, which is no weight."""
    return str(name).rpartition(".")[2] == "_extra_state"
