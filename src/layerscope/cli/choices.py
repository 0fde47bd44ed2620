"""From words of the command line to configurations."""

from __future__ import annotations

from collections.abc import Sequence

from layerscope.config import (
    FCN,
    MODELS,
    CustomModel,
    DataConfig,
    Digits,
    Images,
    ModelConfig,
    RunConfig,
    Sine,
)
from layerscope.config.paths import paths
from layerscope.errors import unknown


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
    if name in (None, "digits"):
        return Digits()
    return Sine() if name == "sine" else Images(name=str(name))


def given_paths(words: Sequence[str], config: RunConfig) -> list[str]:
    """Dotted names of the run settings that the words set, e.g. ``model.depth``."""
    options = [word.partition("=")[0] for word in words if word.startswith("--")]
    names = {
        option.removeprefix("--no-").removeprefix("--").replace("-", "_") for option in options
    }
    return sorted(name for name in names if name in set(paths(config)))
