"""What a probe sees: one moment of a training, or a finished run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

from layerscope.errors import LayerscopeError
from layerscope.functional.norms import Total, here
from layerscope.networks.task import Task
from layerscope.runs.store import Run

T = TypeVar("T")
NOT_KNOWN = {
    "learning_rate": (
        "the learning rate of this run is not known.",
        "Give the size of the step, e.g. GradientPredictiveness(learning_rate=0.1); a Recorder "
        "that measures live takes learning_rate=....",
    )
}
"""Message and remedy where a probe declares what a run may not have."""


class Needed(Generic[T]):
    """An attribute that is there for probes that declare it; for others asking is an error.

    The attribute has the type ``T`` and never None, so that a probe need not look.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type | None = None) -> T:
        if instance is None:  # the default that a dataclass asks its class for
            return None  # pyright: ignore[reportReturnType]
        if (value := vars(instance)[self._name]) is None:
            undeclared = (
                f"the probe asked for {self._name}, which it does not declare or was not given.",
                f'Name "{self._name}" in the needs of the probe.',
            )
            raise LayerscopeError(*NOT_KNOWN.get(self._name, undeclared))
        return value

    def __set__(self, instance: Any, value: T | None) -> None:
        vars(instance)[self._name] = value


@dataclass(frozen=True, eq=False, repr=False)
class Moment:
    """One moment of training, as a probe sees it.

    A probe may ask for step and weights, and for what its ``needs`` name; asking for anything else
    is a `LayerscopeError`.

    Attributes:
        step: Optimiser steps taken so far.
        weights: Parameters and buffers now, by name. Live ones: do not keep or change them.
        previous: Parameters at the moment measured before; for a `FoldingProbe` those of the
            first moment itself where there is none before.
        initial: Parameters at step 0.
        final: Parameters at the last moment, for a `FoldingProbe`.
        model: The module, which `layerscope.networks.isolation.isolated` lets hold the weights.
        task: What a batch means.
        batch: The run's fixed batch.
        data: Batches to test on; never while a run trains.
        training_data: Batches of the training examples, likewise.
        learning_rate: That of the next step.
        total: Adds sums up over the processes that share the weights, where several do: a probe
            that is ``additive`` passes its sums through it.
        missing: Why a layer has no value, by name. A probe that cannot measure a layer puts the
            reason here and NaN in the layer's place; the others are measured all the same.
    """

    step: int
    weights: Mapping[str, Tensor]
    previous: Needed[Mapping[str, Tensor]] = Needed()
    initial: Needed[Mapping[str, Tensor]] = Needed()
    final: Needed[Mapping[str, Tensor]] = Needed()
    model: Needed[nn.Module] = Needed()
    task: Needed[Task] = Needed()
    batch: Needed[Any] = Needed()
    data: Needed[Iterable[Any]] = Needed()
    training_data: Needed[Iterable[Any]] = Needed()
    learning_rate: Needed[float] = Needed()
    total: Total = here
    missing: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, repr=False)
class Trajectory:
    """A finished run, as a trajectory probe sees it.

    A probe may ask for run and steps, and for what its ``needs`` name; asking for anything else is
    a `LayerscopeError`.

    Attributes:
        run: The run on disk.
        steps: The checkpoints to use, ascending.
        model: A module that takes the run's weights.
        task: What a batch means.
        batch: The run's fixed batch.
        data: Batches to test on.
        training_data: Batches of the training examples.
        factory: Builds the model anew, for draws from its initialisers; None where that is not
            known. Given to probes that need the model.
        missing: Why a layer has no value, by name, as in `Moment`.
    """

    run: Run
    steps: Sequence[int]
    model: Needed[nn.Module] = Needed()
    task: Needed[Task] = Needed()
    batch: Needed[Any] = Needed()
    data: Needed[Iterable[Any]] = Needed()
    training_data: Needed[Iterable[Any]] = Needed()
    factory: Callable[[], nn.Module] | None = None
    missing: dict[str, str] = field(default_factory=dict)
