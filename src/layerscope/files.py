"""Files that are whole or absent: written beside their place, then renamed into it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from layerscope.errors import LayerscopeError

TEMPORARY = ".tmp"


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


def check_writable(folder: Path) -> None:
    """Make sure that files can be written to a folder, before long work relies on it.

    Raises:
        LayerscopeError: They cannot.
    """
    probe = folder / "writable"
    with replacing(probe) as temporary:
        temporary.touch()
    probe.unlink(missing_ok=True)


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
        LayerscopeError: The file is missing or no JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise LayerscopeError(f"{path} does not exist.", "Check the path.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise LayerscopeError(
            f"{path} is not valid JSON: {error}.", "Restore the file or record the run again."
        ) from error
