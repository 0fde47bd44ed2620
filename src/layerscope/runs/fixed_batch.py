"""The fixed batch of a run: stored beside it, so that later measurements use the same one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from layerscope.errors import LayerscopeError
from layerscope.runs.checkpoints import Tensors, check_mark, write_tensors

FILE = "batch.safetensors"


def flatten(batch: Any, path: str = "") -> dict[str, Tensor]:
    """The tensors of a batch by path: ``/`` for a tensor, ``/1`` in a tuple, ``/x/1`` in a dict.

    Raises:
        AttributeError, TypeError: It holds something else.
    """
    if isinstance(batch, Tensor):
        return {path or "/": batch}
    if isinstance(batch, str):  # iterable for ever
        raise TypeError(batch)
    items = batch.items() if isinstance(batch, Mapping) else enumerate(batch)
    return {k: v for key, part in items for k, v in flatten(part, f"{path}/{key}").items()}


def _nesting(batch: Any) -> Any:
    """What holds what, as plain values: None for a tensor, else its kind and what is in it."""
    if isinstance(batch, Tensor):
        return None
    if isinstance(batch, Mapping):
        return ["dict", [[str(key), _nesting(part)] for key, part in batch.items()]]
    kind = "list" if isinstance(batch, list) else "tuple"
    return [kind, [_nesting(part) for part in batch]]


def _nested(nesting: Any, tensors: Mapping[str, Tensor], path: str = "") -> Any:
    """The batch of which `flatten` and `_nesting` were taken.

    Raises:
        KeyError, TypeError, ValueError: They are not of one batch.
    """
    if nesting is None:
        return tensors[path or "/"]
    kind, parts = nesting
    if kind == "dict":
        return {key: _nested(part, tensors, f"{path}/{key}") for key, part in parts}
    found = (_nested(part, tensors, f"{path}/{i}") for i, part in enumerate(parts))
    return {"list": list, "tuple": tuple}[kind](found)


def write_batch(folder: Path, batch: Any, mark: Mapping[str, str]) -> None:
    """Write a batch into the folder of a run.

    Args:
        folder: The run's folder.
        batch: Tensors, in tuples, lists or dicts or alone.
        mark: What says whose it is, checked by `read_batch`.

    Raises:
        LayerscopeError: The batch holds something else.
    """
    try:
        tensors = flatten(batch)
    except (AttributeError, TypeError) as error:
        raise LayerscopeError(
            f"a batch of type {type(batch).__name__} cannot be stored.",
            "Pass tensors in tuples, lists or dicts.",
        ) from error
    kind = "dict" if isinstance(batch, Mapping) else "tuple"
    nesting = json.dumps(_nesting(batch))
    write_tensors(folder / FILE, tensors, {"kind": kind, "nesting": nesting, **mark})


def read_batch(folder: Path, mark: Mapping[str, str]) -> Any:
    """The batch in the folder of a run; None if there is none.

    Args:
        folder: The run's folder.
        mark: What the file must say of whose it is.

    Raises:
        LayerscopeError: The file is damaged, or is that of another run.
    """
    path = folder / FILE
    if not path.exists():
        return None
    file = Tensors(path)
    check_mark(file, mark)
    tensors, metadata = dict(file), file.metadata
    try:
        text = metadata.get("nesting")
        nesting = _flat(metadata["kind"], tensors) if text is None else json.loads(text)
        return _nested(nesting, tensors)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise LayerscopeError(f"{path} holds no batch.", "Pass batch=... to measure.") from error


def _flat(kind: str, tensors: Mapping[str, Tensor]) -> Any:
    """The nesting of a file from before it was written: a tensor, or tensors side by side.

    Raises:
        ValueError: It is none of these.
    """
    if list(tensors) == ["/"]:
        return None
    if kind == "dict" and not any(name.count("/") > 1 for name in tensors):
        return ["dict", [[name.removeprefix("/"), None] for name in tensors]]
    if kind != "tuple":
        raise ValueError(kind)
    return ["tuple", [None] * len(tensors)]
