"""The learning rate of a training, which may follow its test losses."""

from __future__ import annotations

from layerscope.config import RunConfig
from layerscope.config.rates import learning_rate, plateaus
from layerscope.errors import LayerscopeError
from layerscope.runs.manifest import rate_drops
from layerscope.runs.store import Run


class LearningRate:
    """The learning rate of every step of a training.

    With the schedule ``"plateau"`` it follows from the test losses at the ends of epochs, which
    the run records, so that a resumed run needs nothing else.

    Args:
        config: The run.
        steps_per_epoch: Optimiser steps per epoch.
    """

    def __init__(self, config: RunConfig, steps_per_epoch: int) -> None:
        self._config = config
        self.steps_per_epoch = steps_per_epoch
        self._losses: list[float] = []
        self.follows_loss = config.schedule == "plateau"
        self.drops: tuple[int, ...] = ()

    def __call__(self, step: int) -> float:
        """The rate of the step after so many, as far as it is known by now."""
        return learning_rate(self._config, step, self.steps_per_epoch, self.drops)

    def tested(self, loss: float) -> None:
        """Let the rate follow the test loss at the end of the next epoch."""
        if self.follows_loss:
            self._follow([*self._losses, loss])

    def resume(self, run: Run, step: int) -> None:
        """Let the rate follow what a run has recorded up to a step.

        Raises:
            LayerscopeError: The test loss of an epoch up to then is not there.
        """
        if not self.follows_loss:
            return
        ended = min(
            step // self.steps_per_epoch, self._config.epochs - 1
        )  # the last is tested after it
        losses: list[float] = []
        if "evaluation" in run.result_keys:
            found = run.results("evaluation")["test_loss"]
            losses = found.sel(step=slice(1, ended * self.steps_per_epoch)).values.tolist()
        if len(losses) != ended:
            raise LayerscopeError(
                f"{run.path} has the test loss of {len(losses)} epochs and is to resume after "
                f"{ended}.",
                "Restore results/evaluation from a copy, or train into another folder.",
            )
        self._follow(losses)
        self.note(run)

    def note(self, run: Run) -> None:
        """Note in a run when the rate fell, where that is news."""
        if self.drops != rate_drops(run.manifest):
            run.note(learning_rate_drops=list(self.drops))

    def _follow(self, losses: list[float]) -> None:
        self._losses = losses
        ends = plateaus(losses, self._config.plateau)
        self.drops = tuple(epoch * self.steps_per_epoch for epoch in ends)
