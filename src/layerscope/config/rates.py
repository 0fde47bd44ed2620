"""The learning rate of every step."""

from __future__ import annotations

import math

from layerscope.config.run import RunConfig
from layerscope.errors import LayerscopeError, unknown

SCHEDULES = ("step", "cosine")


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
