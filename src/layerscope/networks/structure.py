"""Which modules a reader of a model would call its blocks and its stages."""

from __future__ import annotations

import contextlib
import weakref
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations
from torch.utils import _pytree as pytree

from layerscope.networks.names import named_modules

LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def homes(model: nn.Module) -> dict[str, str]:
    """For every module the one that its tensors belong to, by dotted names.

    That is itself, except inside of a parametrised module (``torch.nn.utils.parametrize``), where
    it is the parametrised one: ``x.parametrizations.weight`` is at home in ``x``.
    """
    modules = dict(named_modules(model))
    found: dict[str, str] = {}
    for name in modules:
        parent, _, last = name.rpartition(".")
        inside = name and (
            found[parent] != parent
            or (last == "parametrizations" and is_parametrized(modules[parent]))
        )
        found[name] = found[parent] if inside else name
    return found


def kind(module: nn.Module) -> str:
    """Class name of a module as it was written, before parametrisations or FSDP2 changed it."""
    return _class(module).__name__


def _class(module: nn.Module) -> type[nn.Module]:
    found = type_before_parametrizations(module)
    sharded = "FSDPModule" in (base.__name__ for base in found.__bases__)
    return found.__bases__[-1] if sharded else found


class Outline:
    """The tree of a model's modules and the lists in it. The rule is in `LayerMap.from_model`.

    Attributes:
        modules: Modules by name, parents first, without those inside of parametrised ones.
        children: Names of the modules directly inside each.
        composite: Names of those large enough for a block: at least two weight matrices
            (parameters of two or more dimensions), and parameters in more than one module; and of
            others of their class beside them.
    """

    def __init__(self, model: nn.Module) -> None:
        home = homes(model)
        found = dict(named_modules(model))
        self.modules = {name: found[name] for name in found if home[name] == name}
        self.children: dict[str, list[str]] = {name: [] for name in self.modules}
        for name in self.modules:
            if name:
                self.children[_parent(name)].append(name)
        self.composite = _composites(found, home)
        for name in self.modules:
            self.composite |= self._like_composite(name)

    def _like_composite(self, name: str) -> set[str]:
        """Members of a list that are of the class of a composite one, however small."""
        if not isinstance(self.modules[name], LISTS):
            return set()
        members = {child: _class(self.modules[child]) for child in self.children[name]}
        classes = {members[child] for child in members if child in self.composite} - {*LISTS}
        return {child for child, kind in members.items() if kind in classes}

    def alike(self, name: str) -> list[str]:
        """The composite members of a list if they are of one class; else none.

        A single one counts if the list holds nothing else.
        """
        if not isinstance(self.modules[name], LISTS):
            return []
        members = [child for child in self.children[name] if child in self.composite]
        classes = {_class(self.modules[member]) for member in members}
        alone = len(members) == len(self.children[name])
        return members if len(classes) == 1 and (alone or len(members) > 1) else []

    def blocks(self, broken: Collection[str] = ()) -> list[str]:
        """Names of the blocks.

        Args:
            broken: Lists whose members were seen not to follow one another, see `Following`.
        """
        holders = {""}
        for name in self.modules:
            if name not in broken and self.alike(name):
                holders |= {name, *_ancestors(name)}
        return list(self._blocks("", holders))

    def _blocks(self, name: str, holders: Collection[str]) -> Iterator[str]:
        listed = isinstance(self.modules[name], LISTS)
        for child in self.children[name]:
            groups = type(self.modules[child]) is nn.Sequential and isinstance(
                self.modules[name], nn.Sequential
            )
            if listed and child in self.composite and child not in holders and not groups:
                yield child
            else:
                yield from self._blocks(child, holders)

    def stages(self, blocks: Collection[str]) -> list[str]:
        """Names of the stages that hold these blocks."""
        found = dict.fromkeys(self._stage(block) for block in blocks)
        return [n for n in found if n and not any(a in found for a in _ancestors(n) if a)]

    def _stage(self, block: str) -> str:
        listing = _parent(block)
        owner = _parent(listing)
        listed = owner and owner in self.alike(_parent(owner))
        return owner if listed else listing


def _composites(modules: Mapping[str, nn.Module], home: Mapping[str, str]) -> set[str]:
    """A parametrised tensor is one matrix, however many it is computed from."""
    matrices: set[tuple[str, str]] = set()
    owning: set[str] = set()
    for name, module in modules.items():
        own = {key: p for key, p in module._parameters.items() if p is not None}
        owning |= {home[name]} if own else set()
        inner = home[name] != name
        matrices |= {
            (home[name], "" if inner else key)
            for key, parameter in own.items()
            if parameter.ndim > 1
        }
    n_matrices = Counter(a for name, _ in matrices for a in (name, *_ancestors(name)))
    n_owning = Counter(a for name in owning for a in (name, *_ancestors(name)))
    return {name for name in modules if n_matrices[name] > 1 and n_owning[name] > 1}


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _ancestors(name: str) -> Iterator[str]:
    while name:
        name = _parent(name)
        yield name


class Following:
    """Sees, while a model runs, in which lists members do not follow one another.

    A member follows another if the first tensor that it is given is the first that the other
    returned. Only the first run of each counts. No tensor is kept alive.

    Attributes:
        broken: Names of the lists where one did not follow.
    """

    def __init__(self, outline: Outline) -> None:
        self.broken: set[str] = set()
        self._list_of = {
            outline.modules[member]: name
            for name in outline.modules
            for member in outline.alike(name)
        }
        self._returned: dict[str, Any] = {}
        self._ran: set[nn.Module] = set()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Look on inside the context, by hooks."""
        with contextlib.ExitStack() as hooks:
            for module in self._list_of:
                before = module.register_forward_pre_hook(self._before, with_kwargs=True)
                hooks.callback(before.remove)
                hooks.callback(module.register_forward_hook(self._after).remove)
            yield

    def _before(self, module: nn.Module, inputs: Any, named: Any) -> None:
        name = self._list_of[module]
        if module in self._ran or name not in self._returned:
            return
        returned = self._returned[name]
        if returned is None or returned() is not _first_tensor((inputs, named)):
            self.broken.add(name)

    def _after(self, module: nn.Module, _: Any, output: Any) -> None:
        if module not in self._ran:
            self._ran.add(module)
            tensor = _first_tensor(output)
            self._returned[self._list_of[module]] = None if tensor is None else weakref.ref(tensor)


def _first_tensor(values: Any) -> Tensor | None:
    return next((leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor)), None)
