"""Change layers of a model on purpose: fresh weights from each layer's own initialiser."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from layerscope.errors import LayerscopeError
from layerscope.isolation import isolated, unique_state

Factory = Callable[[], nn.Module]


def fresh_weights(
    model: nn.Module, modules: Iterable[str], seed: int, factory: Factory | None = None
) -> dict[str, Tensor]:
    """A new draw of parameters and buffers, each from the initialiser of the layer that owns it.

    With a factory, the distribution is that of the whole construction, whatever it does. Without
    one it is that of each module's ``reset_parameters``, which a model that initialises its
    layers in its own constructor may have overruled.

    Args:
        model: The model; it is left as found, and so is the random state.
        modules: Names of the modules that own parameters, as in ``model.named_modules()``.
        seed: Seed of the draw.
        factory: Builds the model anew.

    Returns:
        Tensors by name, on the model's devices.

    Raises:
        LayerscopeError: A module has no ``reset_parameters`` and there is no factory, or the
            factory builds another model.
    """
    wanted = [f"{name}." if name else "" for name in modules]
    with isolated(model, seed=seed):
        drawn = unique_state(factory() if factory is not None else _reset(model, modules))
    own = unique_state(model)
    fresh = {name: t for name, t in drawn.items() if name.rpartition(".")[0] + "." in wanted}
    fresh |= {name: t for name, t in drawn.items() if "." not in name and "" in wanted}
    for name, tensor in fresh.items():
        if name not in own or own[name].shape != tensor.shape:
            raise LayerscopeError(
                f"the factory's model does not fit the run's: {name!r}.",
                "Build the model with the sizes it was trained with.",
            )
    return {name: tensor.to(own[name].device) for name, tensor in fresh.items()}


def _reset(model: nn.Module, modules: Iterable[str]) -> nn.Module:
    """A copy of the model with the named modules initialised again."""
    renewed = copy.deepcopy(model)
    for name in modules:
        module = renewed.get_submodule(name)
        reset = getattr(module, "reset_parameters", None) or getattr(
            module, "_reset_parameters", None
        )
        if reset is None and any(True for _ in module.parameters(recurse=False)):
            raise LayerscopeError(
                f"module {name!r} ({type(module).__name__}) has no reset_parameters.",
                "Pass factory=..., a function that builds the model anew.",
            )
        if reset is not None:
            with torch.no_grad():
                reset()
    return renewed
