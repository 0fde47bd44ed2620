"""From a configuration, or a run on disk, to data, model, task and fixed batch."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from layerscope.config import CustomModel, DataConfig, RunConfig
from layerscope.data.dataset import Dataset, Split, load
from layerscope.data.loader import InOrder
from layerscope.data.sizes import classes, input_shape
from layerscope.errors import LayerscopeError
from layerscope.models import build
from layerscope.models.factory import custom
from layerscope.networks.isolation import isolated, mixed_seed
from layerscope.networks.surgery import freeze, linearise, scale, without
from layerscope.networks.task import Task
from layerscope.runs.store import Run


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
def loaded(config: DataConfig, root: str | Path | None, device: str) -> Dataset:
    """The data set, read once: trainings and measurements of one process share it."""
    return load(config, root, device)


def problem(config: RunConfig, root: str | Path | None = None, device: str = "cpu") -> Problem:
    """Build data, model, task and fixed batch; the global random state is seeded and advances.

    The model is initialised, also where the run starts from the weights of another: those are
    in its checkpoint 0.

    Args:
        config: What to build.
        root: Folder of local data sets.
        device: Where model and data live.
    """
    dataset = loaded(config.data, root, device)
    random.seed(config.seed)
    np.random.seed(config.seed % 2**32)
    torch.manual_seed(config.seed)
    factory = partial(_built, config, dataset.input_shape, _outputs(dataset))
    model = factory().to(device)
    if config.frozen:
        freeze(model, config.frozen)
    return Problem(
        dataset, model, _task(dataset), _fixed_batch(dataset.train, config.probe_batch), factory
    )


def untrained(config: RunConfig, root: str | Path | None = None) -> tuple[nn.Module, Tensor]:
    """The initialised model of a configuration, and an example of zeros of the shape it takes.

    Image sets of the table are not read, since it says what shape they have; other data are.

    Args:
        config: What to build: model, data, what is removed and what is linear.
        root: Folder of local data sets.
    """
    shape, outputs = input_shape(config.data), classes(config.data)
    if shape is None or outputs is None:
        dataset = loaded(config.data, root, "cpu")
        shape, outputs = dataset.input_shape, _outputs(dataset)
    return _built(config, shape, outputs), torch.zeros(2, *shape)


def _outputs(dataset: Dataset) -> int:
    return dataset.n_classes or dataset.train.targets.shape[1]


def _built(config: RunConfig, shape: tuple[int, ...], outputs: int) -> nn.Module:
    """The model, scaled, less the blocks and activations that the configuration removes."""
    model = build(config.model, shape, outputs)
    scale(model, config.factors)
    example = torch.zeros(2, *shape)
    if config.removed:
        model = without(model, config.removed, example)
    return linearise(model, config.linear, example) if config.linear else model


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
    if run.config is None:
        raise LayerscopeError(
            f"{run.path} was not trained from a configuration.",
            "Pass the model and the task, e.g. --model package:factory --task classification.",
        )
    return problem(run.config, root, device)


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
    if not run.steps:
        raise LayerscopeError(f"{run.path} has no checkpoints.", "Record it with checkpoints.")
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
