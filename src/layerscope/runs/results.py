"""Measurements on disk: netCDF files, appended as parts and merged when a run closes.

After the netCDF content stands a seal: a checksum and what the file belongs to. Readers of netCDF
do not look behind its end; files without a seal, written before or by others, are read as well.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import xarray as xr

from layerscope.errors import LayerscopeError
from layerscope.runs.files import check_readable, replacing

ENGINE = "netcdf4"
HDF5 = b"\x89HDF\r\n\x1a\n"
SEAL = b"\nlayerscope "
VARIABLES = "variables"
"""Attribute of a stored dataset: its variables and their dimensions, as JSON."""
_IN_TURN = Lock()
"""Threads that read or write take turns: the library behind netCDF ends the process otherwise."""
AGAIN = "Delete it and measure again; checkpoints are not affected."
OWN = "Put this run's own file, or its own run.json, in its place; or delete it and measure again."


def write_netcdf(path: Path, data: xr.Dataset | xr.DataTree, seal: bytes = b"") -> None:
    """Write netCDF that is whole or absent.

    It is made in memory first, where no disk can be full; netCDF leaves unused space behind it.
    """
    with _IN_TURN:
        content = bytes(data.to_netcdf(None, engine=ENGINE))  # pyright: ignore
    content = content[: _end(content)]
    if seal:
        seal = SEAL + f"{zlib.crc32(seal, zlib.crc32(content)):08x} ".encode() + seal
    with replacing(path) as temporary:
        temporary.write_bytes(content + seal)


def write_dataset(
    path: Path, dataset: xr.Dataset, belongs: Mapping[str, str] | None = None
) -> None:
    """Write a dataset to a netCDF file that is whole or absent.

    Args:
        path: The file.
        dataset: What to write.
        belongs: The run and the key that it is the result of, checked by `read_parts`.
    """
    if belongs is not None:
        dims = {str(name): list(v.dims) for name, v in dataset.data_vars.items()}
        dataset = dataset.assign_attrs({VARIABLES: json.dumps(dims)})
    write_netcdf(path, dataset, json.dumps(dict(belongs or {})).encode())


def read_dataset(path: Path) -> xr.Dataset:
    """Read a whole netCDF file into memory.

    Raises:
        LayerscopeError: The file is missing or damaged.
    """
    return _read(path)[0]


def _read(path: Path) -> tuple[xr.Dataset, dict[str, Any]]:
    """The dataset, and what its seal says it belongs to."""
    check_readable(path, f"there is no result file {path}.", "Measure first.")
    try:
        content, belongs = _unsealed(path.read_bytes())
        with _IN_TURN:
            return xr.load_dataset(content, engine=ENGINE), belongs
    except Exception as error:  # HDF5 and what is built on it fail in many ways
        raise LayerscopeError(f"{path} is truncated or no netCDF file: {error}.", AGAIN) from error


def _unsealed(content: bytes) -> tuple[bytes, dict[str, Any]]:
    """Content of a file, after its checksum, and what its seal says.

    Raises:
        ValueError: The content is not what was sealed, or the seal is damaged.
    """
    end = content.rfind(SEAL)
    if end < 0:
        if len(content) < _end(content):  # netCDF reads on into what is not there
            raise ValueError("its end is missing")
        if len(content) > _end(content):  # where nothing but a seal may stand
            raise ValueError("there is something unknown after its end")
        return content, {}
    whole, found, seal = content[:end], *content[end + len(SEAL) :].split(b" ", 1)
    if int(found, 16) != zlib.crc32(seal, zlib.crc32(whole)):
        raise ValueError("it is not what was written")
    return whole, json.loads(seal)


def _end(content: bytes) -> int:
    """Where HDF5 says that it ends, in the superblock that it begins with.

    Raises:
        ValueError: It does not begin with one.
    """
    at = {0: 40, 1: 44, 2: 28, 3: 28}.get(content[8]) if content.startswith(HDF5) else None
    if at is None or len(content) < at + 8:
        raise ValueError("it does not begin as one")
    return int.from_bytes(content[at : at + 8], "little")


def write_part(folder: Path, dataset: xr.Dataset, belongs: Mapping[str, str] | None = None) -> None:
    """Append measurements of some steps to the results of one probe."""
    name = f"{int(dataset['step'][0]):09d}-{int(dataset['step'][-1]):09d}"
    path = folder / f"{name}.nc"
    while path.exists():  # of the same ends, but perhaps of other steps between them
        name += "+"
        path = folder / f"{name}.nc"
    write_dataset(path, dataset, belongs)


def read_parts(folder: Path, belongs: Mapping[str, str] | None = None) -> xr.Dataset:
    """All measurements of one probe, by step; a step measured twice counts as last written.

    Args:
        folder: Where they are.
        belongs: The run and the key that they must be results of.

    Raises:
        LayerscopeError: There is none, or a file is damaged, empty or of another measurement.
    """
    paths = sorted(folder.glob("[!.]*.nc"), key=lambda path: path.stat().st_mtime_ns)
    if not paths:
        raise LayerscopeError(f"there are no results in {folder}.", "Measure first.")
    parts = [_part(path, belongs or {}) for path in paths]
    if len(parts) == 1:
        return parts[0]
    for path, part in zip(paths, parts, strict=True):
        if "step" not in part.coords or part["step"].dims != ("step",):
            raise LayerscopeError(f"{path} has no steps to put it beside the others by.", AGAIN)
    try:
        whole = xr.concat(
            parts,
            "step",
            data_vars="minimal",
            coords="minimal",
            compat="override",
            join="outer",
            combine_attrs="override",
        )
        whole = whole.drop_duplicates("step", keep="last").sortby("step")
        return whole.assign_coords(_reasons(parts, whole))
    except Exception as error:  # whatever xarray cannot put together
        raise LayerscopeError(
            f"the results in {folder} do not fit together: {error}", AGAIN
        ) from error


def _reasons(parts: Sequence[xr.Dataset], whole: xr.Dataset) -> dict[str, Any]:
    """The coordinate ``missing`` of all parts: the reason last given for a layer stays with it."""
    parts = [part for part in parts if "missing" in part.coords]
    if not parts:
        return {}
    reasons = {
        str(layer): str(reason)
        for part in parts
        for layer, reason in zip(part["layer"].values, part["missing"].values, strict=True)
        if reason
    }
    return {"missing": ("layer", [reasons.get(str(name), "") for name in whole["layer"].values])}


def _part(path: Path, belongs: Mapping[str, str]) -> xr.Dataset:
    """One file, without the attribute that says what must be in it."""
    dataset, sealed = _read(path)
    text = dataset.attrs.pop(VARIABLES, None)
    if reason := _misplaced(dataset, sealed, belongs):
        raise LayerscopeError(f"{path} {reason}.", OWN)
    if reason := _incomplete(dataset, text, belongs):
        raise LayerscopeError(f"{path} {reason}.", AGAIN)
    return dataset


def _misplaced(dataset: xr.Dataset, sealed: Mapping[str, Any], belongs: Mapping[str, str]) -> str:
    """Why a file is not what its place says; empty if it is."""
    for kind, name in belongs.items():
        if sealed.get(kind, name) != name:
            return f"is the result of another {kind}, {sealed[kind]!r}"
    probe = dataset.attrs.get("probe")
    named = belongs.get("key", "").partition(",")[0].partition("@")[0].replace("_", "")
    if named and probe is not None and str(probe).lower() != named:
        return f"is the result of another probe, {probe!r}"
    return ""


def _incomplete(dataset: xr.Dataset, text: Any, belongs: Mapping[str, str]) -> str:
    """Which of its variables a file lacks; empty if it has all."""
    if not dataset.data_vars:
        return "holds no measurement"
    if text is None:  # a run with an id was recorded after the attribute had come
        return "was not written by layerscope" if "run" in belongs else ""
    try:
        expected = {str(name): tuple(dims) for name, dims in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return f"has an attribute {VARIABLES!r} that cannot be read"
    for name, dims in expected.items():
        if name not in dataset:
            return f"lacks its variable {name!r}"
        if dataset[name].dims != dims:
            return f"has {name!r} over {dataset[name].dims}, not over {dims}"
    return ""


def compact(folder: Path, belongs: Mapping[str, str] | None = None) -> None:
    """Merge the parts of one probe into one file; one alone is that file, unread."""
    whole = folder / "all.nc"
    paths = [path for path in folder.glob("[!.]*.nc") if path != whole]
    if len(paths) == 1 and not whole.exists():
        paths[0].rename(whole)
    elif paths:
        write_dataset(whole, read_parts(folder, belongs), belongs)
        for path in paths:
            path.unlink()


def settings_attribute(settings: object) -> str:
    """A probe's settings as the text kept in its dataset's attributes."""
    return json.dumps(settings, sort_keys=True, default=str)
