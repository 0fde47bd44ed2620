from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from tests.reference.data import normalised_batch

from layerscope.data import Batches, Split
from layerscope.errors import LayerscopeError

SIZES = st.integers(1, 40)


def numbered(n: int) -> Split:
    return Split(torch.arange(float(n)).view(-1, 1), torch.arange(n))


@given(n=SIZES, batch_size=SIZES, seed=st.integers(0, 2**40), epoch=st.integers(0, 5))
def test_every_epoch_is_a_permutation(n, batch_size, seed, epoch):
    batches = Batches(numbered(n), batch_size, seed)
    first = epoch * batches.steps_per_epoch
    steps = [batches.indices(first + i) for i in range(batches.steps_per_epoch)]
    assert all(len(step) == batch_size for step in steps[:-1])
    assert torch.cat(steps).sort().values.tolist() == list(range(n))


@given(steps=st.lists(st.integers(0, 60), min_size=1, max_size=12), seed=st.integers(0, 9))
def test_a_step_does_not_depend_on_what_was_asked_before(steps, seed):
    used = Batches(numbered(11), 3, seed)
    for step in steps:
        torch.testing.assert_close(used.batch(step), Batches(numbered(11), 3, seed).batch(step))


def test_epochs_and_seeds_differ():
    batches = [Batches(numbered(100), 100, seed) for seed in (0, 1)]
    orders = {tuple(b.order(epoch).tolist()) for b in batches for epoch in (0, 1, 2)}
    assert len(orders) == 6


def test_the_order_is_the_same_on_every_machine():
    assert Batches(numbered(8), 8, seed=3).indices(1).tolist() == [5, 7, 6, 4, 1, 0, 3, 2]


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    Batches(numbered(50), 7, 0).batch(3)
    assert torch.equal(before, torch.get_rng_state())


def test_images_are_normalised_as_the_plain_loop_does():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (20, 3, 4, 5), generator=generator, dtype=torch.uint8)
    split = Split(
        images, torch.arange(20), torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.2, 0.3, 0.4])
    )
    batches = Batches(split, 8, 0)
    inputs, targets = batches.batch(2)
    assert inputs.dtype == torch.float32
    assert torch.equal(targets, batches.indices(2))
    expected = normalised_batch(images, split.mean, split.std, batches.indices(2))
    torch.testing.assert_close(inputs.double(), expected, rtol=0, atol=2e-6)


def test_images_without_statistics_lie_between_0_and_1():
    split = Split(torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8), torch.zeros(1))
    inputs, _ = split.batch(torch.tensor([0]))
    torch.testing.assert_close(inputs.flatten(), torch.tensor([0.0, 0.2, 1.0]))


def test_a_batch_may_be_written_into():
    split = numbered(5)
    split.batch(torch.arange(5))[0].zero_()
    assert split.inputs.sum() == 10


def test_take_keeps_order_and_statistics():
    split = Split(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.arange(4), *torch.ones(2, 1))
    taken = split.take(torch.tensor([3, 1])).to("cpu")
    assert (len(taken), taken.targets.tolist()) == (2, [3, 1])
    assert torch.equal(taken.mean, split.mean)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Batches(numbered(3), 0, 0), "batch_size is 0"),
        (lambda: Batches(numbered(0), 1, 0), "0 examples"),
        (lambda: Batches(numbered(3), 1, 0).batch(-1), "step is -1"),
        (lambda: Split(torch.zeros(2, 1), torch.zeros(3)), "2 inputs but 3 targets"),
        (lambda: Split(torch.zeros(2, 1), torch.zeros(2), torch.ones(1)), "mean and std"),
    ],
)
def test_errors(build, message):
    with pytest.raises(LayerscopeError, match=message):
        build()
