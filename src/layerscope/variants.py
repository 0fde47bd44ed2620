"""Evaluate many variants of one model that differ from it in a few tensors.

A variant is a mapping from names of parameters and buffers to the tensors that replace them: one
layer reset to an earlier checkpoint, two coefficients of a loss landscape. The model is traced
once, without computing, into a graph of pure operators. On every batch the base is evaluated once,
and each variant recomputes only the operators that depend on what it replaces; variants that
replace the same tensors are evaluated together in wide operators.

The results are those of the plain loop (load the weights, evaluate, repeat), which
``tests/reference/variants.py`` keeps. Where a model cannot be traced, or a graph turns out not to
do what the model does, the plain loop runs here, too, and the log says why.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from layerscope.curvature import Differentiable, gradients
from layerscope.errors import LayerscopeError
from layerscope.graph import Graph, Nested, traced
from layerscope.isolation import (
    differentiable,
    every_tensor,
    holding,
    isolated,
    other_tensors,
    preserved,
    seed_all,
    unwrap,
    without_aliases,
)
from layerscope.task import Task, examples, rows

_log = logging.getLogger(__name__)

Weights = Mapping[str, Tensor]
Advance = Callable[[int, int], None]
Judged = tuple[Tensor, Tensor | None]
GIB = 2**30
CACHE = 2**22
"""Bytes of activations up to which a processor evaluates variants together faster than in turn.

Measured by ``benchmarks/test_variants.py``: beyond it wide operators only miss the cache, and a
narrow ResNet-18 takes twice as long.
"""


@dataclass(frozen=True)
class Evaluation:
    """What a model, and each of its variants, does on every example.

    Attributes:
        losses: Loss per example, (variants, examples), float64.
        correct: Whether the prediction is right, (variants, examples); None where the task has no
            such notion.
    """

    losses: Tensor
    correct: Tensor | None

    @property
    def errors(self) -> Tensor:
        """Share of wrong predictions of every variant, (variants,), between 0 and 1.

        Raises:
            LayerscopeError: The task does not say which predictions are right.
        """
        if self.correct is None:
            raise LayerscopeError(
                "the task does not say which predictions are right.",
                "Use a task with correct=..., or the losses.",
            )
        return 1.0 - self.correct.double().mean(1)


def evaluate_variants(
    model: nn.Module,
    variants: Sequence[Weights],
    data: Iterable[Any],
    task: Task,
    *,
    weights: Weights | None = None,
    budget: int = GIB,
    advance: Advance | None = None,
) -> Evaluation:
    """Evaluate variants of a model in eval mode, computing what they share once per batch.

    Args:
        model: Any module, also inside wrappers.
        variants: For each variant the tensors it replaces, by name; an empty mapping is the base.
        data: Batches; those that would exceed the budget are split, if the model can be traced.
        task: What a batch means.
        weights: Parameters and buffers of the base; the model's own by default.
        budget: Bytes that activations, and the stacked tensors of variants evaluated together,
            may take beside the result; one example at a time may need more.
        advance: Called with (batches done, 0) after each batch.

    Returns:
        Losses and correctness of every variant on every example, in the order given. Where the
        model draws random numbers, every variant is given the same.

    Raises:
        LayerscopeError: A name or shape is not the model's, the data are empty, or the model does
            not run on them.
    """
    model = unwrap(model)
    base = _base(model, weights)
    if budget < 1:
        raise LayerscopeError(f"the budget is {budget} bytes.", "Give at least one.")
    groups: dict[frozenset[str], list[int]] = {}
    for index, variant in enumerate(variants):
        _check(index, variant, base)
        groups.setdefault(frozenset(variant), []).append(index)
    found: list[tuple[Tensor, Tensor | None]] = []
    with isolated(model, weights=base), torch.no_grad():
        engine = _Engine(model, task, base, variants, groups, budget)
        for done, batch in enumerate(data, 1):
            found += [engine(piece) for piece in engine.pieces(batch)]
            if advance is not None:
                advance(done, 0)
    if not found:
        raise LayerscopeError("there are no data to evaluate on.", "Pass at least one batch.")
    losses = torch.cat([losses for losses, _ in found], 1)
    right = [correct for _, correct in found if correct is not None]
    return Evaluation(losses, torch.cat(right, 1) if right else None)


def _base(model: nn.Module, weights: Weights | None) -> dict[str, Tensor]:
    """Every tensor that can be replaced: the given ones, else the model's own."""
    state = every_tensor(model) | without_aliases(model, weights or {})
    return {name: tensor.detach() for name, tensor in state.items()}


@contextlib.contextmanager
def shared_loss(
    model: nn.Module,
    groups: Sequence[Collection[str]],
    batch: Any,
    task: Task,
    *,
    weights: Weights | None = None,
) -> Iterator[Differentiable]:
    """The mean loss of one batch as a differentiable function of a few of a model's tensors.

    ::

        with shared_loss(model, groups, batch, task) as loss:
            value, leaves = loss({"layer1.weight": tensor})
            torch.autograd.grad(value, leaves)

    The model is traced and evaluated once; a call computes, forward and backward, only what
    depends on the tensors it is given. A model that cannot be traced, or whose derivatives are not
    those of its operators (a straight-through estimator, a part under ``no_grad``), runs whole.

    Args:
        model: Any module, in eval mode inside the context.
        groups: The sets of names that calls will give.
        batch: The batch.
        task: What it means.
        weights: Parameters and buffers of the base; the model's own by default.

    Yields:
        A function from tensors by name, exactly those of one group, to a scalar and the tensors,
        in the order given, with respect to which it can be differentiated, more than once, until
        the next call and inside the context.

    Raises:
        LayerscopeError: A name is not the model's, or the model does not run on the batch.
    """
    model = unwrap(model)
    base = _base(model, weights)
    chosen = [frozenset(group) for group in groups]
    for index, group in enumerate(chosen):
        _check(index, {name: base.get(name, torch.empty(0)) for name in group}, base)
    with isolated(model, weights=base):
        with torch.no_grad():
            graph = traced(model, task, base, batch)
        if graph is None or not _smooth(graph, model, chosen, batch, task, base):
            yield _PlainLoss(model, batch, task, base)
            return
        with torch.no_grad():
            kept = graph.run_base(base, batch, chosen)
        yield _GraphLoss(graph, kept, batch, task)


def _run(model: nn.Module, task: Task, batch: Any) -> Any:
    """Outputs of a plain call, which begins with the same random state as any other."""
    seed_all(0)
    with preserved(model):
        try:
            return task.forward(model, batch)
        except LayerscopeError:
            raise
        except Exception as error:  # of the model's own code
            raise LayerscopeError(
                f"{type(model).__name__} does not run on a batch of these data: {error}",
                "Pass data of the shape, type and device that the model takes, and their task.",
            ) from error


def _agree(found: Sequence[Tensor], expected: Sequence[Tensor], factor: float = 1.0) -> bool:
    """Whether tensors are equal but for rounding, relative to the largest entry of each."""
    if len(found) != len(expected):
        return False
    for a, b in zip(found, expected, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        if not (a.is_floating_point() or a.is_complex()):
            if not torch.equal(a, b):
                return False
            continue
        bound = factor * torch.finfo(a.dtype).eps ** 0.5
        size = float(b[b.isfinite()].abs().max()) if bool(b.isfinite().any()) else 0.0
        if not torch.allclose(a, b, rtol=bound, atol=bound * size, equal_nan=True):
            return False
    return True


def _trust(graph: Graph, model: nn.Module, task: Task, base: Weights, batch: Any) -> bool:
    """Whether a graph gives the model's outputs; asked once, on real data."""
    if graph.trusted is None:
        expected = Nested.of(outputs := _run(model, task, batch)).tensors(outputs)
        why = "its traced operators do not give its outputs"
        try:
            found = Nested.of(outputs := graph.base_outputs(base, batch)).tensors(outputs)
        except RuntimeError as error:  # an operator that only the model itself can run
            found, why = [], str(error).splitlines()[0]
        graph.trusted = _agree(found, expected)
        if not graph.trusted:
            _log.warning("%s is evaluated by plain calls: %s", type(model).__name__, why)
    return graph.trusted


def _smooth(
    graph: Graph,
    model: nn.Module,
    groups: Sequence[frozenset[str]],
    batch: Any,
    task: Task,
    base: Weights,
) -> bool:
    """Whether a graph has the model's derivatives for all groups; asked once for each tensor."""
    with torch.no_grad():
        if not _trust(graph, model, task, base, batch):
            return False
    names = frozenset[str]().union(*groups)
    if names <= graph.smooth:
        return True
    own = {name: base[name] for name in sorted(names)}
    plain, leaves = _PlainLoss(model, batch, task, base)(own)
    expected = gradients(plain, leaves)
    with torch.no_grad():
        kept = graph.run_base(base, batch, [names])
    why = "its derivatives are not those of its operators"
    try:
        value, leaves = _GraphLoss(graph, kept, batch, task)(own)
        found = gradients(value, leaves)
    except RuntimeError as error:  # an operator without a derivative of its own
        found, why = (), str(error).splitlines()[0]
    if _agree(found, expected, factor=10.0):
        graph.smooth |= names
        return True
    _log.warning("%s is differentiated by plain calls: %s", type(model).__name__, why)
    return False


@dataclass(frozen=True)
class _GraphLoss:
    graph: Graph
    kept: Any
    batch: Any
    task: Task

    def __call__(self, given: Weights) -> tuple[Tensor, list[Tensor]]:
        with torch.enable_grad():
            leaves = {name: tensor.detach().clone() for name, tensor in given.items()}
            for tensor in leaves.values():
                tensor.requires_grad_(differentiable(tensor))
            (outputs,) = self.graph.run_variants(self.kept, frozenset(given), [leaves])
            return self.task.loss(outputs, self.batch), list(leaves.values())


class _PlainLoss:
    """The same by a call of the whole model, its parameters holding what is given."""

    def __init__(self, model: nn.Module, batch: Any, task: Task, base: Weights) -> None:
        self.model = model
        self.batch = batch
        self.task = task
        self.base = base
        self._held: list[str] = []

    def __call__(self, given: Weights) -> tuple[Tensor, list[Tensor]]:
        holding(self.model, {name: self.base[name] for name in self._held if name not in given})
        leaves, self._held = holding(self.model, given), list(given)
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # others have one derivative only
            outputs = _run(self.model, self.task, self.batch)
            return self.task.loss(outputs, self.batch), leaves


def _check(index: int, variant: Weights, base: Weights) -> None:
    for name, tensor in variant.items():
        if name not in base:
            raise LayerscopeError(
                f"variant {index} replaces {name!r}, which the model does not have.",
                "Use names of model.state_dict(); of tied tensors the first.",
            )
        if tensor.shape != base[name].shape:
            raise LayerscopeError(
                f"variant {index} gives {name!r} the shape {tuple(tensor.shape)}; "
                f"the model has {tuple(base[name].shape)}.",
                "Give every tensor the model's shape.",
            )


class _Engine:
    """Evaluates all variants on one batch after the other; a graph per shape of batch."""

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        base: Weights,
        variants: Sequence[Weights],
        groups: Mapping[frozenset[str], list[int]],
        budget: int,
    ) -> None:
        self.model = model
        self.task = task
        self.base = base
        self.variants = variants
        self.groups = groups
        self.budget = budget
        self._on_cpu = next(iter(base.values())).device.type == "cpu"
        self._size: int | None = None
        self._widths: dict[tuple[int, frozenset[str]], int] = {}

    def graph(self, batch: Any) -> Graph | None:
        """The graph for batches of this shape; None where there is none."""
        return traced(self.model, self.task, self.base, batch)

    def pieces(self, batch: Any) -> Iterator[Any]:
        """The batch in parts whose activations fit the budget; whole without a graph."""
        if self._size is None and (graph := self.graph(batch)) is not None:
            needed, n = graph.peak_bytes(list(self.groups)), examples(batch)
            pieces = min(n, -(-needed // self.budget))
            self._size = -(-n // max(pieces, 1))
        n = examples(batch) if self._size is not None else 0
        if self._size is None or n <= self._size:
            yield batch
            return
        for start in range(0, n, self._size):
            yield rows(batch, start, start + self._size)

    def __call__(self, batch: Any) -> tuple[Tensor, Tensor | None]:
        judged = self._together(batch) or self._in_turn(batch)
        losses = torch.stack([losses for losses, _ in judged])
        correct = [right for _, right in judged if right is not None]
        return losses, torch.stack(correct) if correct else None

    def _in_turn(self, batch: Any) -> list[Judged]:
        judged = []
        for variant in self.variants:
            with other_tensors(self.model, variant):
                judged.append(self._judge(_run(self.model, self.task, batch), batch))
        return judged

    def _together(self, batch: Any) -> list[Judged] | None:
        graph = self.graph(batch)
        if graph is None or not _trust(graph, self.model, self.task, self.base, batch):
            return None
        judged: dict[int, Judged] = {}
        kept = graph.run_base(self.base, batch, list(self.groups))
        for changed, members in self.groups.items():
            for chunk in self._chunks(graph, changed, members):
                made = graph.run_variants(kept, changed, [self.variants[i] for i in chunk])
                for index, output in zip(chunk, made, strict=True):
                    judged[index] = self._judge(output, batch)
        return [judged[index] for index in range(len(self.variants))]

    def _chunks(
        self, graph: Graph, changed: frozenset[str], members: list[int]
    ) -> Iterator[list[int]]:
        """Variants to evaluate together: as many as the budget allows and the cache holds."""
        width = self._width(graph, changed)
        for start in range(0, len(members), width):
            yield members[start : start + width]

    def _width(self, graph: Graph, changed: frozenset[str]) -> int:
        """How many variants of a group run together; the same for every batch of a shape."""
        key = (id(graph), changed)
        if key not in self._widths:
            spare = self.budget - graph.held_bytes(list(self.groups))
            most = min(spare, CACHE) if self._on_cpu else spare
            self._widths[key] = max(1, most // max(graph.variant_bytes(changed), 1))
        return self._widths[key]

    def _judge(self, output: Any, batch: Any) -> Judged:
        losses = self.task.losses(output, batch).double()
        correct = None if self.task.correct is None else self.task.correct(output, batch)
        return losses, correct
