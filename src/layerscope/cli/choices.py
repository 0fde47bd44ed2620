"""From words of the command line to configurations."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from layerscope.config import (
    DATA,
    FCN,
    MODELS,
    CustomModel,
    DataConfig,
    Digits,
    Images,
    ModelConfig,
    RunConfig,
)
from layerscope.errors import LayerscopeError, unknown


def take(words: list[str], option: str) -> str | None:
    """Remove ``option VALUE`` or ``option=VALUE`` from the words and return the value."""
    for i, word in enumerate(words):
        if word == option and i + 1 < len(words):
            value = words[i + 1]
            del words[i : i + 2]
            return value
        if word.startswith(f"{option}="):
            del words[i]
            return word.partition("=")[2]
    return None


def model_config(name: str | None) -> ModelConfig:
    """The model that ``--model`` names, with its default settings."""
    if name is None:
        return FCN()
    if ":" in name:
        return CustomModel(factory=name)
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    return MODELS[name]()


def data_config(name: str | None) -> DataConfig:
    """The data set that ``--data`` names, with its default settings."""
    if name is None:
        return Digits()
    return DATA[name]() if name in DATA else Images(name=name)


def given_paths(words: Sequence[str], config: RunConfig) -> list[str]:
    """Dotted names of the run settings that the words set, e.g. ``model.depth``."""
    options = [word.partition("=")[0] for word in words if word.startswith("--")]
    names = {
        option.removeprefix("--no-").removeprefix("--").replace("-", "_") for option in options
    }
    return sorted(name for name in names if name in set(paths(config)))


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


def set_path(config: Any, path: str, value: Any) -> Any:
    """The configuration with another value for the setting of a dotted name."""
    name, _, rest = path.partition(".")
    if config is None or not any(f.name == name for f in dataclasses.fields(config)):
        raise LayerscopeError(
            f"not every run of this recipe has the setting {name!r}.",
            "Leave the option out.",
        )
    inner = set_path(getattr(config, name), rest, value) if rest else value
    return replace(config, **{name: inner})
