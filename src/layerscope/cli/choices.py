"""From words of the command line to configurations."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import tyro

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
from layerscope.config.paths import paths
from layerscope.errors import unknown

if TYPE_CHECKING:
    from layerscope.probes import Probe

T = TypeVar("T")


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


def take_known(words: list[str], known: Callable[[str], bool], kind: type) -> str | None:
    """Remove and return the first word that is known, wherever it stands among options.

    Words right behind an option, which may be its value, come last.

    Args:
        words: The words of a command; changed in place.
        known: Whether a word can be what is looked for.
        kind: The command's options, of which those of type bool take no value.
    """
    alone, behind = _positions(words, kind)
    at = next((i for i in (*alone, *behind) if known(words[i])), None)
    return None if at is None else words.pop(at)


def take_name(words: list[str], known: Callable[[str], bool], kind: type) -> str | None:
    """`take_known`, or else the first word that is neither an option nor right behind one."""
    if (found := take_known(words, known, kind)) is not None:
        return found
    alone, _ = _positions(words, kind)
    return words.pop(alone[0]) if alone else None


def _positions(words: Sequence[str], kind: type) -> tuple[list[int], list[int]]:
    """Where words that are no options stand: on their own, and right behind an option."""
    names = [f.name.replace("_", "-") for f in dataclasses.fields(kind) if f.type in (bool, "bool")]
    flags = {f"--{no}{name}" for name in names for no in ("", "no-")}
    alone: list[int] = []
    behind: list[int] = []
    before = ""
    for i, word in enumerate(words):
        if not word.startswith("-"):
            takes = before.startswith("--") and "=" not in before and before not in flags
            (behind if takes else alone).append(i)
        before = word
    return alone, behind


def parse(kind: Callable[..., T], words: Sequence[str], command: str, **defaults: Any) -> T:
    """The options of a command.

    Args:
        kind: A dataclass of options.
        words: What stands behind the command.
        command: Its name.
        defaults: For `tyro.cli`.

    Raises:
        SystemExit: Help was asked for, or a word is not understood.
    """
    return tyro.cli(kind, args=list(words), prog=f"layerscope {command}", **defaults)


def find_probe(name: str) -> type[Probe]:
    """The probe of a name.

    Raises:
        LayerscopeError: There is none; the message suggests the nearest.
    """
    from layerscope.probes import PROBES

    if name not in PROBES:
        raise unknown("probe", name, PROBES)
    return PROBES[name]


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
    options = [word.partition("=")[0][2:] for word in words if word.startswith("--")]
    plain = [re.sub(r"(^|\.)no-", r"\1", option).replace("-", "_") for option in options]
    known = set(paths(config))
    return sorted({name for name in plain if name in known})
