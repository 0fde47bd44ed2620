"""The state that the rest of a training depends on, in one file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from layerscope.errors import LayerscopeError
from layerscope.networks.names import unique_state
from layerscope.runs.checkpoints import Tensors, write_tensors
from layerscope.runs.manifest import Count, check_fields, run_id

FILE = "resume.safetensors"
AGAIN = "Restore it from a copy, or train into another folder; the checkpoints are kept."


class RecorderState(TypedDict):
    """What every recorder keeps; it may keep more."""

    step: Count
    loss_sum: float
    loss_count: Count


class State(TypedDict):
    """What the file holds beside tensors."""

    recorder: RecorderState
    n_previous: Count
    groups: list[dict[str, Any]]
    numbers: dict[str, float | bool | None]


def save_state(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    recorder: Mapping[str, Any],
) -> None:
    """Write weights, optimiser, random state and what the recorder keeps to one file.

    Args:
        path: The run's folder.
        model: The module that trains.
        optimizer: Its optimiser.
        recorder: What `Recorder.state_dict` returned.
    """
    tensors = {f"model/{name}": value for name, value in unique_state(model).items()}
    found = optimizer.state_dict()
    numbers: dict[str, Any] = {}
    for index, values in found["state"].items():
        for key, value in values.items():
            into = tensors if isinstance(value, Tensor) else numbers
            into[f"optimizer/{index}/{key}"] = value
    tensors["random/cpu"] = torch.get_rng_state()
    if torch.cuda.is_initialized():
        tensors["random/cuda"] = torch.cuda.get_rng_state()
    previous = recorder["previous"]
    for index, weights in enumerate(previous):
        tensors |= {f"previous/{index}/{name}": value for name, value in (weights or {}).items()}
    meta = {
        "recorder": {name: value for name, value in recorder.items() if name != "previous"},
        "n_previous": len(previous),
        "groups": found["param_groups"],
        "numbers": numbers,
    }
    copies = {name: value.clone() for name, value in tensors.items()}
    identity = run_id(path)
    mark = {} if identity is None else {"run": identity}
    write_tensors(path / FILE, copies, {"state": json.dumps(meta), **mark})


def load_state(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Put model and optimiser back where `save_state` found them; on an error they are as before.

    Returns:
        The recorder's state and the random state, for `set_random_state`.

    Raises:
        LayerscopeError: The file is missing or damaged, or is not that of this run and model.
    """
    file = Tensors(path / FILE)
    meta = _state(file, run_id(path))
    tensors = dict(file)
    weights = _weights(file.path, tensors, model)
    random = _random(file.path, tensors)
    state = _nested(file.path, tensors | meta["numbers"], "optimizer")
    _check_optimizer(file.path, state, optimizer)
    groups = _groups(file.path, meta["groups"], optimizer)
    kept = _nested(file.path, tensors, "previous")
    for values in kept.values():
        _check_shapes(file.path, weights, values)
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    own = unique_state(model)
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(weights[name])
    previous = [
        {name: value.to(own[name].device) for name, value in kept[i].items()} if i in kept else None
        for i in range(meta["n_previous"])
    ]
    return meta["recorder"] | {"previous": previous}, random


def _wrong(path: Path, what: str) -> LayerscopeError:
    return LayerscopeError(f"{path} is not the state of this run: {what}.", AGAIN)


def _state(file: Tensors, identity: str | None) -> dict[str, Any]:
    """What the file holds beside tensors, compared with the description of the format."""
    found = file.metadata.get("run", identity)
    if identity is not None and found != identity:
        raise _wrong(file.path, f"it belongs to the run {found!r}, not {identity!r}")
    try:
        values = json.loads(file.metadata.get("state", ""))
    except (ValueError, RecursionError) as error:
        raise _wrong(file.path, f"its metadata 'state' are no JSON: {error}") from error
    check_fields(values, State, file.path)
    return values


def _check_shapes(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse tensors that lack a name or have another shape or type than the expected ones."""
    for name, value in expected.items():
        if name not in found:
            raise _wrong(path, f"{name!r} is missing")
        if (found[name].shape, found[name].dtype) != (value.shape, value.dtype):
            raise _wrong(
                path,
                f"{name!r} is {found[name].dtype} of shape {tuple(found[name].shape)}, "
                f"not {value.dtype} of shape {tuple(value.shape)}",
            )


def _weights(path: Path, tensors: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The weights by their names in the model, all of which fit it."""
    start = "model/"
    weights = {n.removeprefix(start): value for n, value in tensors.items() if n.startswith(start)}
    _check_shapes(path, weights, unique_state(model))
    return weights


def _random(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The random states, which PyTorch's generators take."""
    random = {name: value for name, value in tensors.items() if name.startswith("random/")}
    try:
        torch.Generator().set_state(random["random/cpu"])
    except (KeyError, RuntimeError, TypeError) as error:
        raise _wrong(path, f"random/cpu is no random state: {error}") from error
    return random


def _groups(
    path: Path, found: list[dict[str, Any]], optimizer: torch.optim.Optimizer
) -> list[dict[str, Any]]:
    """The optimiser's own groups with the stored learning rates; other settings must be equal.

    A setting that the file does not have came with a later version of PyTorch.
    """
    current = optimizer.state_dict()["param_groups"]
    if len(found) != len(current):
        raise _wrong(path, f"there are {len(found)} groups, not {len(current)}")
    for index, (own, stored) in enumerate(zip(current, found, strict=True)):
        if unknown := stored.keys() - own.keys():
            raise _wrong(path, f"groups/{index}/{min(unknown)} is no setting of the optimiser")
        for name, value in json.loads(json.dumps(own)).items():
            there = stored.get(name, value)
            if there != value if name != "lr" else type(there) not in (int, float):
                raise _wrong(path, f"groups/{index}/{name} is {there!r}, not {value!r}")
    rates = [{"lr": stored["lr"]} if "lr" in stored else {} for stored in found]
    return [own | rate for own, rate in zip(current, rates, strict=True)]


def _check_optimizer(
    path: Path, state: Mapping[int, Mapping[str, Any]], optimizer: torch.optim.Optimizer
) -> None:
    """Refuse state of other parameters."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, values in state.items():
        if index not in range(len(parameters)):
            raise _wrong(path, f"optimizer/{index} is the state of no parameter")
        shape = parameters[index].shape
        for key, value in values.items():
            if isinstance(value, Tensor) and value.shape not in ((), shape):
                raise _wrong(path, f"optimizer/{index}/{key} has shape {tuple(value.shape)}")


def _nested(path: Path, values: Mapping[str, Any], prefix: str) -> dict[int, dict[str, Any]]:
    """``prefix/<index>/<key>`` as a mapping of mappings."""
    found: dict[int, dict[str, Any]] = {}
    for name, value in values.items():
        if name.startswith(f"{prefix}/"):
            _, index, key = [*name.split("/", 2), "", ""][:3]
            if not index.isdecimal() or not key:
                raise _wrong(path, f"{name!r} has no index or no name")
            found.setdefault(int(index), {})[key] = value
    return found


def set_random_state(state: Mapping[str, Tensor] | None) -> None:
    """Put the random state back that `load_state` returned; nothing for None."""
    if state is None:
        return
    torch.set_rng_state(state["random/cpu"])
    if "random/cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["random/cuda"])
