from __future__ import annotations

import math

import pytest
import torch
from tests.reference.data import statistics

from layerscope.config import Digits, Sine
from layerscope.data import load
from layerscope.errors import LayerscopeError


def test_digits_are_split_with_equal_class_shares():
    digits = load(Digits())
    assert (len(digits.train), len(digits.test)) == (1438, 359)
    assert digits.train.inputs.dtype == torch.uint8
    assert digits.input_shape == tuple(digits.train.inputs.shape[1:]) == (1, 8, 8)
    shares = [torch.bincount(part.targets) / len(part) for part in (digits.train, digits.test)]
    torch.testing.assert_close(*shares, atol=0.003, rtol=0)


def test_digits_are_normalised_by_their_training_part():
    train = load(Digits()).train
    mean, std = statistics(train.inputs)
    torch.testing.assert_close((train.mean.double(), train.std.double()), (mean, std))
    assert train.inputs.max() == 255


def test_the_split_seed_decides_the_split():
    first, again, other = (load(Digits(split_seed=seed)).train.targets for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("components", [1, 2, 3, 4])
def test_sine_is_the_sum_of_its_terms(components):
    part = load(Sine(components=components, n_train=50)).train
    for x, y in zip(part.inputs.flatten().tolist(), part.targets.flatten().tolist(), strict=True):
        terms = [math.sin(k * x) / k for k in (1, 3, 10, 30)[:components]]
        assert y == pytest.approx(sum(terms), abs=1e-6)


def test_sine_points_fill_the_interval_and_are_drawn_independently():
    sine = load(Sine(low=-1, high=3))
    train, test = sine.train.inputs, sine.test.inputs
    assert train.shape == test.shape == (5000, 1)
    assert -1 <= train.min() < -0.99
    assert 2.99 < train.max() <= 3
    assert torch.isin(train, test).double().mean() < 0.01  # equal after rounding to float32
    assert (sine.n_classes, sine.task) == (None, "regression")


def test_the_sampling_seed_decides_the_points_and_the_global_state_is_left_alone():
    before = torch.get_rng_state()
    first, again, other = (load(Sine(sampling_seed=seed)).train.inputs for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Sine(components=0), "components is 0"),
        (Sine(components=5), "components is 5"),
        (Sine(low=1, high=1), "low must be less"),
        (Sine(n_train=0), "n_train must be"),
        (Sine(n_test=-1), "n_test must be"),
        (Digits(test_fraction=0.0), "test_fraction is 0.0"),
        (Digits(test_fraction=1.0), "test_fraction is 1.0"),
    ],
)
def test_errors(config, message):
    with pytest.raises(LayerscopeError, match=message):
        load(config)
