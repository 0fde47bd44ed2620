"""What is known of a pickle: descriptions of storages and tensors; placeholders for the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from layerscope.runs.checkpoints import TYPES
from layerscope.runs.sources.contents import Entry

SAFE = (
    "Nothing of it was run. Use a file of plain tensors: the weights as safetensors, or "
    "model.state_dict() saved with torch.save; do not load this one in another way unless you "
    "trust whoever made it."
)
STORAGES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.ComplexDoubleStorage": torch.complex128,
    "torch.storage.UntypedStorage": None,
}
_HASHED = (str, bytes, int, float, bool, type(None), torch.dtype)
DIMENSIONS = 64
"""Most dimensions of a tensor."""
LONGEST = 2**63
"""Beyond all sizes, offsets and strides, and all numbers of entries."""
_PLAIN = ("torch.Tensor", "torch._tensor.Tensor", "torch.nn.parameter.Parameter")


class RefusedError(Exception):
    """A file asks for something that is not done, or describes something that cannot be."""


class Placeholder:
    """Something that a pickle names or asks to be built, kept as plain data.

    Attributes:
        name: Dotted name of the class or function.
        arguments: What it would have been called with; None for the name alone.
        state: What it would have been given afterwards.
    """

    __slots__ = ("arguments", "name", "state")

    def __init__(self, name: str, arguments: Any = None) -> None:
        self.name = name
        self.arguments = arguments
        self.state: Any = None

    def __repr__(self) -> str:
        return self.name


def said(value: Any) -> str:
    """A value of a pickle in a message: never written out, since it may be endless."""
    return value.name[:80] if isinstance(value, Placeholder) else f"a {type(value).__name__}"


def hashed(value: Any) -> Any:
    """A key or member of a set, which is plain: hashing nested tuples may take for ever.

    Raises:
        RefusedError: It is something else than a text, a number, a name or a flat tuple of these.
    """
    parts = value if type(value) is tuple else (value,)
    if not all(isinstance(part, (*_HASHED, Placeholder)) for part in parts):
        raise RefusedError(f"it has {said(value)} as a key, which is no text or number")
    return value


class Storage(NamedTuple):
    """A run of numbers that tensors lie in.

    Attributes:
        key: Its name in the file.
        dtype: Type of its numbers; None for plain bytes.
        length: How many there are.
    """

    key: str
    dtype: torch.dtype | None
    length: int


class Place(NamedTuple):
    """Where a tensor lies: in which storage, from which number on, with which strides."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    stride: tuple[int, ...]
    extent: int
    """Numbers from the first to the last."""


def built(what: Any, arguments: Any) -> Any:
    """What a call in a pickle stands for: built here where it is known, else noted."""
    if not isinstance(what, Placeholder) or what.arguments is not None:
        return Placeholder("the result of an unknown call", arguments)
    build = _BUILDERS.get(what.name)
    if build is None or type(arguments) is not tuple:
        return Placeholder(what.name, arguments)
    return build(*arguments)


def _tensor(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any = None,
    hooks: Any = None,
    metadata: Any = None,
    dtype: torch.dtype | None = None,
) -> Any:
    """The description of a tensor, if it can be."""
    del requires_grad, hooks
    whole = isinstance(storage, Storage) and type(offset) is int and 0 <= offset < LONGEST
    if not whole or not is_shape(size) or not are_sizes(stride):
        raise RefusedError("a tensor has no proper storage, size or strides")
    dtype = storage.dtype if dtype is None else dtype
    if dtype is None or len(size) != len(stride):
        raise RefusedError("a tensor has no type, or other strides than dimensions")
    if isinstance(metadata, Mapping) and any(metadata.values()):
        return Placeholder("a conjugated or negated view")
    width = 1 if storage.dtype is None else storage.dtype.itemsize
    held = storage.length * width // dtype.itemsize
    count = math.prod(size)
    last = sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    extent = last + 1 if count else 0
    if count and (count > held or offset + extent > held):
        raise RefusedError(f"a tensor of shape {tuple(size)} cannot lie in {held:,} numbers")
    return Entry(tuple(size), TYPES[dtype], Place(storage, dtype, offset, tuple(stride), extent))


def _tensor_of_type(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any,
    hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> Any:
    if not isinstance(dtype, torch.dtype):
        return Placeholder("a tensor of an unknown type")
    return _tensor(storage, offset, size, stride, requires_grad, hooks, metadata, dtype)


def _of_class(function: Any, kind: Any, arguments: Any, state: Any) -> Any:
    """A tensor with attributes, which are left out, or of a class of its own, which is unknown."""
    del state
    if isinstance(kind, Placeholder) and kind.name in _PLAIN:
        return built(function, arguments)
    return Placeholder(f"a tensor of the class {said(kind)}")


def _parameter(data: Any, *_: Any) -> Any:
    return data


def _empty(*_: Any) -> dict[Any, Any]:
    """A dictionary; what is in it follows."""
    return {}


def _size(values: Any = ()) -> tuple[Any, ...]:
    if not are_sizes(values):
        raise RefusedError("it has something else in the place of sizes")
    return tuple(values)


def are_sizes(values: Any) -> bool:
    """Whether these are a few whole numbers from 0 on, as sizes, offsets and strides are."""
    if not isinstance(values, tuple | list) or len(values) > DIMENSIONS:
        return False
    return all(type(n) is int and 0 <= n < LONGEST for n in values)


def is_shape(values: Any) -> bool:
    """Whether these are sizes, also of what a tensor has along all but its empty dimensions."""
    return are_sizes(values) and math.prod(max(n, 1) for n in values) < LONGEST


_BUILDERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _empty,
    "collections.defaultdict": _empty,
    "torch.Size": _size,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_type,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _of_class,
}
