from typing import get_args, get_type_hints

import pytest
import torch

from layerscope.config import RunConfig
from layerscope.data.augment import AUGMENTATIONS, augmentation, crop_flip, reflect_crop_flip
from layerscope.data.dataset import Split
from layerscope.data.loader import Batches
from layerscope.errors import LayerscopeError
from reference.augment import places


@pytest.fixture
def images():
    return torch.rand(200, 2, 9, 7, generator=torch.Generator().manual_seed(0)) + 0.1


def test_every_image_is_a_crop_of_its_padded_self_or_of_its_mirror(images):
    pairs = zip(images, crop_flip(images, 3), strict=True)
    found = [places(before, after, 4) for before, after in pairs]
    assert {len(one) for one in found} == {1}
    rows, columns, flips = zip(*(one for (one,) in found), strict=True)
    assert set(rows) == set(columns) == set(range(9))
    assert 70 < sum(flips) < 130


def test_reflection_pads_otherwise_and_crops_and_flips_alike(images):
    black, mirrored = crop_flip(images, 3), reflect_crop_flip(images, 3)
    for before, first, second in zip(images, black, mirrored, strict=True):
        (place,) = places(before, first, 4)
        assert place in places(before, second, 4, reflect=True)
    assert black.min() == 0
    assert mirrored.min() >= 0.1  # that of the images


def test_images_that_are_too_small_to_be_reflected_are_named():
    with pytest.raises(LayerscopeError, match="5x4 pixels cannot be padded with 4 pixels of their"):
        reflect_crop_flip(torch.zeros(1, 1, 5, 4), 0)
    assert reflect_crop_flip(torch.ones(1, 1, 5, 5), 0).eq(1).all()


def test_every_augmentation_of_a_configuration_is_there():
    assert set(get_args(get_type_hints(RunConfig)["augmentation"])) == set(AUGMENTATIONS)
    assert augmentation("none") is None
    with pytest.raises(LayerscopeError, match=r"unknown augmentation 'crop_flp'.*\n.*'crop_flip'"):
        augmentation("crop_flp")


@pytest.mark.parametrize("augment", [crop_flip, reflect_crop_flip])
def test_changes_repeat_by_seed_and_leave_the_random_state_as_found(images, augment):
    state = torch.get_rng_state()
    first, again, other = (augment(images, seed) for seed in (1, 1, 2))
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
