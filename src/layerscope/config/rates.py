"""The learning rate of every step."""

from __future__ import annotations

import math
from collections.abc import Sequence

from layerscope.config.run import Plateau, RunConfig
from layerscope.errors import LayerscopeError, unknown

SCHEDULES = ("step", "cosine", "plateau")


def check_schedule(config: RunConfig, steps_per_epoch: int) -> None:
    """Refuse settings of the learning rate that contradict each other or the length of the run.

    Raises:
        LayerscopeError: The schedule is not known, has milestones or plateaus that it would not
            follow, or a decay at which it would not fall; or the warm-up is negative or longer
            than the run.
    """
    schedule = config.schedule
    if schedule not in SCHEDULES:
        raise unknown("schedule", schedule, SCHEDULES)
    if schedule != "step" and config.milestones:
        raise LayerscopeError(
            f"milestones are {list(config.milestones)}, which the {schedule} schedule does not "
            "follow.",
            "Leave out the milestones, or choose the schedule 'step'.",
        )
    if schedule != "plateau" and config.plateau != Plateau():
        raise LayerscopeError(
            f"plateau is given, which the schedule {schedule!r} does not follow.",
            "Leave it out, or choose the schedule 'plateau'.",
        )
    if schedule == "plateau" and not 0 < config.decay < 1:
        raise LayerscopeError(
            f"decay is {config.decay}, at which the plateau schedule does not lower the rate.",
            "Give a decay above 0 and below 1.",
        )
    steps = config.epochs * steps_per_epoch
    if not 0 <= config.warmup <= steps:
        raise LayerscopeError(
            f"warmup is {config.warmup} steps, and the run has {steps}.",
            f"Give between 0 and {steps}.",
        )


def plateaus(losses: Sequence[float], how: Plateau) -> list[int]:
    """The epochs at whose end a plateau lowers the learning rate, counted from 1.

    Args:
        losses: Test loss at the end of every epoch; NaN is not better than anything.
        how: What counts as a plateau.
    """
    best, worse, found = math.inf, 0, []
    for epoch, loss in enumerate(losses, 1):
        better = loss < best * (1 - how.threshold)
        best, worse = (loss, 0) if better else (best, worse + 1)
        if worse > how.patience:
            found.append(epoch)
            worse = 0
    return found


def learning_rate(
    config: RunConfig, step: int, steps_per_epoch: int, drops: Sequence[int] | None = None
) -> float:
    r"""Learning rate of one step.

    Of the base rate :math:`\eta`, decay :math:`\gamma`, warm-up of :math:`W` of :math:`T` steps:

    * ``"step"``: :math:`\eta\,\gamma^m` after :math:`m` milestones, which count epochs of the run;
    * ``"cosine"``: :math:`\frac{\eta}{2}\left(1 + \cos\frac{\pi (t - W)}{T - W}\right)`;
    * ``"plateau"``: :math:`\eta\,\gamma^m` after :math:`m` plateaus of the test loss;
    * :math:`(t + 1) / W` of it (of :math:`\eta` for ``"cosine"``) while :math:`t < W`.

    Source of the cosine: Loshchilov and Hutter 2017, "SGDR", without restarts.

    Args:
        config: The run.
        step: The step :math:`t`, counted from 0; after the end the rate stays that of the last.
        steps_per_epoch: Steps in one epoch.
        drops: Of the schedule ``"plateau"``, after how many steps the rate has fallen each time.

    Raises:
        LayerscopeError: The schedule is ``"plateau"``, and it is not said when the rate fell.
    """
    step = min(step, config.epochs * steps_per_epoch - 1)
    if config.schedule == "plateau":
        passed = _passed_plateaus(step, drops)
    else:
        passed = sum(step // steps_per_epoch >= milestone for milestone in config.milestones)
    rate = config.optimizer.learning_rate * config.decay**passed
    if step < config.warmup:
        return rate * (step + 1) / config.warmup
    if config.schedule == "cosine":
        length = max(1, config.epochs * steps_per_epoch - config.warmup)
        rate *= 0.5 * (1 + math.cos(math.pi * (step - config.warmup) / length))
    return rate


def _passed_plateaus(step: int, drops: Sequence[int] | None) -> int:
    if drops is None:
        raise LayerscopeError(
            "the learning rate of the plateau schedule depends on the run's test losses.",
            "Ask the run: Run.learning_rate(step); or say when it fell: drops=(...).",
        )
    return sum(step >= drop for drop in drops)
