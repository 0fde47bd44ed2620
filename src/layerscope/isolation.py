"""Run a model and leave it, and the random state of the process, as they were found."""

from __future__ import annotations

import contextlib
import hashlib
import random
import sys
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

WRAPPERS = ("DistributedDataParallel", "DataParallel", "_FabricModule")


def unwrap(model: nn.Module) -> nn.Module:
    """The user's own module inside wrappers of torch.compile, (D)DP and Lightning Fabric."""
    while True:
        inner = model._modules.get("_orig_mod")  # torch.compile(model)
        if inner is None and type(model).__name__ in WRAPPERS:
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def named_modules(model: nn.Module, every_name: bool = False) -> Iterator[tuple[str, nn.Module]]:
    """Modules by dotted name, parents first; wrappers inside are left out of the names.

    Like ``model.named_modules()`` where nothing is wrapped. Names used here are these everywhere,
    so that a submodule means the same before and after it is compiled.

    Args:
        model: The module.
        every_name: Also yield a module under its other names, where it was registered twice.
    """
    yield from _walk(model, "", set(), every_name)


def _walk(
    module: nn.Module, name: str, seen: set[nn.Module], every_name: bool
) -> Iterator[tuple[str, nn.Module]]:
    module = unwrap(module)
    if module in seen:
        return
    yield name, module
    inside = seen | {module} if every_name else seen  # cycles end, other names do not
    inside.add(module)
    for child_name, child in module._modules.items():
        if child is not None:
            yield from _walk(
                child, f"{name}.{child_name}" if name else child_name, inside, every_name
            )


def named_state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers under all their names: what ``state_dict`` holds.

    The tensors themselves, not detached; names as in `named_modules`. State of other kinds
    (``get_extra_state``) is not among them.
    """
    state: dict[str, Tensor] = {}
    for name, module in named_modules(model, every_name=True):
        prefix = f"{name}." if name else ""
        kept = {
            k: b for k, b in module._buffers.items() if k not in module._non_persistent_buffers_set
        }
        state |= {prefix + k: t for k, t in (module._parameters | kept).items() if t is not None}
    return state


def mixed_seed(*parts: int | str) -> int:
    """A 63-bit seed from several parts, equal on every machine; close parts give unrelated seeds.

    The first eight bytes of SHA-256 over the parts joined by ``/``, less the sign bit.
    """
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@contextlib.contextmanager
def _random_state() -> Iterator[None]:
    python, numpy_state = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)


@contextlib.contextmanager
def _modes(model: nn.Module, training: bool) -> Iterator[None]:
    found = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, mode in found:
            module.training = mode


@contextlib.contextmanager
def _buffers(model: nn.Module) -> Iterator[None]:
    found = [(module, dict(module._buffers)) for module in model.modules()]
    tensors = [t for _, buffers in found for t in buffers.values() if t is not None]
    contents = [tensor.clone() for tensor in tensors]
    try:
        yield
    finally:
        for module, buffers in found:
            module._buffers.clear()
            module._buffers.update(buffers)
        with torch.no_grad():
            for tensor, content in zip(tensors, contents, strict=True):
                if not torch.equal(tensor, content):  # a copy would disturb a waiting backward pass
                    tensor.copy_(content)


def _eager(model: nn.Module) -> contextlib.AbstractContextManager[object]:
    """Bypass compiled code where some module carries it; importing dynamo otherwise is slow."""
    compiled = any(m._compiled_call_impl is not None for m in model.modules())
    if compiled or "torch._dynamo" in sys.modules:
        return torch.compiler.set_stance("force_eager")
    return contextlib.nullcontext()


@contextlib.contextmanager
def isolated(model: nn.Module, training: bool = False, seed: int = 0) -> Iterator[None]:
    """Everything inside leaves the model and the process as found.

    Kept and restored: random state of Python, NumPy and torch on every device, the mode of every
    module, every buffer (BatchNorm statistics among them). Autocast is off inside, compiled code
    is bypassed, and the random state is seeded so that a measurement repeats. Gradients in
    ``.grad`` are untouched as long as the code inside uses `torch.autograd.grad`.

    Args:
        model: The module that will run.
        training: Mode in which it runs.
        seed: Seed of the random state inside.
    """
    device = next((p.device.type for p in model.parameters()), "cpu")
    with (
        _random_state(),
        _modes(model, training),
        _buffers(model),
        _eager(model),
        torch.autocast(device, enabled=False),
    ):
        torch.random.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        yield


def unique_state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of a model, every tied tensor once, under its first name."""
    seen: set[int] = set()
    state = {}
    for name, value in named_state(model).items():
        if id(value) not in seen:
            seen.add(id(value))
            state[name] = value.detach()
    return state
