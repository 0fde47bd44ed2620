"""Stop training layers that hardly change any more, as a run's configuration says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np
import torch
from torch import nn

from layerscope.config import FreezeWhenSettled, RunConfig
from layerscope.errors import LayerscopeError
from layerscope.networks.isolation import mixed_seed
from layerscope.networks.layers import LayerMap
from layerscope.networks.names import every_tensor
from layerscope.probes.weight_change import WeightChange
from layerscope.recording.recorder import Recorder
from layerscope.runs.manifest import frozen_after

CRITERION = WeightChange(minimum_dimensions=1)
"""What decides, over an epoch; all parameters of a layer count."""


def freezing_epochs(changes: np.ndarray, how: FreezeWhenSettled) -> np.ndarray:
    """The epoch at whose end each layer is frozen, 0 where it never is.

    Args:
        changes: Relative change of every layer that may be frozen over every epoch,
            (epochs, layers), shallowest first.
        how: The criterion, and whether layers wait for those before them.

    Returns:
        Epochs counted from 1, (layers,).
    """
    finite = np.where(np.isfinite(changes), changes, 0.0)  # what leaves zero changes infinitely
    largest = np.maximum.accumulate(finite) if how.relative else 1.0
    when = np.full(changes.shape[1], np.inf)
    row = np.zeros(changes.shape[1], int)
    for epoch, low in enumerate(changes < how.threshold * largest, 1):
        row = np.where(low, row + 1, 0)
        when[(row >= how.patience) & np.isinf(when)] = epoch
    if how.in_order:
        when = np.maximum.accumulate(when)
    return np.where(np.isfinite(when), when, 0).astype(int)


def candidates(layers: LayerMap, how: FreezeWhenSettled) -> list[str]:
    """Names of the layers that train and may be frozen.

    Raises:
        LayerscopeError: A pattern matches none of the layers.
    """
    for pattern in how.layers:
        if not any(fnmatchcase(name, pattern) for name in layers.names):
            raise LayerscopeError(
                f"the pattern {pattern!r} of freeze_when_settled.layers matches no layer.",
                f"Layers are called {', '.join(layers.names)}.",
            )
    measured = CRITERION.select(layers)
    return [
        layer.name
        for layer in measured
        if layer.trained and any(fnmatchcase(layer.name, p) for p in how.layers)
    ]


def reference_run(config: RunConfig) -> RunConfig:
    """The run whose layers a control freezes at other times."""
    how = replace(config.freeze_when_settled, at_random_times=False)
    return replace(config, freeze_when_settled=how)


def shuffled(times: Mapping[str, int], seed: int) -> dict[str, int]:
    """The same names at the same times, assigned at random."""
    generator = torch.Generator().manual_seed(mixed_seed("random freezing", seed))
    order = torch.randperm(len(times), generator=generator).tolist()
    values = list(times.values())
    return {name: values[place] for name, place in zip(times, order, strict=True)}


class Freezer:
    """Freezes layers of a training at the ends of epochs.

    What it decides follows from what the recorder has measured, so that a resumed run needs
    nothing else.

    Args:
        config: The run.
        model: The module that trains.
        recorder: Measures `CRITERION` once an epoch.
        steps_per_epoch: Optimiser steps per epoch.
        times: Steps at which layers are frozen, where they are given.
    """

    def __init__(
        self,
        config: RunConfig,
        model: nn.Module,
        recorder: Recorder,
        steps_per_epoch: int,
        times: Mapping[str, int] | None = None,
    ) -> None:
        self._how = config.freeze_when_settled
        self._model = model
        self._recorder = recorder
        self._per_epoch = steps_per_epoch
        self._times = times
        self._names = candidates(recorder.layers, self._how)
        measured = CRITERION.select(recorder.layers).names
        self._places = [measured.index(name) for name in self._names]
        self._n_trained = sum(layer.trained for layer in recorder.layers)
        self._changes: list[np.ndarray] = []
        self.frozen: dict[str, int] = {}

    def resume(self) -> None:
        """Freeze what was frozen up to the recorder's step.

        Raises:
            LayerscopeError: What was measured up to then is not there.
        """
        run, now = self._recorder.run, self._recorder.current_step
        if self._times is None and now >= self._per_epoch:
            found = run.results(CRITERION.key)["change"].sel(layer=self._names)
            self._changes = list(found.sel(step=slice(self._per_epoch, now)).values)
            if len(self._changes) != now // self._per_epoch:
                raise LayerscopeError(
                    f"{run.path} has {CRITERION.key} of {len(self._changes)} epochs and is to "
                    f"resume after {now // self._per_epoch}.",
                    "Restore its results from a copy, or train into another folder.",
                )
        noted = frozen_after(run.manifest)
        self._freeze({name: step for name, step in noted.items() if step <= now})
        if noted != self.frozen:  # it had come further than the state that it resumes from
            run.note(frozen=dict(self.frozen))

    def __call__(self) -> None:
        """Decide at the end of an epoch; to be called after every step."""
        step = self._recorder.current_step
        if step % self._per_epoch:
            return
        if self._times is not None:
            due = [name for name, when in self._times.items() if when <= step]
        else:
            found = self._recorder.latest(CRITERION)["change"].cpu().numpy()
            self._changes.append(found[self._places])
            when = freezing_epochs(np.stack(self._changes), self._how)
            due = [name for name, epoch in zip(self._names, when, strict=True) if epoch]
        new = [name for name in due if name not in self.frozen]
        del new[self._n_trained - 1 - len(self.frozen) :]  # one layer always goes on
        if new:
            self._freeze(dict.fromkeys(new, step))
            self._recorder.run.note(frozen=dict(self.frozen))

    def _freeze(self, times: Mapping[str, int]) -> None:
        own = every_tensor(self._model)
        for name in times:
            for parameter in self._recorder.layers[name].parameters:
                own[parameter].requires_grad_(False)
                own[parameter].grad = None
        self.frozen |= times
