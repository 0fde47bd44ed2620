"""Settings by dotted name, e.g. ``model.width``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from layerscope.errors import LayerscopeError

C = TypeVar("C")


def paths(config: Any, prefix: str = "") -> Iterator[str]:
    """Dotted names of all settings of a configuration."""
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            yield from paths(value, f"{prefix}{f.name}.")
        else:
            yield f"{prefix}{f.name}"


def get_path(config: Any, path: str) -> Any:
    """The setting of a dotted name."""
    for name in path.split("."):
        config = getattr(config, name)
    return config


def set_path(config: C, path: str, value: Any) -> C:
    """The configuration with another value for the setting of a dotted name.

    Raises:
        LayerscopeError: The configuration has no such setting.
    """
    name, _, rest = path.partition(".")
    if config is None or not any(f.name == name for f in dataclasses.fields(config)):  # pyright: ignore
        raise LayerscopeError(
            f"not every run of this recipe has the setting {name!r}.",
            "Leave the option out.",
        )
    inner = set_path(getattr(config, name), rest, value) if rest else value
    return replace(config, **{name: inner})  # pyright: ignore


def set_paths(config: C, values: Mapping[str, Any]) -> C:
    """The configuration with other values for several settings.

    Raises:
        LayerscopeError: The configuration has no such setting.
    """
    for path, value in values.items():
        config = set_path(config, path, value)
    return config
