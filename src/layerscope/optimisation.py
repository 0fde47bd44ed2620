"""Where the weights begin, what moves them, and how fast."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from layerscope.config import SGD, Adagrad, Adam, AdamW, OptimizerConfig, RunConfig
from layerscope.discovery import preview
from layerscope.errors import LayerscopeError, unknown
from layerscope.isolation import unique_state

SCHEDULES = ("step", "cosine")


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
    return torch.optim.RMSprop(
        parameters, alpha=config.smoothing, momentum=config.momentum, **shared
    )


def check_schedule(config: RunConfig, steps_per_epoch: int) -> None:
    """Refuse settings of the learning rate that contradict each other or the length of the run.

    Raises:
        LayerscopeError: The schedule is not known, has milestones that it would not follow, or
            the warm-up is negative or longer than the run.
    """
    if config.schedule not in SCHEDULES:
        raise unknown("schedule", config.schedule, SCHEDULES)
    if config.schedule == "cosine" and config.milestones:
        raise LayerscopeError(
            f"milestones are {list(config.milestones)}, which the cosine schedule does not follow.",
            "Leave out the milestones, or choose the schedule 'step'.",
        )
    steps = config.epochs * steps_per_epoch
    if not 0 <= config.warmup <= steps:
        raise LayerscopeError(
            f"warmup is {config.warmup} steps, and the run has {steps}.",
            f"Give between 0 and {steps}.",
        )


def learning_rate(config: RunConfig, step: int, steps_per_epoch: int) -> float:
    r"""Learning rate of one step.

    Of the base rate :math:`\eta`, decay :math:`\gamma`, warm-up of :math:`W` of :math:`T` steps:

    * ``"step"``: :math:`\eta\,\gamma^m` after :math:`m` milestones, which count epochs of the run;
    * ``"cosine"``: :math:`\frac{\eta}{2}\left(1 + \cos\frac{\pi (t - W)}{T - W}\right)`;
    * :math:`(t + 1) / W` of it (of :math:`\eta` for ``"cosine"``) while :math:`t < W`.

    Source of the cosine: Loshchilov and Hutter 2017, "SGDR", without restarts.

    Args:
        config: The run.
        step: The step :math:`t`, counted from 0; after the end the rate stays that of the last.
        steps_per_epoch: Steps in one epoch.
    """
    step = min(step, config.epochs * steps_per_epoch - 1)
    passed = sum(step // steps_per_epoch >= milestone for milestone in config.milestones)
    rate = config.optimizer.learning_rate * config.decay**passed
    if step < config.warmup:
        return rate * (step + 1) / config.warmup
    if config.schedule == "cosine":
        length = max(1, config.epochs * steps_per_epoch - config.warmup)
        rate *= 0.5 * (1 + math.cos(math.pi * (step - config.warmup) / length))
    return rate
