"""Names of a model's modules and tensors, without those of wrappers: the same before and after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from layerscope.errors import LayerscopeError

Weights = Mapping[str, Tensor]
"""Parameters and buffers by name."""
WRAPPERS = ("DistributedDataParallel", "DataParallel", "_FabricModule")


def unwrap(model: nn.Module) -> nn.Module:
    """The user's own module inside wrappers of torch.compile, (D)DP and Lightning Fabric."""
    while True:
        inner = getattr(model, "_orig_mod", None)  # torch.compile(model)
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
    if isinstance(module, torch.jit.ScriptModule):
        raise LayerscopeError(
            f"{repr(name) if name else 'the model'} is a TorchScript module, which takes no hooks.",
            "Pass the module that it was scripted or traced from; load_state_dict takes weights "
            "over.",
        )
    yield name, module
    inside = seen | {module} if every_name else seen  # cycles end, other names do not
    inside.add(module)
    for child_name, child in module._modules.items():
        if child is not None:
            yield from _walk(
                child, f"{name}.{child_name}" if name else child_name, inside, every_name
            )


def every_tensor(model: nn.Module, every_name: bool = False) -> dict[str, Tensor]:
    """Parameters and all buffers by name, tied ones once or under every name."""
    seen: set[int] = set()
    found: dict[str, Tensor] = {}
    for name, module in named_modules(model, every_name=True):
        prefix = f"{name}." if name else ""
        for key, tensor in (module._parameters | module._buffers).items():
            if tensor is not None and (every_name or id(tensor) not in seen):
                seen.add(id(tensor))
                found[prefix + key] = tensor
    return found


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


def unique_state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of a model, every tied tensor once, under its first name."""
    seen: set[int] = set()
    state = {}
    for name, value in named_state(model).items():
        if id(value) not in seen:
            seen.add(id(value))
            state[name] = value.detach()
    return state
