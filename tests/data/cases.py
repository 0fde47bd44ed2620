"""Tiny image sets as data: random pictures and parquet files in hub layout."""

from __future__ import annotations

import io
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

SIZES = {"same": [(8, 8)], "mixed": [(9, 7), (8, 8), (6, 13), (17, 20)]}


def picture(index: int, size: tuple[int, int], mode: str) -> bytes:
    """A random PNG of ``size`` (width, height)."""
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
    pixels = np.random.default_rng(index).integers(0, 256, shape, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def encoded(n: int, sizes: str = "same", modes: tuple[str, ...] = ("RGB",)) -> list[bytes]:
    """``n`` pictures that go through ``sizes`` and ``modes`` in turn."""
    choice = SIZES[sizes]
    return [picture(i, choice[i % len(choice)], modes[i % len(modes)]) for i in range(n)]


def write_parquet(path: Path, images, labels, image="image", label="label", classes=3, **extra):
    """One split in hub layout; ``classes=None`` writes plain integers."""
    kind = datasets.Value("int64")
    if classes is not None:
        kind = datasets.ClassLabel(names=[f"c{i}" for i in range(classes)])
    columns = {image: [{"bytes": data, "path": None} for data in images], label: labels}
    features = {image: datasets.Image(), label: kind}
    for name, values in extra.items():
        columns[name] = values
        features[name] = datasets.Value("string")
    path.parent.mkdir(parents=True, exist_ok=True)
    table = datasets.Dataset.from_dict(columns).cast(datasets.Features(features))
    table.to_parquet(path)
