"""The fixed batch of a run: stored beside it, so that later measurements use the same one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from layerscope.errors import LayerscopeError
from layerscope.networks.isolation import isolated
from layerscope.runs.checkpoints import Tensors, write_tensors
from layerscope.runs.store import Run

FILE = "batch.safetensors"
M = TypeVar("M")
L = TypeVar("L")
R = TypeVar("R")


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


def store_batch(run: Run, batch: Any) -> None:
    """Keep the fixed batch with the run, so that probes measure the same one later.

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
    write_tensors(run.path / FILE, tensors, {"kind": kind, **run.mark})


def stored_batch(run: Run) -> Any:
    """The fixed batch that was stored with a run; None if there is none.

    Raises:
        LayerscopeError: The file is damaged, is none of this run's, or holds a nested batch.
    """
    path = run.path / FILE
    if not path.exists():
        return None
    file = Tensors(path)
    run.check_mark(file)
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


def blaming_batch(measure: Callable[[M, L], R], moment: M, layers: L) -> R:
    """``measure(moment, layers)``; where it fails because the batch does not fit, that is said.

    The model is run on the batch only after something has failed.

    Args:
        measure: What to call.
        moment: Has ``model``, ``task`` and ``batch``, each of which may be None.
        layers: Passed on.

    Raises:
        LayerscopeError: The model does not run on the batch, or its outputs do not fit it.
    """
    try:
        return measure(moment, layers)
    except LayerscopeError:
        raise
    except Exception as error:
        model, task, batch = (getattr(moment, n, None) for n in ("model", "task", "batch"))
        if model is None or task is None or batch is None:
            raise
        try:
            with isolated(model), torch.no_grad():
                task.loss(task.forward(model, batch), batch)
        except Exception as reason:  # the model and the task are anyone's
            raise LayerscopeError(
                f"{type(model).__name__} does not run on the batch: "
                f"{type(reason).__name__}: {reason}",
                f"Pass a batch that fits model and task, or mend {FILE} of the run.",
            ) from error
        raise
