"""Run a model and leave it, and the random state of the process, as they were found."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from layerscope.errors import LayerscopeError
from layerscope.networks.names import every_tensor
from layerscope.networks.snapshot import Snapshot


def mixed_seed(*parts: int | str) -> int:
    """A 63-bit seed from several parts, equal on every machine; close parts give unrelated seeds.

    The first eight bytes of SHA-256 over the parts joined by ``/``, less the sign bit.
    """
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@contextlib.contextmanager
def random_state_kept() -> Iterator[None]:
    """The random states of torch, numpy and Python are put back."""
    python, numpy_state = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)


@contextlib.contextmanager
def preserved(model: nn.Module) -> Iterator[Snapshot]:
    """Whatever a model holds beside parameters and buffers is put back: see `Snapshot`."""
    snapshot = Snapshot(model)
    try:
        yield snapshot
    finally:
        snapshot.restore()


@contextlib.contextmanager
def other_tensors(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Every parameter and buffer holds a copy, of ``weights`` where they name it.

    The objects stay, only their data are others: whatever refers to a parameter sees it, under
    any name, in a list, or in a backward pass that computes activations again. Nothing that is
    done to them, in place or past autograd, reaches the data that are put back. Hooks on
    parameters do not run inside.
    """
    given = _by_tensor(model, weights)
    tensors = [t for t in every_tensor(model).values() if type(t.data) is Tensor]
    found = [(tensor, tensor.data, tensor.requires_grad) for tensor in tensors]
    hooks = [(t._backward_hooks, dict(t._backward_hooks)) for t in tensors if t._backward_hooks]
    with torch.autograd._unsafe_preserve_version_counter(tuple(tensors)):
        try:
            for registered, _ in hooks:
                registered.clear()
            for tensor, own, _ in found:
                _fill(tensor, given.get(id(tensor), own))
            yield
        finally:
            for tensor, own, moves in found:
                tensor.data = own
                if tensor.requires_grad is not moves:
                    tensor.requires_grad_(moves)
            for registered, own in hooks:
                registered.update(own)


def _fill(tensor: Tensor, source: Tensor) -> None:
    """Let a tensor hold a copy of another one's values, laid out as its own are."""
    tensor.data = torch.empty_like(tensor.data).copy_(source.detach())


def holding(model: nn.Module, weights: Mapping[str, Tensor]) -> list[Tensor]:
    """Let parameters hold a copy of what is given, ready to be differentiated.

    Inside `isolated` only, which puts everything back.

    Args:
        model: The model.
        weights: Tensors by name; what an earlier call gave is not put back in between.

    Returns:
        The model's own parameters, in the order of the names. Those of a type that has no
        derivative do not require one.
    """
    found = leaves(model, list(weights))
    for leaf, tensor in zip(found, weights.values(), strict=True):
        _fill(leaf, tensor)
    return found


def leaves(model: nn.Module, names: Sequence[str]) -> list[Tensor]:
    """A model's own parameters by name, ready to be differentiated; inside `isolated` only."""
    own = every_tensor(model, every_name=True)
    found = [own[name] for name in names]
    for leaf in found:
        if differentiable(leaf):
            leaf.requires_grad_(True)
    return found


@contextlib.contextmanager
def no_checkpointing(every_kind: bool = True) -> Iterator[None]:
    """Activation checkpointing is off inside: what would be computed again is kept.

    Args:
        every_kind: False leaves the kind that is not re-entrant, which saves memory as always; the
            other one cannot be used with `torch.autograd.grad`.
    """
    module: Any = torch.utils.checkpoint
    names: dict[str, Any] = {"CheckpointFunction": _Direct}
    if every_kind:
        names["_checkpoint_without_reentrant_generator"] = _around_nothing
    found = {name: getattr(module, name) for name in names}
    vars(module).update(names)
    try:
        yield
    finally:
        vars(module).update(found)


class _Direct:
    """Stands for the function that would run a part again in the backward pass."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
        del preserve
        return function(*args)


def _around_nothing(*_: Any, **__: Any) -> Iterator[None]:
    yield


def device_of(model: nn.Module | None) -> torch.device:
    """Where a model's tensors are: the device of the first one."""
    tensors = iter(()) if model is None else iter(every_tensor(model).values())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def differentiable(tensor: Tensor) -> bool:
    """Whether a loss can have a derivative with respect to a tensor of this type."""
    return tensor.is_floating_point() or tensor.is_complex()


def without_aliases(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under the first name of what they stand for, wherever a mapping uses another.

    Raises:
        LayerscopeError: A name or a shape is not the model's.
    """
    given = _by_tensor(model, weights)
    return {n: given[id(t)] for n, t in every_tensor(model).items() if id(t) in given}


def _by_tensor(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[int, Tensor]:
    """The given tensors by the identity of those that they stand for.

    Raises:
        LayerscopeError: A name or a shape is not the model's.
    """
    own = every_tensor(model, every_name=True)
    given = {}
    for name in weights:
        if name not in own:
            raise LayerscopeError(
                f"the weights have {name!r}, which {type(model).__name__} does not have.",
                "Pass the model that the weights were trained with.",
            )
        tensor = weights[name]
        if tensor.shape != own[name].shape:
            raise LayerscopeError(
                f"{name!r} has shape {tuple(tensor.shape)} in the weights, "
                f"{tuple(own[name].shape)} in {type(model).__name__}.",
                "Build the model with the sizes it was trained with.",
            )
        given[id(own[name])] = tensor
    return given


def _eager(model: nn.Module) -> contextlib.AbstractContextManager[object]:
    """Bypass compiled code where some module carries it; importing dynamo otherwise is slow."""
    compiled = any(m._compiled_call_impl is not None for m in model.modules())
    if compiled or "torch._dynamo" in sys.modules:
        return torch.compiler.set_stance("force_eager")
    return contextlib.nullcontext()


def copied(model: nn.Module) -> nn.Module:
    """A deep copy, also of a model that holds derived tensors, which `copy.deepcopy` refuses."""
    memo: dict[int, Any] = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    return copy.deepcopy(model, memo)


@contextlib.contextmanager
def exchanged(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Other tensors in the places of parameters and buffers, under all their names.

    Unlike in `isolated` the objects are exchanged, for tensors that are traced or differentiated.
    What refers to a parameter past its module does not see them, and they are gone when a backward
    pass computes activations again.
    """
    given = _by_tensor(model, weights)
    places: list[tuple[dict[str, Any], str, Tensor]] = []
    for module in model.modules():
        for place in (module._parameters, module._buffers):
            places += [(place, k, t) for k, t in place.items() if t is not None and id(t) in given]
    try:
        for place, key, tensor in places:
            place[key] = given[id(tensor)]
        yield
    finally:
        for place, key, tensor in places:
            place[key] = tensor


@contextlib.contextmanager
def _no_autocast() -> Iterator[None]:
    """Autocast stays off inside whoever asks for it, such as a wrapped ``forward``."""
    enter = torch.autocast.__enter__

    def enter_disabled(self: torch.autocast) -> Any:
        enabled, self._enabled = self._enabled, False
        try:
            return enter(self)
        finally:
            self._enabled = enabled

    torch.autocast.__enter__ = enter_disabled
    try:
        yield
    finally:
        torch.autocast.__enter__ = enter


@contextlib.contextmanager
def _settings(model: nn.Module) -> Iterator[None]:
    """No autocast, also where ``forward`` asks for it; no compiled code; no inference mode."""
    device = device_of(model).type
    grad = torch.is_grad_enabled()
    with (
        torch.autocast(device, enabled=False),
        _no_autocast(),
        _eager(model),
        no_checkpointing(every_kind=False),
        torch.inference_mode(False),  # which sets the mode of autograd, too
        torch.set_grad_enabled(grad),
    ):
        yield


@contextlib.contextmanager
def isolated(
    model: nn.Module,
    training: bool = False,
    seed: int = 0,
    weights: Mapping[str, Tensor] | None = None,
) -> Iterator[None]:
    """Everything inside leaves the model and the process as found.

    Inside, parameters and buffers are copies, so that the model may write to them. Restored are
    they, random state of Python, NumPy and torch on every device, the mode of every module, and
    what modules hold beside: attributes, counters, generators, hooks (`snapshot`).
    Autocast is off inside, also where the model's own ``forward`` switches it on; compiled code is
    bypassed; the random state is seeded so that a measurement repeats. Gradients in ``.grad`` are
    untouched as long as the code inside uses `torch.autograd.grad`, which has to happen inside.

    Args:
        model: The module that will run.
        training: Mode in which it runs.
        seed: Seed of the random state inside.
        weights: Parameters and buffers to hold inside, by name; the model's own by default.

    Raises:
        LayerscopeError: A name or shape of the weights is not the model's.
    """
    with (
        random_state_kept(),
        preserved(model),
        other_tensors(model, weights or {}),
        _settings(model),
    ):
        model.train(training)
        seed_all(seed)
        yield


def seed_all(seed: int) -> None:
    """Seed the random state of Python, NumPy and torch on every device."""
    torch.random.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
