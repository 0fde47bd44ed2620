"""Ways to damage what is on disk, and to see that nothing is."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from layerscope.runs.checkpoints import Tensors
from layerscope.runs.results import read_dataset


def truncated(path: Path, share: float) -> None:
    """Keep the first ``share`` of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def temporaries(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.name.endswith(".tmp")]


def read_everything(folder: Path) -> int:
    """Read every file that is no temporary to its last byte; returns how many there are."""
    readers = {
        ".json": lambda path: json.loads(path.read_text()),
        ".safetensors": lambda path: dict(Tensors(path)),
        ".nc": read_dataset,
    }
    paths = [p for p in folder.rglob("*") if p.suffix in readers and not p.name.endswith(".tmp")]
    for path in paths:
        readers[path.suffix](path)
    return len(paths)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(path.parent):
        made.bind(path.name)  # the whole path may be longer than a socket's name can be


IRREGULAR: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "socket": _socket,
    "loop": lambda path: path.symlink_to(path.name),
}
"""Things in the place of a file that must not be read; each makes one."""


class Hang(BaseException):
    """Something took too long; no handler of exceptions takes it for an error of its own."""


@contextlib.contextmanager
def no_longer_than(seconds: float) -> Iterator[None]:
    """A guard against hanging: what takes longer is ended by an exception."""

    def stop(*_: Any) -> None:
        raise Hang(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
