from __future__ import annotations

import functools
import random

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from tests.integrations.loops import BATCH, Examples, loader
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, Sampler

from layerscope.errors import LayerscopeError
from layerscope.integrations.first_batch import first_batch


def own_generator():
    return DataLoader(Examples(), BATCH, shuffle=True, generator=torch.Generator().manual_seed(5))


def generator_of_the_sampler():
    sampler = RandomSampler(Examples(), generator=torch.Generator().manual_seed(5))
    return DataLoader(Examples(), BATCH, sampler=sampler)


def of_accelerate():
    configuration = DataLoaderConfiguration(use_seedable_sampler=True)
    return Accelerator(cpu=True, dataloader_config=configuration).prepare(loader())


class Noisy:
    """A collate function that draws from a generator that it makes when it is first called."""

    def __init__(self):
        self.generator = None

    def __call__(self, examples):
        if self.generator is None:
            self.generator = np.random.default_rng(1)
        inputs = torch.stack([x for x, _ in examples])
        noise = torch.from_numpy(self.generator.normal(size=inputs.shape))
        return {"nested": (inputs + noise, [torch.stack([y for _, y in examples])])}


def noisy():
    return DataLoader(Examples(), BATCH, shuffle=True, collate_fn=Noisy())


def noisy_and_used():
    found = noisy()
    next(iter(found))
    return found


class InPlace(Sampler):
    """Shuffles what it holds."""

    def __init__(self):
        self.indices = np.arange(len(Examples()))

    def __iter__(self):
        np.random.shuffle(self.indices)
        return iter(self.indices.tolist())

    def __len__(self):
        return len(self.indices)


class Around(Sampler):
    """Holds another sampler under a name of its own."""

    def __init__(self):
        self.within = {"one": [RandomSampler(Examples(), generator=torch.Generator())]}

    def __iter__(self):
        return iter(self.within["one"][0])

    def __len__(self):
        return len(self.within["one"][0])


def shuffled_in_place():
    return DataLoader(Examples(), BATCH, sampler=InPlace())


def sampler_around_another():
    return DataLoader(Examples(), BATCH, sampler=Around())


def method_that_collates():
    return DataLoader(Examples(), BATCH, shuffle=True, collate_fn=Noisy().__call__)


def partial_that_collates():
    return DataLoader(Examples(), BATCH, shuffle=True, collate_fn=functools.partial(Noisy()))


MAKERS = [
    *(loader, own_generator, generator_of_the_sampler, of_accelerate, noisy, noisy_and_used),
    *(shuffled_in_place, sampler_around_another, method_that_collates, partial_that_collates),
]


def made(maker):
    torch.manual_seed(11)
    random.seed(11)
    np.random.seed(11)
    return maker()


@pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.__name__)
def test_training_sees_the_same_batches_after_it(maker):
    untouched = made(maker)
    expected = [batch for _ in range(2) for batch in untouched]
    found = made(maker)
    first_batch(found)
    torch.testing.assert_close([b for _ in range(2) for b in found], expected, rtol=0, atol=0)


@pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.__name__)
def test_it_is_the_batch_that_comes_first(maker):
    found = first_batch(made(maker))
    torch.testing.assert_close(found, next(iter(made(maker))), rtol=0, atol=0)


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield torch.ones(2)


class Empty(Examples):
    def __len__(self):
        return 0


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (lambda: DataLoader(Endless()), "iterated only once"),
        (lambda: [torch.ones(2)], "a list, not a DataLoader"),
        (lambda: DataLoader(Empty(), BATCH), "are empty"),
    ],
)
def test_what_has_no_first_batch_is_an_error(data, reason):
    with pytest.raises(LayerscopeError, match=reason) as error:
        first_batch(data())
    assert "batch=" in error.value.remedy


def test_single_examples_without_batching():
    found = first_batch(DataLoader(Examples(), batch_size=None))
    assert [tuple(part.shape) for part in found] == [(6,), ()]
