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

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from layerscope.errors import LayerscopeError
from layerscope.networks.graph import Graph
from layerscope.networks.isolation import isolated, other_tensors
from layerscope.networks.names import Weights, unwrap
from layerscope.networks.sharing import Subject, base_weights, check_names, trusted
from layerscope.networks.task import Task, examples, rows

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
    def right(self) -> Tensor:
        """Whether the prediction is right, (variants, examples).

        Raises:
            LayerscopeError: The task does not say which predictions are right.
        """
        if self.correct is None:
            raise LayerscopeError(
                "the task does not say which predictions are right.",
                "Use a task with correct=..., or the losses.",
            )
        return self.correct

    @property
    def errors(self) -> Tensor:
        """Share of wrong predictions of every variant, (variants,), between 0 and 1.

        Raises:
            LayerscopeError: The task does not say which predictions are right.
        """
        return 1.0 - self.right.double().mean(1)


def evaluate_variants(
    model: nn.Module,
    variants: Sequence[Weights],
    data: Iterable[Any],
    task: Task,
    *,
    weights: Weights | None = None,
    budget: int = GIB,
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

    Returns:
        Losses and correctness of every variant on every example, in the order given. Where the
        model draws random numbers, every variant is given the same.

    Raises:
        LayerscopeError: A name or shape is not the model's, the data are empty or nothing in them
            counts, or the model does not run on them.
    """
    model = unwrap(model)
    base = base_weights(model, weights)
    if budget < 1:
        raise LayerscopeError(f"the budget is {budget} bytes.", "Give at least one.")
    groups: dict[frozenset[str], list[int]] = {}
    for index, variant in enumerate(variants):
        check_names(index, variant, base)
        groups.setdefault(frozenset(variant), []).append(index)
    found: list[tuple[Tensor, Tensor | None]] = []
    with isolated(model, weights=base), torch.no_grad():
        engine = _Engine(Subject(model, task, base), variants, groups, budget)
        for batch in data:
            found += [engine(piece) for piece in engine.pieces(batch)]
    if not found:
        raise LayerscopeError("there are no data to evaluate on.", "Pass at least one batch.")
    losses = torch.cat([losses for losses, _ in found], 1)
    if not losses.shape[1]:
        raise LayerscopeError(
            "no example of the data counts: every label is -100.", "Pass data with labels."
        )
    right = [correct for _, correct in found if correct is not None]
    return Evaluation(losses, torch.cat(right, 1) if right else None)


class _Engine:
    """Evaluates all variants on one batch after the other; a graph per shape of batch."""

    def __init__(
        self,
        subject: Subject,
        variants: Sequence[Weights],
        groups: Mapping[frozenset[str], list[int]],
        budget: int,
    ) -> None:
        self.subject = subject
        self.variants = variants
        self.groups = groups
        self.budget = budget
        self._on_cpu = next(iter(subject.base.values())).device.type == "cpu"
        self._size: int | None = None
        self._widths: dict[tuple[Graph, frozenset[str]], int] = {}

    def pieces(self, batch: Any) -> Iterator[Any]:
        """The batch in parts whose activations fit the budget; whole without a graph."""
        if self._size is None and (graph := self.subject.graph(batch)) is not None:
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
            with other_tensors(self.subject.model, variant):
                judged.append(self._judge(self.subject.outputs(batch), batch))
        return judged

    def _together(self, batch: Any) -> list[Judged] | None:
        graph = self.subject.graph(batch)
        if graph is None or not trusted(graph, self.subject, batch):
            return None
        judged: dict[int, Judged] = {}
        kept = graph.run_base(self.subject.base, batch, list(self.groups))
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
        key = (graph, changed)
        if key not in self._widths:
            spare = self.budget - graph.held_bytes(list(self.groups))
            most = min(spare, CACHE) if self._on_cpu else spare
            self._widths[key] = max(1, most // max(graph.variant_bytes(changed), 1))
        return self._widths[key]

    def _judge(self, output: Any, batch: Any) -> Judged:
        task = self.subject.task
        correct = None if task.correct is None else task.correct(output, batch)
        return task.losses(output, batch).double(), correct
