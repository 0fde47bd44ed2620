"""One plain training loop on Lightning Fabric: from a configuration to a run on disk."""

from __future__ import annotations

import math
import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from layerscope import schedule
from layerscope.config import (
    SGD,
    CustomModel,
    DataConfig,
    OptimizerConfig,
    RunConfig,
    from_dict,
    to_dict,
)
from layerscope.data.augment import crop_flip
from layerscope.data.dataset import Dataset, Split, load
from layerscope.data.loader import Batches, InOrder
from layerscope.errors import LayerscopeError
from layerscope.isolation import isolated, mixed_seed
from layerscope.layers import LayerMap
from layerscope.models import build, custom
from layerscope.models import unit as family_unit
from layerscope.probes.base import Probe
from layerscope.recorder import Recorder
from layerscope.resume import load_state, save_state, set_random_state
from layerscope.store import Run
from layerscope.surgery import freeze, without
from layerscope.task import Task

RESUME_SECONDS = 30.0
EVALUATIONS = 50
Advance = Callable[[int, int], None]


@dataclass(frozen=True)
class Problem:
    """What a configuration builds: data, an initialised model, its task, batch and factory."""

    dataset: Dataset
    model: nn.Module
    task: Task
    batch: Any
    factory: Callable[[], nn.Module]

    @property
    def given(self) -> dict[str, Any]:
        """What `layerscope.probes.measure` takes beside probe and run; data are the test set."""
        return {
            "model": self.model,
            "task": self.task,
            "batch": self.batch,
            "data": InOrder(self.dataset.test),
            "training_data": InOrder(self.dataset.train),
            "factory": self.factory,
        }


@lru_cache(maxsize=2)
def _dataset(config: DataConfig, root: str | Path | None, device: str) -> Dataset:
    return load(config, root, device)


def problem(config: RunConfig, root: str | Path | None = None, device: str = "cpu") -> Problem:
    """Build data, model, task and fixed batch; the global random state is seeded and advances.

    Args:
        config: What to build.
        root: Folder of local data sets.
        device: Where model and data live.
    """
    dataset = _dataset(config.data, root, device)
    random.seed(config.seed)
    np.random.seed(config.seed % 2**32)
    torch.manual_seed(config.seed)
    outputs = dataset.n_classes or dataset.train.targets.shape[1]
    factory = partial(_built, config, dataset.input_shape, outputs)
    model = factory().to(device)
    if config.frozen:
        freeze(model, config.frozen)
    return Problem(
        dataset, model, _task(dataset), _fixed_batch(dataset.train, config.probe_batch), factory
    )


def _built(config: RunConfig, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """The model, less the blocks that the configuration removes."""
    model = build(config.model, input_shape, outputs)
    if not config.removed:
        return model
    return without(model, config.removed, torch.zeros(2, *input_shape))


def _layers(config: RunConfig, made: Problem) -> LayerMap:
    """The layers at the granularity that the configuration asks for."""
    chosen = family_unit(config.model) if config.unit == "family" else config.unit
    return LayerMap.from_model(made.model, made.batch, unit=chosen, forward=made.task.forward)


def _fixed_batch(split: Split, size: int) -> tuple[Tensor, Tensor]:
    """The same random training examples for every seed of a data set."""
    generator = torch.Generator().manual_seed(mixed_seed("fixed batch"))
    order = torch.randperm(len(split), generator=generator)
    return split.batch(order[:size].to(split.device))


def restore(run: Run, root: str | Path | None = None, device: str = "cpu") -> Problem:
    """The problem of a run that was trained from a configuration.

    Raises:
        LayerscopeError: The run was recorded around another training loop.
    """
    if run.manifest["config"] is None:
        raise LayerscopeError(
            f"{run.path} was not trained from a configuration.",
            "Pass the model and the task, e.g. --model package:factory --task classification.",
        )
    return problem(from_dict(run.manifest["config"]), root, device)


def foreign(run: Run, config: CustomModel, dataset: Dataset) -> dict[str, Any]:
    """What `layerscope.probes.measure` takes for a run recorded around another training loop.

    Args:
        run: The run.
        config: The factory of its model.
        dataset: What to test on; it says what a batch means.

    Raises:
        LayerscopeError: The model does not take the run's weights or the images, or its outputs
            are not the classes of the data set.
    """
    factory = partial(custom, config)
    model = run.load(factory(), run.steps[-1])
    made = _task(dataset)
    batch = _fixed_batch(dataset.train, RunConfig().probe_batch)
    example = (batch[0][:2], batch[1][:2])
    try:
        with isolated(model), torch.no_grad():
            outputs = made.forward(model, example)
    except Exception as error:
        raise LayerscopeError(
            f"{config.factory} does not run on {dataset.name}: {error}",
            f"The inputs are {tuple(example[0].shape[1:])}; choose the set it was trained on.",
        ) from error
    expected = dataset.n_classes
    if not isinstance(outputs, Tensor):
        raise LayerscopeError(
            f"{config.factory} returns {type(outputs).__name__}, not a tensor.",
            "Wrap the model so that it returns logits, or measure in Python with a task.",
        )
    if expected and outputs.shape[-1] != expected:
        raise LayerscopeError(
            f"{config.factory} has {outputs.shape[-1]} outputs, {dataset.name} has {expected} "
            "classes.",
            "Test the model on the data set it was trained on.",
        )
    return Problem(dataset, model, made, batch, factory).given


def _task(dataset: Dataset) -> Task:
    return Task.classification() if dataset.task == "classification" else Task.regression()


def make_optimizer(config: OptimizerConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser over all parameters."""
    if isinstance(config, SGD):
        return torch.optim.SGD(
            model.parameters(),
            lr=config.learning_rate,
            momentum=config.momentum,
            nesterov=config.nesterov,
            weight_decay=config.weight_decay,
            fused=True,
        )
    return torch.optim.Adam(
        model.parameters(),
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        weight_decay=config.weight_decay,
    )


def learning_rate(config: RunConfig, epoch: int) -> float:
    """Learning rate during epoch ``epoch``, counted from 0."""
    passed = sum(epoch >= milestone for milestone in config.milestones)
    return config.optimizer.learning_rate * config.decay**passed


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
) -> Run:
    """Train one model and record it; a finished run is read back, an interrupted one resumes.

    On one device the resumed run ends in the weights of the uninterrupted one (on an accelerator
    after ``torch.use_deterministic_algorithms(True)``).

    Args:
        config: The run.
        path: Its folder.
        probes: Probes to measure live.
        measure: When; every epoch by default.
        data_root: Folder of local data sets.
        accelerator: ``"auto"``, ``"cpu"``, ``"cuda"``, ...: as Lightning Fabric names them.
        advance: Called with (steps done, steps in all).
        resume_seconds: Seconds between two writings of the state needed to resume.

    Returns:
        The run.

    Raises:
        DivergedError: The loss became infinite or NaN; the run up to then is kept.
        LayerscopeError: The folder holds a run of another configuration, or data are missing.
    """
    path = Path(path)
    if (existing := _existing(config, path)) is not None and existing.status != "interrupted":
        return existing
    fabric = Fabric(accelerator=accelerator, devices=1, precision=config.precision)
    made = problem(config, data_root, str(fabric.device))
    optimizer = make_optimizer(config.optimizer, made.model)
    augment = crop_flip if config.augmentation == "crop_flip" else None
    batches = Batches(made.dataset.train, config.batch_size, config.seed, augment)
    recorder = Recorder(
        made.model,
        path,
        task=made.task,
        batch=made.batch,
        probes=probes,
        checkpoints=schedule.parse(config.checkpoints),
        measure=measure,
        layers=_layers(config, made),
        steps_per_epoch=batches.steps_per_epoch,
        metadata={
            "config": to_dict(config),
            "seed": config.seed,
            "total_steps": batches.steps_per_epoch * config.epochs,
            "device": str(fabric.device),
        },
        resume=existing is not None,
    )
    random_state = None
    if existing is not None:
        recorder_state, random_state = load_state(path, made.model, optimizer)
        recorder.load_state_dict(recorder_state)
    with recorder:
        set_random_state(random_state)
        keep = _Keeper(path, made.model, optimizer, recorder, resume_seconds)
        if existing is None:
            keep.write()
        for done, total in _steps(config, made, batches, optimizer, fabric, recorder):
            keep()
            if advance is not None:
                advance(done, total)
        assert recorder.run is not None
        outcome = evaluate(made.model, made.task, made.dataset.test)
        recorder.log(**outcome)
        _note_outcome(recorder.run, made, config, outcome)
    return recorder.run


def _steps(
    config: RunConfig,
    made: Problem,
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    fabric: Fabric,
    recorder: Recorder,
) -> Iterator[tuple[int, int]]:
    """Take every step that is left, yielding (steps done, steps in all) after each."""
    per_epoch = batches.steps_per_epoch
    total = per_epoch * config.epochs
    evaluation = schedule.every(per_epoch * math.ceil(config.epochs / EVALUATIONS))
    model, wrapped = fabric.setup(made.model, optimizer)
    for step in range(recorder.current_step, total):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step // per_epoch)
        batch = batches.batch(step)
        wrapped.zero_grad()
        loss = made.task.loss(made.task.forward(model, batch), batch)
        fabric.backward(loss)
        wrapped.step()
        recorder.step(loss=loss)
        done = step + 1
        if evaluation(done) and done < total:  # the end is tested once, by `train`
            recorder.log(**evaluate(made.model, made.task, made.dataset.test))
        yield done, total


@dataclass
class _Keeper:
    """Writes the state to resume from, at most every ``seconds``."""

    path: Path
    model: nn.Module
    optimizer: torch.optim.Optimizer
    recorder: Recorder
    seconds: float
    written: float = field(default_factory=time.monotonic)

    def __call__(self) -> None:
        if time.monotonic() - self.written > self.seconds:
            self.write()

    def write(self) -> None:
        """Write it now; measurements first, so that none before this step is lost."""
        self.recorder.flush()
        save_state(self.path, self.model, self.optimizer, self.recorder.state_dict())
        self.written = time.monotonic()


def _note_outcome(run: Run, made: Problem, config: RunConfig, outcome: Mapping[str, float]) -> None:
    run.note(
        **outcome,
        task=made.dataset.task,
        data=made.dataset.name,
        data_note=made.dataset.note,
        n_train=len(made.dataset.train),
        n_test=len(made.dataset.test),
        epochs=config.epochs,
    )


def _existing(config: RunConfig, path: Path) -> Run | None:
    """The run that stands in ``path``, if it is one of this configuration."""
    if not (path / "run.json").exists():
        return None
    run = Run.open(path)
    stored = run.manifest["config"]
    if stored is None or to_dict(from_dict(stored)) != to_dict(config):
        raise LayerscopeError(
            f"{path} holds a run of another configuration.", "Choose another folder for this one."
        )
    if run.status == "running":
        raise LayerscopeError(f"another process is training {path}.", "Wait for it to end.")
    if run.status == "interrupted" and not (path / "resume.safetensors").exists():
        if run.steps[-1:] > [0]:
            raise LayerscopeError(
                f"{path} is interrupted and its resume.safetensors is gone.",
                "Put the file back, or choose another folder; its checkpoints are kept.",
            )
        shutil.rmtree(path)  # stopped before the first step: nothing in it but the initialisation
        return None
    return run
