"""Under which conditions a measurement was made, in text that is equal where they were.

What cannot be compared (a model or a task whose code is not this library's or PyTorch's, and may
have been edited in between) is described by text that never comes again, so that it is measured
anew rather than read back.
"""

from __future__ import annotations

import dataclasses
import hashlib
import uuid
from collections.abc import Iterable
from functools import partial
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from layerscope.config.base import LABEL, LATER
from layerscope.networks.names import named_modules, unwrap
from layerscope.networks.snapshot import ATOMS
from layerscope.networks.task import as_tree
from layerscope.probes.given import Given

OWN = ("torch", "layerscope")
ROOMS = ("networks", "training")


class _UnknownError(Exception):
    """Something whose meaning is not known from its description."""


class Conditions:
    """Batch, data, task, model and factory of several measurements, each described once."""

    def __init__(self) -> None:
        self._texts: dict[tuple[str, int], tuple[Any, str]] = {}

    def of(self, given: Given) -> dict[str, str]:
        """What a measurement is given, each as a short text, by name.

        Args:
            given: What the probe needs; nothing is said of what was not given.
        """
        named = {
            "batch": given.batch,
            "data": given.data,
            "training_data": given.training_data,
            "model": given.model,
            "task": given.task,
            "factory": given.factory if given.model is not None else None,
        }
        found = {name: self._text(name, v) for name, v in named.items() if v is not None}
        return ({"factory": "none"} if given.model is not None else {}) | found

    def _text(self, name: str, value: Any) -> str:
        key = (name, id(value))  # which no other value has while this one is held
        if key not in self._texts:
            self._texts[key] = value, _text(name, value)
        return self._texts[key][1]


def _text(name: str, value: Any) -> str:
    if name == "batch":
        return fingerprint(as_tree(value))
    if name in ("data", "training_data"):
        return _digest(value)
    return fingerprint(value)


def _digest(batches: Iterable[Any]) -> str:
    digests = [fingerprint(as_tree(batch)) for batch in batches]
    return hashlib.sha256("/".join(digests).encode()).hexdigest()[:16]


def fingerprint(value: Any) -> str:
    """Equal for equal batches, and models, tasks or factories that compute the same; else new.

    A model's parameters and persistent buffers do not count: they come from checkpoints.
    """
    try:
        text = _described(value)
    except _UnknownError:
        return uuid.uuid4().hex
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _described(value: Any) -> str:
    if value is None or isinstance(value, ATOMS):
        return repr(value)
    if isinstance(value, Tensor):
        return _described_tensor(value)
    if isinstance(value, nn.Module):
        return _described_model(value)
    if isinstance(value, tuple | list):
        return f"({','.join(map(_described, value))})"
    if isinstance(value, dict):
        return f"{{{','.join(f'{_described(k)}:{_described(v)}' for k, v in value.items())}}}"
    if isinstance(value, partial):
        return _described([value.func, value.args, value.keywords])
    if isinstance(value, FunctionType | BuiltinFunctionType):
        return _described_function(value)
    if dataclasses.is_dataclass(value) and _is_own(type(value)):
        fields = {
            f.name: getattr(value, f.name) for f in dataclasses.fields(value) if _counts(value, f)
        }
        return f"{type(value).__qualname__}{_described(fields)}"
    raise _UnknownError


def _counts(config: Any, setting: dataclasses.Field[Any]) -> bool:
    """Whether a setting may change what is measured."""
    if setting.metadata.get(LATER):
        factory = setting.default_factory
        default = setting.default if factory is dataclasses.MISSING else factory()
        return getattr(config, setting.name) != default
    return not setting.metadata.get(LABEL)


def _is_own(thing: Any) -> bool:
    return str(getattr(thing, "__module__", None)).partition(".")[0] in OWN


def _described_function(function: Any) -> str:
    name = function.__qualname__
    if getattr(function, "__closure__", None) or "<" in name:
        raise _UnknownError
    if not _is_own(function) and not hasattr(torch, name) and not hasattr(Tensor, name):
        raise _UnknownError
    return f"{_home(function.__module__)}.{name}"


def _home(module: str) -> str:
    """A module's name without its room, so that code means the same where it has moved to one."""
    package, _, rest = module.partition(".")
    room, _, inside = rest.partition(".")
    return f"{package}.{inside}" if package == "layerscope" and room in ROOMS and inside else module


def _described_tensor(tensor: Tensor) -> str:
    values = tensor.detach().cpu().contiguous().flatten()
    content = hashlib.sha256(values.view(torch.uint8).numpy().tobytes()).hexdigest()
    return f"{tensor.dtype} {tuple(tensor.shape)} {content}"


def _described_model(model: nn.Module) -> str:
    parts = []
    for name, module in named_modules(unwrap(model), every_name=True):
        hooks = [k for k in vars(module) if k.endswith("hooks") and vars(module)[k]]
        if not _is_own(type(module)) or "forward" in vars(module) or hooks:
            raise _UnknownError
        attributes = {k: v for k, v in vars(module).items() if k[0] != "_" and k != "training"}
        attributes |= {k: module._buffers[k] for k in sorted(module._non_persistent_buffers_set)}
        parts.append(f"{name}={type(module).__qualname__}{_described(attributes)}")
    return ";".join(parts)
