"""How files look, so that one that was changed afterwards is noticed without reading it whole."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypedDict

import xxhash

from layerscope.runs.files import check_readable

ENDS = 2**16
"""Bytes at the beginning and at the end of a file that its checksum covers."""


class Look(TypedDict):
    """How a file looks: bytes, time of change in nanoseconds, XXH3 of both ends.

    The ends hold the header of a safetensors file, or the directory of a zip file with the
    checksums of all that is in it, and some of the numbers.
    """

    size: int
    modified: int
    ends: int


def look(file: Path) -> Look:
    """How a file looks now.

    Raises:
        LayerscopeError: It is gone, or no regular file.
    """
    check_readable(file, f"there is no file {file} any more.", "Put it back, or import again.")
    about = file.stat()
    with file.open("rb") as stream:
        found = xxhash.xxh3_64(stream.read(ENDS))
        stream.seek(max(0, about.st_size - ENDS))
        found.update(stream.read(ENDS))
    return {"size": about.st_size, "modified": about.st_mtime_ns, "ends": found.intdigest()}


def looks(path: Path, files: Iterable[Path]) -> dict[str, Look]:
    """How the files of a checkpoint look, by their names as seen from its folder."""
    folder = folder_of(path)
    return {file.relative_to(folder).as_posix(): look(file) for file in files}


def folder_of(path: Path) -> Path:
    """The folder that a checkpoint is, or stands in."""
    return path if path.is_dir() else path.parent
