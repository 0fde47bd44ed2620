"""Signals and gradients of a chain of layers in float64, with weights that are scaled.

A chain is a network in which every path from the inputs to the outputs passes all matrices, one
after the other. Matrices are those that `layerscope.networks.products` sees; what stands between
them may be anything, but adds nothing of its own: biases, which do not scale with the weights, are
refused. Allowed are they before a normalisation that takes the mean of every channel away, and in
the last layer, where they change no gradient.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from layerscope.errors import LayerscopeError
from layerscope.networks.isolation import isolated, leaves, no_checkpointing
from layerscope.networks.names import every_tensor, named_modules, unwrap
from layerscope.networks.products import Meeting, meeting
from layerscope.networks.task import Task, as_tree

CENTRING = (nn.modules.batchnorm._NormBase,)
"""Modules that take away the mean of every channel."""
NORMALISATIONS = (*CENTRING, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
"""Modules whose outputs do not change with the scale of what enters, but for their epsilon."""
PRODUCTS = ("linear", "convolution")
NO_EPSILON = torch.finfo(torch.float64).tiny
"""In place of 0, which torch refuses: added to a variance of float64 it changes nothing."""
Signals = dict[str, Tensor]


@dataclass
class Chain:
    """What passed the layers of a chain, by the name of each one's weight, in order of execution.

    Attributes:
        names: Weights by what they are called where they are used.
        input: What entered.
        gradient: Gradient at what left.
        weight: Gradient of the weights.
        normalised: Whether a normalisation followed, before the next layer.
        outputs: The model's outputs.
        cotangent: The gradient at the outputs with which all others were computed.
    """

    names: dict[str, str] = field(default_factory=dict)
    input: Signals = field(default_factory=dict)
    gradient: Signals = field(default_factory=dict)
    weight: Signals = field(default_factory=dict)
    normalised: dict[str, bool] = field(default_factory=dict)
    outputs: Tensor = field(default_factory=lambda: torch.empty(0))
    cotangent: Tensor = field(default_factory=lambda: torch.empty(0))


def pass_chain(
    model: nn.Module,
    batch: Any,
    task: Task,
    *,
    weights: Mapping[str, Tensor] | None = None,
    scales: Mapping[str, float] | None = None,
    cotangent: Tensor | None = None,
    epsilon: float | None = None,
) -> Chain:
    """Run a model in train mode and float64, and backwards from a gradient at its outputs.

    Args:
        model: The module; left as found.
        batch: What passes.
        task: What it means.
        weights: Parameters and buffers to use in place of the model's own.
        scales: What some of the weights are multiplied by, by name.
        cotangent: The gradient at the outputs; that of the mean loss by default.
        epsilon: That of normalisations; each one's own by default. For 0 it is `NO_EPSILON`.

    Raises:
        LayerscopeError: The model is no chain, has biases, does not run in float64, or its outputs
            are no tensor.
    """
    model, batch = unwrap(model), pytree.tree_map(_in_double, as_tree(batch))
    with (
        isolated(model, True, weights=weights),
        no_checkpointing(),
        contextlib.closing(_Pass(model)) as here,
        meeting(model, here.see),
    ):
        here.prepare(scales or {}, epsilon)
        try:
            outputs = task.forward(model, batch)
        except RuntimeError as error:
            raise LayerscopeError(
                f"{type(model).__name__} does not run in float64: {str(error).splitlines()[0]}",
                "Let it make tensors of the type of its inputs, or leave the probe out.",
            ) from error
        if not isinstance(outputs, Tensor):
            raise LayerscopeError(
                f"the model's outputs are a {type(outputs).__name__}, not a tensor.",
                "Let the task return one: dataclasses.replace(task, forward=...).",
            )
        if cotangent is None:
            leaf = outputs.detach().requires_grad_(True)
            (cotangent,) = torch.autograd.grad(task.loss(leaf, batch), leaf)
        return here.conclude(outputs, cotangent)


def _in_double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


class _Pass:
    """One pass through a model that is isolated."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.chain = Chain()
        self.last = ""
        self.nodes: dict[str, Any] = {}
        self.followed: dict[str, nn.Module] = {}
        self.handles: list[Any] = []
        self.modules = {
            n: m for n, m in named_modules(model, every_name=True) if isinstance(m, NORMALISATIONS)
        }

    def prepare(self, scales: Mapping[str, float], epsilon: float | None) -> None:
        """Let the model hold float64, scaled, and look at its normalisations."""
        for name, tensor in every_tensor(self.model).items():
            if type(tensor.data) is Tensor and tensor.is_floating_point():
                tensor.data = tensor.data.double() * scales.get(name, 1.0)
        leaves(self.model, self.parameters)
        for module in dict.fromkeys(self.modules.values()):
            if epsilon is not None:
                vars(module)["eps"] = epsilon or NO_EPSILON
            self.handles.append(module.register_forward_hook(self.normalise))

    @property
    def parameters(self) -> list[str]:
        """Names of all that may have a gradient."""
        own = every_tensor(self.model)
        return [n for n, t in own.items() if isinstance(t, nn.Parameter) and t.is_floating_point()]

    def normalise(self, module: nn.Module, *_: Any) -> None:
        """A normalisation has run."""
        if self.last:
            self.followed[self.last] = module

    def see(self, seen: Meeting) -> None:
        """A weight has met what it multiplies."""
        name, use = seen.use.weight, seen.use
        if use.kind == "scale" and name in self.of_normalisations:
            return
        if use.kind not in PRODUCTS or use.owner:
            raise self.refusal(f"{name!r} is no matrix of its own that signals pass")
        if name in self.nodes:
            raise self.refusal(f"{name!r} is used more than once")
        if not seen.output.requires_grad:
            raise self.refusal(f"gradients do not reach {name!r}")
        self.last = name
        self.nodes[name] = seen.output.grad_fn
        self.chain.names[name] = seen.name
        self.chain.input[name] = seen.input.clone()
        keep = partial(self.chain.gradient.__setitem__, name)
        self.handles.append(seen.output.register_hook(lambda g: keep(g.detach().clone())))

    @property
    def of_normalisations(self) -> set[str]:
        """Parameters of normalisations."""
        own = {id(p) for m in self.modules.values() for p in m.parameters()}
        return {name for name, t in every_tensor(self.model).items() if id(t) in own}

    def conclude(self, outputs: Tensor, cotangent: Tensor) -> Chain:
        """Go back from the outputs, and refuse what is no chain."""
        self.check_paths(outputs)
        own = every_tensor(self.model, every_name=True)
        found = torch.autograd.grad(
            outputs, [own[name] for name in self.parameters], cotangent, allow_unused=True
        )
        slopes = {n: s for n, s in zip(self.parameters, found, strict=True) if s is not None}
        known = self.nodes.keys() | self.of_normalisations
        for name in (one for one in slopes if one not in known):
            if not self.harmless(own[name]) and own[name].count_nonzero():
                raise self.refusal(f"its outputs depend on {name!r}, which is not scaled")
        if unreached := [name for name in self.nodes if name not in slopes]:
            raise self.refusal(f"its outputs do not depend on {unreached[0]!r}")
        chain = self.chain
        chain.weight = {name: slopes[name] for name in self.nodes}
        chain.gradient = {name: chain.gradient[name] for name in self.nodes}
        chain.normalised = {name: name in self.followed for name in self.nodes}
        chain.outputs, chain.cotangent = outputs.detach(), cotangent
        if not all(bool(g.isfinite().all()) for g in (chain.outputs, *chain.weight.values())):
            raise LayerscopeError(
                f"signals or gradients of {type(self.model).__name__} are not finite.",
                "Measure an earlier checkpoint; a normalisation of equal numbers has no value "
                "where its epsilon is 0.",
            )
        return chain

    def check_paths(self, outputs: Tensor) -> None:
        """Every path back from the outputs to a matrix passes all that ran after it.

        Raises:
            LayerscopeError: One goes past some.
        """
        if not self.nodes:
            raise self.refusal("it has no matrices")
        before: list[str] = []
        for name, node in self.nodes.items():
            reached, ends = {node}, [outputs.grad_fn]
            while ends:
                if (one := ends.pop()) is not None and one not in reached:
                    reached.add(one)
                    ends += [after for after, _ in one.next_functions]
            for other in before:
                if self.nodes[other] in reached:
                    raise self.refusal(f"signals from {other!r} go past {name!r}")
            before.append(name)

    def harmless(self, bias: Tensor) -> bool:
        """Whether a bias changes nothing: its mean is taken away, or it shifts outputs alone."""
        for name, module in named_modules(self.model):
            if any(bias is one for one in module.parameters(recurse=False)):
                weights = [f"{name}.{key}".lstrip(".") for key in module._parameters]
                after = [self.followed.get(w) for w in weights if w in self.nodes]
                last = self.last in weights and self.last not in self.followed
                return last or any(isinstance(one, CENTRING) for one in after)
        return False

    def refusal(self, reason: str) -> LayerscopeError:
        """Why there is no rule for this model."""
        return LayerscopeError(
            f"no rule says what scaling the weights of {type(self.model).__name__} does: {reason}.",
            "Measure a network of layers one after the other, without biases or with a batch "
            "normalisation after each; or leave the probe out.",
        )

    def close(self) -> None:
        """Let go of the graph."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
        self.nodes.clear()
