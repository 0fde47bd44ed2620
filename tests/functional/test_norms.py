from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from tests.reference import change as reference

from layerscope.functional.norms import layer_distances, layer_norms, owners

ORDERS = (1.0, 2.0, 3.0, math.inf)
COUNTS = st.lists(st.integers(1, 3), min_size=1, max_size=4)
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def draw(counts, seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(3, 5), (7,), (), (2, 3, 2, 2)]
    return [
        torch.randn(shapes[(seed + i) % 4], generator=generator).to(dtype)
        for i in range(sum(counts))
    ]


def test_owners_repeat_the_index_of_the_layer():
    assert owners([2, 1, 3]).tolist() == [0, 0, 1, 2, 2, 2]


@settings(max_examples=40)
@given(
    counts=COUNTS, seed=st.integers(0, 99), p=st.sampled_from(ORDERS), dtype=st.sampled_from(DTYPES)
)
def test_norms_equal_the_plain_loop(counts, seed, p, dtype):
    tensors, owner = draw(counts, seed, dtype), owners(counts)
    found = layer_norms(tensors, owner, len(counts), p)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, reference.norms(tensors, owner, len(counts), p), rtol=1e-6)


@settings(max_examples=40)
@given(
    counts=COUNTS, seed=st.integers(0, 99), p=st.sampled_from(ORDERS), dtype=st.sampled_from(DTYPES)
)
def test_distances_equal_the_plain_loop(counts, seed, p, dtype):
    before, owner = draw(counts, seed, dtype), owners(counts)
    after = [torch.rand_like(t, dtype=torch.float32).to(dtype) + t for t in before]
    found = layer_distances(before, after, owner, len(counts), p)
    expected = reference.distances(before, after, owner, len(counts), p)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_large_layer_loses_no_digits(p, dtype):
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(2_400_000, generator=generator).mul_(0.03).to(dtype)]
    found = layer_norms(tensors, owners([1]), 1, p)
    np.testing.assert_allclose(found, reference.norms(tensors, owners([1]), 1, p), rtol=1e-6)


@pytest.mark.parametrize("p", ORDERS)
def test_one_nan_makes_its_layer_nan_and_no_other(p):
    tensors = [torch.ones(4), torch.tensor([1.0, math.nan]), torch.ones(2)]
    found = layer_norms(tensors, owners([1, 1, 1]), 3, p)
    assert found.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("p", ORDERS)
def test_the_arguments_stay_as_they_are(p):
    tensors = [torch.tensor([-3.0, 2.0]), torch.tensor([-1.0])]
    layer_distances(tensors, [t + 1 for t in tensors], owners([2]), 1, p)
    assert [t.tolist() for t in tensors] == [[-3.0, 2.0], [-1.0]]


def test_closed_form():
    tensors = [torch.tensor([3.0]), torch.tensor([[4.0]]), torch.tensor([-2.0, 2.0])]
    found = layer_norms(tensors, owners([2, 1]), 2, 2.0)
    np.testing.assert_allclose(found, [5.0, math.sqrt(8)], rtol=1e-15)
    assert layer_norms(tensors, owners([2, 1]), 2, math.inf).tolist() == [4.0, 2.0]
