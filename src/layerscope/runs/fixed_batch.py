"""The fixed batch of a run: stored beside it, so that later measurements use the same one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from layerscope.errors import LayerscopeError
from layerscope.runs.checkpoints import Tensors, check_mark, write_tensors

FILE = "batch.safetensors"


def flatten(batch: Any, path: str = "") -> dict[str, Tensor]:
    """The tensors of a batch by path: ``/`` for a tensor, ``/1`` in a tuple, ``/x`` in a dict.

    Raises:
        AttributeError, TypeError: It holds something else.
    """
    if isinstance(batch, Tensor):
        return {path or "/": batch}
    if isinstance(batch, str):  # iterable for ever
        raise TypeError(batch)
    items = batch.items() if isinstance(batch, Mapping) else enumerate(batch)
    return {k: v for key, part in items for k, v in flatten(part, f"{path}/{key}").items()}


def write_batch(folder: Path, batch: Any, mark: Mapping[str, str]) -> None:
    """Write a batch into the folder of a run.

    Args:
        folder: The run's folder.
        batch: Tensors, in a tuple, list or dict or alone.
        mark: What says whose it is, checked by `read_batch`.

    Raises:
        LayerscopeError: The batch is no tensor, tuple, list or dict of these.
    """
    try:
        tensors = flatten(batch)
    except (AttributeError, TypeError) as error:
        raise LayerscopeError(
            f"a batch of type {type(batch).__name__} cannot be stored.",
            "Pass tensors in tuples, lists or dicts.",
        ) from error
    kind = "dict" if isinstance(batch, Mapping) else "tuple"
    write_tensors(folder / FILE, tensors, {"kind": kind, **mark})


def read_batch(folder: Path, mark: Mapping[str, str]) -> Any:
    """The batch in the folder of a run; None if there is none.

    Args:
        folder: The run's folder.
        mark: What the file must say of whose it is.

    Raises:
        LayerscopeError: The file is damaged, is that of another run, or holds a nested batch.
    """
    path = folder / FILE
    if not path.exists():
        return None
    file = Tensors(path)
    check_mark(file, mark)
    tensors, kind = dict(file), file.metadata.get("kind")
    if list(tensors) == ["/"]:
        return tensors["/"]
    if any(name.count("/") > 1 for name in tensors):
        raise LayerscopeError(f"{path} holds a nested batch.", "Pass batch=... to measure.")
    if kind == "dict":
        return {name.removeprefix("/"): tensor for name, tensor in tensors.items()}
    if kind != "tuple" or {*tensors} != {f"/{i}" for i in range(len(tensors))}:
        raise LayerscopeError(f"{path} holds no batch.", "Pass batch=... to measure.")
    return tuple(tensors[f"/{i}"] for i in range(len(tensors)))
