import pytest
import torch

from layerscope.data.augment import crop_flip
from layerscope.data.dataset import Split
from layerscope.data.loader import Batches
from layerscope.errors import LayerscopeError
from reference.augment import position


@pytest.fixture
def images():
    return torch.rand(200, 2, 9, 7, generator=torch.Generator().manual_seed(0)) + 0.1


def test_every_image_is_a_crop_of_its_padded_self_or_of_its_mirror(images):
    found = [
        position(before, after, 4)
        for before, after in zip(images, crop_flip(images, 3), strict=True)
    ]
    assert None not in found
    rows, columns, flips = zip(*found, strict=True)
    assert set(rows) == set(columns) == set(range(9))
    assert 70 < sum(flips) < 130


def test_changes_repeat_by_seed_and_leave_the_random_state_as_found(images):
    state = torch.get_rng_state()
    first, again, other = (crop_flip(images, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


def test_steps_are_augmented_before_normalisation():
    pixels = torch.full((40, 1, 6, 6), 255, dtype=torch.uint8)
    split = Split(pixels, torch.zeros(40, dtype=torch.long), torch.ones(1), torch.ones(1))
    batches = Batches(split, 20, 0, crop_flip)
    inputs, _ = batches.batch(3)
    assert torch.equal(inputs, batches.batch(3)[0])
    assert set(inputs.unique().tolist()) == {-1.0, 0.0}  # padding is black, not the mean
    assert not torch.equal(inputs, batches.batch(1)[0])


def test_only_images_are_augmented():
    split = Split(torch.rand(4, 3), torch.zeros(4, dtype=torch.long))
    with pytest.raises(LayerscopeError, match="cannot be augmented"):
        Batches(split, 2, 0, crop_flip).batch(0)
