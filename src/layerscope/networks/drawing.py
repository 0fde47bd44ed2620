"""Fresh draws of layers, each from its own initialiser, also where weights are derived from others.

``reset_parameters`` fills the weight that a layer computes with. Where that is made of other
tensors at every call (weight normalisation, spectral normalisation, pruning, any parametrisation),
a copy of the layer is taken apart, drawn as a plain one, and put into what defines the layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from layerscope.errors import LayerscopeError
from layerscope.networks.isolation import copied, differentiable, isolated, mixed_seed
from layerscope.networks.names import every_tensor, named_modules, unwrap

Factory = Callable[[], nn.Module]
SETTLING = 50
"""Power iterations after which the largest singular value of a fresh weight is known."""


def fresh_weights(
    model: nn.Module, modules: Iterable[str], seed: int, factory: Factory | None = None
) -> dict[str, Tensor]:
    """A new draw of parameters and buffers, each from the initialiser of the layer that owns it.

    With a factory, the distribution is that of the whole construction, whatever it does. Without
    one it is that of each module's ``reset_parameters``, which a model that initialises its
    layers in its own constructor may have overruled. A derived weight (normalised, pruned,
    parametrised) is drawn as that of a plain layer and put into the tensors that define it; the
    mask of a pruned one stays.

    Args:
        model: The model; it is left as found, and so is the random state.
        modules: Names of the modules that own parameters, as `layerscope.LayerMap` names them.
        seed: Seed of the draw. It is mixed, so that it never gives the weights that a training
            seeded with the same number began with.
        factory: Builds the model anew.

    Returns:
        Tensors by name, on the model's devices; a tied one under the first of its names.

    Raises:
        LayerscopeError: There is no factory, and a module has no ``reset_parameters`` or one that
            leaves a parameter as it is; or the factory builds another model, or none.
    """
    model = unwrap(model)
    wanted, own = list(modules), every_tensor(model)
    names = _owned(model, wanted)
    with isolated(model, seed=mixed_seed("fresh weights", seed)):
        drawn = _built(factory, own) if factory is not None else _reset(model, wanted)
        found = {name: tensor.detach() for name, tensor in every_tensor(drawn).items()}
    return {name: found[name].to(own[name].device) for name in names}


def _built(factory: Factory, own: dict[str, Tensor]) -> nn.Module:
    made = factory()
    if not isinstance(made, nn.Module):
        raise LayerscopeError(
            f"the factory returned {type(made).__name__}, not a torch.nn.Module.",
            "Return the model itself.",
        )
    made = unwrap(made)
    found = every_tensor(made)
    for name, tensor in own.items():
        if name not in found or found[name].shape != tensor.shape:
            raise LayerscopeError(
                f"the factory's model does not fit the run's: {name!r}.",
                "Build the model with the sizes it was trained with.",
            )
    return made


def _owned(model: nn.Module, modules: Iterable[str]) -> list[str]:
    """Names of the tensors that modules own, also through their parametrisations."""
    known = dict(named_modules(model, every_name=True))
    inside: set[int] = set()
    for name in modules:
        inside |= {id(tensor) for tensor in _tensors(known[name]).values()}
    return [name for name, tensor in every_tensor(model).items() if id(tensor) in inside]


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """A module's own parameters and buffers, and those of its parametrisations."""
    found = {k: t for k, t in (module._parameters | module._buffers).items() if t is not None}
    if parametrize.is_parametrized(module):
        inside = every_tensor(module.parametrizations)  # pyright: ignore
        found |= {f"parametrizations.{name}": tensor for name, tensor in inside.items()}
    return found


def _reset(model: nn.Module, modules: Iterable[str]) -> nn.Module:
    """A copy of the model with the named modules drawn again."""
    renewed = copied(model)
    known = dict(named_modules(renewed, every_name=True))
    with torch.no_grad():
        for name in modules:
            _draw(name, known[name])
    return renewed


def _draw(name: str, module: nn.Module) -> None:
    plain = _taken_apart(copied(module))
    own = {k: p for k, p in plain._parameters.items() if p is not None and differentiable(p)}
    reset = getattr(plain, "reset_parameters", None) or getattr(plain, "_reset_parameters", None)
    if reset is None and own:
        raise _cannot(name, module, "has no reset_parameters")
    for parameter in own.values():
        parameter.fill_(torch.nan)  # to see what is left undrawn
    if reset is not None:
        reset()
    undrawn = [k for k, p in plain._parameters.items() if k in own and p is not None]
    undrawn = [k for k in undrawn if bool(plain._parameters[k].isnan().any())]  # pyright: ignore
    if undrawn:
        raise _cannot(name, module, f"has a reset_parameters that leaves {undrawn[0]!r} as it is")
    for key, tensor in (plain._parameters | plain._buffers).items():
        if tensor is not None:
            _put(name, module, key, tensor)


def _cannot(name: str, module: nn.Module, why: str) -> LayerscopeError:
    return LayerscopeError(
        f"module {name!r} ({type(module).__name__}) {why}.",
        "Pass factory=..., a function that builds the model anew.",
    )


def _taken_apart(module: nn.Module) -> nn.Module:
    """The module with its weights as plain parameters again."""
    if parametrize.is_parametrized(module):
        # Not by `remove_parametrizations`: that changes a class which a copy shares.
        values = {key: getattr(module, key).detach() for key in module.parametrizations}  # pyright: ignore
        module.__class__ = parametrize.type_before_parametrizations(module)
        del module._modules["parametrizations"]
        for key, value in values.items():
            module.register_parameter(key, nn.Parameter(value.clone()))
    for number, hook in list(module._forward_pre_hooks.items()):
        if isinstance(hook, (WeightNorm, SpectralNorm, prune.BasePruningMethod)):
            hook.remove(module)
            del module._forward_pre_hooks[number]
    return module


def _put(name: str, module: nn.Module, key: str, drawn: Tensor) -> None:
    """A drawn tensor in the place of the one it defines, or of those that define it."""
    own = module._parameters.get(key, module._buffers.get(key))
    if own is not None:
        own.copy_(drawn)
    elif parametrize.is_parametrized(module, key):
        _put_parametrised(name, module, key, drawn)
    else:
        for hook in module._forward_pre_hooks.values():
            if getattr(hook, "name", getattr(hook, "_tensor_name", None)) == key:
                _put_derived(module, hook, key, drawn)


def _put_derived(module: nn.Module, hook: object, key: str, drawn: Tensor) -> None:
    if isinstance(hook, WeightNorm):
        module._parameters[f"{key}_v"].copy_(drawn)  # pyright: ignore
        length = drawn.norm() if hook.dim == -1 else torch.norm_except_dim(drawn, 2, hook.dim)
        module._parameters[f"{key}_g"].copy_(length)  # pyright: ignore
        return
    module._parameters[f"{key}_orig"].copy_(drawn)  # pyright: ignore
    if isinstance(hook, SpectralNorm):
        for _ in range(SETTLING):
            hook.compute_weight(module, do_power_iteration=True)


def _put_parametrised(name: str, module: nn.Module, key: str, drawn: Tensor) -> None:
    steps: Any = module.parametrizations[key]  # pyright: ignore
    for step in steps:
        if any(True for _ in step.parameters()):
            reset = getattr(step, "reset_parameters", None)
            if reset is None:
                raise _cannot(name, module, f"has a parametrisation of {key!r} that learns itself")
            reset()
    if all(hasattr(step, "right_inverse") for step in steps):
        setattr(module, key, drawn.detach())  # a Parameter would be registered
    elif steps.is_tensor and steps.original.shape == drawn.shape:
        steps.original.copy_(drawn)
    else:
        raise _cannot(name, module, f"has a parametrisation of {key!r} without right_inverse")
    if any("SpectralNorm" in type(step).__name__ for step in steps):
        mode = module.training
        module.train()
        for _ in range(SETTLING):  # each look at the weight is a power iteration
            getattr(module, key)
        module.train(mode)
