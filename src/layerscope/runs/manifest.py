"""The manifest of a run, ``run.json``: what it must hold, checked once, where it is read.

`Manifest` describes the format; fields that it does not name are kept as they are. ``checks`` has
a checksum for every field but the status, so that a value changed by accident is an error.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec

from layerscope.errors import LayerscopeError
from layerscope.runs.files import read_json, write_json

FORMAT_VERSION = 1
FILE = "run.json"
Status = Literal["running", "complete", "interrupted", "diverged"]
RESTORE = "Restore the file from a copy, or record the run again."

Count = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Number = Annotated[float, msgspec.Meta(gt=0)]
Seed = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Shapes = dict[str, list[Count]]


class LayerEntry(TypedDict):
    """One layer, as `LayerMap.to_json` writes it."""

    name: str
    depth: Count
    kind: str
    group: str
    trained: NotRequired[bool]
    modules: list[str]
    parameters: Annotated[Shapes, msgspec.Meta(min_length=1)]
    buffers: Shapes


class Layers(TypedDict):
    """The layers, and other names of tied tensors."""

    layers: list[LayerEntry]
    aliases: dict[str, str]


class Notes(TypedDict, total=False):
    """The notes that reports calculate with or show; a run may have any others."""

    test_error: float | None
    test_loss: float | None
    epochs: float
    n_train: float
    n_test: float
    data: str
    data_note: str
    diverged_at: Count
    frozen: dict[str, Count]
    learning_rate_drops: list[Count]


class Part(TypedDict):
    """A part of a configuration."""

    type: str


class Configuration(TypedDict):
    """What every stored `RunConfig` has had from the beginning."""

    model: Part
    data: Part
    optimizer: Part
    milestones: list[float]
    decay: float
    epochs: Positive
    batch_size: Positive
    seed: Seed
    precision: str
    checkpoints: str
    probe_batch: Positive


class Manifest(TypedDict):
    """Everything in ``run.json``; what is not required came later."""

    status: Status
    created: str
    ended: NotRequired[str]
    id: NotRequired[str]
    seed: Seed | None
    steps_per_epoch: Number | None
    total_steps: Count | None
    config: dict[str, Any] | None
    layers: Layers
    environment: dict[str, str]
    notes: Notes
    checkpoints: NotRequired[list[Count]]
    kinds: NotRequired[dict[str, str]]
    checks: NotRequired[dict[str, int]]


def check_manifest(values: Any, where: object) -> None:
    """Compare a manifest with the description of the format.

    Args:
        values: What was read, or is about to be written.
        where: The file, for messages.

    Raises:
        LayerscopeError: A field is missing, of another type, or out of range.
    """
    check_fields(values, Manifest, where)
    config = values["config"]
    if config is not None and config.get("type") == "RunConfig":
        check_fields(config, Configuration, where, "config")


def check_new(values: Mapping[str, Any], folder: Path) -> None:
    """Refuse to write a manifest that could not be read back.

    Raises:
        LayerscopeError: A value is none that JSON has, of another type than its field, or out of
            range.
    """
    try:
        plain = json.loads(json.dumps(values, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise LayerscopeError(
            f"the configuration or a note of {folder} cannot be kept as JSON: {error}.",
            "Pass plain values: texts, finite numbers, lists and dicts.",
        ) from error
    check_manifest(plain, f"the manifest of {folder}")


def check_fields(values: Any, kind: Any, where: object, prefix: str = "") -> None:
    """Compare plain values with a typed dictionary.

    Raises:
        LayerscopeError: A field is missing, of another type, or out of range; it is named.
    """
    try:
        msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$")
        place = (prefix + place.rstrip("`")).strip(".")
        at = f"{place}: " if place else ""
        raise LayerscopeError(f"{where} is not valid: {at}{reason}.", RESTORE) from error


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of the run in a folder.

    Raises:
        LayerscopeError: It is missing, damaged, of a newer format, or no manifest.
    """
    path = folder / FILE
    values = read_json(path)
    if not isinstance(values, dict):
        raise LayerscopeError(f"{path} is not the manifest of a run.", "Record the run again.")
    found = values.get("format_version")
    if type(found) is not int or not 1 <= found <= FORMAT_VERSION:
        raise LayerscopeError(
            f"{path} has format version {found}; this layerscope reads up to {FORMAT_VERSION}.",
            "Upgrade layerscope: pip install -U layerscope.",
        )
    check_manifest(values, path)
    if "id" in values and "checks" not in values:  # which have come together
        raise LayerscopeError(
            f"{path}: checks is missing.",
            f'{RESTORE} If it was left out on purpose, write "checks": {{}}.',
        )
    now = _checks(values)
    for name, value in values.get("checks", {}).items():
        if now.get(name) != value:
            raise LayerscopeError(
                f"{path}: {name} is {'not what was written' if name in now else 'missing'}.",
                f"Put it back; or, if the change is meant, delete {name!r} from its checks.",
            )
    return values


def write_manifest(folder: Path, values: dict[str, Any]) -> None:
    """Write a manifest, with the checksums of its fields.

    Raises:
        LayerscopeError: The folder cannot be written.
    """
    values["checks"] = _checks(json.loads(json.dumps(values)))
    write_json(folder / FILE, values)


def _checks(values: Mapping[str, Any]) -> dict[str, int]:
    """Checksum of every field; fields of configuration and notes have their own."""
    fields: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and name in ("config", "notes"):
            fields |= {f"{name}/{key}": part for key, part in value.items()}
        elif name not in ("format_version", "status", "checks"):
            fields[name] = value
    return {n: zlib.crc32(json.dumps(v, sort_keys=True).encode()) for n, v in fields.items()}


def run_id(folder: Path) -> str | None:
    """What tells the run in a folder from every other; None for one recorded before there was."""
    path = folder / FILE
    return read_json(path).get("id") if path.exists() else None


def frozen_after(manifest: Mapping[str, Any]) -> dict[str, int]:
    """The step after which a layer no longer trained, of those that were frozen on the way."""
    return dict(manifest["notes"].get("frozen", {}))


def rate_drops(manifest: Mapping[str, Any]) -> tuple[int, ...]:
    """The steps after which the learning rate fell since the test loss had stopped falling."""
    return tuple(manifest["notes"].get("learning_rate_drops", ()))
