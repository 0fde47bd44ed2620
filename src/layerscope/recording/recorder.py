"""Record any training loop: weights on a schedule, cheap probes as it runs, nothing disturbed."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from layerscope import schedule as schedules
from layerscope.errors import DivergedError, LayerscopeError
from layerscope.networks.isolation import named_modules, named_state, unwrap
from layerscope.networks.layers import LayerMap
from layerscope.networks.task import Task
from layerscope.probes.base import Probe
from layerscope.probes.driver import is_finite
from layerscope.recording.watching import Live, LiveProbes, Watch, misfits, scalars, watch
from layerscope.runs.fixed_batch import store_batch
from layerscope.runs.store import Run
from layerscope.schedule import Schedule

FLUSH_SECONDS = 30.0
FSDP = "FullyShardedDataParallel"


def _rank() -> int:
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_rank() if distributed else 0


def _content(folder: Path) -> set[Path]:
    return {folder, *folder.rglob("*")} if folder.is_dir() else set()


class Recorder:
    """Record a training loop of one's own.

    ::

        with Recorder(model, "runs/x", task=Task.classification(), batch=batch,
                      probes=[WeightChange()], steps_per_epoch=len(loader)) as recorder:
            for inputs, labels in loader:
                ...
                optimizer.step()
                recorder.step(loss=loss)

    Call `step` after every ``optimizer.step()``. Closing keeps the last weights and measures the
    probes that were not yet measured there, except those that compare with the moment measured
    before (`WeightChange`): a shorter last interval would be an outlier.

    The trained weights are equal bit for bit with and without it: random state, BatchNorm
    statistics, gradients, modes and hooks are left as found, and measurements run on the eager
    module with the fixed batch, outside autocast. Under DDP the first process records; `run` of
    another raises. On an exception what was measured is written and the run is marked interrupted;
    a loss that is not finite raises `DivergedError` and marks it diverged.

    Args:
        model: The module that trains, also compiled or wrapped in DDP or Fabric.
        path: Folder for the run; must not hold one.
        task: What a batch means; needed by probes that evaluate the model.
        batch: A fixed batch for such probes, also the example that orders the layers by
            execution (without it they stand in order of registration). Stored with the run.
        probes: Probes to measure live, or a mapping from probe to its own schedule.
        checkpoints: When to keep all weights. Initialisation and end are always kept.
        measure: When to measure probes that have no schedule of their own.
        layers: The layers; by default every module that owns parameters.
        steps_per_epoch: Optimiser steps per epoch; schedules by epoch need it.
        learning_rate: The learning rate of the step after so many, for probes that take a step.
        metadata: For the manifest: ``config``, ``seed``, ``total_steps``, ``device``.
        resume: Continue the interrupted run in ``path`` instead of starting one; the caller
            restores model and optimiser and calls `load_state_dict`.
        strict: Raise where a probe fails. By default it is logged as a warning, noted in the
            manifest and left out from then on, and the training goes on.

    Raises:
        LayerscopeError: A probe lacks what it needs, needs the finished run, or appears twice; a
            schedule counts epochs of unknown length; the parameters are sharded.
    """

    def __init__(
        self,
        model: nn.Module,
        path: str | Path,
        *,
        task: Task | None = None,
        batch: Any = None,
        probes: Sequence[Probe] | Mapping[Any, Schedule] = (),
        checkpoints: Schedule | None = None,
        measure: Schedule | None = None,
        layers: LayerMap | None = None,
        steps_per_epoch: int | None = None,
        learning_rate: Callable[[int], float] | None = None,
        metadata: Mapping[str, Any] | None = None,
        resume: bool = False,
        strict: bool = False,
    ) -> None:
        self.model = unwrap(model)
        self.path = Path(path)
        self._refuse_sharded()
        forward = task.forward if task is not None else None
        self.layers = layers or LayerMap.from_model(self.model, batch, forward=forward)
        self._refuse_misfits()
        self._given: dict[str, Any] = {"task": task, "batch": batch}
        self._given["model"] = self.model
        self._checkpoints = (checkpoints or schedules.epochs()).bind(steps_per_epoch)
        default = (measure or schedules.epochs()).bind(steps_per_epoch)
        self._loss_schedule = default
        watches = watch(probes, default, self.layers, self._given, steps_per_epoch)
        self._probes = LiveProbes(watches, self.layers, self._given, learning_rate, strict)
        self._steps_per_epoch = steps_per_epoch
        self._metadata = dict(metadata or {})
        self._resume = resume
        self._rank = _rank()
        self._active = self._rank == 0
        self._initial: dict[str, Tensor] | None = None
        self._loss_sum: Tensor | float = 0.0
        self._loss_count = 0
        self._loss_rows: list[tuple[int, float]] = []
        self._logged: list[tuple[int, dict[str, float]]] = []
        self._last_checkpoint = -1
        self._flushed = time.monotonic()
        self.current_step = 0
        self._run: Run | None = None

    # Setting up

    def _refuse_sharded(self) -> None:
        found = [
            f"parameter {name!r} is sharded"
            for name, tensor in named_state(self.model).items()
            if type(tensor.data).__name__ in ("DTensor", "ShardedTensor")
        ] + [
            f"{f'module {name!r}' if name else 'the model'} is sharded by {FSDP}"
            for name, module in named_modules(self.model)
            if any(cls.__name__ == FSDP for cls in type(module).__mro__)
        ]
        if found:
            raise LayerscopeError(
                f"{found[0]}, which this version does not record.",
                "Record a replicated model (DDP), or measure checkpoints gathered afterwards.",
            )

    def _refuse_misfits(self) -> None:
        for name, reason in misfits(self.layers, Live(self.model, self.layers.aliases)).items():
            raise LayerscopeError(
                f"layer {name!r} does not fit the model: {reason}.",
                "Make the layers from this model: LayerMap.from_model(model, ...).",
            )

    # The loop

    def __enter__(self) -> Self:
        if not self._active:
            return self
        if self._resume:
            self._run = Run.open(self.path)
            self._run.acquire()
            notes = self._run.manifest["notes"]
            notes.pop("error", None)
            self._probes.failures = notes.get("failed_probes", {})
            self._run.note("running")
            return self
        before = _content(self.path)
        self._run = Run.create(
            self.path, self.layers, steps_per_epoch=self._steps_per_epoch, **self._metadata
        )
        try:
            if (batch := self._given["batch"]) is not None:
                store_batch(self._run, batch)
            self._observe()
        except BaseException:  # __exit__ is not called for what fails in here
            self._undo_start(before)
            raise
        return self

    def _undo_start(self, before: set[Path]) -> None:
        """Remove what the start wrote, so that the folder is as found and a retry is free."""
        assert self._run is not None
        with contextlib.suppress(LayerscopeError):  # a full disk takes no status; the lock is freed
            self._run.finish("interrupted")
        self._run = None
        self._probes.forget()
        self._initial = None
        for path in sorted(_content(self.path) - before, reverse=True):  # children first
            path.rmdir() if path.is_dir() else path.unlink()

    @property
    def run(self) -> Run:
        """The run that is recorded; it can be read while the training goes on.

        Raises:
            LayerscopeError: The recorder was not opened yet, or this process records nothing.
        """
        if self._run is not None:
            return self._run
        if not self._active:
            raise LayerscopeError(
                f"the process of rank {self._rank} does not record; rank 0 does.",
                "Use the run on rank 0 only.",
            )
        raise self._not_open()

    def _not_open(self) -> LayerscopeError:
        return LayerscopeError("the recorder is not open.", "Use it in a with statement.")

    def step(self, loss: Tensor | float | None = None) -> None:
        """Say that the optimiser has taken a step.

        Args:
            loss: The step's training loss; kept as the mean between measured moments and checked
                for being finite (on an accelerator only at measured moments, so as not to wait).

        Raises:
            DivergedError: The loss is not finite; or the weights, where a probe found out.
            LayerscopeError: The recorder is not open, or a probe failed and it is strict.
        """
        if not self._active:
            return
        if self._run is None:
            raise self._not_open()
        self.current_step += 1
        if loss is not None:
            self._add_loss(loss)
        self._observe()
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def _add_loss(self, loss: Tensor | float) -> None:
        if isinstance(loss, Tensor):
            loss = loss.detach().float() if loss.is_cuda else loss.item()
        if not isinstance(loss, Tensor) and not math.isfinite(loss):
            raise self._diverged()
        self._loss_sum = self._loss_sum + loss
        self._loss_count += 1

    def log(self, **values: float) -> None:
        """Keep numbers of one's own at this step, e.g. ``log(test_error=0.03)``.

        They are kept as the variables of the result ``evaluation``, NaN where one was not given.
        """
        if self._active:
            self._logged.append((self.current_step, values))

    def _diverged(self) -> DivergedError:
        return DivergedError(
            f"the loss is not finite at step {self.current_step}.",
            "Lower the learning rate, clip gradients or check the inputs; everything before this "
            f"step is kept in {self.path}.",
        )

    def _observe(self) -> None:
        """Measure and keep what this step's schedules ask for."""
        step = self.current_step
        due, keep = self._probes.due(step), self._checkpoints(step)
        if self._loss_count and self._loss_schedule(step):
            self._close_loss(step)
        if not due and not keep:
            return
        now = Live(self.model, self.layers.aliases)
        self._measure(due, now)
        if keep:
            self._keep(now)

    def _measure(self, due: Sequence[Watch], now: Live) -> None:
        initial = partial(self._initial_weights, now)
        self._probes.measure(due, self.current_step, now, initial)
        self._note_failures()

    def _note_failures(self) -> None:
        failures = self._probes.failures
        if failures != self.run.manifest["notes"].get("failed_probes", {}):
            self.run.note(failed_probes=failures)

    def _initial_weights(self, now: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self._initial is None:
            names = self.layers.parameter_names
            if self.current_step == 0:
                self._initial = {name: now[name].clone() for name in names}
            else:
                stored = self.run.checkpoint(0)
                self._initial = {name: stored[name].to(now[name].device) for name in names}
        return self._initial

    def _keep(self, now: Live) -> None:
        self.run.write_checkpoint(self.current_step, now.state)
        self._last_checkpoint = self.current_step

    def _close_loss(self, step: int) -> None:
        mean = float(self._loss_sum) / self._loss_count
        if not is_finite(mean):
            raise self._diverged()
        self._loss_rows.append((step, mean))
        self._loss_sum, self._loss_count = 0.0, 0

    # Writing

    def flush(self) -> None:
        """Write everything measured so far."""
        if self._run is None:
            return
        for key, dataset in self._probes.datasets(self._steps_per_epoch):
            self.run.append_results(key, dataset)
        self._note_failures()
        if self._loss_rows:
            rows = [(step, {"loss": value}) for step, value in self._loss_rows]
            self.run.append_results("training", scalars(rows, self._steps_per_epoch))
            self._loss_rows = []
        if self._logged:
            self.run.append_results("evaluation", scalars(self._logged, self._steps_per_epoch))
            self._logged = []
        self._flushed = time.monotonic()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._run is None:
            return
        if error is not None:
            self._fail(error)
            return
        try:
            if self._loss_count:
                self._close_loss(self.current_step)
            now = Live(self.model, self.layers.aliases)
            if self._last_checkpoint != self.current_step:
                self._keep(now)
            self._measure(self._probes.left(self.current_step), now)
            self.flush()
        except BaseException as late:
            self._fail(late)
            raise
        self.run.finish("complete")

    def _fail(self, error: BaseException) -> None:
        """Keep what is sound and close the run as diverged or interrupted."""
        diverged = isinstance(error, DivergedError)
        notes = {"diverged_at": self.current_step} if diverged else {}
        try:
            self._probes.drop_unsound(self._steps_per_epoch)
            self.flush()
        finally:
            self.run.finish(
                "diverged" if diverged else "interrupted",
                error=f"{type(error).__name__}: {error}",
                **notes,
            )

    # Resuming

    def state_dict(self) -> dict[str, Any]:
        """What a resumed recorder needs beyond the checkpoints: call after `flush`."""
        previous = [p.weights for p in self._probes.previous.values()]
        return {
            "step": self.current_step,
            "loss_sum": float(self._loss_sum),
            "loss_count": self._loss_count,
            "previous": previous,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken.

        Raises:
            LayerscopeError: This recorder has other probes or schedules.
        """
        kept = [set(weights or ()) for weights in state["previous"]]
        if kept != [set(previous.names) for previous in self._probes.previous.values()]:
            raise LayerscopeError(
                f"{self.path} was recorded with other probes.",
                "Resume with the same probes and schedules; measure others afterwards.",
            )
        self.current_step = state["step"]
        self._loss_sum, self._loss_count = state["loss_sum"], state["loss_count"]
        pairs = zip(self._probes.previous.values(), state["previous"], strict=True)
        for previous, weights in pairs:
            previous.weights = weights
