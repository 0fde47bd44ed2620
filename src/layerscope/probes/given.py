"""What a measurement may use beside weights: model, task and data, as far as they were given."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from layerscope.errors import LayerscopeError
from layerscope.networks.isolation import isolated
from layerscope.networks.task import Task
from layerscope.runs.fixed_batch import FILE

Need = Literal[
    "previous",
    "initial",
    "final",
    "learning_rate",
    "batch",
    "task",
    "model",
    "data",
    "training_data",
]


@dataclass(frozen=True)
class Given:
    """What a measurement was given; None for what it was not.

    Attributes:
        model: A module that takes the run's weights.
        task: What a batch means.
        batch: The fixed batch.
        data: Batches to test on, iterable more than once.
        training_data: Batches of the training examples, likewise.
        factory: Builds the model anew, for draws from its initialisers; goes with the model.
    """

    model: nn.Module | None = None
    task: Task | None = None
    batch: Any = None
    data: Iterable[Any] | None = None
    training_data: Iterable[Any] | None = None
    factory: Callable[[], nn.Module] | None = None

    def only(self, needs: frozenset[Need]) -> Given:
        """What is named, and nothing else, so that no probe uses what it does not declare."""
        return Given(
            model=self.model if "model" in needs else None,
            task=self.task if "task" in needs else None,
            batch=self.batch if "batch" in needs else None,
            data=self.data if "data" in needs else None,
            training_data=self.training_data if "training_data" in needs else None,
            factory=self.factory if "model" in needs else None,
        )


def check_needs(name: str, needs: frozenset[Need], given: Given) -> None:
    """Refuse a probe that lacks something, before anything is computed.

    Args:
        name: Of the probe's class.
        needs: What it needs.
        given: What there is.

    Raises:
        LayerscopeError: Something that the probe needs was not given.
    """
    own = ("batch", "data", "model", "task", "training_data")
    if missing := [n for n in own if n in needs and getattr(given, n) is None]:
        raise LayerscopeError(
            f"{name} needs {' and '.join(missing)}.",
            f"Pass {', '.join(f'{n}=...' for n in missing)}, or leave the probe out.",
        )


def blamed(error: Exception, given: Given) -> Exception:
    """Why a measurement failed: that the batch does not fit the model, where that is the reason.

    The model is run on the batch only after something has failed that says nothing of its own.

    Args:
        error: What was raised.
        given: What the probe was given.

    Returns:
        An error that names the batch, its cause the one raised; or the one raised.
    """
    model, task, batch = given.model, given.task, given.batch
    if isinstance(error, LayerscopeError) or model is None or task is None or batch is None:
        return error
    try:
        with isolated(model), torch.no_grad():
            task.loss(task.forward(model, batch), batch)
    except Exception as reason:  # the model and the task are anyone's
        found = LayerscopeError(
            f"{type(model).__name__} does not run on the batch: {type(reason).__name__}: {reason}",
            f"Pass a batch that fits model and task, or mend {FILE} of the run.",
        )
        found.__cause__ = error
        return found
    return error
