"""Reading a folder in hub layout: its splits, its columns, its rows, without decoding an image."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerscope.data.decode import Encoded
from layerscope.data.table import ImageSet
from layerscope.errors import LayerscopeError

TEST_NAMES = ("test", "validation")
"""Splits to test on where the table does not say, best first."""

_SYNONYMS = ("validation", "valid", "val", "dev")
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z")


@dataclass(frozen=True)
class Columns:
    """Which columns hold image and class, the classes' names, and which rows count."""

    image: str
    label: str
    class_names: tuple[str, ...] | None
    where: tuple[str, Any] | None = None


@dataclass(frozen=True)
class Copy:
    """A readable folder: ``builder`` is Hugging Face's reader for its layout."""

    folder: Path
    builder: Any

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(str(name) for name in self.builder.config.data_files)

    def split(self, wanted: tuple[str, ...]) -> str:
        """The first of ``wanted`` that the copy has, ``validation``, ``valid``, ... being one.

        Raises:
            LayerscopeError: It has none of them.
        """
        for name in wanted:
            for synonym in (name, *(_SYNONYMS if name in _SYNONYMS else ())):
                if synonym in self.splits:
                    return synonym
        raise LayerscopeError(
            f"{self.folder} has no split {' or '.join(wanted)}; it has {', '.join(self.splits)}.",
            "Name the missing split's files or folder after it, e.g. test-00000-of-00001.parquet.",
        )

    def rows(self, split: str) -> int:
        """Rows of a split, from the files' metadata alone."""
        import pyarrow.parquet as parquet

        files = [str(file) for file in self.builder.config.data_files[split]]
        if self.builder.name == "imagefolder":
            return len(files)
        with self.readable(split):
            return sum(parquet.read_metadata(file).num_rows for file in files)

    def features(self, split: str) -> dict[str, Any]:
        """Type of each column."""
        with self.readable(split):
            return dict(self.builder.as_streaming_dataset(split=split).features or {})

    def read(self, split: str, columns: Columns, labels: list[int | None]) -> Iterator[Encoded]:
        """Encoded images of the rows that count; their labels are appended to ``labels``."""
        import datasets

        with self.readable(split):
            stream = self.builder.as_streaming_dataset(split=split)
            stream = stream.cast_column(columns.image, datasets.Image(decode=False))
            for table in stream.with_format("arrow").iter(batch_size=1000):
                images = table[columns.image].to_pylist()
                classes = table[columns.label].to_pylist()
                kept = range(len(images))
                if columns.where is not None:
                    values = table[columns.where[0]].to_pylist()
                    kept = [i for i in kept if values[i] == columns.where[1]]
                for i in kept:
                    labels.append(classes[i])
                    image = images[i] or {"bytes": None, "path": None}
                    yield image["bytes"], image["path"]

    @contextmanager
    def readable(self, split: str) -> Iterator[None]:
        """Turn a reader's error into one that names the split and the folder."""
        import pyarrow

        try:
            yield
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise LayerscopeError(
                f"split {split} of {self.folder} cannot be read: {_first_line(error)}",
                "Fetch this file again: it is broken or incomplete.",
            ) from error


@contextmanager
def open_copy(folder: Path) -> Iterator[Copy]:
    """Open a folder of parquet files or of one image folder per class, in hub layout.

    Nothing is converted and nothing is left behind; files are read as they are.

    Raises:
        LayerscopeError: The folder holds no such files.
    """
    import datasets

    scratch = tempfile.TemporaryDirectory(prefix="layerscope-", ignore_cleanup_errors=True)
    with scratch as cache, _silent():
        try:
            builder: Any = datasets.load_dataset_builder(str(folder), cache_dir=cache)
        except (OSError, ValueError, RuntimeError) as error:
            raise LayerscopeError(
                f"{folder} does not hold a data set: {_first_line(error)}",
                "Use hub layout: train-*.parquet and test-*.parquet, or train/<class>/*.png.",
            ) from error
        files = [str(file) for part in builder.config.data_files.values() for file in part]
        packed = any(file.endswith(_ARCHIVES) for file in files)
        if builder.name not in ("parquet", "imagefolder") or packed:
            raise LayerscopeError(
                f"{folder} holds neither parquet files nor folders of images, but "
                f"{'archives' if packed else f'files read as {builder.name!r}'}.",
                "Use hub layout: train-*.parquet and test-*.parquet, or train/<class>/*.png.",
            )
        yield Copy(folder, builder)


def _first_line(error: Exception) -> str:
    """The first line of an error's text, or its type where it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)


@contextmanager
def _silent() -> Iterator[None]:
    """Keep Hugging Face's progress bars and log lines off the terminal; settings are restored."""
    import datasets
    from datasets.utils import logging

    bars, level = datasets.are_progress_bars_disabled(), logging.get_verbosity()
    datasets.disable_progress_bars()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if not bars:
            datasets.enable_progress_bars()


def choose_columns(copy: Copy, split: str, row: ImageSet | None) -> Columns:
    """The columns to read: the table's, or else the only image and the only class column.

    Without a class column (``ClassLabel``), one integer column called ``label`` will do.

    Raises:
        LayerscopeError: A column is missing or of another type, or the choice is not unique.
    """
    import datasets

    features = copy.features(split)
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    named = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    integers = [
        name
        for name, kind in features.items()
        if isinstance(kind, datasets.Value) and "int" in kind.dtype
    ]
    if row is not None:
        image = _only(images, row.image_column, "image", copy, features)
        label = _only(named + integers, row.label_column, "class", copy, features)
    else:
        image = _only(images, None, "image", copy, features)
        label = _only(named or [n for n in integers if n == "label"], None, "class", copy, features)
    names = tuple(features[label].names) if label in named else None
    where = None if row is None or row.where is None else _where(row.where, copy, features)
    return Columns(image, label, names, where)


def _only(
    found: list[str], wanted: str | None, kind: str, copy: Copy, features: dict[str, Any]
) -> str:
    """The wanted column, or the only one found."""
    if wanted is None and len(found) == 1:
        return found[0]
    if wanted is not None and wanted in found:
        return wanted
    columns = ", ".join(f"{name} ({type(kind).__name__})" for name, kind in features.items())
    if wanted is not None:
        raise LayerscopeError(
            f"{copy.folder} has no {kind} column {wanted!r}; its columns are {columns}.",
            "Rename the column, or load the folder by its path.",
        )
    raise LayerscopeError(
        f"{copy.folder} has {len(found)} {kind} columns; its columns are {columns}.",
        "Keep exactly one image column (Image) and one class column (ClassLabel).",
    )


def _where(where: tuple[str, str], copy: Copy, features: dict[str, Any]) -> tuple[str, Any]:
    """The condition on rows, with a class's name turned into its number."""
    import datasets

    column, value = where
    kind = features.get(column)
    if isinstance(kind, datasets.ClassLabel) and value in kind.names:
        return column, kind.names.index(value)
    if isinstance(kind, datasets.Value) and kind.dtype == "string":
        return column, value
    raise LayerscopeError(
        f"{copy.folder} has no column {column!r} in which {value!r} can be looked up.",
        "Use a copy with this column, or load a folder that holds only these rows by its path.",
    )
