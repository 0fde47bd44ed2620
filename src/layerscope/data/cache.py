"""Decoded image sets on disk: one safetensors file per copy, size and reading."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from layerscope.errors import LayerscopeError

if TYPE_CHECKING:
    from torch import Tensor

_FORMAT = 1
_WRITABLE = "Point LAYERSCOPE_CACHE at a folder that can be written."
_TENSORS = ("train_images", "train_labels", "test_images", "test_labels", "mean", "std")


@dataclass(frozen=True, eq=False)
class Decoded:
    """An image set as stored: uint8 images (N, C, H, W), int64 labels (N,), statistics (C,).

    ``mean`` and ``std`` are float64, per channel of the training images on the scale 0..1.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    mean: Tensor
    std: Tensor
    n_classes: int
    class_names: tuple[str, ...] | None


def cache_folder() -> Path:
    """Where decoded sets are kept: ``LAYERSCOPE_CACHE``, else the platform's cache folder."""
    chosen = os.environ.get("LAYERSCOPE_CACHE")
    if chosen:
        return Path(chosen).expanduser() / "data"
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "layerscope" / "data"


def fingerprint(folder: Path, reading: object) -> str:
    """Sixteen hexadecimal digits that change with any file of a copy or with how it is read.

    Args:
        folder: The copy; relative path, size and modification time of each file below count.
        reading: What else decides the result, as its ``repr``.
    """
    files = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(parent, name)
            if not path.is_file():
                continue
            status = path.stat()
            files.append((str(path.relative_to(folder)), status.st_size, status.st_mtime_ns))
    text = json.dumps([_FORMAT, str(folder), files, repr(reading)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def cached(path: Path, build: Callable[[], Decoded]) -> Decoded:
    """The set in the file ``path``, built and written there first where it is missing.

    Processes that want the same file wait for the one that builds it. A file that cannot be read is
    deleted and rebuilt, with a warning that names it.

    Raises:
        LayerscopeError: The folder of ``path`` cannot be written.
    """
    from filelock import FileLock

    stored = _read(path)
    if stored is not None:
        return stored
    _make_folder(path.parent)
    with FileLock(f"{path}.lock"):
        stored = _read(path)
        if stored is None:
            stored = build()
            _write(path, stored)
    return stored


def _read(path: Path) -> Decoded | None:
    """The stored set; None where there is no file, or a broken one, which is deleted."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in _TENSORS}
            facts = json.loads(file.metadata()["facts"])
    except (SafetensorError, KeyError, ValueError) as error:
        warnings.warn(f"deleting the broken cache file {path}: {error}", stacklevel=2)
        path.unlink(missing_ok=True)
        return None
    names = facts["class_names"]
    class_names = None if names is None else tuple(names)
    return Decoded(**tensors, n_classes=facts["n_classes"], class_names=class_names)


def _write(path: Path, decoded: Decoded) -> None:
    from safetensors.torch import save_file

    facts = {"n_classes": decoded.n_classes, "class_names": decoded.class_names}
    tensors = {name: getattr(decoded, name).contiguous() for name in _TENSORS}
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as folder:
        temporary = Path(folder, path.name)
        save_file(tensors, temporary, metadata={"facts": json.dumps(facts)})
        os.replace(temporary, path)


def write_text(path: Path, text: str) -> None:
    """Write a small file so that readers see all of it or nothing."""
    _make_folder(path.parent)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as folder:
        temporary = Path(folder, path.name)
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LayerscopeError(
            f"the cache folder {folder} cannot be made: {error.strerror}.",
            _WRITABLE,
        ) from error
    if not os.access(folder, os.W_OK):
        raise LayerscopeError(f"the cache folder {folder} cannot be written.", _WRITABLE)
