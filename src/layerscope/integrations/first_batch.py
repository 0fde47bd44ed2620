"""The first batch of a data loader, taken without its noticing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from layerscope.errors import LayerscopeError
from layerscope.networks.isolation import random_state_kept
from layerscope.networks.task import move

INSIDE = ("base_dataloader", "sampler", "batch_sampler", "collate_fn", "data_collator")
"""Under which names loaders, samplers and collators hold one another."""


def first_batch(loader: Any, device: torch.device | str = "cpu") -> Any:
    """The batch that iterating a data loader would give first, detached, on a device.

    It is made in this process from the loader's own sampler, data set and collate function. Random
    states (of torch, numpy, Python, and of generators of the loader, its samplers and its collate
    function) and everything else that these hold are put back, so that the training sees the same
    batches. A data set that remembers what it was asked for is not put back: give a batch then.

    Args:
        loader: A `torch.utils.data.DataLoader`, also as prepared by Accelerate.
        device: Where the batch is put.

    Raises:
        LayerscopeError: The loader is none, or that of an iterable data set, or it is empty.
    """
    if not isinstance(loader, DataLoader):
        raise _refusal(f"the training data are a {type(loader).__name__}, not a DataLoader")
    if isinstance(loader.dataset, IterableDataset):
        raise _refusal("the training data can be iterated only once")
    with random_state_kept(), _held(loader):
        # A loader draws a seed for its workers first, also without any.
        torch.empty((), dtype=torch.int64).random_(generator=loader.generator)
        chosen = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
        try:
            indices = next(iter(chosen))
        except StopIteration:
            raise _refusal("the training data are empty") from None
        batch = _collated(loader, indices)
    return move(_detached(batch), device)


def _refusal(reason: str) -> LayerscopeError:
    return LayerscopeError(
        f"the first batch cannot be taken as the fixed one: {reason}.", "Give one: batch=..."
    )


def _collated(loader: DataLoader, indices: Any) -> Any:
    data = loader.dataset
    if loader.batch_sampler is None:  # no batching: single examples, or the data set's own batches
        return loader.collate_fn(data[indices])
    together = getattr(data, "__getitems__", None)
    examples = [data[index] for index in indices] if together is None else together(indices)
    return loader.collate_fn(examples)


def _detached(batch: Any) -> Any:
    """Copies of the tensors, which nothing else refers to."""
    if isinstance(batch, Tensor):
        return batch.detach().clone()
    if isinstance(batch, Mapping):
        return {key: _detached(value) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        parts = [_detached(value) for value in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch


@contextlib.contextmanager
def _held(loader: Any) -> Iterator[None]:
    """Attributes and generators of a loader and of what it holds are put back."""
    objects = _objects(loader)
    attributes = [(one, dict(vars(one))) for one in objects]
    torches = [value for _, found in attributes for value in found.values()]
    generators = [(g, g.get_state()) for g in torches if isinstance(g, torch.Generator)]
    numpys = [
        (g.bit_generator, g.bit_generator.state)
        for g in torches
        if isinstance(g, np.random.Generator)
    ]
    try:
        yield
    finally:
        for one, found in attributes:
            vars(one).clear()
            vars(one).update(found)
        for generator, state in generators:
            generator.set_state(state)
        for bits, state in numpys:
            bits.state = state


def _objects(loader: Any) -> list[Any]:
    """A loader, and what it and they hold under the names `INSIDE`, each once."""
    found: list[Any] = [loader]
    for one in found:
        for name in INSIDE:
            part = vars(one).get(name)
            held = getattr(part, "__dict__", None)
            if isinstance(held, dict) and not any(part is other for other in found):
                found.append(part)
    return found
