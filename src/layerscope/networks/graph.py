"""A model as a graph of pure operators, of which parts can be evaluated again."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from layerscope.networks.names import Weights
from layerscope.networks.snapshot import ATOMS
from layerscope.networks.task import as_tree

_log = logging.getLogger(__name__)
BLOCK = 16
"""Channels that a processor's convolution takes at once; fewer are padded in its copies."""
Values = dict[fx.Node, Any]


class UntraceableError(Exception):
    """Why a model cannot be traced; it is evaluated by plain calls then."""


@dataclass(frozen=True)
class Nested:
    """How tensors nest in a batch or in outputs, and what stands beside them."""

    spec: pytree.TreeSpec
    others: tuple[Any, ...]
    kind: type | None = None

    @classmethod
    def of(cls, values: Any, strict: bool = False) -> Nested:
        """The nesting of some values; where strict, nothing may hide tensors.

        Raises:
            UntraceableError: There is an object that may hold tensors but is not known to nest.
        """
        leaves, spec = pytree.tree_flatten(as_tree(values))
        others = tuple(TENSOR if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        for other in others if strict else ():
            if other is not None and not isinstance(other, (*ATOMS, _Tensor)):
                raise UntraceableError(f"its outputs hold a {type(other).__name__}")
        return cls(spec, others, None if as_tree(values) is values else type(values))

    def tensors(self, values: Any) -> list[Tensor]:
        """The tensors of values that nest so."""
        return [leaf for leaf in pytree.tree_leaves(as_tree(values)) if isinstance(leaf, Tensor)]

    def filled(self, tensors: Sequence[Tensor]) -> Any:
        """Other tensors in their places."""
        left = iter(tensors)
        leaves = [next(left) if other is TENSOR else other for other in self.others]
        tree = pytree.tree_unflatten(leaves, self.spec)
        return tree if self.kind is None else self.kind(tree)


class _Tensor:
    """Stands for a tensor."""


TENSOR = _Tensor()


@contextlib.contextmanager
def _no_fallback_warnings() -> Iterator[None]:
    """Without PyTorch's note on standard error that an operator is batched by a loop."""
    switch = torch._C._functorch._set_vmap_fallback_warning_enabled  # pyright: ignore
    switch(False)
    try:
        yield
    finally:
        switch(True)


@dataclass(eq=False)
class Graph:
    """Operators in order of execution.

    Attributes:
        module: The traced module; its constants are read from it.
        names: Names of parameters and buffers, in the order of the first placeholders.
        outputs: How the outputs nest.
        trusted: Whether its outputs were found to be the model's own; None before that was asked.
        smooth: Names of tensors for which its derivatives were found to be the model's own.
    """

    module: fx.GraphModule
    names: tuple[str, ...]
    outputs: Nested
    trusted: bool | None = None
    smooth: set[str] = field(default_factory=set)
    _affected: dict[frozenset[str], list[fx.Node]] = field(default_factory=dict)
    _narrow: set[frozenset[str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        nodes = list(self.module.graph.nodes)
        placeholders = [node for node in nodes if node.op == "placeholder"]
        self.weights = dict(zip(self.names, placeholders, strict=False))
        self.inputs = placeholders[len(self.names) :]
        self.constants = {
            node: getattr(self.module, str(node.target)) for node in nodes if node.op == "get_attr"
        }
        self.operators = [node for node in nodes if node.op == "call_function"]
        self.results = list(nodes[-1].args[0])

    def affected(self, changed: frozenset[str]) -> list[fx.Node]:
        """Operators that depend on any of the named tensors, in order of execution."""
        if changed not in self._affected:
            reached = {self.weights[name] for name in changed}
            found = []
            for node in self.operators:
                if any(source in reached for source in node.all_input_nodes):
                    reached.add(node)
                    found.append(node)
            self._affected[changed] = found
        return self._affected[changed]

    def frontier(self, changed: frozenset[str]) -> set[fx.Node]:
        """Values of the base that the affected operators, or the outputs, read."""
        inside = set(self.affected(changed)) | {self.weights[name] for name in changed}
        readers = [source for node in self.affected(changed) for source in node.all_input_nodes]
        results = [result for result in self.results if isinstance(result, fx.Node)]
        return {node for node in (*readers, *results) if node not in inside}

    def run_base(self, weights: Weights, batch: Any, groups: Sequence[frozenset[str]]) -> Values:
        """Evaluate the base and keep what the groups of variants read."""
        tensors = Nested.of(batch).tensors(batch)
        values: Values = {self.weights[name]: weights[name] for name in self.names}
        values |= dict(zip(self.inputs, tensors, strict=True)) | self.constants
        kept = set(values).union(*(self.frontier(group) for group in groups))
        needed = self._ancestors(kept)
        wanted = [node for node in self.operators if node in needed]
        self._run(wanted, values, kept)
        return values

    def base_outputs(self, weights: Weights, batch: Any) -> Any:
        """Outputs of the base alone."""
        nothing: frozenset[str] = frozenset()
        return self._outputs(self.run_base(weights, batch, [nothing]), nothing, {})

    def _ancestors(self, nodes: set[fx.Node]) -> set[fx.Node]:
        found = set(nodes)
        for node in reversed(self.operators):
            if node in found:
                found.update(node.all_input_nodes)
        return found

    def run_variants(
        self, kept: Values, changed: frozenset[str], variants: Sequence[Weights]
    ) -> list[Any]:
        """Outputs of variants that replace the same tensors, evaluated together if several.

        Some operators have no batching rule; variants that reach one are evaluated in turn.
        """
        if not changed:
            return [self._outputs(kept, changed, {})] * len(variants)
        if len(variants) == 1 or changed in self._narrow:
            return [self._outputs(kept, changed, variant) for variant in variants]
        stacked = {name: torch.stack([v[name] for v in variants]) for name in sorted(changed)}
        try:
            with _no_fallback_warnings():
                wide = torch.vmap(lambda tensors: self._results(kept, changed, tensors))(stacked)
        except RuntimeError as error:
            if "vmap" not in str(error):
                raise
            _log.info("evaluating the variants of %s one by one: %s", sorted(changed), error)
            self._narrow.add(changed)
            return self.run_variants(kept, changed, variants)
        return [self.outputs.filled([result[i] for result in wide]) for i in range(len(variants))]

    def _outputs(self, kept: Values, changed: frozenset[str], variant: Weights) -> Any:
        return self.outputs.filled(self._results(kept, changed, variant))

    def _results(self, kept: Values, changed: frozenset[str], variant: Weights) -> list[Any]:
        values = dict(kept)
        values |= {self.weights[name]: variant[name] for name in changed}
        self._run(self.affected(changed), values, set())  # the base's values stay in kept
        return [values[r] if isinstance(r, fx.Node) else r for r in self.results]

    def _run(self, nodes: Sequence[fx.Node], values: Values, kept: set[fx.Node]) -> None:
        """Evaluate operators in order, dropping what nothing reads any more."""
        last = {source: node for node in nodes for source in node.all_input_nodes}
        final = {result for result in self.results if isinstance(result, fx.Node)}
        for node in nodes:
            arguments = fx.map_arg(node.args, values.__getitem__)
            options = fx.map_arg(node.kwargs, values.__getitem__)
            values[node] = node.target(*arguments, **options)  # pyright: ignore
            for source in node.all_input_nodes:
                if last[source] is node and source not in kept and source not in final:
                    del values[source]

    # Memory

    def held_bytes(self, groups: Sequence[frozenset[str]]) -> int:
        """Bytes of activations of the base that are kept for the groups of variants."""
        kept = set[fx.Node]().union(*(self.frontier(group) for group in groups))
        return sum(_bytes(node) for node in kept if node.op == "call_function")

    def peak_bytes(self, groups: Sequence[frozenset[str]]) -> int:
        """Upper bound of the bytes of activations while base and one variant are evaluated."""
        running = max((self._running(self.affected(group)) for group in groups), default=0)
        return self.held_bytes(groups) + max(running, self._running(self.operators))

    def variant_bytes(self, changed: frozenset[str]) -> int:
        """Bytes that one more variant takes in wide operators: activations and its tensors.

        The tensors count twice: stacked, and as an operator wants them.
        """
        weights = sum(_bytes(self.weights[name]) for name in changed)
        return self._running(self.affected(changed), wide=True) + 2 * weights

    def _running(self, nodes: Sequence[fx.Node], wide: bool = False) -> int:
        """Most bytes alive at once while these operators run, with the copies they may make.

        Convolutions and pooling copy their images where the strides do not suit them, and
        convolutions what they give, in blocks of channels; wide operators copy that, too.
        """
        last = {source: node for node in nodes for source in node.all_input_nodes}
        inside, alive, most = set(nodes), 0, 0
        for node in nodes:
            alive += _bytes(node)
            copied = max([_blocked_bytes(node), *map(_bytes, node.all_input_nodes)])
            most = max(most, alive + copied + (_bytes(node) if wide else 0))
            for source in set(node.all_input_nodes):
                if last[source] is node and source in inside:
                    alive -= _bytes(source)
        return most


def _bytes(node: fx.Node) -> int:
    leaves = pytree.tree_leaves(node.meta.get("val"))
    return sum(t.numel() * t.element_size() for t in leaves if isinstance(t, Tensor))


def _blocked_bytes(node: fx.Node) -> int:
    """Bytes of what a convolution gives, its channels in whole blocks; 0 for other operators."""
    if node.target is not torch.ops.aten.convolution.default:
        return 0
    channels = node.meta["val"].shape[1]
    return _bytes(node) // channels * -(-channels // BLOCK) * BLOCK
