"""Find the units of a model by running it once: what owns which tensors, in which order."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from layerscope.errors import LayerscopeError, unknown
from layerscope.networks.isolation import isolated
from layerscope.networks.names import named_modules, named_state, unwrap
from layerscope.networks.structure import Following, Outline, homes, kind

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
        modules: Dotted names of the modules that own the parameters; a parametrised module stands
            for all that its parametrisations own.
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
    model = _checked(model)
    if isinstance(unit, str) and unit not in UNITS:
        raise unknown("unit", unit, UNITS)
    following = Following(Outline(model)) if unit in ("block", "stage") else None
    order = _first_runs(model, example, forward, following)
    owner, aliases = _tensors_by_module(model, order)
    if unit == "tensor":
        return _tensors(model, owner), aliases
    return _units(model, owner, _roots(model, unit, following)), aliases


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


def refuse_half_copied(
    model: nn.Module, made: nn.Module, example: Any, forward: Forward | None
) -> None:
    """Refuse a copy that runs modules of the model it was made of; it runs once.

    A function that encloses a model's own ``forward`` is not copied with the model.

    Raises:
        LayerscopeError: It runs one.
    """
    ran: list[str] = []
    with isolated(model), isolated(made), torch.no_grad():
        for name, module in named_modules(model):
            module.register_forward_pre_hook(lambda *_, name=name: ran.append(name))
        run_example(made, example, forward)
    if ran:
        raise LayerscopeError(
            f"the copy of {type(model).__name__} runs modules of the original, such as {ran[0]!r}.",
            "Wrap forward in a class or as a method: a function that encloses the model's own "
            "forward is not copied. layerscope.surgery.linearised changes the model itself.",
        )


def _checked(model: Any) -> nn.Module:
    """The user's own module, if it is one whose layers can be found."""
    if not isinstance(model, nn.Module):
        raise LayerscopeError(
            f"the model is a {type(model).__name__}, not a torch.nn.Module.",
            "Pass the model itself; call a function that builds one first.",
        )
    _refuse_lazy(model)
    if next(model.parameters(), None) is None:
        raise LayerscopeError(
            f"{type(unwrap(model)).__name__} has no parameters.",
            "Pass a model that is trained: tensors it should learn are torch.nn.Parameter, modules "
            "in lists stand in a torch.nn.ModuleList.",
        )
    return unwrap(model)


def _refuse_lazy(model: nn.Module) -> None:
    """Running a lazy module would initialise it, which is for its owner to do."""
    for name, tensor in named_state(model).items():
        if isinstance(tensor, LAZY):
            raise LayerscopeError(
                f"{name!r} is lazy and has no shape yet.", "Run one batch through the model first."
            )


def _first_runs(
    model: nn.Module, example: Any, forward: Forward | None, following: Following | None
) -> dict[str, int]:
    """Position of every module in order of first execution, registration order as a fallback."""
    ran: dict[nn.Module, int] = {}

    def note(module: nn.Module, _: Any) -> None:
        ran.setdefault(module, len(ran))

    @contextlib.contextmanager
    def watching() -> Iterator[None]:
        for module in model.modules():
            module.register_forward_pre_hook(note)
        with contextlib.nullcontext() if following is None else following.watching():
            yield

    if example is not None:
        _run_once(model, example, forward, watching())
    keys: dict[str, tuple[int, int]] = {}
    anchor = (-1, 0)
    for name, module in named_modules(model):
        anchor = (ran[module], 0) if module in ran else (anchor[0], anchor[1] + 1)
        keys[name] = anchor
    return {name: rank for rank, name in enumerate(sorted(keys, key=lambda n: keys[n]))}


def _run_once(
    model: nn.Module,
    example: Any,
    forward: Forward | None,
    watching: contextlib.AbstractContextManager[None],
) -> None:
    try:  # watching inside, or what its hooks collect would be put back, as all that hooks hold
        with isolated(model), watching, torch.no_grad():
            run_example(model, example, forward)
    except LayerscopeError:
        raise
    except Exception as error:  # the model is foreign code
        remedy = "Pass an input of the shape, type and device that the model takes."
        if forward is None and isinstance(example, tuple | list) and len(example) > 1:
            remedy = (
                f"Without a task all {len(example)} entries are arguments of the model. For a "
                "batch (inputs, labels) say what it means: task=Task.classification(), or "
                "forward=Task.classification().forward where there is no task=. Otherwise pass "
                "inputs of the shape, type and device that the model takes."
            )
        raise LayerscopeError(
            f"{type(model).__name__} does not run on the example input: {error}", remedy
        ) from error


@dataclass
class _Owned:
    parameters: dict[str, tuple[int, ...]] = field(default_factory=dict)
    buffers: dict[str, tuple[int, ...]] = field(default_factory=dict)
    trained: bool = False


def _tensors_by_module(
    model: nn.Module, order: Mapping[str, int]
) -> tuple[dict[str, _Owned], dict[str, str]]:
    """Parameters and buffers of every module in execution order, and the aliases of tied ones.

    A parametrised module owns what its parametrisations own.
    """
    names: dict[int, str] = {}
    aliases: dict[str, str] = {}
    for name, tensor in named_state(model).items():
        if isinstance(tensor, Tensor) and names.setdefault(id(tensor), name) != name:
            aliases[name] = names[id(tensor)]
    owner: dict[str, _Owned] = {}
    claimed: set[int] = set()
    modules, home = dict(named_modules(model)), homes(model)
    for module_name in sorted(modules, key=lambda n: order[n]):
        owned = owner.setdefault(home[module_name], _Owned())
        module = modules[module_name]
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None and id(tensor) in names and id(tensor) not in claimed:
                claimed.add(id(tensor))
                owned.trained |= isinstance(tensor, nn.Parameter) and tensor.requires_grad
                held = owned.parameters if isinstance(tensor, nn.Parameter) else owned.buffers
                held[names[id(tensor)]] = tuple(tensor.shape)
    return owner, aliases


def blocks(model: nn.Module, example: Any = None, forward: Forward | None = None) -> list[str]:
    """Names of the blocks of a model, see `LayerMap.from_model`.

    Args:
        model: Any module.
        example: What the model eats; None looks at structure only.
        forward: How to run the model on the example.
    """
    following = Following(Outline(unwrap(model)))
    if example is not None:
        _run_once(unwrap(model), example, forward, following.watching())
    return Outline(unwrap(model)).blocks(following.broken)


def matching(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Outermost modules whose names match a glob pattern.

    Raises:
        LayerscopeError: A pattern matches no module.
    """
    names = [name for name, home in homes(model).items() if name and home == name]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise LayerscopeError(
                f"no module matches the pattern {pattern!r}.",
                f"Modules are called {preview(names)}.",
            )
    matched = [n for n in names if any(fnmatchcase(n, pattern) for pattern in patterns)]
    return [a for a in matched if not any(a.startswith(f"{b}.") for b in matched)]


def _roots(model: nn.Module, unit: str | Sequence[str], following: Following | None) -> list[str]:
    """Names of the modules that make a unit; modules outside them are units of their own."""
    if not isinstance(unit, str):
        return matching(model, unit)
    if following is None:
        return []
    outline = Outline(model)
    roots = outline.blocks(following.broken)
    if unit == "stage":
        roots = outline.stages(roots)
    if not roots:
        raise LayerscopeError(
            f"{type(model).__name__} has no {unit}: no modules with two or more weight matrices "
            "listed in a Sequential, ModuleList or ModuleDict.",
            'Use unit="module", or name the units by patterns, e.g. unit=["encoder.*"].',
        )
    return roots


def _tensors(model: nn.Module, owner: Mapping[str, _Owned]) -> list[Layer]:
    """A layer for every parameter."""
    modules, tensors = dict(named_modules(model)), named_state(model)
    return [
        Layer(
            parameter,
            0,
            kind(modules[name]),
            (name,),
            {parameter: shape},
            trained=tensors[parameter].requires_grad,
        )
        for name, owned in owner.items()
        for parameter, shape in owned.parameters.items()
    ]


def _units(model: nn.Module, owner: Mapping[str, _Owned], roots: Sequence[str]) -> list[Layer]:
    modules = dict(named_modules(model))
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
            label = root or type(model).__name__
            trained = any(owner[n].trained for n in names)
            layers.append(
                Layer(
                    label,
                    0,
                    kind(modules[root]),
                    tuple(names),
                    parameters,
                    buffers,
                    trained=trained,
                )
            )
    return layers
