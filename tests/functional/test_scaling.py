from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.reference import scaling as reference

from layerscope.errors import LayerscopeError
from layerscope.functional.scaling import scaled_signals

DECADES = st.lists(st.floats(-3, 3), min_size=1, max_size=12)


@given(DECADES)
def test_networks_without_and_with_normalisation_are_those_of_the_theorems(decades):
    factors = [10**d for d in decades]
    for normalised, theorem in (
        (False, reference.rectifier_network),
        (True, reference.normalised_network),
    ):
        found = scaled_signals(torch.tensor(decades).double(), [normalised] * len(decades))
        for side, expected in zip(found, theorem(factors), strict=True):
            np.testing.assert_allclose(side, np.log10(expected), atol=1e-5)


def networks(normalised, seed=0):
    """Matrices, inputs and a slope of a network with layers of 7 units."""
    draw = np.random.default_rng(seed)
    weights = [draw.normal(size=(7, 5 if k == 0 else 7)) for k in range(len(normalised))]
    return weights, draw.normal(size=(11, 5)), draw.normal(size=(11, 7))


@given(st.lists(st.booleans(), min_size=1, max_size=5), st.integers(0, 9))
def test_networks_with_some_normalisations_are_those_that_are_computed(normalised, seed):
    weights, x, slope = networks(normalised, seed)
    decades = np.random.default_rng(seed).uniform(-1, 1, len(weights))
    scaled = [w * 10**d for w, d in zip(weights, decades, strict=True)]
    before = reference.perceptron(weights, x, slope, normalised)
    after = reference.perceptron(scaled, x, slope, normalised)
    predicted = scaled_signals(torch.tensor(decades), normalised)
    for side, was, now in zip(predicted, before, after, strict=True):
        for d, one, other in zip(side.tolist(), was, now, strict=True):
            near = 1e-9 * 10**d * np.abs(one).max()
            np.testing.assert_allclose(other, 10**d * one, rtol=1e-6, atol=near)


def test_every_layer_has_a_factor():
    with pytest.raises(LayerscopeError, match="1 factors for 2 layers"):
        scaled_signals(torch.zeros(1).double(), [False, True])
