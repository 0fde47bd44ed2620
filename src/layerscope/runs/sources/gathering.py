"""From what a user names to checkpoints by step, their layers, and where their tensors stand."""

from __future__ import annotations

import glob
import operator
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from layerscope.errors import LayerscopeError
from layerscope.networks.layers import LayerMap
from layerscope.runs.checkpoints import FLOATING, kinds, shape_of
from layerscope.runs.sources.fitting import Fitted, fitted, unwrapped
from layerscope.runs.sources.hub import PREFIX, Revision, cached, fetch, revisions
from layerscope.runs.sources.looks import Look, looks
from layerscope.runs.sources.opening import is_checkpoint_folder, looks_like_checkpoint
from layerscope.runs.sources.state_dicts import Opened, StateDict, opened
from layerscope.runs.sources.steps import distinct, step_of, step_of_path

Checkpoints = Mapping[int, StateDict | str | Path] | str | Path | Iterable[str | Path]
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "inv_freq", "masked_bias")
NARROW = "Name checkpoints only, e.g. by a narrower pattern: 'out/checkpoint-*'."


@dataclass(frozen=True)
class Member:
    """One checkpoint of an import.

    Attributes:
        step: Its step.
        source: Where it comes from.
        fitted: For every name in the run the name that it has there.
        key: Where in it the weights are.
        format: What it is, for people.
        files: How its files look; none for a state dict in memory, or a revision on the hub.
    """

    step: int
    source: StateDict | Path | Revision
    fitted: Fitted
    key: str
    format: str
    files: dict[str, Look]


@dataclass(frozen=True)
class Gathered:
    """Checkpoints that fit together.

    Attributes:
        members: The checkpoints by step, ascending.
        layers: The layers that they have.
    """

    members: tuple[Member, ...]
    layers: LayerMap

    @property
    def notes(self) -> dict[str, Any]:
        """What was found, as plain values for a manifest."""
        first = self.members[0]
        fits = [member.fitted for member in self.members]
        return {
            "format": ", ".join(dict.fromkeys(member.format for member in self.members)),
            "key": first.key,
            "prefixes": sorted({prefix for fit in fits for prefix in fit.stripped}),
            "left_out": sorted({name for fit in fits for name in fit.left_out}),
        }


def gather(
    checkpoints: Checkpoints, model: nn.Module | None, layers: LayerMap | None, key: str | None
) -> Gathered:
    """Find checkpoints and compare all of them with a model, or with one another.

    Names, shapes and types are compared; values are not read.

    Args:
        checkpoints: As for `layerscope.Run.from_checkpoints`.
        model: The model; None takes names and shapes as the first checkpoint has them.
        layers: Its layers, if others than the modules.
        key: Where in every checkpoint the weights are.

    Raises:
        LayerscopeError: There are none, a step is unknown, or one does not fit.
    """
    sources = by_step(checkpoints)
    if model is not None and layers is None:
        layers = LayerMap.from_model(model, None)
    members: list[Member] = []
    for step, source in sorted(sources.items(), key=operator.itemgetter(0)):
        if isinstance(source, Revision) and members and cached(source) is None:
            members.append(replace(members[0], step=step, source=source))
            continue
        found, what = open_source(source, key), named(step, source)
        if model is not None:
            fit = fitted(found.state, model, what)
        else:
            fit = unwrapped(found.state, what)
            layers = layers or _layers(found, fit)
            _check_same(found.state, fit, layers, what, members)
        members.append(_member(step, source, fit, found))
    assert layers is not None
    return Gathered(tuple(members), layers)


def _member(step: int, source: StateDict | Path | Revision, fit: Fitted, found: Opened) -> Member:
    """What is kept of a checkpoint after it was looked at: nothing that holds a file open."""
    form, files = "state dicts", {}
    if found.contents is not None:
        form = found.contents.format
        if isinstance(source, Path):
            files = looks(source, found.contents.files)
    return Member(step, source, fit, found.key, form, files)


def open_source(source: StateDict | Path | Revision, key: str | None) -> Opened:
    """One checkpoint, its tensors not yet read where they are in a file."""
    if isinstance(source, Revision):
        return opened(fetch(source), key)
    return opened(source, key)


def named(step: int, source: StateDict | Path | Revision) -> str:
    """How to call a checkpoint in messages."""
    return f"the checkpoint of step {step}" + (
        "" if isinstance(source, Mapping) else f", {source},"
    )


def by_step(checkpoints: Checkpoints) -> dict[int, StateDict | Path | Revision]:
    """Checkpoints with their steps as plain integers.

    Raises:
        LayerscopeError: There is none, a step is no integer from 0 on, or names do not say one.
    """
    if isinstance(checkpoints, Mapping):
        return _given(checkpoints)
    if isinstance(checkpoints, str | Path):
        text = str(checkpoints)
        if text.startswith(PREFIX):
            return _of_revisions(revisions(text))
        return _of_paths(_matching(Path(checkpoints)))
    paths = [found for part in checkpoints for found in _matching(Path(part))]
    if not paths:
        raise LayerscopeError("there are no checkpoints.", "Name at least one.")
    return _of_paths(paths)


def _given(checkpoints: Mapping[Any, Any]) -> dict[int, StateDict | Path | Revision]:
    found: dict[int, StateDict | Path | Revision] = {}
    for step, source in checkpoints.items():
        try:
            number = -1 if isinstance(step, bool) else operator.index(step)
        except TypeError:
            number = -1
        if number < 0:
            raise LayerscopeError(
                f"the step {step!r} is no integer from 0 on.",
                "Use the number of optimiser steps as key: {0: ...}.",
            )
        if isinstance(source, str) and source.startswith(PREFIX):
            (source,) = _single(source)
        found[number] = Path(source) if isinstance(source, str) else source
    if not found:
        raise LayerscopeError("there are no checkpoints.", "Pass at least one: {0: state}.")
    return found


def _single(text: str) -> list[Revision]:
    found = revisions(text)
    if len(found) > 1:
        raise LayerscopeError(
            f"{text} means {len(found)} revisions.", "Name one of them for a step."
        )
    return found


def _of_revisions(found: list[Revision]) -> dict[int, StateDict | Path | Revision]:
    steps = [(step_of(revision.name), revision) for revision in found]
    for step, revision in steps:
        if step is None:
            raise LayerscopeError(
                f"the name of {revision} has no number, so no step.",
                "Use a narrower pattern, e.g. @step*, or a mapping from step to revision.",
            )
    known = [(step, revision) for step, revision in steps if step is not None]
    distinct((step, str(revision)) for step, revision in known)
    return dict(known)


def _of_paths(paths: list[Path]) -> dict[int, StateDict | Path | Revision]:
    steps = [(step_of_path(path), path) for path in paths]
    distinct((step, str(path)) for step, path in steps)
    return dict(steps)


def _matching(path: Path) -> list[Path]:
    """The checkpoints that a path or pattern means."""
    if path.exists():
        return _inside(path) if path.is_dir() else [path]
    if not re.search(r"[*?\[]", str(path)):
        raise LayerscopeError(
            f"there is no checkpoint {path}.",
            "Check the path; write a pattern in quotes: 'out/checkpoint-*'.",
        )
    found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
    if not found:
        raise LayerscopeError(f"nothing matches {path}.", "Check the pattern.")
    for one in found:
        if one.is_dir() and not is_checkpoint_folder(one):
            raise LayerscopeError(f"{one}, which {path} matches, is no checkpoint.", NARROW)
    return found


def _inside(folder: Path) -> list[Path]:
    """A folder that is a checkpoint, or the checkpoints in it; what is beside them is left out."""
    below = sorted(p for p in folder.iterdir() if looks_like_checkpoint(p))
    if not is_checkpoint_folder(folder):
        if below:
            return below
        raise LayerscopeError(
            f"{folder} holds no checkpoint of a known format.",
            "Name files or folders of weights, or a pattern.",
        )
    others = [path for path in below if path.is_dir() and step_of(path.name) is not None]
    if others:
        raise LayerscopeError(
            f"{folder} is a checkpoint and has others in it, such as {others[0].name}.",
            f"Say which: {str(folder / '*-*')!r}, or {{step: {str(folder)!r}}}.",
        )
    return [folder]


def _layers(found: Opened, fit: Fitted) -> LayerMap:
    """Layers of a model that is not there, by the names of its tensors."""
    ordered = found.contents is None or found.contents.ordered
    names = list(fit.places) if ordered else sorted(fit.places, key=_natural)
    shapes = {name: shape_of(found.state, fit.places[name]) for name in names}
    numbers = kinds(found.state, fit.places.values())
    whole = {n for n in names if numbers.get(fit.places[n], FLOATING) not in (FLOATING, "complex")}
    kept = {name for name in names if name.rpartition(".")[2] in _BUFFERS}
    return LayerMap.from_shapes(shapes, whole | kept)


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sorts names so that 2 comes before 10."""
    parts = re.split(r"(\d+)", name)
    return [(1, len(n := p.lstrip("0")), n) if p.isdecimal() else (0, 0, p) for p in parts]


def _check_same(
    state: StateDict, fit: Fitted, layers: LayerMap, what: str, before: list[Member]
) -> None:
    """Compare a checkpoint with layers, and its names with those of the first one."""
    for layer in layers:
        for name, shape in layer.parameters.items():
            if name not in fit.places:
                raise LayerscopeError(
                    f"{what} lacks {name!r}.", "Import checkpoints of one model, all whole."
                )
            if (found := shape_of(state, fit.places[name])) != shape:
                raise LayerscopeError(
                    f"{name!r} has shape {found} in {what}, {shape} in the first.",
                    "Import checkpoints of one model.",
                )
    first = before[0].fitted.places if before else fit.places
    if different := sorted(fit.places.keys() ^ first.keys()):
        raise LayerscopeError(
            f"{what} and the first one differ in {different[0]!r}, which one of them lacks.",
            "Import checkpoints of one model, all whole.",
        )
