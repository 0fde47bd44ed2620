"""Which predictions survive an adversary who may change every pixel a little.

The attacks are those of captum (``captum.robust``) with the L-infinity norm.
"""

from __future__ import annotations

import contextlib
import math
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from layerscope.errors import LayerscopeError
from layerscope.networks.isolation import isolated
from layerscope.networks.task import Task

Losses = Callable[[Tensor], Tensor]
UNBOUNDED = (-math.inf, math.inf)


@dataclass(frozen=True, eq=False)
class Pixels:
    """How a model's inputs come from pixels: ``(pixels - mean) / std`` per channel.

    Attributes:
        mean: (C,), in pixels; None where the inputs are the pixels.
        std: (C,), given with ``mean``.
        bounds: Smallest and largest pixel; attacks stay within. `UNBOUNDED` for other inputs.
    """

    mean: Tensor | None = None
    std: Tensor | None = None
    bounds: tuple[float, float] = (0.0, 1.0)

    def of(self, inputs: Tensor) -> Tensor:
        """The pixels (N, C, ...) of inputs of that shape."""
        if self.mean is None or self.std is None:
            return inputs
        return inputs * _per_channel(self.std, inputs) + _per_channel(self.mean, inputs)

    def normalised(self, pixels: Tensor) -> Tensor:
        """The inputs that the model takes, of pixels (N, C, ...)."""
        if self.mean is None or self.std is None:
            return pixels
        return (pixels - _per_channel(self.mean, pixels)) / _per_channel(self.std, pixels)


UNIT = Pixels()


class Attack(ABC):
    """A search for pixels within ``epsilon`` of the given ones at which the loss is large."""

    @abstractmethod
    def perturb(self, losses: Losses, pixels: Tensor, bounds: tuple[float, float]) -> Tensor:
        """Attack every example.

        Args:
            losses: From pixels (N, ...) to one loss per example (N,), differentiable.
            pixels: Where to start; left as they are.
            bounds: Smallest and largest pixel.

        Returns:
            Pixels of the same shape.
        """


@dataclass(frozen=True)
class FGSM(Attack):
    r"""Fast gradient sign method: one step, :math:`x + \epsilon \, \mathrm{sign} \nabla_x L`.

    Source: Goodfellow, Shlens and Szegedy (2014).

    Attributes:
        epsilon: Largest change of a pixel, on the pixels' scale.
    """

    epsilon: float = 8 / 255

    def __post_init__(self) -> None:
        _check(epsilon=self.epsilon)

    def perturb(self, losses: Losses, pixels: Tensor, bounds: tuple[float, float]) -> Tensor:
        """See `Attack.perturb`."""
        from captum import robust

        attack = robust.FGSM(losses, _in_all, *bounds)
        attack.zero_thresh = 0.0  # captum takes gradients below 1e-6 for zero
        with _quiet():
            return attack.perturb(pixels.detach(), self.epsilon, target=None)


@dataclass(frozen=True)
class PGD(Attack):
    """Projected gradient descent: sign steps, each projected back into the ball and the bounds.

    Source: Madry et al. (2017).

    Attributes:
        epsilon: Radius of the ball, on the pixels' scale.
        steps: Number of steps.
        step_size: Change of every pixel in one step.
        random_start: Begin at a point drawn uniformly from the ball, with the global random state.
    """

    epsilon: float = 8 / 255
    steps: int = 20
    step_size: float = 2 / 255
    random_start: bool = True

    def __post_init__(self) -> None:
        _check(epsilon=self.epsilon, steps=self.steps, step_size=self.step_size)

    def perturb(self, losses: Losses, pixels: Tensor, bounds: tuple[float, float]) -> Tensor:
        """See `Attack.perturb`."""
        from captum import robust

        attack = robust.PGD(losses, _in_all, *bounds)
        attack.fgsm.zero_thresh = 0.0
        with _quiet():
            return attack.perturb(
                pixels.detach(),
                self.epsilon,
                self.step_size,
                self.steps,
                target=None,
                random_start=self.random_start,
            )


def correct_under_attack(
    model: nn.Module,
    data: Iterable[Any],
    task: Task,
    attack: Attack | None = None,
    pixels: Pixels = UNIT,
    seed: int = 0,
) -> Tensor:
    """Whether a classifier is right on each example after an attack on it; the mean is accuracy.

    The attack raises the loss of every example apart. A model that draws at random draws anew for
    each gradient and for the prediction. Model, gradients and random state are left as found.

    Args:
        model: The classifier; it runs in eval mode.
        data: Batches ``(inputs, labels)``.
        task: What a batch means.
        attack: The attack; None for the examples as they are.
        pixels: How inputs come from what is attacked.
        seed: Seed of the random state inside, for random starts.

    Returns:
        Booleans (examples,).

    Raises:
        LayerscopeError: There are no data, no pairs, or the task does not say what is right.
    """
    if task.correct is None:
        raise LayerscopeError(
            "an attack is judged by predictions that are right, which this task does not have.",
            "Use a task with correct=..., e.g. Task.classification().",
        )
    found = []
    with isolated(model, seed=seed):
        for inputs, labels in pieces(data):
            if attack is not None:
                inputs = _moved(model, attack, task, pixels, inputs, labels)
            with torch.no_grad():
                found.append(task.correct(task.forward(model, (inputs, labels)), (inputs, labels)))
    if not found:
        raise LayerscopeError("there are no data to attack.", "Pass at least one batch.")
    return torch.cat(found)


def pieces(
    data: Iterable[Any], size: int = sys.maxsize, most: int = sys.maxsize
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of at most ``size`` examples, ``most`` examples in all, in the order of the data.

    Raises:
        LayerscopeError: A batch is no pair, or its inputs are not real numbers.
    """
    for batch in data:
        if not (isinstance(batch, tuple | list) and len(batch) == 2 and _is_real(batch[0])):
            raise LayerscopeError(
                "an attack needs batches (inputs, labels) with inputs of floating point.",
                "Pass data of such batches; tokens cannot be attacked.",
            )
        if most <= 0:
            return
        inputs, labels = batch[0][:most], batch[1][:most]
        most -= len(inputs)
        yield from zip(inputs.split(size), labels.split(size), strict=True)


UNUSED = ("not have been used in the graph", "does not require grad")
"""How PyTorch says that a derivative does not exist."""


def _moved(
    model: nn.Module, attack: Attack, task: Task, pixels: Pixels, inputs: Tensor, labels: Tensor
) -> Tensor:
    """The inputs after an attack."""
    losses = _losses(model, task, pixels, labels)
    try:
        moved = attack.perturb(losses, pixels.of(inputs), pixels.bounds)
    except RuntimeError as error:
        if not any(text in str(error) for text in UNUSED):
            raise
        raise LayerscopeError(
            f"the loss of {type(model).__name__} has no derivative with respect to its inputs.",
            "A model that detaches its inputs cannot be attacked by gradients.",
        ) from error
    return pixels.normalised(moved)


def _losses(model: nn.Module, task: Task, pixels: Pixels, labels: Tensor) -> Losses:
    def losses(moved: Tensor) -> Tensor:
        batch = pixels.normalised(moved), labels
        return task.losses(task.forward(model, batch), batch)

    return losses


def _in_all(losses: Tensor, _: object) -> Tensor:
    """The sum, whose gradient is each example's own, and 0 where no label counts."""
    return losses.sum()[None]


def _is_real(inputs: Any) -> bool:
    return isinstance(inputs, Tensor) and inputs.is_floating_point()


def _per_channel(values: Tensor, inputs: Tensor) -> Tensor:
    return values.to(inputs).view(-1, *[1] * (inputs.ndim - 2))


def _check(**settings: float) -> None:
    for name, value in settings.items():
        if not 0 <= value < math.inf:
            raise LayerscopeError(f"{name} is {value}.", f"{name} must be 0 or more.")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without captum's warning that it switches gradients on for a tensor of its own making."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Input Tensor .* did not already require gradients")
        yield
