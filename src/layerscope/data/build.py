"""Decoding one copy of an image set: what to read, the checks, the statistics."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from layerscope.data.cache import Decoded, cache_folder, fingerprint
from layerscope.data.decode import decode_all, decode_named
from layerscope.data.locate import Source
from layerscope.data.reader import TEST_NAMES, Columns, Copy, choose_columns, open_copy
from layerscope.errors import LayerscopeError

MAX_BYTES = 8e9
"""Largest decoded set that is kept in memory."""


@dataclass(frozen=True)
class Reading:
    """One way to read one copy.

    Attributes:
        source: The copy and the table's row for it.
        side: Side in pixels to resize to; None for native size.
    """

    source: Source
    side: int | None

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB: the table's, and RGB for any other set."""
        return self.source.row.channels if self.source.row else 3

    def cache_file(self) -> Path:
        """Named after the set, its size and everything the result depends on."""
        name = re.sub(r"[^\w.-]+", "_", self.source.name).strip("_.")[-40:]
        key = fingerprint(self.source.folder, (self.source.row, self.side))
        return cache_folder() / f"{name}-{self.side or 'native'}-{key}.safetensors"

    def build(self) -> Decoded:
        """Decode both parts."""
        row = self.source.row
        with open_copy(self.source.folder) as copy:
            train = [
                copy.split((name,)) for name in (row.train_split if row else "train").split("+")
            ]
            test = [copy.split((row.test_split,) if row else TEST_NAMES)]
            columns = choose_columns(copy, train[0], row)
            declared = self._declared_classes(columns)
            self._check_size(copy, columns, train, test)
            train_images, train_labels = self._part(copy, train, columns, declared)
            n_classes = declared or int(train_labels.max()) + 1
            test_images, test_labels = self._part(copy, test, columns, n_classes)
        self._check_shapes(train_images, test_images)
        return Decoded(
            train_images,
            train_labels,
            test_images,
            test_labels,
            *statistics(train_images),
            n_classes=n_classes,
            class_names=columns.class_names,
        )

    def _declared_classes(self, columns: Columns) -> int | None:
        """Classes by the table or the class column; None where neither says."""
        row, names = self.source.row, columns.class_names
        if row is not None and names is not None and len(names) != row.classes:
            raise LayerscopeError(
                f"{self.source.folder} names {len(names)} classes, {row.name} has {row.classes}.",
                "Use the right copy, or load this folder by its path.",
            )
        if row is not None:
            return row.classes
        return None if names is None else len(names)

    def _rows(self, copy: Copy, split: str) -> int:
        """Most rows that can be decoded; for a part of a larger set what the table says."""
        rows, row = copy.rows(split), self.source.row
        return min(rows, max(row.n_train, row.n_test)) if row and row.where else rows

    def _check_size(self, copy: Copy, columns: Columns, train: list[str], test: list[str]) -> None:
        """Refuse what would not fit, before anything is decoded but the first image."""
        count = sum(self._rows(copy, split) for split in train + test)
        height = width = self.side or 0
        if self.side is None:
            first = next(copy.read(train[0], columns, []), None)
            what = f"image 0 of {train[0]} of {copy.folder}"
            if first is not None:
                height, width = decode_named(first, self.channels, None, what).shape[1:]
        refuse_too_large(self.source.name, count, (self.channels, height, width))

    def _part(
        self, copy: Copy, splits: list[str], columns: Columns, n_classes: int | None
    ) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) and labels (N,) of some splits joined; labels are checked."""
        parts = []
        for split in splits:
            labels: list[int | None] = []
            encoded = copy.read(split, columns, labels)
            where = f"split {split} of {copy.folder}"
            capacity = self._rows(copy, split)
            pixels = decode_all(encoded, capacity, self.channels, self.side, where)
            parts.append((torch.from_numpy(pixels), checked_labels(labels, n_classes, where)))
        if len(parts) == 1:
            return parts[0]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    def _check_shapes(self, train: Tensor, test: Tensor) -> None:
        """Both parts must have one shape, and the table's where it states one."""
        row = self.source.row
        shapes = {tuple(train.shape[1:]), tuple(test.shape[1:])}
        if row is not None and self.side is None:
            shapes.add((row.channels, row.image_size, row.image_size))
        if len(shapes) > 1:
            raise LayerscopeError(
                f"{self.source.folder}: training images are {tuple(train.shape[1:])}, test images "
                f"{tuple(test.shape[1:])} (channels, height, width)"
                + (f"; {row.name} is {row.image_size}x{row.image_size}." if row else "."),
                "Set image_size to resize all of them to one square.",
            )


def refuse_too_large(name: str, count: int, shape: tuple[int, int, int]) -> None:
    """Raise if ``count`` uint8 images of ``shape`` (C, H, W) need more than ``MAX_BYTES``.

    Raises:
        LayerscopeError: They do.
    """
    n_bytes = count * shape[0] * shape[1] * shape[2]
    if n_bytes > MAX_BYTES:
        raise LayerscopeError(
            f"{name} has {count:,} images; at {shape[2]}x{shape[1]} pixels they need "
            f"{n_bytes / 1e9:.1f} GB of memory, more than {MAX_BYTES / 1e9:.0f} GB.",
            "Set a smaller image_size, or give the path of a folder that holds a subset.",
        )


def checked_labels(labels: list[int | None], n_classes: int | None, where: str) -> Tensor:
    """Labels as int64 (N,).

    Raises:
        LayerscopeError: One is missing, negative, or not below ``n_classes`` (None: no bound).
    """
    for index, label in enumerate(labels):
        if label is None or label < 0 or (n_classes is not None and label >= n_classes):
            bound = "" if n_classes is None else f" to {n_classes - 1}"
            raise LayerscopeError(
                f"image {index} of {where} has label {label}, outside 0{bound}.",
                "Use a split whose images are labelled, with classes counted from 0.",
            )
    return torch.tensor(labels, dtype=torch.int64)


def statistics(pixels: Tensor, chunk: int = 4096) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel on the scale 0..1, exact up to float64 rounding.

    Both follow from how often each of the 256 values occurs: ``mean = sum_v h_v v / (255 N)``, and
    the population standard deviation likewise.

    Args:
        pixels: uint8 (N, C, H, W).
        chunk: Images counted at a time.

    Returns:
        Mean and standard deviation, float64 (C,).
    """
    counts = torch.zeros(pixels.shape[1], 256, dtype=torch.float64)
    for part in pixels.split(chunk):
        for channel, row in enumerate(counts):
            row += torch.bincount(part[:, channel].flatten(), minlength=256)
    shares = counts / counts.sum(1, keepdim=True)
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = shares @ values
    variance = (shares * (values - mean[:, None]) ** 2).sum(1)
    return mean, variance.sqrt()
