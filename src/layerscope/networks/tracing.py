"""Tracing a model into a graph, once for all probes and moments that evaluate it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Hashable, Iterator
from types import MethodType
from typing import Any
from weakref import WeakKeyDictionary, WeakMethod, ref

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from layerscope.networks.graph import TENSOR, Graph, Nested, UntraceableError, Weights
from layerscope.networks.isolation import exchanged, preserved
from layerscope.networks.names import every_tensor
from layerscope.networks.snapshot import Snapshot
from layerscope.networks.task import Task

_log = logging.getLogger(__name__)
_TRACED: WeakKeyDictionary[nn.Module, dict[Hashable, Graph | str]] = WeakKeyDictionary()
COPIES = {torch.ops.aten.clone.default: 0, torch.ops.aten.copy.default: 1}
"""Operators that copy a tensor, which is of no use where nothing works in place; its place."""
_TRACE = logging.getLogger("torch.__trace")
MOST_TRACED = 16
"""Graphs kept for one model."""


def traced(model: nn.Module, task: Task, weights: Weights, batch: Any) -> Graph | None:
    """The graph of a model, traced once for its mode, its state and the shapes of a batch.

    Every probe and every moment shares it, as long as nothing changed that could lead to other
    operators: plain attributes, modes, modules, hooks (`snapshot.Snapshot.key`).

    Args:
        model: The module, inside `layerscope.networks.isolation.isolated`.
        task: How to run it.
        weights: Its parameters and buffers; only shapes and types matter.
        batch: A batch; likewise.

    Returns:
        The graph; None where the model cannot be traced, which is logged once, with the reason.
    """
    known = _TRACED.setdefault(model, {})
    key = _key(model, task, weights, batch)
    found = known.pop(key, None)
    if found is None:
        try:
            found = trace(model, task, weights, batch)
        except UntraceableError as error:
            found = str(error)
            _log.warning(
                "%s is evaluated by plain calls, one variant after the other, since it cannot be "
                "traced: %s",
                type(model).__name__,
                found,
            )
        while len(known) >= MOST_TRACED:
            known.pop(next(iter(known)))
    known[key] = found
    return None if isinstance(found, str) or found.trusted is False else found


def _key(model: nn.Module, task: Task, weights: Weights, batch: Any) -> Hashable:
    nested = Nested.of(batch)
    shapes = [(tuple(t.shape), t.stride(), t.dtype, t.device) for t in nested.tensors(batch)]
    state = [(name, tuple(t.shape), t.dtype, t.device) for name, t in weights.items()]
    others = [repr(other) for other in nested.others if other is not TENSOR]
    spec = (nested.spec, nested.kind, tuple(others))
    return (_Same(task.forward), Snapshot(model).key, spec, tuple(shapes), tuple(state))


class _Same:
    """A function, held weakly: one that encloses a model must not keep it alive."""

    def __init__(self, function: Callable[..., Any]) -> None:
        method = isinstance(function, MethodType)
        try:
            self._function = WeakMethod(function) if method else ref(function)
        except TypeError:  # an object that cannot be referred to weakly
            self._function = lambda: function
        self._hash = hash(function)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        mine = self._function()
        return isinstance(other, _Same) and mine is not None and mine == other._function()


def trace(model: nn.Module, task: Task, weights: Weights, batch: Any) -> Graph:
    """Trace a model in its present mode on the shapes of one batch, computing nothing.

    In-place operators become pure ones; what depends on values of tensors cannot be traced.

    Args:
        model: The module, inside `isolation.isolated`; what a call leaves in it is
            put back.
        task: How to run it.
        weights: Its parameters and buffers; only shapes and types matter.
        batch: A batch; likewise.

    Raises:
        UntraceableError: The model cannot be traced, or not so that the graph means the same.
    """
    names = list(weights)
    around = Nested.of(batch)
    outputs: list[Nested] = []

    def run(state: list[Tensor], inputs: list[Tensor]) -> list[Tensor]:
        with exchanged(model, dict(zip(names, state, strict=True))):
            made = task.forward(model, around.filled(inputs))
        outputs.append(Nested.of(made, strict=True))
        return outputs[-1].tensors(made)

    state, inputs = list(weights.values()), around.tensors(batch)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one fused operator would share nothing
    try:
        # The fused kernels have no batching rule.
        with preserved(model), sdpa_kernel(SDPBackend.MATH), _quiet():
            made = _pure(_pure(run, state, inputs), state, inputs)  # kernels work in place, too
    except Exception as error:  # whatever the model's own code does on tensors without values
        raise UntraceableError(_reason(error)) from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    _tidy(made)
    _check(made, model)
    return Graph(made, tuple(names), outputs[-1])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what PyTorch logs on the way to an exception that is caught.

    Its trace for ``TORCH_TRACE`` is made, stack by stack, for every tensor, as long as it has a
    handler, even where none of it is kept.
    """
    disabled, handlers = logging.root.manager.disable, _TRACE.handlers
    logging.disable(logging.CRITICAL)
    _TRACE.handlers = []
    try:
        yield
    finally:
        _TRACE.handlers = handlers
        logging.disable(disabled)


def _reason(error: Exception) -> str:
    if isinstance(error, DataDependentOutputException | GuardOnDataDependentSymNode):
        return "its control flow depends on values of tensors"
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _tidy(made: fx.GraphModule) -> None:
    for node in made.graph.nodes:
        if node.target is torch.ops.aten.view.default:  # strides may differ when evaluated wide
            node.target = torch.ops.aten.reshape.default
        elif node.target is torch.ops.aten.as_strided_.default and _only_renames(node):
            node.replace_all_uses_with(node.args[0])
            made.graph.erase_node(node)
        elif node.target in COPIES and _alike(node, copied := node.args[COPIES[node.target]]):
            node.replace_all_uses_with(copied)
            made.graph.erase_node(node)
    made.graph.eliminate_dead_code()


def _alike(node: fx.Node, other: Any) -> bool:
    """Whether two nodes are tensors of the same shape, type and strides."""
    a, b = node.meta.get("val"), other.meta.get("val")
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return False
    return (a.shape, a.stride(), a.dtype, a.device) == (b.shape, b.stride(), b.dtype, b.device)


def _check(made: fx.GraphModule, model: nn.Module) -> None:
    """Refuse a graph that would not do what the model does."""
    own = {tensor.untyped_storage().data_ptr() for tensor in every_tensor(model).values()} - {0}
    for node in made.graph.nodes:
        if node.op == "get_attr":
            constant = getattr(made, str(node.target))
            if isinstance(constant, Tensor) and constant.untyped_storage().data_ptr() in own:
                raise UntraceableError("it refers to a parameter outside the module that owns it")
        if any(isinstance(leaf, torch.SymInt) for leaf in _sizes(node)):
            raise UntraceableError("shapes depend on values of tensors")
        if not isinstance(node.target, torch._ops.OpOverload):
            continue
        if node.target._schema.is_mutable:
            raise UntraceableError(f"{node.target} works in place")
        if torch.Tag.nondeterministic_seeded in node.target.tags:
            raise UntraceableError(f"{node.target} draws random numbers")


def _sizes(node: fx.Node) -> list[Any]:
    """All sizes of what an operator gives, and plain numbers among it."""
    leaves = pytree.tree_leaves(node.meta.get("val"))
    return [size for x in leaves for size in (x.shape if isinstance(x, Tensor) else [x])]


def _pure(run: Callable[..., Any], *example: Any) -> fx.GraphModule:
    """Trace a function into operators without mutations, those of the function's own operators.

    Operators that are made of others, such as a recurrent layer, are taken apart only once
    mutations have been removed, and their parts may work in place: hence two passes.
    """
    pure = torch.func.functionalize(run, remove="mutations")
    return make_fx(pure, tracing_mode="fake", _allow_non_fake_inputs=True)(*example)


def _only_renames(node: fx.Node) -> bool:
    """Whether other strides leave every element where it is: they differ in dimensions of one.

    Average pooling of images with channels last ends so; it has no batching rule.
    """
    before, after = node.args[0].meta["val"], node.meta["val"]  # pyright: ignore
    if before.shape != after.shape or before.storage_offset() != after.storage_offset():
        return False
    pairs = zip(before.shape, before.stride(), after.stride(), strict=True)
    return all(size == 1 or old == new for size, old, new in pairs)
