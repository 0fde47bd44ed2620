"""Everything that a model holds, written down, so that it can be compared with what is there later.

Written apart from `layerscope.networks.snapshot`, which it is meant to check.
"""

from __future__ import annotations

import types
from collections import deque
from typing import Any

import torch
from torch import Tensor, nn

DEPTH = 3

Inventory = dict[str, Any]


def inventory(model: nn.Module) -> Inventory:
    """Plain values, copies of tensors and states of generators by the path that leads to them."""
    found: Inventory = {
        "autograd": torch.is_grad_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "dtype": torch.get_default_dtype(),
    }
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if key != "_modules":
                _note(found, f"{name or 'model'}.{key}", value, 0, set())
        found[f"{name or 'model'} modules"] = [(k, id(m)) for k, m in module._modules.items()]
    return found


def _note(found: Inventory, path: str, value: Any, depth: int, above: set[int]) -> None:
    if id(value) in above or depth > DEPTH:
        return
    above = above | {id(value)}
    if isinstance(value, Tensor):
        found[path] = value.detach().clone()
        found[f"{path} which"] = (id(value), value.requires_grad, value.dtype, value.layout)
        if value.is_leaf and value.grad is not None:
            found[f"{path}.grad"] = value.grad.detach().clone()
            found[f"{path}.grad which"] = id(value.grad)
    elif isinstance(value, torch.Generator):
        found[path] = value.get_state()
    elif isinstance(value, nn.Module):
        found[path] = id(value)
    elif isinstance(value, dict):
        found[path] = list(map(_plain, value))
        for key, member in value.items():
            _note(found, f"{path}[{_plain(key)!r}]", member, depth + 1, above)
    elif isinstance(value, list | tuple | deque):
        found[path] = (type(value), len(value))
        for index, member in enumerate(value):
            _note(found, f"{path}[{index}]", member, depth + 1, above)
    elif isinstance(value, types.MethodType):  # made anew at every access
        found[path] = (id(value.__func__), id(value.__self__))
    else:
        found[path] = _plain(value)
        for key, member in getattr(value, "__dict__", {}).items():
            if not isinstance(value, type | types.ModuleType):
                _note(found, f"{path}.{key}", member, depth + 1, above)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str | torch.dtype | torch.device):
        return value
    return id(value)


def changes(before: Inventory, after: Inventory) -> list[str]:
    """Paths at which two inventories of one model differ."""
    return [
        path
        for path in sorted(before.keys() | after.keys())
        if path not in before or path not in after or not same(before[path], after[path])
    ]


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal, tensors entry for entry."""
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return type(a) is type(b) and a == b
    if a.shape != b.shape or a.dtype != b.dtype or a.layout != b.layout:
        return False
    a, b = a.to_dense(), b.to_dense()
    return bool(((a == b) | ((a != a) & (b != b))).all())
