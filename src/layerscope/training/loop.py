"""One plain training loop on Lightning Fabric: from a configuration to a run on disk."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from lightning_fabric import Fabric
from torch import nn

from layerscope import schedule
from layerscope.config import RunConfig, Start, to_dict
from layerscope.config.rates import check_schedule
from layerscope.data.augment import augmentation
from layerscope.data.dataset import Split
from layerscope.data.loader import Batches, InOrder
from layerscope.display.progress import Advance, reporting
from layerscope.errors import DivergedError, LayerscopeError
from layerscope.networks.isolation import isolated
from layerscope.networks.layers import LayerMap
from layerscope.networks.task import Task
from layerscope.probes.base import MomentProbe, Probe
from layerscope.probes.expression import parse
from layerscope.recording.recorder import Recorder
from layerscope.recording.sinks import Sink
from layerscope.runs.files import check_writable
from layerscope.runs.manifest import frozen_after
from layerscope.runs.resume import FILE, load_state, set_random_state
from layerscope.runs.store import Run
from layerscope.training.freezing import CRITERION, Freezer, reference_run, shuffled
from layerscope.training.keeping import TURN, Keeper, existing_run, note_outcome
from layerscope.training.optimisers import make_optimizer, start_at
from layerscope.training.problem import Problem, loaded, problem
from layerscope.training.rates import LearningRate

RESUME_SECONDS = 30.0
EVALUATIONS = 50
WAIT_SECONDS = 1.0
_log = logging.getLogger(__name__)


def _layers(config: RunConfig, made: Problem) -> LayerMap:
    """The layers at the granularity and in the groups that the configuration asks for."""
    chosen = config.model.unit if config.unit == "family" else config.unit
    return LayerMap.from_model(
        made.model,
        made.batch,
        unit=chosen,
        groups=config.layer_groups,
        forward=made.task.forward,
    )


def live(config: RunConfig) -> list[MomentProbe]:
    """The probes that a run measures at every step.

    Raises:
        LayerscopeError: One cannot be read, or needs the finished run.
    """
    found = [parse(text) for text in config.live]
    for probe in found:
        if not isinstance(probe, MomentProbe):
            raise LayerscopeError(
                f"{type(probe).__name__} needs the finished run.",
                "Leave it out of live; it is measured when the run is complete.",
            )
    return found  # pyright: ignore[reportReturnType]


def _batches(config: RunConfig, root: str | Path | None, device: str) -> Batches:
    """The batches that the run trains on."""
    augment = augmentation(config.augmentation)
    split = loaded(config.data, root, device).train
    return Batches(split, config.batch_size, config.seed, augment)


def evaluate(model: nn.Module, task: Task, split: Split) -> dict[str, float]:
    """Mean test loss and, for classification, the share of wrong predictions, in eval mode.

    Args:
        model: The model, left as found.
        task: What a batch means.
        split: The examples.
    """
    losses, correct = [], []
    with isolated(model), torch.no_grad():
        for batch in InOrder(split):
            outputs = task.forward(model, batch)
            losses.append(task.losses(outputs, batch).double())
            if task.correct is not None:
                correct.append(task.correct(outputs, batch))
    found = {"test_loss": float(torch.cat(losses).mean())}
    if correct:
        found["test_error"] = 1.0 - float(torch.cat(correct).double().mean())
    return found


def train(
    config: RunConfig,
    path: str | Path,
    *,
    probes: Sequence[Probe] = (),
    measure: schedule.Schedule | None = None,
    data_root: str | Path | None = None,
    accelerator: str = "auto",
    advance: Advance | None = None,
    resume_seconds: float = RESUME_SECONDS,
    sinks: Sequence[Sink] = (),
) -> Run:
    """Train one model and record it; a finished run is read back, an interrupted one resumes.

    On one device the resumed run ends in the weights of the uninterrupted one (on an accelerator
    after ``torch.use_deterministic_algorithms(True)``).

    A run that starts from another one (``config.start``) has the weights it starts from as its
    checkpoint 0. The other run stands beside it, in ``path.parent / config.start.run.hash``, and
    is trained first, or waited for, where it is not complete.

    Args:
        config: The run.
        path: Its folder.
        probes: Probes to measure live.
        measure: When; every epoch by default.
        data_root: Folder of local data sets.
        accelerator: ``"auto"``, ``"cpu"``, ``"cuda"``, ...: as Lightning Fabric names them.
        advance: Called with (steps done, steps in all); by default a progress bar, where there is
            a terminal or a notebook.
        resume_seconds: Seconds between two writings of the state needed to resume.
        sinks: Where what is recorded goes as well, as for `Recorder`.

    Returns:
        The run.

    Raises:
        DivergedError: The loss became infinite or NaN; the run up to then is kept.
        LayerscopeError: The folder holds a run of another configuration, data are missing,
            settings contradict each other, or the weights to start from are not there or do not
            fit the model.
    """
    path = Path(path)
    if (existing := existing_run(config, path)) is not None and existing.status != "interrupted":
        return existing
    fabric = Fabric(accelerator=accelerator, devices=1, precision=config.precision)
    batches = _batches(config, data_root, str(fabric.device))
    check_schedule(config, batches.steps_per_epoch)
    begin = None
    if existing is None and config.start is not None:  # before `problem`, which seeds
        begin = _beginning(config.start, path.parent, data_root, accelerator)
    how, times = config.freeze_when_settled, None
    if how.threshold and how.at_random_times:
        times = _random_times(config, path.parent, data_root, accelerator)
    made = problem(config, data_root, str(fabric.device))
    if begin is not None:
        begin(made.model)
    optimizer = make_optimizer(config.optimizer, made.model)
    rate = LearningRate(config, batches.steps_per_epoch)
    recorder = _recorder(
        config, path, made, rate, _watched(config, probes, measure), measure, existing, sinks
    )
    freezer = None
    if how.threshold:
        freezer = Freezer(config, made.model, recorder, batches.steps_per_epoch, times)
    random_state = None
    if existing is not None:
        recorder_state, random_state = load_state(path, made.model, optimizer)
        _take_up(recorder, recorder_state, path)
    with recorder:
        if existing is not None:
            rate.resume(recorder.run, recorder.current_step)
            if freezer is not None:
                freezer.resume()
        set_random_state(random_state)
        keep = Keeper(path, made.model, optimizer, recorder, resume_seconds)
        if existing is None:
            keep.write()
        with reporting("training", advance) as advance:
            for done, total in _steps(config, made, batches, optimizer, rate, fabric, recorder):
                if freezer is not None:
                    freezer()
                keep()
                advance(done, total)
        outcome = evaluate(made.model, made.task, made.dataset.test)
        if not math.isfinite(outcome["test_loss"]):
            raise DivergedError(
                f"the test loss of {path} is {outcome['test_loss']} after the last step.",
                "Lower the learning rate; earlier checkpoints are kept.",
            )
        recorder.log(**outcome)
        note_outcome(recorder.run, made, config, outcome)
    return recorder.run


def _take_up(recorder: Recorder, state: Mapping[str, Any], path: Path) -> None:
    """Let a recorder go on where its state was written.

    Raises:
        LayerscopeError: It was written with other probes; the file is named.
    """
    try:
        recorder.load_state_dict(state)
    except LayerscopeError as error:
        raise LayerscopeError(f"{path / FILE}: {error.message}", error.remedy) from error


def _watched(
    config: RunConfig, probes: Sequence[Probe], measure: schedule.Schedule | None
) -> dict[Probe, schedule.Schedule]:
    """Everything that is measured while the run trains, and when.

    Raises:
        LayerscopeError: What decides on freezing is to be recorded at other times, too.
    """
    found = dict.fromkeys(probes, measure or schedule.epochs())
    found |= dict.fromkeys(live(config), schedule.every(1))
    if not config.freeze_when_settled.threshold:
        return found
    if found.get(CRITERION, schedule.epochs()) != schedule.epochs():
        raise LayerscopeError(
            f"freeze_when_settled measures {CRITERION.expression} once an epoch, and it is to be "
            "recorded at other times.",
            "Leave it out of live and probes.",
        )
    return found | {CRITERION: schedule.epochs()}


def _recorder(
    config: RunConfig,
    path: Path,
    made: Problem,
    rate: LearningRate,
    watched: Mapping[Probe, schedule.Schedule],
    measure: schedule.Schedule | None,
    existing: Run | None,
    sinks: Sequence[Sink],
) -> Recorder:
    return Recorder(
        made.model,
        path,
        task=made.task,
        batch=made.batch,
        probes=watched,
        checkpoints=_checkpoints(config),
        measure=measure,
        layers=_layers(config, made),
        steps_per_epoch=rate.steps_per_epoch,
        learning_rate=rate,
        metadata={
            "config": to_dict(config),
            "seed": config.seed,
            "total_steps": rate.steps_per_epoch * config.epochs,
            "device": str(made.dataset.train.device),
        },
        resume=existing is not None,
        sinks=sinks,
    )


def _checkpoints(config: RunConfig) -> schedule.Schedule:
    found = schedule.parse(config.checkpoints)
    if found.empty:
        raise LayerscopeError(
            f"checkpoints is {config.checkpoints!r}, and runs that are trained here are measured "
            "from their checkpoints.",
            'Use "at(0)", which keeps the start and the end.',
        )
    return found


def _random_times(
    config: RunConfig, folder: Path, data_root: str | Path | None, accelerator: str
) -> dict[str, int]:
    """When to freeze which layer: at the times of the run that decides by itself, assigned anew.

    That run is trained first where it is not there.
    """
    other = reference_run(config)
    path = folder / other.hash
    try:
        run = train_or_wait(other, path, data_root=data_root, accelerator=accelerator)
    except DivergedError:
        run = Run.open(path)
    if run.status != "complete":
        raise LayerscopeError(
            f"the run whose freezing times are taken, {path}, {run.missing}.",
            "Lower the learning rate, or leave out at_random_times.",
        )
    return shuffled(frozen_after(run.manifest), config.seed)


def train_or_wait(config: RunConfig, path: str | Path, **options: Any) -> Run:
    """`train`, after waiting for any other process that trains this run.

    Processes that call this at once take turns: the first one trains, the others read its run.

    Args:
        config: The run.
        path: Its folder.
        options: For `train`.

    Raises:
        LayerscopeError: As for `train`.
    """
    path = Path(path)
    if _status(path) in ("complete", "diverged"):
        return train(config, path, **options)
    check_writable(path)
    _log.info("%s: training it, or waiting for the process that does.", path)
    with FileLock(path / TURN, poll_interval=WAIT_SECONDS):
        while _status(path) == "running":  # in a process that called `train` and took no turn
            time.sleep(WAIT_SECONDS)
        return train(config, path, **options)


def _status(path: Path) -> str:
    return Run.open(path).status if (path / "run.json").exists() else "absent"


def _beginning(
    start: Start, folder: Path, data_root: str | Path | None, accelerator: str
) -> Callable[[nn.Module], None]:
    """Find the weights to start from, training their run if need be: puts them into a model."""
    run = _start_run(start, folder, data_root, accelerator)
    step = run.steps[-1] if start.step is None else start.step
    source = f"checkpoint {step} of {run.path}"
    return partial(start_at, weights=dict(run.checkpoint(step)), fresh=start.fresh, source=source)


def _start_run(start: Start, folder: Path, data_root: str | Path | None, accelerator: str) -> Run:
    """The run to start from; one that is given by its configuration stands in ``folder``."""
    if (start.run is None) == (not start.path):
        number = "neither a run nor" if start.run is None else "both a run and"
        raise LayerscopeError(f"start has {number} a path.", "Give one: start.run or start.path.")
    if start.run is None:
        run = Run.open(start.path)
        if run.status != "complete" and start.step is None:
            raise LayerscopeError(
                f"the run to start from, {run.path}, is not complete ({run.status}).",
                "Name one of its checkpoints with start.step, or finish it first.",
            )
        return run
    path = folder / start.run.hash
    try:
        run = train_or_wait(start.run, path, data_root=data_root, accelerator=accelerator)
    except DivergedError:
        run = Run.open(path)
    if run.status == "diverged":
        raise LayerscopeError(
            f"the run to start from, {path}, {run.missing}.",
            "Lower the learning rate of start.run.",
        )
    return run


def _steps(
    config: RunConfig,
    made: Problem,
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    rate: LearningRate,
    fabric: Fabric,
    recorder: Recorder,
) -> Iterator[tuple[int, int]]:
    """Take every step that is left, yielding (steps done, steps in all) after each."""
    per_epoch = batches.steps_per_epoch
    total = per_epoch * config.epochs
    epochs = 1 if rate.follows_loss else math.ceil(config.epochs / EVALUATIONS)
    evaluation = schedule.every(per_epoch * epochs)
    model, wrapped = fabric.setup(made.model, optimizer)
    for step in range(recorder.current_step, total):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        batch = batches.batch(step)
        wrapped.zero_grad()
        loss = made.task.loss(made.task.forward(model, batch), batch)
        fabric.backward(loss)
        wrapped.step()
        done = step + 1
        outcome = None
        if evaluation(done) and done < total:  # the end is tested once, by `train`
            outcome = evaluate(made.model, made.task, made.dataset.test)
            rate.tested(outcome["test_loss"])  # before probes ask for the rate of the next step
        recorder.step(loss=loss)
        if outcome is not None:
            recorder.log(**outcome)
            rate.note(recorder.run)
        yield done, total
