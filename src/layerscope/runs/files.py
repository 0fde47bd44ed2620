"""Files that are whole or absent: written beside their place, then renamed into it."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from layerscope.errors import LayerscopeError

TEMPORARY = ".tmp"
DEEPEST = 100
"""Levels of a JSON file: more than any of ours has, fewer than Python can follow."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder that takes the name ``path`` when the block succeeds.

    A crash inside leaves at most a file that ends in ``.tmp``, which nothing reads.

    Raises:
        LayerscopeError: The folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):  # a folder below a file has none to remove
            temporary.unlink()
        raise LayerscopeError(
            f"cannot write {path}: {error.strerror or error}.",
            "Check the folder's permissions and free space, or choose another folder.",
        ) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_name(path: Path) -> None:
    """Refuse a path that safetensors, JSON or a terminal could not take, before work relies on it.

    Raises:
        LayerscopeError: It is not valid UTF-8 or holds a null character.
    """
    try:
        valid = b"\0" not in str(path).encode()
    except UnicodeEncodeError:
        valid = False
    if not valid:
        raise LayerscopeError(
            f"the path {str(path)!a} is not valid UTF-8.", "Give the folder another name."
        )


def check_writable(folder: Path) -> None:
    """Make sure that files can be written to a folder, before long work relies on it.

    Raises:
        LayerscopeError: They cannot.
    """
    probe = folder / "writable"
    with replacing(probe) as temporary:
        temporary.touch()
    probe.unlink(missing_ok=True)


def check_readable(path: Path, absent: str, remedy: str) -> None:
    """Refuse what cannot be read as a file; every reader asks this first.

    Only regular files are read: opening a pipe or a device could wait for ever.

    Args:
        path: The file.
        absent: What to say where there is none.
        remedy: What to do then.

    Raises:
        LayerscopeError: There is nothing, or no regular file, or it may not be read.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            path.open("rb").close()
            return
    except (FileNotFoundError, NotADirectoryError) as error:
        raise LayerscopeError(absent, remedy) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LayerscopeError(
            f"cannot read {path}: {reason}.", "Check its permissions and where it links to."
        ) from error
    kind = "folder" if stat.S_ISDIR(mode) else "pipe, device or socket"
    raise LayerscopeError(f"{path} is a {kind}, not a file.", "Put the file in its place.")


def remove_temporaries(folder: Path) -> None:
    """Delete what a killed writer left behind, in ``folder`` and below."""
    for path in folder.rglob(f".*{TEMPORARY}"):
        path.unlink(missing_ok=True)


def write_json(path: Path, values: Mapping[str, Any] | list[Any]) -> None:
    """Write JSON that is whole or absent."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        LayerscopeError: The file is missing, no JSON, or nested beyond use.
    """
    check_readable(path, f"{path} does not exist.", "Check the path.")
    try:
        values = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
        if _depth(values) <= DEEPEST:
            return values
        reason = f"it is nested more than {DEEPEST} levels deep"
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError too
        reason = str(error)
    raise LayerscopeError(
        f"{path} is not valid JSON: {reason}.", "Restore the file or record the run again."
    )


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no JSON number")


def _depth(values: Any) -> int:
    """How deeply lists and objects are nested, found level by level."""
    depth, level = 0, [values]
    while level := [v for v in level if isinstance(v, dict | list)]:
        depth += 1
        level = [v for x in level for v in (x.values() if isinstance(x, dict) else x)]
    return depth
