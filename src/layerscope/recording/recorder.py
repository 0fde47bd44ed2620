"""Record any training loop: weights on a schedule, cheap probes as it runs, nothing disturbed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor, nn

from layerscope import schedule as schedules
from layerscope.errors import DivergedError, LayerscopeError
from layerscope.networks.layers import LayerMap
from layerscope.networks.names import unwrap
from layerscope.networks.task import Task
from layerscope.probes.base import MomentProbe, Probe
from layerscope.probes.given import Given
from layerscope.probes.observer import Observer, Watch
from layerscope.probes.parts import Keep
from layerscope.recording import at_exit, watching
from layerscope.recording.clock import Clock, Optimizers
from layerscope.recording.numbers import Scalars
from layerscope.recording.resuming import no_place, no_resuming, state_of, take_up
from layerscope.recording.sinks import Sink
from layerscope.recording.together import Together, shards_of
from layerscope.recording.weights import Live, misfits, refuse_misfits
from layerscope.recording.writer import Writer, checked_metadata, not_open, rank
from layerscope.runs.manifest import Status
from layerscope.runs.store import Run
from layerscope.schedule import Schedule

FLUSH_SECONDS = 30.0
"""Most seconds between two writings of what was measured; a run that has just begun writes sooner,
every 2% of its time and not within 2 seconds, so that it can be watched."""


class Recorder:
    """Record a training loop of one's own.

    ::

        with Recorder(model, "runs/x", task=Task.classification(), batch=batch,
                      probes=[WeightChange()], steps_per_epoch=len(loader)) as recorder:
            for inputs, labels in loader:
                ...
                optimizer.step()
                recorder.step(loss=loss)

    Call `step` after every ``optimizer.step()``, or pass the optimiser, and there is nothing to
    call: ``Recorder(model, "runs/x", optimizer=optimizer)`` before any loop is enough. It then
    opens before the first step, if it was not opened before, and closes with the process, if it
    was not closed before. Losses of such a loop are given by `add_loss`.

    Closing keeps the last weights and measures the probes that were not yet measured there, except
    those that compare with the moment measured before (`WeightChange`): a shorter last interval
    would be an outlier.

    The trained weights are equal bit for bit with and without it: random state, BatchNorm
    statistics, gradients, modes and hooks are left as found, and measurements run on the eager
    module with the fixed batch, outside autocast. On an exception what was measured is written and
    the run is marked interrupted; a loss that is not finite raises `DivergedError` and marks it
    diverged.

    Under DDP the first process records; `run` of another raises. Where parameters are sharded
    (FSDP2's ``fully_shard``, tensor parallelism) every process opens a recorder and calls its
    methods, probes of weights are measured together, and the first process writes; see
    docs/large_and_sharded.md.

    Args:
        model: The module that trains, also compiled or wrapped in DDP or Fabric.
        path: Folder for the run; must not hold one.
        optimizer: The optimiser, whose steps are counted by a hook, see
            `layerscope.recording.clock.Clock`; or several by name, in the order in which they
            step: a step of the training is one of the last. Without one call `step`.
        task: What a batch means; needed by probes that evaluate the model.
        batch: A fixed batch for such probes, also the example that orders the layers by
            execution (without it they stand in order of registration). Stored with the run.
        probes: Probes to measure live, or a mapping from probe to its own schedule.
        checkpoints: When to keep all weights, whatever the layers. Initialisation and end are
            always kept; by default also the end of every epoch, where it is known how many steps
            these have. With `layerscope.schedule.never` nothing is: for a trainer that keeps its
            own. What is measured from checkpoints then cannot be.
        measure: When to measure probes that have no schedule of their own: by default at the end
            of every epoch, or at ten steps in each factor of ten where epochs are not known.
        layers: The layers; by default every module that owns parameters.
        steps_per_epoch: Optimiser steps per epoch; schedules by epoch need it.
        learning_rate: The learning rate of the step after so many, for probes that take a step.
        metadata: For the manifest: ``config``, ``seed``, ``total_steps``, ``device``.
        resume: Continue the interrupted run in ``path`` instead of starting one; the caller
            restores model and optimiser, and calls `load_state_dict` or opens it with the number
            of steps taken.
        strict: Raise where a probe fails. By default it is logged as a warning, noted in the
            manifest and left out from then on, and the training goes on; where parameters are
            sharded it is always raised.
        sinks: Where numbers, figures and a table of layers go beside the run on disk, e.g.
            ``[TensorBoard("runs/tb")]`` of `layerscope.integrations`. One that fails is left out
            from then on.
        keep: Where and as what the weights that probes compare with are kept; by default where
            and as the parameters are.

    Raises:
        LayerscopeError: A probe lacks what it needs, needs the finished run, or appears twice; a
            schedule counts epochs of unknown length; the optimiser steps no parameter of the
            model; the parameters are sharded in a way that cannot be recorded, and so for a
            probe, or with ``resume``.
    """

    def __init__(
        self,
        model: nn.Module,
        path: str | Path,
        *,
        optimizer: Optimizers | None = None,
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
        sinks: Sequence[Sink] = (),
        keep: Keep | None = None,
    ) -> None:
        self.model = unwrap(model)
        self.path = Path(path)
        self._shards = shards_of(self.model)
        if self._shards is not None and resume:
            raise no_resuming()
        self._together = Together(self._shards)
        forward = task.forward if task is not None else None
        # A sharded model runs on all processes at once, and not for us alone.
        example = batch if self._shards is None else None
        self.layers = layers or LayerMap.from_model(self.model, example, forward=forward)
        refuse_misfits(self.layers, self.model)
        self._batch = batch
        known = steps_per_epoch is not None
        checkpoints = checkpoints or (schedules.epochs() if known else schedules.at(0))
        measure = measure or (schedules.epochs() if known else schedules.log_spaced(10))
        self._checkpoints = checkpoints.bind(steps_per_epoch)
        self._loss_schedule = measure.bind(steps_per_epoch)
        given = Given(model=self.model, task=task, batch=batch)
        self._observer = Observer(
            watching.watch(
                probes,
                self._loss_schedule,
                self.layers,
                given,
                steps_per_epoch,
                sharded=self._shards is not None,
            ),
            initial=lambda: self.run.checkpoint(0),
            learning_rate=learning_rate,
            keep=keep,
            shards=self._shards,
            judge=watching.Judge(self.model, strict, together=self._shards is not None),
        )
        self._steps_per_epoch = steps_per_epoch
        self._metadata = checked_metadata(metadata or {})
        self._resume = resume
        self._taken_up = False
        self._writer = Writer(self.path, rank(), self._shards, sinks)
        # Where each process holds all weights, those that do not write need not take part.
        self._takes_part = self._writer.writes or self._shards is not None
        self._open = False
        self._scalars = Scalars()
        self._last_checkpoint = -1
        self._started = self._flushed = time.monotonic()
        self._closed = False
        self.current_step = 0
        self._clock = None
        if optimizer is not None and self._takes_part:
            self._clock = Clock(optimizer, self.model, before=self._open_once, after=self._advance)

    # The loop

    def __enter__(self) -> Self:
        return self.open()

    @property
    def is_open(self) -> bool:
        """Whether it records: it was opened, and not closed yet."""
        return self._open

    def open(self, step: int | None = None) -> Self:
        """Make the run and measure where the training starts; what a with statement does.

        Args:
            step: Steps taken before, where a training goes on whose recorder left no
                `state_dict`. Of a resumed run the probes that compare with the moment before leave
                out one value, unless this step is on their schedule; a run that begins here has no
                initialisation.

        Raises:
            LayerscopeError: The folder holds a run or cannot be written, it was closed before, or
                a run is to be resumed and nothing says at which step.
        """
        if not self._takes_part:
            return self
        if self._open or self._closed:
            raise LayerscopeError(
                f"the recorder of {self.path} is open."
                if self._open
                else f"the recorder of {self.path} was closed.",
                "Open it once.",
            )
        try:
            self._begin(step)
        except BaseException:  # the training may go on without
            self._closed = True
            if self._clock is not None:
                self._clock.stop()
            raise
        return self

    def _begin(self, step: int | None) -> None:
        if self._resume and step is None and not self._taken_up:
            raise no_place(self.path)
        at_exit.closing(self)
        self._process = os.getpid()
        if step is not None:
            self._count_from(step, None)
        if self._resume:
            watching.leave_out(self._observer.watches, self._writer.resume(self.layers))
            self._open = True
            if step is not None:
                self._observer.observe(step, Live(self.model, self.layers.aliases), due=())
            return
        with self._together.as_one():
            self._writer.start(self.layers, self._steps_per_epoch, self._metadata, self._batch)
            if self._checkpoints.empty:
                self._writer.note(keeps_none=True)
        self._open = True
        try:
            self._observe(first=True)
        except BaseException:  # __exit__ is not called for what fails in here
            self._writer.undo_start()
            self._observer.forget()
            self._open = False
            raise

    def _open_once(self) -> None:
        """Open before the first step; steps after closing are nobody's."""
        if not self._open and not self._closed:
            self.open()

    @property
    def run(self) -> Run:
        """The run that is recorded; it can be read while the training goes on.

        Raises:
            LayerscopeError: The recorder was not opened yet, or this process records nothing.
        """
        return self._writer.run

    def step(self, loss: Tensor | float | None = None) -> None:
        """Say that the optimiser has taken a step.

        Args:
            loss: The step's training loss, see `add_loss`.

        Raises:
            DivergedError: The loss is not finite; or the weights, where a probe found out.
            LayerscopeError: The recorder is not open, counts the optimiser's steps itself, or a
                probe failed and it is strict.
        """
        if self._clock is not None:
            raise LayerscopeError(
                "the recorder counts the steps of the optimiser that it was given.",
                "Leave out step(), and give losses by add_loss(loss); or record without "
                "optimizer=.",
            )
        if not self._takes_part:
            return
        if not self._open:
            raise not_open()
        self._advance(loss)

    def add_loss(self, loss: Tensor | float) -> None:
        """Keep a training loss as part of the mean between measured moments.

        Call it before the step that follows, once for every step or for every micro-batch.

        Args:
            loss: A number; checked for being finite, on an accelerator only at measured moments,
                so as not to wait.

        Raises:
            DivergedError: It is not finite.
        """
        look = self._shards is None  # processes that share weights look together
        if self._takes_part and not self._closed and not self._scalars.add(loss, look=look):
            raise self._diverged()

    def _advance(self, loss: Tensor | float | None = None) -> None:
        if not self._open:
            return
        self.current_step += 1
        if loss is not None:
            self.add_loss(loss)
        self._observe()
        if self._together.wished if self._shards is not None else self._stale:
            self.flush()

    @property
    def _stale(self) -> bool:
        """Whether it is long since measurements were written."""
        now = time.monotonic()
        return now - self._flushed > min(FLUSH_SECONDS, max(2.0, 0.02 * (now - self._started)))

    def log(self, **values: float) -> None:
        """Keep numbers of one's own at this step, e.g. ``log(test_error=0.03)``.

        They are kept as the variables of the result ``evaluation``, NaN where one was not given.

        Raises:
            LayerscopeError: One cannot be called so, or is no number; or the recorder was closed.
        """
        if self._closed:
            raise LayerscopeError(
                f"the recorder of {self.path} was closed.", "Log before it is closed."
            )
        if self._takes_part:
            self._scalars.log(self.current_step, values)

    def refer(self, checkpoint: str | Path, key: str | None = None) -> None:
        """Refer to weights that somebody else has just kept, instead of keeping them again.

        Args:
            checkpoint: A file or folder of any format that `Run.from_checkpoints` takes, of the
                weights at this step.
            key: Where in it the weights are.

        Raises:
            LayerscopeError: It is missing or damaged, asks for code, or is of another model.
        """
        if self._open and self._writer.writes:
            self.run.refer(self.current_step, checkpoint, key)

    def latest(self, probe: Probe) -> Mapping[str, Tensor]:
        """What a probe measured at this step, e.g. ``recorder.latest(WeightChange())["change"]``.

        Args:
            probe: One of those that are recorded.

        Returns:
            One tensor per variable, its first dimension the layers that the probe selects.

        Raises:
            LayerscopeError: It is not recorded, or was not measured at this step.
        """
        for one in self._observer.watches:
            if one.probe == probe and one.latest and one.latest[0] == self.current_step:
                return one.latest[1]
        raise LayerscopeError(
            f"{probe.key} was not measured at step {self.current_step}.",
            "Record it, on a schedule that has this step.",
        )

    def _diverged(self) -> DivergedError:
        return DivergedError(
            f"the loss is not finite at step {self.current_step}.",
            "Lower the learning rate, clip gradients or check the inputs; everything before this "
            f"step is kept in {self.path}.",
        )

    def _observe(self, first: bool = False) -> None:
        """Measure and keep what this step's schedules ask for, and what a run starts from."""
        step = self.current_step
        due = self._observer.due(step)
        keep = not self._checkpoints.empty and (first or self._checkpoints(step))
        close = self._loss_schedule(step)
        self._together.wished = False
        if not due and not keep and not close:
            return
        if close:
            with self._together.as_one():
                self._close_loss()
        with self._together.as_one(wish=self._stale):
            now = Live(self.model, self.layers.aliases)
            if due:
                self._measure(due, now)
            if keep:
                self._keep(now)

    def _measure(self, due: Sequence[Watch[MomentProbe]], now: Live) -> None:
        changed = misfits(self.layers, now) if due else {}
        self._observer.observe(self.current_step, now, due, changed)
        self._writer.note_failures(watching.failures(self._observer.watches))

    def _keep(self, now: Live) -> None:
        self._writer.checkpoint(self.current_step, now.state)
        self._last_checkpoint = self.current_step

    def _close_loss(self) -> None:
        if self._scalars.count and not self._scalars.close(self.current_step):
            raise self._diverged()

    # Writing

    def flush(self) -> None:
        """Write everything measured so far; where parameters are sharded, on every process."""
        if not self._open:
            return
        with self._together.as_one():
            self._write()

    def _write(self) -> None:
        self._writer.append(watching.datasets(self._observer, self._steps_per_epoch))
        self._writer.note_failures(watching.failures(self._observer.watches))
        self._writer.append(self._scalars.datasets(self._steps_per_epoch))
        self._flushed = time.monotonic()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(error)

    def close(self, error: BaseException | None = None) -> None:
        """Measure and keep where the training ended, and end the run; what leaving ``with`` does.

        Closing a second time does nothing.

        Args:
            error: What ended the training before its time: the run is then marked interrupted, or
                diverged.
        """
        self._closed = True
        if self._clock is not None:
            self._clock.stop()
        if not self._open:
            return
        if error is not None:
            self._fail(error)
            return
        try:
            with self._together.as_one():
                self._close_loss()
            with self._together.as_one():
                now = Live(self.model, self.layers.aliases)
                if self._last_checkpoint != self.current_step and not self._checkpoints.empty:
                    self._keep(now)
                self._measure(self._observer.left(self.current_step), now)
            self.flush()
        except BaseException as late:
            self._fail(late)
            raise
        self._finish("complete")

    def __del__(self) -> None:
        # What failed to be made has nothing to close; what a fork copied is not its own.
        if vars(self).get("_open") and self._process == os.getpid():
            # Processes that share weights forget them at times of their own.
            self.close(None if self._shards is None else RuntimeError("nobody closed it"))

    def _fail(self, error: BaseException) -> None:
        """Keep what is sound and close the run as diverged or interrupted."""
        diverged = isinstance(error, DivergedError)
        notes = {"diverged_at": self.current_step} if diverged else {}
        try:
            watching.drop_unsound(self._observer, self._steps_per_epoch)
            self._write()
        finally:
            self._finish(
                "diverged" if diverged else "interrupted",
                error=f"{type(error).__name__}: {error}",
                **notes,
            )

    def _finish(self, status: Status, **notes: Any) -> None:
        self._open = False
        if self._clock is not None:
            notes["optimizers"] = self._clock.describe()
        self._writer.finish(status, **notes)

    # Resuming

    def state_dict(self) -> dict[str, Any]:
        """What a resumed recorder needs beyond the checkpoints: call after `flush`.

        Weights in it are those that the recorder holds and changes; copy what is to be kept.

        Raises:
            LayerscopeError: The parameters are sharded.
        """
        if self._shards is not None:
            raise no_resuming()
        steps = self._clock.steps if self._clock is not None else None
        return state_of(self._observer, self._scalars, self.current_step, steps)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken.

        Raises:
            LayerscopeError: This recorder has other probes or schedules.
        """
        take_up(self._observer, self._scalars, state, self.path)
        self._count_from(state["step"], state.get("optimizers"))
        self._taken_up = True

    def _count_from(self, step: int, optimizers: Mapping[str, int] | None) -> None:
        self.current_step = step
        if self._clock is not None:
            self._clock.count_from(step, optimizers)
