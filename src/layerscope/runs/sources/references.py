"""Checkpoints that stay where they are: a run keeps where each one is, and how it looked.

``checkpoints/000001000.json`` stands in the place of ``000001000.safetensors``. It has the path,
absolute and as seen from the run, so that both may move together; where in the checkpoint the
weights are, and their names there where these are others; and of every file its size, its time of
change and a checksum of both ends, which hold headers, directories and some of the numbers. A file
that looks otherwise than when it was imported is an error. Of a revision on the hub it has the
commit, whose files cannot change.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import torch

from layerscope.errors import LayerscopeError
from layerscope.runs.files import read_json, write_json
from layerscope.runs.manifest import check_fields
from layerscope.runs.sources.choosing import choose
from layerscope.runs.sources.contents import Chosen
from layerscope.runs.sources.gathering import Member
from layerscope.runs.sources.hub import Revision, fetch
from layerscope.runs.sources.looks import Look, folder_of, look
from layerscope.runs.sources.opening import open_path

AGAIN = "Put it back as it was, or import the checkpoints again into a new folder."


class Reference(TypedDict):
    """What the file of a reference holds."""

    step: int
    run: str
    format: str
    path: NotRequired[str]
    relative: NotRequired[str]
    hub: NotRequired[tuple[str, str, str]]
    key: str
    names: dict[str, str]
    files: dict[str, Look]


def write_reference(path: Path, member: Member, run: str) -> None:
    """Keep where a checkpoint is instead of the checkpoint.

    Args:
        path: The file of the reference.
        member: The checkpoint, of a file, folder or revision.
        run: The identity of the run.

    Raises:
        LayerscopeError: The folder cannot be written, or a file has vanished.
    """
    values: dict[str, Any] = {"step": member.step, "run": run, "key": member.key}
    values |= {"names": member.fitted.places, "format": member.format, "files": member.files}
    source = member.source
    if isinstance(source, Revision):
        values["hub"] = list(source)
    else:
        assert isinstance(source, Path)
        absolute = Path(os.path.abspath(source))
        values |= {
            "path": str(absolute),
            "relative": os.path.relpath(absolute, os.path.abspath(path.parent.parent)),
        }
    write_json(path, values)


def read_reference(path: Path, expected: dict[str, str]) -> Reference:
    """What `write_reference` kept.

    Args:
        path: The file of the reference.
        expected: The step, and the identity of the run.

    Raises:
        LayerscopeError: The file is damaged, or that of another step or run.
    """
    values = read_json(path)
    check_fields(values, Reference, path)
    if "hub" not in values and not {"path", "relative"} <= values.keys():
        raise LayerscopeError(f"{path} does not say where its checkpoint is.", AGAIN)
    if "hub" in values and not re.fullmatch("[0-9a-f]{40}", values["hub"][2]):
        raise LayerscopeError(f"{path} does not say where its checkpoint is.", AGAIN)
    for name, value in expected.items():
        if str(values[name]) != value:
            raise LayerscopeError(
                f"{path} is that of {name} {values[name]}, not of {name} {value}.",
                "Put this run's own file, or its own run.json, in its place.",
            )
    return values


def open_reference(path: Path, expected: dict[str, str], device: torch.device | str) -> Chosen:
    """The tensors that a reference leads to, under the names of the run.

    Raises:
        LayerscopeError: The reference is damaged; what it leads to is gone, was changed, or is
            damaged.
    """
    values = read_reference(path, expected)
    if (hub := values.get("hub")) is not None:
        contents = open_path(fetch(Revision(*hub)))
    else:
        contents = open_path(_unchanged(path, values))
    where = str(contents.path)
    _, entries = choose(contents.tree, values["key"] or None, where)
    missing = [stored for stored in values["names"].values() if stored not in entries]
    if missing:
        raise LayerscopeError(
            f"the checkpoint of step {values['step']}, {where}, lacks {missing[0]!r}.",
            "Import checkpoints of one model, all whole.",
        )
    return Chosen(
        contents, {own: entries[stored] for own, stored in values["names"].items()}, device
    )


def is_gone(path: Path) -> bool:
    """Whether what a reference leads to is no longer there; never of a revision on the hub."""
    values = read_reference(path, {})
    return "hub" not in values and _place(path, values) is None


def _place(path: Path, values: Any) -> Path | None:
    """Where the checkpoint is: where it was, or in the same place beside the run."""
    beside = path.parent.parent / values["relative"]
    try:
        return next((p for p in (Path(values["path"]), beside) if p.exists()), None)
    except OSError as error:  # names that no file can have
        raise LayerscopeError(f"{path} does not say where its checkpoint is.", AGAIN) from error


def _unchanged(path: Path, values: Reference) -> Path:
    """The checkpoint that a reference leads to, if it looks as it did."""
    step, was = values["step"], values.get("path")
    if (found := _place(path, values)) is None:
        raise LayerscopeError(f"the checkpoint of step {step} is gone: {was}.", AGAIN)
    for name, looked in values["files"].items():
        file = folder_of(found) / name
        if not file.exists():
            raise LayerscopeError(f"a file of step {step} is gone: {file}.", AGAIN)
        if look(file) != looked:
            raise LayerscopeError(
                f"{file}, of the checkpoint of step {step}, was changed since it was imported.",
                f"{AGAIN} A copy has to keep its time of change: cp -p.",
            )
    return found
