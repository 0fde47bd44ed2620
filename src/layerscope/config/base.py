"""What all configurations have in common: plain values, a hash, and how they are read back."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from layerscope import catalogue
from layerscope.errors import LayerscopeError, unknown

LABEL = "label"
"""Metadata of a field that only labels: measurements are the same whatever it says."""
LATER = "later"
"""Metadata of a field that earlier versions did not have: at its default all is as it was then."""


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


class Described(Config):
    """A configuration that a user chooses by name and a function makes something of.

    Both are said where the class is defined, so that one file is all that a new kind takes::

        @dataclass(frozen=True)
        class FCN(ModelConfig, name="fcn", builder="layerscope.models.fcn:fcn"):

    `layerscope.catalogue` reads the name from the source; the builder is imported when it is
    first called.

    Attributes:
        known_as: What the user writes, e.g. after ``--model``; empty for what is not named.
        builder: ``package.module:function``; that of the base class where it is not given.
    """

    known_as: ClassVar[str] = ""
    builder: ClassVar[str] = ""

    def __init_subclass__(cls, *, name: str = "", builder: str = "") -> None:
        super().__init_subclass__()
        cls.known_as, cls.builder = name, builder or cls.builder

    def load_builder(self) -> Callable[..., Any]:
        """The function that makes what this describes.

        Raises:
            LayerscopeError: The class names none, or one that is not there.
        """
        kind, (module, _, function) = type(self).__name__, self.builder.partition(":")
        try:
            return getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError, ValueError) as error:
            raise LayerscopeError(
                f"{kind} cannot be built by {self.builder!r}: {error}.",
                "Install what is missing, or name the function where the class is defined: "
                f'class {kind}(..., builder="package.module:function").',
            ) from error


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
        cls = _type(str(values["type"]))
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


def _type(name: str) -> type[Config]:
    """The kind of configuration of a name; one in a file of models or data is imported."""
    if name not in Config.types:
        listed = [*catalogue.models().values(), *catalogue.data().values()]
        entries = {entry.symbol: entry for entry in listed}
        if name not in entries:
            raise unknown("configuration type", name, {*Config.types, *entries})
        return entries[name].load()
    return Config.types[name]


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
