"""Ways to damage what is on disk, and to see that nothing is."""

from __future__ import annotations

import json
from pathlib import Path

from layerscope.checkpoints import Tensors
from layerscope.results import read_dataset


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
