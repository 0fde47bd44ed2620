"""The step that the name of a checkpoint says."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePath

from layerscope.errors import LayerscopeError

_LABELLED = (r"step", r"checkpoint|ckpt|iteration|iter")
_ALONE = re.compile(r"(?<![A-Za-z0-9.])\d+(?![A-Za-z0-9])")
_EPOCH = re.compile(r"(?i)(?:epoch|ep)[-_=]?\d+")
_SUFFIX = re.compile(r"(\.(safetensors|pt|pth|bin|ckpt|tar|index|json))+$")
GIVE = "Give the step yourself: {1000: path, ...}."


def step_of(name: str) -> int | None:
    """The step in one name; None if it has no number that says one.

    The number behind ``step``; else that behind ``checkpoint``, ``ckpt`` or ``iter``; else the only
    one that stands alone. So ``step1000``, ``checkpoint-500``, ``epoch=3-step=120.ckpt``,
    ``ckpt_000``, ``step-001000-2BT``, ``iter_0000100``, ``global_step100`` and ``20.pt``, but not
    ``resnet50.pt``. Epochs are no steps.

    Raises:
        LayerscopeError: It has several.
    """
    stem = _SUFFIX.sub("", name)
    for label in _LABELLED:
        if found := re.findall(rf"(?i)(?:{label})s?[-_=]?(\d+)", stem):
            return _one(name, found)
    found = _ALONE.findall(_EPOCH.sub("", stem))
    return _one(name, found) if found else None


def _one(name: str, found: list[str]) -> int:
    numbers = {int(number) for number in found}
    if len(numbers) > 1:
        listed = ", ".join(map(str, sorted(numbers)))
        raise LayerscopeError(f"the name {name!r} says several steps: {listed}.", GIVE)
    return numbers.pop()


def step_of_path(path: PurePath) -> int:
    """The step in the name of a file or folder, or else in that of the folder that it stands in.

    Raises:
        LayerscopeError: Neither has one, or one has several.
    """
    for name in (path.name, path.parent.name):
        if (step := step_of(name)) is not None:
            return step
    epoch = _EPOCH.search(path.name) is not None
    raise LayerscopeError(
        f"the name of {path} has {'an epoch, not a step' if epoch else 'no number of a step'}.",
        f"{GIVE} Or leave it out: name the others by a pattern such as 'out/checkpoint-*'.",
    )


def distinct(steps: Iterable[tuple[int, str]]) -> None:
    """Refuse two checkpoints of one step.

    Args:
        steps: Step and name of every checkpoint.

    Raises:
        LayerscopeError: Two have the same step.
    """
    seen: dict[int, str] = {}
    for step, name in steps:
        if step in seen:
            raise LayerscopeError(
                f"{seen[step]} and {name} are both of step {step}.",
                "Leave one out: name the files by a narrower pattern, or give a mapping.",
            )
        seen[step] = name
