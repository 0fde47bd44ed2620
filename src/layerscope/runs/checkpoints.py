"""Weights on disk: one safetensors file per step, read lazily, tensor by tensor.

Every file carries a checksum of each tensor and of its metadata, so that a flipped bit is an error
and never a number. Files written by others, or before there were checksums, are read without.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch
import xxhash
from safetensors import safe_open
from torch import Tensor

from layerscope.errors import LayerscopeError, unknown
from layerscope.runs.files import check_readable, replacing
from layerscope.runs.streaming import check, checksum, stream

CHECKS = "layerscope.xxh3"
"""Name in the metadata of the checksums of every tensor, and of the metadata, as JSON."""
_METADATA = ""  # no tensor has this name
RESTORE = "Restore it from a copy, go on without it, or record the run again."


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    read: Callable[[str], Tensor] | None = None,
) -> None:
    """Write tensors to a safetensors file that is whole or absent; shared memory is written twice.

    One tensor at a time is copied, where it does not lie contiguous on the CPU.

    Args:
        path: The file.
        tensors: Tensors by name.
        metadata: Texts beside them.
        read: Gives the values of one tensor, asked once for each in the order of
            `layerscope.runs.streaming.layout`; by default they are those in ``tensors``, of which
            only types and shapes are looked at otherwise.

    Raises:
        LayerscopeError: The folder cannot be written, or the file format has no such tensors.
    """
    check(tensors)
    text = dict(metadata or {})
    own = {_METADATA: _metadata_sum(text)}
    with replacing(path) as temporary, temporary.open("w+b") as file:
        stream(
            file,
            tensors,
            read or tensors.__getitem__,
            lambda sums: {**text, CHECKS: json.dumps({**sums, **own})},
        )


def _metadata_sum(metadata: Mapping[str, str]) -> int:
    return xxhash.xxh3_64_intdigest(json.dumps(dict(metadata), sort_keys=True).encode())


TYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.uint16: "U16",
    torch.uint32: "U32",
    torch.uint64: "U64",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.float8_e8m0fnu: "F8_E8M0",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.complex64: "C64",
    torch.complex128: "C128",
}
"""Types as safetensors writes them."""


class LazyTensors(Mapping[str, Tensor]):
    """Tensors by name, each read when it is asked for; shapes and types are known before.

    Attributes:
        path: The file or folder.
    """

    path: Path

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""

    @abstractmethod
    def dtype(self, name: str) -> str:
        """Type of a tensor as safetensors writes it, e.g. ``F32``, without reading it."""


class Tensors(LazyTensors):
    """The tensors of one safetensors file, each read, and checked, when it is asked for.

    Args:
        path: The file.
        device: Where tensors are put.

    Raises:
        LayerscopeError: The file is missing, truncated, damaged or of another format; a name is
            unknown.
    """

    def __init__(self, path: Path, device: torch.device | str = "cpu") -> None:
        self.path = path
        self._device = torch.device(device)
        check_readable(
            path, f"there is no checkpoint file {path}.", "Check the step and the folder."
        )
        try:
            self._file = safe_open(path, framework="pt", device="cpu")
            self._names = tuple(self._file.keys())
            self._metadata: dict[str, str] = self._file.metadata() or {}
        except Exception as error:  # a damaged header can fail anywhere in safetensors
            raise LayerscopeError(
                f"{path} is truncated or no safetensors file: {error}.",
                f"{RESTORE} A file that torch.save wrote must not be called .safetensors.",
            ) from error
        self._sums = self._read_checks()

    def _read_checks(self) -> dict[str, int] | None:
        """The checksums in the file, after those of names and metadata; None if it has none."""
        if (text := self._metadata.pop(CHECKS, None)) is None:
            return None
        try:
            found = json.loads(text)
            sums = {str(name): int(value) for name, value in found.items()}
        except (ValueError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            raise self._damaged("its checksums cannot be read") from error
        if {*sums} != {_METADATA, *self._names}:
            raise self._damaged("it has other tensors than were written")
        if sums[_METADATA] != _metadata_sum(self._metadata):
            raise self._damaged("its metadata are not those that were written")
        return sums

    def _damaged(self, reason: str) -> LayerscopeError:
        return LayerscopeError(f"{self.path} is damaged: {reason}.", RESTORE)

    @property
    def metadata(self) -> dict[str, str]:
        """Text stored beside the tensors."""
        return self._metadata

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        return tuple(self._file.get_slice(self._known(name)).get_shape())

    def dtype(self, name: str) -> str:
        """Type of a tensor as safetensors writes it, e.g. ``F32``, without reading it."""
        return self._file.get_slice(self._known(name)).get_dtype()

    def _known(self, name: str) -> str:
        if name not in self._names:
            raise unknown(f"tensor of {self.path.name}", name, self._names)
        return name

    def __getitem__(self, name: str) -> Tensor:
        self._known(name)
        try:
            tensor = self._file.get_tensor(name)
        except Exception as error:  # safetensors knows types that torch does not, and the reverse
            raise self._damaged(f"{name!r} cannot be read: {error}") from error
        if self._sums is not None and self._sums[name] != checksum(tensor):
            raise self._damaged(f"the values of {name!r} are not those that were written")
        # Not the mapped file itself: how it lies in there decides the last bits of a sum.
        return tensor.to(self._device, copy=True)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def check_mark(tensors: Tensors, expected: Mapping[str, str]) -> None:
    """Refuse a file whose metadata say that it was written for something else.

    Raises:
        LayerscopeError: A value differs; what is not in the metadata does not count.
    """
    for name, value in expected.items():
        if (found := tensors.metadata.get(name, value)) != value:
            raise LayerscopeError(
                f"{tensors.path} is that of {name} {found}, not of {name} {value}.",
                "Put this run's own file, or its own run.json, in its place.",
            )


def check_parameters(
    tensors: LazyTensors,
    shapes: Mapping[str, tuple[int, ...]],
    kinds: Mapping[str, str] | None,
) -> None:
    """Compare a checkpoint with what the manifest says of the parameters, reading no tensor.

    Args:
        tensors: The checkpoint.
        shapes: Shape of every parameter.
        kinds: What `kinds` returned of the first checkpoint, where it is known.

    Raises:
        LayerscopeError: A parameter is missing, of another shape, or of another kind of numbers.
    """
    for name, shape in shapes.items():
        what = f"{tensors.path} does not fit the manifest of its run"
        if name not in tensors:
            raise LayerscopeError(f"{what}: it lacks {name!r}.", RESTORE)
        if (found := tensors.shape(name)) != tuple(shape):
            raise LayerscopeError(
                f"{what}: {name!r} has shape {found}, not {tuple(shape)}.", RESTORE
            )
        kind = _kind(tensors.dtype(name))
        if kinds is not None and kind != kinds.get(name, FLOATING):
            raise LayerscopeError(f"{what}: {name!r} holds {kind} numbers.", RESTORE)


FLOATING = "floating"


def kinds(tensors: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, str]:
    """Of the named tensors those that are not of floating point, with their kind."""
    found = {name: _kind(type_of(tensors, name)) for name in names if name in tensors}
    return {name: kind for name, kind in found.items() if kind != FLOATING}


def type_of(tensors: Mapping[str, Tensor], name: str) -> str:
    """Type of a tensor as safetensors writes it, without reading it where that can be avoided."""
    if isinstance(tensors, LazyTensors):
        return tensors.dtype(name)
    return TYPES.get(tensors[name].dtype, str(tensors[name].dtype))


def shape_of(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    """Shape of a tensor, without reading it where that can be avoided."""
    return tensors.shape(name) if isinstance(tensors, LazyTensors) else tuple(tensors[name].shape)


def _kind(dtype: str) -> str:
    """Kind of a type as safetensors writes it."""
    if dtype == "BOOL":
        return "boolean"
    return {"I": "integer", "U": "integer", "C": "complex"}.get(dtype[0], FLOATING)
