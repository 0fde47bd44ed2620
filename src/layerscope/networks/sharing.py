"""What variants of a model share: whether its graph can be trusted, and the loss of one batch.

A graph is asked once, on real data, whether it gives the model's outputs and derivatives. Where it
does not, or where there is none, the model itself is called.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from layerscope.errors import LayerscopeError
from layerscope.networks.curvature import Differentiable, gradients
from layerscope.networks.graph import Graph, Nested
from layerscope.networks.isolation import (
    differentiable,
    holding,
    isolated,
    seed_all,
    without_aliases,
)
from layerscope.networks.names import Weights, every_tensor, unwrap
from layerscope.networks.snapshot import Snapshot
from layerscope.networks.task import Task
from layerscope.networks.tracing import traced

_log = logging.getLogger(__name__)


def base_weights(model: nn.Module, weights: Weights | None) -> dict[str, Tensor]:
    """Every tensor that can be replaced: the given ones, else the model's own."""
    state = every_tensor(model) | without_aliases(model, weights or {})
    return {name: tensor.detach() for name, tensor in state.items()}


def check_names(index: int, variant: Weights, base: Weights) -> None:
    """Refuse a variant with a name that the base does not have, or with another shape.

    Raises:
        LayerscopeError: It has one.
    """
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
    base = base_weights(model, weights)
    chosen = [frozenset(group) for group in groups]
    for index, group in enumerate(chosen):
        check_names(index, {name: base.get(name, torch.empty(0)) for name in group}, base)
    with isolated(model, weights=base):
        subject = Subject(model, task, base)
        with torch.no_grad():
            graph = subject.graph(batch)
        if graph is None or not _smooth(graph, subject, chosen, batch):
            yield _PlainLoss(subject, batch)
            return
        with torch.no_grad():
            kept = graph.run_base(base, batch, chosen)
        yield _GraphLoss(graph, kept, batch, task)


class Subject:
    """A model that is evaluated, inside `isolation.isolated`: what all calls share.

    Args:
        model: The model.
        task: How to run it.
        base: Its parameters and buffers.
    """

    def __init__(self, model: nn.Module, task: Task, base: Weights) -> None:
        self.model = model
        self.task = task
        self.base = base
        self.name = type(model).__name__
        self._found = Snapshot(model)

    def graph(self, batch: Any) -> Graph | None:
        """The graph for batches of this shape; None where there is none."""
        return traced(self.model, self.task, self.base, batch)

    def outputs(self, batch: Any) -> Any:
        """Outputs of a plain call, which begins with the same state as any other.

        Raises:
            LayerscopeError: The model does not run.
        """
        seed_all(0)
        try:
            return self.task.forward(self.model, batch)
        except LayerscopeError:
            raise
        except Exception as error:  # of the model's own code
            raise LayerscopeError(
                f"{self.name} does not run on a batch of these data: {error}",
                "Pass data of the shape, type and device that the model takes, and their task.",
            ) from error
        finally:
            self._found.restore()


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


def trusted(graph: Graph, subject: Subject, batch: Any) -> bool:
    """Whether a graph gives the model's outputs; asked once, on real data."""
    if graph.trusted is None:
        expected = Nested.of(outputs := subject.outputs(batch)).tensors(outputs)
        why = "its traced operators do not give its outputs"
        try:
            found = Nested.of(outputs := graph.base_outputs(subject.base, batch)).tensors(outputs)
        except RuntimeError as error:  # an operator that only the model itself can run
            found, why = [], str(error).splitlines()[0]
        graph.trusted = _agree(found, expected)
        if not graph.trusted:
            _log.warning("%s is evaluated by plain calls: %s", subject.name, why)
    return graph.trusted


def _smooth(graph: Graph, subject: Subject, groups: Sequence[frozenset[str]], batch: Any) -> bool:
    """Whether a graph has the model's derivatives for all groups; asked once for each tensor."""
    with torch.no_grad():
        if not trusted(graph, subject, batch):
            return False
    names = frozenset[str]().union(*groups)
    if names <= graph.smooth:
        return True
    own = {name: subject.base[name] for name in sorted(names)}
    expected = gradients(*_PlainLoss(subject, batch)(own))
    with torch.no_grad():
        kept = graph.run_base(subject.base, batch, [names])
    why = "its derivatives are not those of its operators"
    try:
        found = gradients(*_GraphLoss(graph, kept, batch, subject.task)(own))
    except RuntimeError as error:  # an operator without a derivative of its own
        found, why = (), str(error).splitlines()[0]
    if _agree(found, expected, factor=10.0):
        graph.smooth |= names
        return True
    _log.warning("%s is differentiated by plain calls: %s", subject.name, why)
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

    def __init__(self, subject: Subject, batch: Any) -> None:
        self.subject = subject
        self.batch = batch
        self._held: list[str] = []

    def __call__(self, given: Weights) -> tuple[Tensor, list[Tensor]]:
        model, base = self.subject.model, self.subject.base
        holding(model, {name: base[name] for name in self._held if name not in given})
        leaves, self._held = holding(model, given), list(given)
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # others have one derivative only
            outputs = self.subject.outputs(self.batch)
            return self.subject.task.loss(outputs, self.batch), leaves
