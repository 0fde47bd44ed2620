"""Record any training loop: weights on a schedule, cheap probes as it runs, nothing disturbed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from layerscope import schedule as schedules
from layerscope.errors import DivergedError, LayerscopeError
from layerscope.fixed_batch import store_batch
from layerscope.isolation import unwrap
from layerscope.layers import LayerMap
from layerscope.probes.base import Moment, MomentProbe, Probe
from layerscope.probes.driver import assemble, check_needs, is_finite
from layerscope.schedule import Schedule
from layerscope.store import Run
from layerscope.task import Task
from layerscope.watching import Live, Previous, Watch, scalars

FLUSH_SECONDS = 30.0


class Recorder:
    """Record a training loop of one's own.

    ::

        with Recorder(model, "runs/x", task=Task.classification(), batch=batch,
                      probes=[WeightChange()], steps_per_epoch=len(loader)) as recorder:
            for inputs, labels in loader:
                ...
                optimizer.step()
                recorder.step(loss=loss)

    Call `step` after every ``optimizer.step()``. The trained weights are equal bit for bit with
    and without it: random state, BatchNorm statistics, gradients, modes and hooks are left as
    found, and measurements run on the eager module with the fixed batch, outside autocast. Under
    DDP the first process records. On an exception what was measured is written and the run is
    marked interrupted; a loss that is not finite raises `DivergedError` and marks it diverged.

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
    ) -> None:
        self.model = unwrap(model)
        self.path = Path(path)
        self._refuse_sharded()
        forward = task.forward if task is not None else None
        self.layers = layers or LayerMap.from_model(self.model, batch, forward=forward)
        self._given: dict[str, Any] = {"task": task, "batch": batch}
        self._given["model"] = self.model
        self._learning_rate = learning_rate
        self._checkpoints = (checkpoints or schedules.epochs()).bind(steps_per_epoch)
        default = (measure or schedules.epochs()).bind(steps_per_epoch)
        self._loss_schedule = default
        self._watches = self._watch(probes, default, steps_per_epoch)
        self._previous = self._shared_previous()
        self._steps_per_epoch = steps_per_epoch
        self._metadata = dict(metadata or {})
        self._resume = resume
        self._active = not (
            torch.distributed.is_available()
            and torch.distributed.is_initialized()
            and torch.distributed.get_rank() > 0
        )
        self._initial: dict[str, Tensor] | None = None
        self._loss_sum: Tensor | float = 0.0
        self._loss_count = 0
        self._loss_rows: list[tuple[int, float]] = []
        self._logged: list[tuple[int, dict[str, float]]] = []
        self._last_checkpoint = -1
        self._flushed = time.monotonic()
        self.current_step = 0
        self.run: Run | None = None

    # Setting up

    def _refuse_sharded(self) -> None:
        for name, parameter in self.model.named_parameters():
            if type(parameter.data).__name__ in ("DTensor", "ShardedTensor"):
                raise LayerscopeError(
                    f"parameter {name!r} is sharded, which this version does not record.",
                    "Record a replicated model (DDP), or measure checkpoints gathered afterwards.",
                )

    def _watch(
        self, probes: Sequence[Probe] | Mapping[Any, Schedule], default: Schedule, per: int | None
    ) -> list[Watch]:
        pairs = probes.items() if isinstance(probes, Mapping) else ((p, default) for p in probes)
        watches: list[Watch] = []
        for probe, schedule in pairs:
            if not isinstance(probe, MomentProbe):
                name = type(probe).__name__
                raise LayerscopeError(
                    f"{name} needs the finished run and cannot be recorded live.",
                    f"Call measure({name}(...), run) afterwards.",
                )
            if any(watch.probe == probe for watch in watches):
                raise LayerscopeError(f"{probe} is listed twice.", "List every probe once.")
            check_needs(probe, self._given)
            watches.append(Watch(probe, schedule.bind(per), probe.select(self.layers)))
        return watches

    def _shared_previous(self) -> dict[Schedule, Previous]:
        names: dict[Schedule, dict[str, None]] = {}
        for watch in self._watches:
            if "previous" in watch.probe.needs:
                wanted = names.setdefault(watch.schedule, {})
                wanted.update(dict.fromkeys(watch.layers.parameter_names))
        return {schedule: Previous(tuple(wanted)) for schedule, wanted in names.items()}

    # The loop

    def __enter__(self) -> Self:
        if not self._active:
            return self
        if self._resume:
            self.run = Run.open(self.path)
            self.run.acquire()
            self.run.manifest["notes"].pop("error", None)
            self.run.note("running")
            return self
        self.run = Run.create(
            self.path, self.layers, steps_per_epoch=self._steps_per_epoch, **self._metadata
        )
        try:
            if (batch := self._given["batch"]) is not None:
                store_batch(self.run, batch)
            self._observe()
        except BaseException as error:  # __exit__ is not called for what fails in here
            self._fail(error)
            raise
        return self

    def step(self, loss: Tensor | float | None = None) -> None:
        """Say that the optimiser has taken a step.

        Args:
            loss: The step's training loss; kept as the mean between measured moments and checked
                for being finite (on an accelerator only at measured moments, so as not to wait).

        Raises:
            DivergedError: The loss, or something measured, is not finite.
        """
        if not self._active:
            return
        if self.run is None:
            raise LayerscopeError("the recorder is not open.", "Use it in a with statement.")
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
        due = [watch for watch in self._watches if watch.schedule(step)]
        keep = self._checkpoints(step)
        if self._loss_count and self._loss_schedule(step):
            self._close_loss(step)
        if not due and not keep:
            return
        now = Live(self.model, self.layers.aliases)
        for watch in due:
            self._measure(watch, now)
        for schedule, previous in self._previous.items():
            if schedule(step):
                previous.keep(now)
        if keep:
            self._keep(now)

    def _measure(self, watch: Watch, now: Mapping[str, Tensor]) -> None:
        previous = None
        if "previous" in watch.probe.needs:
            previous = self._previous[watch.schedule].weights
            if previous is None:
                return
        initial = self._initial_weights(now) if "initial" in watch.probe.needs else None
        step = self.current_step
        rate = self._learning_rate(step) if self._learning_rate else None
        moment = Moment(step, now, previous, initial, learning_rate=rate, **self._given)
        with torch.no_grad():
            watch.rows.append((step, watch.probe.measure(moment, watch.layers)))

    def _initial_weights(self, now: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self._initial is None:
            names = self.layers.parameter_names
            if self.current_step == 0:
                self._initial = {name: now[name].clone() for name in names}
            else:
                assert self.run is not None
                stored = self.run.checkpoint(0)
                self._initial = {name: stored[name].to(now[name].device) for name in names}
        return self._initial

    def _keep(self, now: Live) -> None:
        assert self.run is not None
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
        if self.run is None:
            return
        for watch in self._watches:
            if watch.rows:
                dataset = assemble(watch.probe, watch.layers, watch.rows, self._steps_per_epoch)
                dataset.attrs["schedule"] = str(watch.schedule)
                self.run.append_results(watch.probe.key, dataset)
                watch.rows = []
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
        if self.run is None:
            return
        if error is not None:
            self._fail(error)
            return
        try:
            if self._loss_count:
                self._close_loss(self.current_step)
            if self._last_checkpoint != self.current_step:
                self._keep(Live(self.model, self.layers.aliases))
            self.flush()
        except BaseException as late:
            self._fail(late)
            raise
        self.run.finish("complete")

    def _fail(self, error: BaseException) -> None:
        """Keep what is sound and close the run as diverged or interrupted."""
        assert self.run is not None
        diverged = isinstance(error, DivergedError)
        notes = {"diverged_at": self.current_step} if diverged else {}
        try:
            self._flush_after_failure()
        finally:
            self.run.finish(
                "diverged" if diverged else "interrupted",
                error=f"{type(error).__name__}: {error}",
                **notes,
            )

    def _flush_after_failure(self) -> None:
        """Write what is finite; rows from the first that is not are dropped."""
        for watch in self._watches:
            finite = [
                all(not bool(v.isnan().any()) for v in values.values()) for _, values in watch.rows
            ]
            kept = finite.index(False) if False in finite else len(finite)
            watch.rows = watch.rows[:kept]
        self.flush()

    # Resuming

    def state_dict(self) -> dict[str, Any]:
        """What a resumed recorder needs beyond the checkpoints: call after `flush`."""
        previous = [p.weights for p in self._previous.values()]
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
        if kept != [set(previous.names) for previous in self._previous.values()]:
            raise LayerscopeError(
                f"{self.path} was recorded with other probes.",
                "Resume with the same probes and schedules; measure others afterwards.",
            )
        self.current_step = state["step"]
        self._loss_sum, self._loss_count = state["loss_sum"], state["loss_count"]
        for previous, weights in zip(self._previous.values(), state["previous"], strict=True):
            previous.weights = weights
