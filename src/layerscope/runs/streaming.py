"""A safetensors file written tensor by tensor, so that no two are copied at once.

The header comes first in such a file, and the checksums in it are known last: their place is kept
as wide as the longest, and blanks fill what is left, which the format allows at a header's end.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import BinaryIO

import torch
import xxhash
from torch import Tensor

from layerscope.errors import LayerscopeError

CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Types of the format that torch has too."""
WIDEST = 2**64 - 1
ALIGNMENT = 8


def layout(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names in the order in which the values are written: wide types first, then by name."""
    return sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))


def check(tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that the format does not have.

    Raises:
        LayerscopeError: One is sparse, or of a type of its own.
    """
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided:
            raise LayerscopeError(
                f"tensor {name!r} is sparse ({tensor.layout}) and cannot be written.",
                "Keep it dense: tensor.to_dense().",
            )
        if tensor.dtype not in CODES:
            raise LayerscopeError(
                f"tensor {name!r} cannot be written: safetensors has no type {tensor.dtype}.",
                "Convert the tensor.",
            )


def checksum(tensor: Tensor) -> int:
    """XXH3 (64 bits) of type, shape and bytes of a contiguous tensor on the CPU."""
    found = xxhash.xxh3_64(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    found.update(_bytes(tensor))
    return found.intdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.flatten().view(torch.uint8).numpy().data


def stream(
    file: BinaryIO,
    tensors: Mapping[str, Tensor],
    read: Callable[[str], Tensor],
    metadata: Callable[[Mapping[str, int]], Mapping[str, str]],
) -> None:
    """Write a whole file. One tensor at a time is copied where it has to be.

    Args:
        file: Open for writing, at its beginning, and can be wound back.
        tensors: What says types and shapes, by name.
        read: Gives the values of one tensor; asked once for each, in the order of `layout`.
        metadata: The texts of the header, made of the checksums by name; the longer these
            numbers, the longer the texts.
    """
    names = layout(tensors)
    places = _places(tensors, names)
    reserved = _header(metadata(dict.fromkeys(names, WIDEST)), places)
    size = len(reserved) + -len(reserved) % ALIGNMENT
    file.write(size.to_bytes(8, "little") + b" " * size)
    sums: dict[str, int] = {}
    for name in names:
        values = read(name).detach().cpu().contiguous()
        sums[name] = checksum(values)
        file.write(_bytes(values))
        del values  # before the next one is made
    file.seek(8)
    file.write(_header(metadata({name: sums[name] for name in tensors}), places).ljust(size))


def _places(tensors: Mapping[str, Tensor], names: list[str]) -> dict[str, object]:
    """Type, shape and place of every tensor, as the header has them."""
    found: dict[str, object] = {}
    end = 0
    for name in names:
        tensor, begin = tensors[name], end
        end += tensor.numel() * tensor.element_size()
        found[name] = {
            "dtype": CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    return found


def _header(metadata: Mapping[str, str], places: Mapping[str, object]) -> bytes:
    return json.dumps({"__metadata__": dict(metadata), **places}, separators=(",", ":")).encode()
