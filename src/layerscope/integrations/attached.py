"""What every trainer's callback does: open a recorder where training starts, and close it."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from layerscope.errors import LayerscopeError, unknown
from layerscope.integrations.first_batch import first_batch
from layerscope.networks.isolation import device_of
from layerscope.networks.layers import LayerMap
from layerscope.networks.task import Task
from layerscope.recording.numbers import RESERVED, is_number
from layerscope.recording.recorder import Recorder

_log = logging.getLogger(__name__)
FOUND = ("model", "path", "optimizer", "steps_per_epoch", "metadata", "resume")
"""Arguments of a recorder that a trainer answers."""


class Attached:
    """A recorder that a trainer opens and closes.

    Args:
        path: Folder for the run; must not hold one, unless the trainer resumes.
        batch: The fixed batch; by default the first of the training data.
        task: What a batch means.
        options: Further arguments of `layerscope.Recorder`.

    Raises:
        LayerscopeError: A recorder has no such argument, or the trainer answers it.
    """

    def __init__(
        self, path: str | Path, batch: Any, task: Task | None, options: Mapping[str, Any]
    ) -> None:
        known = [n for n in inspect.signature(Recorder).parameters if n not in FOUND]
        for name in options:
            if name not in known:
                raise unknown("argument of a recorder under a trainer", name, known)
        self.path = Path(path)
        self._batch, self._task, self._options = batch, task, dict(options)
        self._recorder: Recorder | None = None

    @property
    def recorder(self) -> Recorder:
        """The recorder of the training that goes on, or of the last one.

        Raises:
            LayerscopeError: No training has started.
        """
        if self._recorder is None:
            raise LayerscopeError(
                f"no training has started that is recorded in {self.path}.", "Train first."
            )
        return self._recorder

    def begin(
        self,
        model: nn.Module,
        optimizer: Any,
        loader: Any,
        *,
        step: int,
        steps_per_epoch: int | None,
        metadata: Mapping[str, Any],
    ) -> None:
        """Open a recorder before the first step.

        Args:
            model: The module that trains.
            optimizer: As `layerscope.Recorder` takes it.
            loader: The training data.
            step: Steps taken so far: not 0 where a trainer resumes. The run in the folder is then
                continued, or one is begun that has no initialisation.
            steps_per_epoch: Optimiser steps per epoch, where known.
            metadata: For the manifest.
        """
        if self._recorder is not None:  # a training before, which nobody said had ended
            self._recorder.close(RuntimeError("another training began"))
        batch = self._batch if self._batch is not None else first_batch(loader, device_of(model))
        options = dict(self._options)
        if self._task is None and not isinstance(batch, Mapping):
            # How to run the model on it is not known: layers stand in order of registration.
            options.setdefault("layers", LayerMap.from_model(model, None))
        self._recorder = Recorder(
            model,
            self.path,
            optimizer=optimizer,
            task=self._task,
            batch=batch,
            steps_per_epoch=steps_per_epoch,
            metadata=metadata,
            resume=step > 0 and (self.path / "run.json").exists(),
            **options,
        )
        self._recorder.open(step)

    def log(self, values: Mapping[str, Any]) -> None:
        """Keep the numbers among what a trainer logs; ``val/loss`` is called ``val.loss``.

        Step and epoch, which trainers log beside them, are what the recorder counts itself.
        """
        if self._recorder is None or not self._recorder.is_open:  # evaluated before or after
            return
        numbers = {k.replace("/", "."): float(v) for k, v in values.items() if is_number(v)}
        self.recorder.log(**{k: v for k, v in numbers.items() if k not in RESERVED})

    def refer(self, checkpoint: Path) -> None:
        """Refer to weights that the trainer has kept; where that fails the training goes on."""
        try:
            self.recorder.refer(checkpoint)
        except LayerscopeError as error:
            _log.warning("%s is not referred to: %s", checkpoint, error.message)

    def end(self, error: BaseException | None = None) -> None:
        """Close the recorder, if there is one that is open."""
        if self._recorder is not None:
            self._recorder.close(error)


def steps_in_epoch(batches: Any, accumulated: int) -> int | None:
    """Optimiser steps per epoch: batches over batches per step, rounded up.

    Args:
        batches: A loader, whose length may not be known, or a number of batches.
        accumulated: Batches per step.
    """
    number = batches if isinstance(batches, int | float) else length(batches)
    if number is None or not math.isfinite(number) or number < 1:
        return None
    return math.ceil(number / accumulated)


def length(loader: Any) -> int | None:
    """Number of batches; None where a loader does not know it."""
    try:
        return len(loader)
    except TypeError:
        return None
