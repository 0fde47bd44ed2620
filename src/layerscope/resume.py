"""The state that the rest of a training depends on, in one file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layerscope.checkpoints import Tensors, write_tensors
from layerscope.isolation import unique_state

FILE = "resume.safetensors"


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
    write_tensors(path / FILE, copies, {"state": json.dumps(meta)})


def load_state(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Put model and optimiser back where `save_state` found them.

    Returns:
        The recorder's state and the random state, for `set_random_state`.

    Raises:
        LayerscopeError: The file is missing or damaged.
    """
    file = Tensors(path / FILE)
    meta = json.loads(file.metadata["state"])
    with torch.no_grad():
        for name, value in unique_state(model).items():
            value.copy_(file[f"model/{name}"])
    device = next(model.parameters()).device
    state = _nested(dict(file) | meta["numbers"], "optimizer")
    optimizer.load_state_dict({"state": state, "param_groups": meta["groups"]})
    kept = _nested(dict(file), "previous")
    previous = [
        {name: value.to(device) for name, value in kept[i].items()} if i in kept else None
        for i in range(meta["n_previous"])
    ]
    random = {name: file[name] for name in file if name.startswith("random/")}
    return meta["recorder"] | {"previous": previous}, random


def _nested(values: Mapping[str, Any], prefix: str) -> dict[int, dict[str, Any]]:
    """``prefix/<index>/<key>`` as a mapping of mappings."""
    found: dict[int, dict[str, Any]] = {}
    for name, value in values.items():
        if name.startswith(f"{prefix}/"):
            _, index, key = name.split("/", 2)
            found.setdefault(int(index), {})[key] = value
    return found


def set_random_state(state: Mapping[str, Tensor] | None) -> None:
    """Put the random state back that `load_state` returned; nothing for None."""
    if state is None:
        return
    torch.set_rng_state(state["random/cpu"])
    if "random/cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["random/cuda"])
