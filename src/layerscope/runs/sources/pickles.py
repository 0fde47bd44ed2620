"""Pickles read as data: nothing that one names is imported, and nothing that it asks for is called.

A pickle is a program that builds values by calling functions that it names. Here a name stays a
name. A few are known, and what they would build is built by code of this file: dictionaries, sizes,
types, and tensors, which become descriptions (`layerscope.runs.sources.contents.Entry`). Every
other call becomes a `Placeholder` that notes what was asked for. That holds for all of a file, also
for what is beside the weights. What would run commands is refused by name; that gives the reason
early and is not what keeps it from running.

The interpreter is that of the standard library in Python, whose memo is a dictionary, with every
instruction that calls, imports or changes an object replaced, and those that no ``torch.save``
writes taken out.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Collection
from typing import Any, ClassVar, Protocol

from layerscope.runs.checkpoints import TYPES
from layerscope.runs.sources.descriptions import (
    STORAGES,
    Placeholder,
    RefusedError,
    Storage,
    built,
    hashed,
    said,
)

MOST = 2**28
"""Bytes of a pickle; those of checkpoints have less, since numbers stand outside."""
LINE = 2**12


class Readable(Protocol):
    """A file open for reading."""

    def read(self, size: int, /) -> bytes:
        """At most so many bytes."""
        ...

    def readline(self, size: int, /) -> bytes:
        """A line, or so many bytes of it."""
        ...


def unpickle(
    file: Readable,
    only: Collection[str] | None = None,
    storages: dict[str, Storage] | None = None,
) -> Any:
    """The next pickle of a file as data.

    Args:
        file: Open for reading in binary.
        only: Names of which the pickle may ask for nothing else; by default it may name anything,
            of which nothing is called.
        storages: Takes every storage that it names.

    Raises:
        RefusedError: It names something that runs commands, or describes an impossible tensor.
        Exception: It is damaged.
    """
    return _Reader(file, only, {} if storages is None else storages).load()


class _Bounded:
    """A file of which a limited number of bytes are read."""

    def __init__(self, file: Readable) -> None:
        self._file = file
        self._left = MOST

    def read(self, size: int) -> bytes:
        self._left -= size
        if self._left < 0:
            raise RefusedError(f"its pickle has more than {MOST:,} bytes")
        return self._file.read(size)

    def readline(self) -> bytes:
        self._left -= LINE
        return self._file.readline(LINE)


_RUNS = {
    *("os", "posix", "nt", "sys", "subprocess", "commands", "popen2", "pty", "socket", "shutil"),
    *("runpy", "importlib", "ctypes", "code", "codeop", "pickle", "_pickle", "marshal", "imp"),
    *("webbrowser", "pip", "timeit", "pdb", "bdb", "cProfile", "profile", "asyncio"),
}
_BUILTINS = ("builtins", "__builtin__")
_RUNS_BUILTIN = {"eval", "exec", "execfile", "compile", "open", "__import__", "input", "breakpoint"}
_DTYPES = {str(dtype): dtype for dtype in TYPES}


def _standard() -> dict[int, Any]:
    """The standard instructions without those that no ``torch.save`` writes."""
    absent = (
        *(pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.INST, pickle.OBJ),
        *(pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
    )
    known = dict(pickle._Unpickler.dispatch)
    return {code: method for code, method in known.items() if bytes([code]) not in absent}


class _Reader(pickle._Unpickler):
    """The interpreter; see the head of this file."""

    def __init__(
        self, file: Readable, only: Collection[str] | None, storages: dict[str, Storage]
    ) -> None:
        super().__init__(_Bounded(file))  # pyright: ignore[reportArgumentType]
        self._only = only
        self._storages = storages
        self.stack: list[Any] = []
        self.pop_mark: Callable[[], list[Any]]

    def find_class(self, module: str, name: str) -> Any:
        """The name itself, or the type that it stands for; nothing is imported."""
        full = f"{module}.{name}"
        first = module.partition(".")[0]
        if first in _RUNS or (first in _BUILTINS and name in _RUNS_BUILTIN):
            raise RefusedError(f"it asks for {full}, which could run commands on this machine")
        if self._only is not None and full not in self._only:
            raise RefusedError(f"it asks for {full}, which no such file needs")
        return _DTYPES[full] if full in _DTYPES else Placeholder(full)

    def persistent_load(self, pid: Any) -> Storage:
        """The storage that a tensor lies in, as ``torch.save`` refers to it."""
        word, kind, key, _, length, *view = pid
        known = isinstance(kind, Placeholder) and kind.name in STORAGES
        if word != "storage" or not known or any(part is not None for part in view):
            raise RefusedError(f"it has a storage of the unknown kind {said(kind)}")
        if type(key) is not str or type(length) is not int or length < 0:
            raise RefusedError("a storage has no proper name or length")
        found = Storage(key, STORAGES[kind.name], length)
        if self._storages.setdefault(key, found) != found:
            raise RefusedError(f"the storage {key!r} is described twice, differently")
        return found

    # Instructions. Each takes from the stack what the standard one does.

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = built(self.stack[-1], arguments)

    def load_newobj_ex(self) -> None:
        self.stack.pop()
        self.load_reduce()

    def load_build(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Placeholder):
            self.stack[-1].state = state

    def load_append(self) -> None:
        value = self.stack.pop()
        self._extend([value])

    def load_appends(self) -> None:
        self._extend(self.pop_mark())

    def _extend(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], Placeholder):
            _a(list, self.stack[-1]).extend(values)

    def load_additems(self) -> None:
        values = self.pop_mark()
        if not isinstance(self.stack[-1], Placeholder):
            _a(set, self.stack[-1]).update(map(hashed, values))

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def load_setitems(self) -> None:
        self._set(self.pop_mark())

    def _set(self, pairs: list[Any]) -> None:
        if not isinstance(self.stack[-1], Placeholder):
            keys = map(hashed, pairs[::2])
            _a(dict, self.stack[-1]).update(zip(keys, pairs[1::2], strict=True))

    def load_dict(self) -> None:
        pairs = self.pop_mark()
        self.stack.append({})
        self._set(pairs)

    def load_frozenset(self) -> None:
        values = self.pop_mark()
        self.stack.append(frozenset(map(hashed, values)))

    dispatch: ClassVar[dict[int, Any]] = _standard() | {
        pickle.REDUCE[0]: load_reduce,
        pickle.NEWOBJ[0]: load_reduce,
        pickle.NEWOBJ_EX[0]: load_newobj_ex,
        pickle.BUILD[0]: load_build,
        pickle.APPEND[0]: load_append,
        pickle.APPENDS[0]: load_appends,
        pickle.ADDITEMS[0]: load_additems,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.DICT[0]: load_dict,
        pickle.FROZENSET[0]: load_frozenset,
    }


def _a(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise RefusedError(f"it treats a {type(value).__name__} as a {kind.__name__}")
    return value
