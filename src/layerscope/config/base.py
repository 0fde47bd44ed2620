"""What all configurations have in common: plain values, a hash, and how they are read back."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from types import UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from layerscope.errors import LayerscopeError, unknown


class Config:
    """A frozen dataclass of settings; `to_dict` and `from_dict` know every class derived from it.

    Attributes:
        types: Every kind of configuration by name.
    """

    types: ClassVar[dict[str, type[Config]]] = {}

    def __init_subclass__(cls) -> None:
        Config.types[cls.__name__] = cls

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits that name this configuration, equal on every machine.

        Fields at their defaults do not count, so that a setting added later leaves it alone.
        """
        text = json.dumps(_canonical(_changed(self)), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def to_dict(config: Any) -> Any:
    """Plain JSON values for a configuration, each dataclass tagged with its ``type``."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        values = {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
        return {"type": type(config).__name__, **values}
    if isinstance(config, list | tuple):
        return [to_dict(value) for value in config]
    if isinstance(config, Mapping):
        return {str(key): to_dict(value) for key, value in config.items()}
    return config


def _changed(config: Any) -> Any:
    """What `to_dict` gives, without the fields that have their default values."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        default = type(config)()
        values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
        given = {k: v for k, v in values.items() if to_dict(v) != to_dict(getattr(default, k))}
        changed = {k: _changed(v) for k, v in given.items()}
        return {"type": type(config).__name__, **changed}
    return to_dict(config)


def _canonical(values: Any) -> Any:
    """The same plain values with 1.0 written as 1, since configurations that compare equal are."""
    if isinstance(values, dict):
        return {key: _canonical(value) for key, value in values.items()}
    if isinstance(values, list):
        return [_canonical(value) for value in values]
    return int(values) if isinstance(values, float) and values.is_integer() else values


def from_dict(values: Any) -> Any:
    """The configuration that ``to_dict`` wrote.

    Raises:
        LayerscopeError: A type or field is not known to this version, or a value has another type
            than its field.
    """
    if isinstance(values, Mapping) and "type" in values:
        cls = Config.types.get(str(values["type"]))
        if cls is None:
            raise unknown("configuration type", str(values["type"]), Config.types)
        hints = _hints(cls)
        made = {name: from_dict(value) for name, value in values.items() if name != "type"}
        for name, value in made.items():
            if name not in hints:
                raise unknown(f"field of {cls.__name__}", name, hints)
            if not _fits(value, hints[name]):
                raise LayerscopeError(
                    f"{name} of {cls.__name__} is {value!r}.", f"It is a {_named(hints[name])}."
                )
        return cls(**made)
    if isinstance(values, list):
        return tuple(from_dict(value) for value in values)
    if isinstance(values, Mapping):
        return {key: from_dict(value) for key, value in values.items()}
    return values


@lru_cache
def _hints(cls: type) -> dict[str, Any]:
    """Type of every field."""
    return get_type_hints(cls)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value has a field's type; builders say which choices there are."""
    kinds, origin = get_args(hint), get_origin(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, kind) for kind in kinds)
    if origin is Literal:
        return type(value) in {type(choice) for choice in kinds}
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(part, kinds[0]) for part in value)
    if hint in (int, float):
        return type(value) is int or (hint is float and type(value) is float)
    return isinstance(value, hint)


def _named(hint: Any) -> str:
    return getattr(hint, "__name__", "") if not get_args(hint) else str(hint)
