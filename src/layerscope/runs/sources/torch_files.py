"""Files of ``torch.save``, both formats, and what others put into them, read without running code.

The newer format is a zip file with a pickle, which describes the tensors, and a record of numbers
for every storage; the older one has the pickle and then the numbers. Opening reads the directory
and the pickle, see `layerscope.runs.sources.pickles`; a tensor is read when it is asked for, and
the checksum of its record compared where it is the whole record. Nothing is decompressed:
``torch.save`` does not compress.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import torch
from torch import Tensor

from layerscope.errors import LayerscopeError
from layerscope.runs.files import check_readable
from layerscope.runs.sources.contents import Contents, Entry
from layerscope.runs.sources.descriptions import SAFE, Place, RefusedError, Storage, hashed
from layerscope.runs.sources.pickles import MOST, unpickle

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
WHOLE = "Restore it from a copy, or save model.state_dict() again with torch.save or safetensors."


class Record(NamedTuple):
    """Where the numbers of a storage begin, how many bytes they have, and their CRC-32 if known."""

    start: int
    size: int
    checksum: int


@dataclass(frozen=True)
class Archive:
    """The file of one ``torch.save``, or a stretch of a file that was written so.

    Attributes:
        path: The file.
        tree: What was saved; tensors are `Entry` with a `Place`.
        records: Numbers of every storage.
    """

    path: Path
    tree: Any
    records: Mapping[str, Record]

    def read(self, entry: Entry) -> Tensor:
        """A tensor of the file.

        Raises:
            LayerscopeError: The file is gone or truncated, or its checksum is another.
        """
        place: Place = entry.place
        record, size = self.records[place.storage.key], place.dtype.itemsize
        check_readable(self.path, f"{self.path} is gone.", "Put it back.")
        if not place.extent:
            return torch.empty(entry.shape, dtype=place.dtype)
        data = bytearray(place.extent * size)
        with self.path.open("rb") as file:
            file.seek(record.start + place.offset * size)
            whole = file.readinto(data) == len(data)
        if whole and len(data) == record.size and record.checksum:
            whole = zlib.crc32(data) == record.checksum
        if not whole:
            raise LayerscopeError(
                f"{self.path} is damaged: the numbers of a tensor are not those written.", WHOLE
            )
        numbers = torch.frombuffer(data, dtype=torch.uint8).view(place.dtype)
        found = numbers.as_strided(entry.shape, place.stride)
        plain = torch.empty(entry.shape, device="meta").stride() == place.stride
        return found if plain else found.clone(memory_format=torch.contiguous_format)


def torch_file(path: Path) -> Contents:
    """The contents of a file that ``torch.save`` wrote, of weights or of a whole training state.

    Raises:
        LayerscopeError: The file is truncated, damaged, of another format, or asks for code.
    """
    archive = open_archive(path)
    lightning = isinstance(archive.tree, dict) and "pytorch-lightning_version" in archive.tree
    form = "Lightning checkpoint" if lightning else "torch.save"
    return Contents(path, form, archive.tree, archive.read, (path,), ordered=True)


def open_archive(path: Path, start: int = 0, size: int | None = None) -> Archive:
    """What ``torch.save`` wrote to a file, or to a stretch of it.

    Raises:
        LayerscopeError: It is truncated, damaged, of another format, or asks for code.
    """
    try:
        with path.open("rb") as file:
            end = file.seek(0, io.SEEK_END) if size is None else start + size
            window = cast(BinaryIO, io.BufferedReader(_Window(file, start, end)))
            tree, records = (_zip if _is_zip(window) else _legacy)(window)
    except RefusedError as error:
        raise LayerscopeError(f"{path} is refused: {error}.", SAFE) from error
    except LayerscopeError:
        raise
    except Exception as error:  # a damaged file can fail anywhere
        reason = str(error) or type(error).__name__
        raise LayerscopeError(
            f"{path} is truncated or no file of torch.save: {reason}.", WHOLE
        ) from error
    moved = {key: record._replace(start=record.start + start) for key, record in records.items()}
    return Archive(path, tree, moved)


class _Window(io.RawIOBase):
    """A stretch of a file as a file of its own."""

    def __init__(self, file: BinaryIO, start: int, end: int) -> None:
        self._file = file
        self._start = start
        self._size = max(0, end - start)
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError("it is too short")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        self._file.seek(self._start + self._at)
        found = self._file.read(max(0, min(len(buffer), self._size - self._at)))
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)


def _is_zip(file: BinaryIO) -> bool:
    file.seek(0)
    return file.read(2) == b"PK"


def _zip(file: BinaryIO) -> tuple[Any, dict[str, Record]]:
    with zipfile.ZipFile(file) as archive:
        infos = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in infos if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise RefusedError("it is a zip file, but none of torch.save")
        root = pickles[0].removesuffix("data.pkl")
        if any(name.startswith((f"{root}code/", f"{root}constants")) for name in infos):
            raise RefusedError("it is a TorchScript program, not a file of weights")
        if any(info.compress_type or info.flag_bits & 1 for info in infos.values()):
            raise RefusedError("it has compressed or encrypted records, which torch.save has not")
        if infos[pickles[0]].file_size > MOST:
            raise RefusedError(f"its pickle has more than {MOST:,} bytes")
        # Without any it was saved with checksums switched off, which the archive takes for wrong.
        read = archive.read if any(info.CRC for info in infos.values()) else partial(_read, file)
        order = f"{root}byteorder"
        if order in infos and read(infos[order])[:9] != b"little":
            raise RefusedError("it was written on a machine of another byte order")
        tree, storages = _parsed(read(infos[pickles[0]]))
    records = {}
    for key, storage in storages.items():
        if (info := infos.get(f"{root}data/{key}")) is None:
            raise ValueError(f"the record {key!r} is missing")
        records[key] = Record(_data_start(file, info), info.file_size, info.CRC)
        _check_size(records[key], storage, file)
    return tree, records


@lru_cache(maxsize=4)
def _parsed(data: bytes) -> tuple[Any, dict[str, Storage]]:
    """A pickle as data; those of one training are mostly equal, and none is changed by readers."""
    storages: dict[str, Storage] = {}
    return unpickle(io.BytesIO(data), storages=storages), storages


def _read(file: BinaryIO, info: zipfile.ZipInfo) -> bytes:
    """The bytes of a record, which is not compressed."""
    file.seek(_data_start(file, info))
    return file.read(info.file_size)


def _data_start(file: BinaryIO, info: zipfile.ZipInfo) -> int:
    """Where the bytes of a record begin, behind its own header."""
    file.seek(info.header_offset + 26)
    lengths = file.read(4)
    name, extra = int.from_bytes(lengths[:2], "little"), int.from_bytes(lengths[2:], "little")
    return info.header_offset + 30 + name + extra


def _check_size(record: Record, storage: Storage, file: BinaryIO) -> None:
    size = storage.length * (1 if storage.dtype is None else storage.dtype.itemsize)
    end = file.seek(0, io.SEEK_END)
    if record.size < size or record.start + size > end:
        raise ValueError(f"the record {storage.key!r} is too short")


def _legacy(file: BinaryIO) -> tuple[Any, dict[str, Record]]:
    file.seek(0)
    if file.read(1) != b"\x80":
        raise ValueError("it does not begin as one")
    file.seek(0)
    if unpickle(file) != MAGIC or unpickle(file) != PROTOCOL:
        raise RefusedError("it is a pickle, but none of torch.save")
    if not unpickle(file).get("little_endian"):
        raise RefusedError("it was written on a machine of another byte order")
    storages: dict[str, Storage] = {}
    tree = unpickle(file, storages=storages)
    records = {}
    for key in unpickle(file):
        storage = storages[hashed(key)]
        length = int.from_bytes(file.read(8), "little")
        size = length * (1 if storage.dtype is None else storage.dtype.itemsize)
        records[key] = Record(file.tell(), size, 0)
        _check_size(records[key], storage, file)
        file.seek(records[key].start + size)
    if missing := storages.keys() - records.keys():
        raise ValueError(f"the record {min(missing)!r} is missing")
    return tree, records
