"""What a model holds beside parameters and buffers, kept while it is evaluated and put back.

A forward pass may leave more behind than activations: a statistic in a plain attribute, a counter,
a list of outputs that a hook collects, the state of a generator, the weight that an old-style
``weight_norm`` derives at every call. A snapshot walks from the modules through their attributes,
containers, hooks and what functions enclose, and remembers what it finds.
"""

from __future__ import annotations

import random
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

ATOMS = (bool, int, float, complex, str, bytes, type, torch.dtype, torch.device, torch.Size)
EMPTY = {kind: (kind.__qualname__, 0) for kind in (dict, OrderedDict, list, set)}
"""What an empty container counts as; most of a module's are, such as those of its hooks."""
DEEP = 2
"""How far plain objects are followed: a module's own, and theirs. A trainer is not walked whole."""
MOST = 10_000
"""Members up to which a container is walked; of a longer one only which members it has is kept."""


class Snapshot:
    """State of a model outside its parameters and buffers, at the moment of construction.

    Args:
        model: The model.

    Attributes:
        key: Equal for two snapshots between which nothing changed that could decide which
            operators a forward pass runs: plain values, modes, modules, hooks, which tensors.
    """

    def __init__(self, model: nn.Module) -> None:
        self._seen: dict[int, object] = {}
        self._owned: dict[int, Tensor] = {}
        self._restore: list[Callable[[], object]] = []
        self._empty: list[Any] = []
        self._atoms: list[Hashable] = []
        for module in model.modules():
            for tensor in (*module._parameters.values(), *module._buffers.values()):
                if tensor is not None:
                    self._owned[id(tensor)] = tensor
        self._visit(model, 0)

    @property
    def key(self) -> Hashable:
        """See the class."""
        return tuple(self._atoms)

    def restore(self) -> None:
        """Put everything back that changed."""
        for put_back in self._restore:
            put_back()
        for container in self._empty:
            if container:
                container.clear()

    def _visit(self, value: Any, depth: int) -> None:
        if value is None or isinstance(value, ATOMS):
            self._atoms.append(value)
            return
        self._atoms.append(type(value).__qualname__)
        if id(value) in self._owned or id(value) in self._seen:
            return
        self._seen[id(value)] = value
        if isinstance(value, Tensor):
            self._keep_tensor(value)
        elif isinstance(value, nn.Module):
            self._atoms.append(id(value))
            self._visit(vars(value), 0)
        elif isinstance(value, dict | list | set | deque):
            self._keep_container(value, depth)
        elif isinstance(value, tuple | frozenset):
            self._visit_all(value, depth)
        elif isinstance(value, torch.Generator | random.Random | np.random.Generator):
            self._keep_generator(value)
        elif isinstance(value, np.random.RandomState):
            self._restore.append(partial(value.set_state, value.get_state()))
        elif isinstance(value, np.ndarray):
            self._restore.append(partial(np.copyto, value, value.copy()))
        else:
            self._visit_object(value, depth)

    def _visit_all(self, values: Iterable[Any], depth: int) -> None:
        for value in values:
            if value is None or type(value) in ATOMS:
                self._atoms.append(value)
            elif type(value) in EMPTY and not value:
                self._atoms.append(EMPTY[type(value)])
                self._empty.append(value)
            else:
                self._visit(value, depth)

    def _visit_object(self, value: Any, depth: int) -> None:
        """Functions with what they enclose, partial objects, methods, and plain objects."""
        if isinstance(value, types.FunctionType):
            self._atoms.append((value.__qualname__, id(value.__code__)))
            for cell in value.__closure__ or ():
                self._keep_cell(cell, depth)
        elif isinstance(value, types.MethodType):
            self._visit_all((value.__func__, value.__self__), depth)
        elif isinstance(value, partial):
            self._visit_all((value.func, value.args, value.keywords), depth)
        elif depth < DEEP and not isinstance(value, types.ModuleType):
            attributes = getattr(value, "__dict__", None)
            self._visit(attributes if isinstance(attributes, dict) else None, depth + 1)

    def _keep_tensor(self, tensor: Tensor) -> None:
        self._atoms.append((id(tensor), tensor._version))
        if type(tensor) in (Tensor, nn.Parameter, nn.Buffer) and tensor.device.type != "meta":
            content = tensor.detach().clone()
            self._restore.append(partial(_put_back, tensor, content))

    def _keep_container(self, value: Any, depth: int) -> None:
        self._atoms.append(len(value))
        if isinstance(value, dict):
            if len(value) <= MOST:
                self._visit_all(value.keys(), depth)
                self._visit_all(list(value.values()), depth)
            self._restore.append(partial(_refill_dict, value, dict(value)))
        else:
            members = list(value)
            if len(members) <= MOST and not isinstance(value, set):  # whose order is arbitrary
                self._visit_all(members, depth)
            self._restore.append(partial(_refill, value, members))

    def _keep_cell(self, cell: types.CellType, depth: int) -> None:
        try:
            content = cell.cell_contents
        except ValueError:  # a name that has no value yet
            return
        self._restore.append(partial(setattr, cell, "cell_contents", content))
        self._visit(content, depth)

    def _keep_generator(self, value: Any) -> None:
        if isinstance(value, torch.Generator):
            self._restore.append(partial(value.set_state, value.get_state()))
        elif isinstance(value, random.Random):
            self._restore.append(partial(value.setstate, value.getstate()))
        else:
            bits: Any = value.bit_generator
            self._restore.append(partial(setattr, bits, "state", bits.state))


def _put_back(tensor: Tensor, content: Tensor) -> None:
    data = tensor.data  # its own count of versions: a waiting backward pass is not disturbed
    if data.shape != content.shape or data.dtype != content.dtype:
        tensor.data = content
    elif not torch.equal(data, content):
        data.copy_(content)


def _refill_dict(container: dict[Any, Any], found: dict[Any, Any]) -> None:
    same = len(container) == len(found) and all(
        a is b and container[a] is found[b] for a, b in zip(container, found, strict=True)
    )
    if not same:
        container.clear()
        container.update(found)


def _refill(container: Any, members: list[Any]) -> None:
    now = list(container)
    if len(now) == len(members) and all(a is b for a, b in zip(now, members, strict=True)):
        return
    container.clear()
    (container.update if isinstance(container, set) else container.extend)(members)
