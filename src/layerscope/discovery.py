"""Find the units of a model by running it once: what owns which tensors, in which order."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from layerscope.errors import LayerscopeError, unknown
from layerscope.isolation import isolated, named_modules, named_state

Forward = Callable[[nn.Module, Any], Any]
LAZY = (nn.parameter.UninitializedParameter, nn.parameter.UninitializedBuffer)
UNITS = ("tensor", "module", "block", "stage")


@dataclass(frozen=True)
class Layer:
    """One unit of analysis.

    Attributes:
        name: Dotted name of the module (or tensor) that makes the unit.
        depth: Position in order of first execution, from 0.
        kind: Class name of that module, e.g. ``"Linear"``.
        modules: Dotted names of the modules that own the parameters.
        parameters: Shape of every parameter by name; a tied one appears in one layer only.
        buffers: Shape of every buffer by name, e.g. BatchNorm statistics.
        group: Label for plots and tests, e.g. ``"early"``.
        trained: Whether the optimiser may move any of its parameters: one requires a gradient.
    """

    name: str
    depth: int
    kind: str
    modules: tuple[str, ...]
    parameters: Mapping[str, tuple[int, ...]]
    buffers: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    group: str = ""
    trained: bool = True

    @property
    def n_parameters(self) -> int:
        """Number of entries in all parameters."""
        return sum(math.prod(shape) for shape in self.parameters.values())


def discover(
    model: nn.Module, example: Any, unit: str | Sequence[str], forward: Forward | None
) -> tuple[list[Layer], dict[str, str]]:
    """Units of a model in execution order, and the aliases of tied tensors.

    Arguments as in `LayerMap.from_model`.
    """
    _refuse_lazy(model)
    owner, aliases = _tensors_by_module(model, _first_runs(model, example, forward))
    return _units(model, owner, unit), aliases


def preview(names: Sequence[str], most: int = 12) -> str:
    """The first names of a long list, for messages."""
    return ", ".join(names[:most]) + (" ..." if len(names) > most else "")


def run_example(model: nn.Module, example: Any, forward: Forward | None) -> Any:
    """Run ``model`` on an example as `LayerMap.from_model` describes it."""
    if forward is not None:
        return forward(model, example)
    if isinstance(example, Mapping):
        return model(**example)
    return model(*example) if isinstance(example, tuple | list) else model(example)


def _refuse_lazy(model: nn.Module) -> None:
    """Running a lazy module would initialise it, which is for its owner to do."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if isinstance(tensor, LAZY):
            raise LayerscopeError(
                f"{name!r} is lazy and has no shape yet.", "Run one batch through the model first."
            )


def _first_runs(model: nn.Module, example: Any, forward: Forward | None) -> dict[str, int]:
    """Position of every module in order of first execution, registration order as a fallback."""
    ran: dict[nn.Module, int] = {}

    def note(module: nn.Module, _: Any) -> None:
        ran.setdefault(module, len(ran))

    try:
        if example is not None:
            with isolated(model), torch.no_grad():
                for module in model.modules():  # inside, or what they note would be put back
                    module.register_forward_pre_hook(note)
                run_example(model, example, forward)
    except Exception as error:
        raise LayerscopeError(
            f"{type(model).__name__} does not run on the example input: {error}",
            "Pass an input of the shape, type and device that the model takes.",
        ) from error
    keys: dict[str, tuple[int, int]] = {}
    anchor = (-1, 0)
    for name, module in named_modules(model):
        anchor = (ran[module], 0) if module in ran else (anchor[0], anchor[1] + 1)
        keys[name] = anchor
    return {name: rank for rank, name in enumerate(sorted(keys, key=lambda n: keys[n]))}


@dataclass
class _Owned:
    parameters: dict[str, tuple[int, ...]] = field(default_factory=dict)
    buffers: dict[str, tuple[int, ...]] = field(default_factory=dict)
    trained: bool = False


def _tensors_by_module(
    model: nn.Module, order: Mapping[str, int]
) -> tuple[dict[str, _Owned], dict[str, str]]:
    """Parameters and buffers of every module in execution order, and the aliases of tied ones."""
    names: dict[int, str] = {}
    aliases: dict[str, str] = {}
    for name, tensor in named_state(model).items():
        if isinstance(tensor, Tensor) and names.setdefault(id(tensor), name) != name:
            aliases[name] = names[id(tensor)]
    owner: dict[str, _Owned] = {}
    claimed: set[int] = set()
    modules = dict(named_modules(model))
    for module_name in sorted(modules, key=lambda n: order[n]):
        owned = owner[module_name] = _Owned()
        module = modules[module_name]
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None and id(tensor) in names and id(tensor) not in claimed:
                claimed.add(id(tensor))
                owned.trained |= isinstance(tensor, nn.Parameter) and tensor.requires_grad
                kind = owned.parameters if isinstance(tensor, nn.Parameter) else owned.buffers
                kind[names[id(tensor)]] = tuple(tensor.shape)
    return owner, aliases


def _is_container(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential | nn.ModuleList)


def _is_composite(module: nn.Module) -> bool:
    """More than one module inside owns parameters."""
    return sum(bool(m._parameters) for m in module.modules()) > 1


def blocks(model: nn.Module) -> list[str]:
    """Innermost composite modules that stand in a Sequential or ModuleList."""
    modules = dict(named_modules(model))
    listed = [
        name
        for name, module in modules.items()
        if name
        and _is_container(modules[name.rpartition(".")[0]])
        and not _is_container(module)
        and _is_composite(module)
    ]
    return [a for a in listed if not any(b.startswith(f"{a}.") for b in listed)]


def matching(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Outermost modules whose names match a glob pattern.

    Raises:
        LayerscopeError: A pattern matches no module.
    """
    names = [name for name, _ in named_modules(model) if name]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise LayerscopeError(
                f"no module matches the pattern {pattern!r}.",
                f"Modules are called {preview(names)}.",
            )
    matched = [n for n in names if any(fnmatchcase(n, pattern) for pattern in patterns)]
    return [a for a in matched if not any(a.startswith(f"{b}.") for b in matched)]


def _roots(model: nn.Module, unit: str | Sequence[str]) -> list[str]:
    """Names of the modules that make a unit; modules outside them are units of their own."""
    if not isinstance(unit, str):
        return matching(model, unit)
    if unit == "module":
        return []
    roots = blocks(model)
    if unit == "stage":
        roots = list(dict.fromkeys(name.rpartition(".")[0] for name in roots))
        roots = [name for name in roots if name]
    if not roots:
        raise LayerscopeError(
            f"{type(model).__name__} has no {unit}: no composite modules listed in a Sequential or "
            "ModuleList.",
            'Use unit="module", or name the units by patterns, e.g. unit=["encoder.*"].',
        )
    return roots


def _units(model: nn.Module, owner: Mapping[str, _Owned], unit: str | Sequence[str]) -> list[Layer]:
    modules = dict(named_modules(model))
    if unit == "tensor":
        tensors = named_state(model)
        return [
            Layer(
                parameter,
                0,
                type(modules[name]).__name__,
                (name,),
                {parameter: shape},
                trained=tensors[parameter].requires_grad,
            )
            for name, owned in owner.items()
            for parameter, shape in owned.parameters.items()
        ]
    if isinstance(unit, str) and unit not in UNITS:
        raise unknown("unit", unit, UNITS)
    roots = _roots(model, unit)
    members: dict[str, list[str]] = {}
    for name, owned in owner.items():
        root = next((r for r in roots if name == r or name.startswith(f"{r}.")), name)
        if owned.parameters or owned.buffers:
            members.setdefault(root, []).append(name)
    layers = []
    for root, names in members.items():
        parameters = {k: v for n in names for k, v in owner[n].parameters.items()}
        buffers = {k: v for n in names for k, v in owner[n].buffers.items()}
        if parameters:
            kind = type(modules[root]).__name__
            label = root or type(model).__name__
            trained = any(owner[n].trained for n in names)
            layers.append(Layer(label, 0, kind, tuple(names), parameters, buffers, trained=trained))
    return layers
