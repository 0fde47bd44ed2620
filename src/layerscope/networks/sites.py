"""Sites: where activation functions act in a model, in order of execution.

Not among them are activations that give another shape than they take.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import is_parametrized

from layerscope.errors import LayerscopeError
from layerscope.networks.activations import PRODUCTS, Called, Kept, keep_visiting, visiting
from layerscope.networks.discovery import Forward, preview, run_example
from layerscope.networks.isolation import isolated
from layerscope.networks.names import unwrap

APPLY = inspect.unwrap(torch.autograd.Function.apply).__code__
CHANNELS_FIRST = (_ConvNd, _NormBase, nn.GroupNorm)
CHANNELS_LAST = (nn.Linear, nn.Bilinear, nn.Embedding, nn.MultiheadAttention, nn.RNNBase)
NORMS_LAST = (nn.LayerNorm, nn.RMSNorm)
"""Normalisations of the last dimensions; what is derived of them may normalise others."""


@dataclass(frozen=True)
class Site:
    """A place where an activation function acts on a tensor.

    Attributes:
        name: The activation's module, e.g. ``"stage1.resblk1.activation"``, or the module that
            calls a function, with the function: ``"layer1.0.relu()"``. From the second call in one
            pass on a number follows: ``"layer1.0.relu#2"``.
        index: Place in order of execution, from 0.
        kind: Class of activation, e.g. ``"ReLU"``.
        module: Dotted name of the module; empty for the model itself.
        behind: Dotted name of the module with parameters that ran last before it.
        axis: Dimension of the nodes (channels, units): 1 behind convolutions and the
            normalisations that go with them, the last one otherwise. Modules that scale or
            activate leave it as it is.
        gated: Whether what leaves it is multiplied by another tensor right away, as in SwiGLU or
            squeeze-and-excitation: without the activation that product is not linear either.
        linear: Whether it was linearised: what enters leaves.
        own_backward: Whether it runs inside of a `torch.autograd.Function`, whose backward pass
            would stay what it is if the activation were left out.
    """

    name: str
    index: int
    kind: str
    module: str
    behind: str
    axis: int
    gated: bool = False
    linear: bool = False
    own_backward: bool = False


def find_sites(model: nn.Module, example: Any, forward: Forward | None = None) -> tuple[Site, ...]:
    """The sites of a model, found by running it once in eval mode; it is left as found.

    Args:
        model: Any module, also inside wrappers.
        example: What it eats, as for `layerscope.LayerMap.from_model`.
        forward: How to run it on the example, e.g. ``task.forward``.

    Raises:
        LayerscopeError: The model does not run on the example, or holds TorchScript modules.
    """
    model = unwrap(model)
    search = _Search()
    try:
        with isolated(model), torch.no_grad(), visiting(model, search, search.pass_by):
            run_example(model, example, forward)
    except LayerscopeError:
        raise
    except Exception as error:  # of the model's own code
        raise LayerscopeError(
            f"{type(model).__name__} does not run on the example: {error}",
            "Pass an example that it takes, e.g. a batch of the data, and the task's forward.",
        ) from error
    return tuple(search.found.values())


class _Search:
    """Collects sites, and what is found out about them from what runs before and after."""

    def __init__(self) -> None:
        self.found: dict[str, Site] = {}
        self._behind: tuple[str, int] = "", -1
        self._left: dict[int, tuple[str, weakref.ref[Tensor]]] = {}

    def __call__(self, call: Called) -> Tensor:
        version = _version(call.input)
        output = call.run(call.input)
        if not isinstance(output, Tensor) or output.shape != call.input.shape:
            return output
        linear = output is call.input and _version(output) == version
        behind, axis = self._behind
        if call.name not in self.found:
            self.found[call.name] = Site(
                call.name,
                len(self.found),
                call.kind,
                call.module,
                behind,
                axis if call.input.ndim > 2 else -1,
                linear=linear,
                own_backward=_inside_autograd_function(),
            )
        self._left[id(output)] = call.name, weakref.ref(output)
        return output

    def pass_by(self, name: str, what: Any, inputs: Sequence[Any]) -> None:
        """Look at a module or function on the way."""
        if isinstance(what, nn.Module):
            own = next(what.parameters(recurse=False), None)
            if own is not None or is_parametrized(what):
                self._behind = name, _axis(what, self._behind[1])
        elif what in PRODUCTS:
            tensors = [x for x in inputs if isinstance(x, Tensor) and x.numel() > 1]
            for tensor in tensors if len(tensors) > 1 else ():
                name, left = self._left.get(id(tensor), ("", None))
                if left is not None and left() is tensor:
                    self.found[name] = replace(self.found[name], gated=True)


def _inside_autograd_function() -> bool:
    """Whether what runs was called by the forward pass of a `torch.autograd.Function`."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code is not APPLY:
        frame = frame.f_back
    return frame is not None


def _axis(module: nn.Module, before: int) -> int:
    """Dimension of the nodes behind a module with parameters; it was another one before it."""
    weight = module._parameters.get("weight")
    if isinstance(module, CHANNELS_FIRST) or (weight is not None and weight.ndim > 2):
        return 1
    if isinstance(module, CHANNELS_LAST) or type(module) in NORMS_LAST:
        return -1
    return before


def _version(tensor: Tensor) -> int | None:
    """How often it was changed in place; None where that is not counted."""
    return None if tensor.is_inference() else tensor._version


@contextlib.contextmanager
def seeing(model: nn.Module, see: Callable[[Site, Tensor, Tensor], None]) -> Iterator[None]:
    """Show every site with what enters and what leaves to a function while the model runs.

    The tensors are the model's own: do not keep or change them. Inside
    `layerscope.networks.isolation.isolated`.

    Args:
        model: The module that runs inside, without wrappers.
        see: Called for every site as it runs.
    """
    search = _Search()

    def visit(call: Called) -> Tensor:
        output = search(call)
        if call.name in search.found:
            see(search.found[call.name], call.input, output)
        return output

    with visiting(model, visit, search.pass_by):
        yield


def nodes_second(site: Site, values: Tensor) -> Tensor:
    """What enters or leaves a site as (samples, nodes, *places)."""
    return values.reshape(-1, 1) if values.ndim < 2 else values.movedim(site.axis, 1)


def chosen_sites(sites: Sequence[Site], which: str | Sequence[str]) -> tuple[Site, ...]:
    """Some of a model's sites.

    Args:
        sites: What `find_sites` found.
        which: One or several of ``"all"``, ``"first:9"``, ``"last:20"``, a position such as
            ``"7"``, or a glob pattern of names.

    Returns:
        The sites, in order of execution.

    Raises:
        LayerscopeError: There are fewer sites, no such position, or no name matches.
    """
    chosen: set[int] = set()
    for text in [which] if isinstance(which, str) else which:
        found = _matching(sites, text)
        if not found:
            raise LayerscopeError(
                f"{text!r} matches no activation of this model.",
                f"It has {len(sites)}: {preview([site.name for site in sites]) or 'none'}. "
                "Write all, first:3, last:3, a position from 0, or a pattern of names.",
            )
        chosen.update(found)
    return tuple(site for site in sites if site.index in chosen)


def _matching(sites: Sequence[Site], text: str) -> list[int]:
    indices = [site.index for site in sites]
    if text == "all":
        return indices
    if text.isdecimal():
        return [int(text)] if int(text) in indices else []
    if match := re.fullmatch(r"(first|last):(\d+)", text):
        n = int(match[2])
        if not 1 <= n <= len(indices):
            return []
        return indices[:n] if match[1] == "first" else indices[-n:]
    return [site.index for site in sites if fnmatchcase(site.name, text)]


def keep_linear(model: nn.Module, sites: Sequence[Site], every: Sequence[Site]) -> Kept:
    """Let activations be the identity from now on, in every call of the model, in copies of it.

    Args:
        model: The module, changed: its modules with activations get a ``forward`` of their own.
        sites: The sites to linearise.
        every: All sites of the model.

    Returns:
        What undoes it.
    """
    # Those that are linear already are not run by what is put around them, nor counted there.
    names = frozenset(site.name for site in (*sites, *every) if site.linear or site in sites)
    return keep_visiting(model, _identity_at, {site.module for site in every}, names)


def _identity_at(call: Called) -> Tensor:
    return call.input
