"""The first batch of a data loader, taken without its noticing."""

from __future__ import annotations

import contextlib
import functools
import random
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, Dataset, IterableDataset

from layerscope.errors import LayerscopeError
from layerscope.networks.isolation import random_state_kept
from layerscope.networks.task import as_tree, move

DATA = ("dataset", "data_source")
"""Attributes that hold data, which are not put back."""
MANY = 100_000
"""Entries from which on a list holds numbers and not objects."""
MOST_PARTS = 10_000
_CODE = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType)
_MODELS = (torch.nn.Module, torch.nn.Parameter, torch.optim.Optimizer)
_LEFT = (*_CODE, *_MODELS, Dataset, str, bytes, int, float)
_PYTHONS = ("getstate", "setstate")


def first_batch(loader: Any, device: torch.device | str = "cpu") -> Any:
    """The batch that iterating a data loader would give first, detached, on a device.

    It is made in this process from the loader's own sampler, data set and collate function. Random
    states (of torch, numpy, Python, and of generators that the loader, its samplers and its collate
    function refer to) and everything else that these hold are put back, so that the training sees
    the same batches. A data set that remembers what it was asked for is not put back: give a batch
    then.

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
    return move(pytree.tree_map(_copied, as_tree(batch)), device)


def _copied(leaf: Any) -> Any:
    """A copy of a tensor, which nothing else refers to."""
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf


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


@contextlib.contextmanager
def _held(loader: Any) -> Iterator[None]:
    """Whatever a loader and what it refers to hold is put back, but for the data set."""
    restore = [back for one in _reached(loader) for back in _kept(one)]
    try:
        yield
    finally:
        for back in restore:
            back()


def _reached(loader: Any) -> list[Any]:
    """A loader and everything that it refers to, each once, but for data, models and code."""
    found: list[Any] = [loader]
    known = {id(loader)}
    for one in found:
        for part in _parts(one):
            if id(part) in known or isinstance(part, _LEFT):
                continue
            known.add(id(part))
            found.append(part)
            if len(found) > MOST_PARTS:
                raise _refusal("the training data's loader refers to too much to be put back")
    return found


def _parts(one: Any) -> list[Any]:
    """What an object refers to."""
    if isinstance(one, types.MethodType):
        return [one.__self__]
    if isinstance(one, functools.partial):
        return [one.func, *one.args, *one.keywords.values()]
    if isinstance(one, dict):
        return list(one.values()) if len(one) < MANY else []
    if isinstance(one, list | tuple):
        return list(one) if len(one) < MANY else []
    held = getattr(one, "__dict__", None)
    if not isinstance(held, dict):
        return []
    return [value for name, value in held.items() if name not in DATA]


def _kept(one: Any) -> list[Callable[[], Any]]:
    """What puts back the contents of an object."""
    if isinstance(one, types.GeneratorType):
        raise _refusal("its sampler holds an iterator, which cannot be put back")
    if isinstance(one, torch.Generator):
        return [functools.partial(one.set_state, one.get_state())]
    if isinstance(one, np.random.Generator):
        return [functools.partial(setattr, one.bit_generator, "state", one.bit_generator.state)]
    if isinstance(one, np.random.RandomState | random.Random):
        get, put = ("get_state", "set_state") if hasattr(one, "get_state") else _PYTHONS
        return [functools.partial(getattr(one, put), getattr(one, get)())]
    if isinstance(one, np.ndarray):
        return [functools.partial(np.copyto, one, one.copy())]
    if isinstance(one, Tensor):
        return [functools.partial(one.detach().copy_, one.detach().clone())]
    if isinstance(one, list):
        return [functools.partial(one.__setitem__, slice(None), list(one))]
    held = one if isinstance(one, dict | set) else getattr(one, "__dict__", None)
    if not isinstance(held, dict | set):
        return []
    return [held.clear, functools.partial(held.update, held.copy())]
