"""Where the weights begin, what moves them, and how fast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from layerscope.config import OPTIMIZERS, SGD, Adagrad, Adam, AdamW, OptimizerConfig, RMSprop
from layerscope.errors import LayerscopeError, unknown
from layerscope.networks.discovery import preview
from layerscope.networks.names import unique_state


def start_at(
    model: nn.Module, weights: Mapping[str, Tensor], fresh: Sequence[str], source: str
) -> None:
    """Put the weights of another training into a model, all but the fresh ones.

    Args:
        model: The model, initialised; its parameters and buffers are set in place.
        weights: Tensors by name, tied ones once.
        fresh: Glob patterns of tensors that stay as they are in the model, or that only the
            weights have and that are left out.
        source: Where the weights come from, for messages.

    Raises:
        LayerscopeError: A pattern matches no tensor or the patterns match all; a tensor that is
            not fresh is missing on either side or has another shape.
    """
    own = unique_state(model)
    names = list(dict.fromkeys((*own, *weights)))
    for pattern in fresh:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise LayerscopeError(
                f"no tensor matches the pattern {pattern!r} of start.fresh.",
                f"Tensors are called {preview(names)}.",
            )
    taken = [name for name in names if not any(fnmatchcase(name, p) for p in fresh)]
    if wrong := [fault for name in taken if (fault := _misfit(name, own, weights))]:
        raise LayerscopeError(
            f"{source} does not fit the model: {preview(wrong)}.",
            "List in start.fresh what shall keep its own initialisation or be left out, "
            "or build the model with the sizes it was trained with.",
        )
    if not taken:
        raise LayerscopeError(
            f"start.fresh, {list(fresh)}, leaves nothing to take from {source}.",
            "Name fewer tensors, or leave out start.",
        )
    with torch.no_grad():
        for name in taken:
            own[name].copy_(weights[name])


def _misfit(name: str, own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    """Why a tensor cannot be taken over; empty if it can."""
    if name not in weights:
        return f"{name!r} is missing there"
    if name not in own:
        return f"{name!r} is not in the model"
    there, here = tuple(weights[name].shape), tuple(own[name].shape)
    return "" if there == here else f"{name!r} has shape {there} there and {here} here"


def make_optimizer(config: OptimizerConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser over all parameters, updating them in one fused kernel where there is one."""
    parameters = model.parameters()
    shared: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if isinstance(config, SGD):
        return torch.optim.SGD(
            parameters, momentum=config.momentum, nesterov=config.nesterov, fused=True, **shared
        )
    if isinstance(config, Adam | AdamW):
        kind = torch.optim.AdamW if isinstance(config, AdamW) else torch.optim.Adam
        return kind(parameters, betas=(config.beta1, config.beta2), fused=True, **shared)
    if isinstance(config, Adagrad):
        on_cpu = next(model.parameters()).device.type == "cpu"  # the only kernel that torch has
        return torch.optim.Adagrad(parameters, fused=on_cpu or None, **shared)
    if isinstance(config, RMSprop):
        return torch.optim.RMSprop(
            parameters, alpha=config.smoothing, momentum=config.momentum, **shared
        )
    raise unknown("optimizer", type(config).__name__, [c.__name__ for c in OPTIMIZERS.values()])
