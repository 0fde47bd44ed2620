from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from tests.reference import change as reference

from layerscope.functional.change import (
    angles,
    relative_change,
    size_matched_indices,
    subsample,
    zero_counts,
)
from layerscope.functional.norms import owners

OWNER = owners([2, 1])
WAYS = [
    ("ratio", 1.0),
    ("ratio", 2.0),
    ("ratio", 3.0),
    ("ratio", math.inf),
    ("elementwise", 1.0),
    ("median", 1.0),
    ("angle", 1.0),
]


def normal(n, seed=0, scale=1.0):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed)) * scale


def two_layers(seed, dtype=torch.float32):
    before = [normal(30, seed), normal(5, seed + 1), normal(12, seed + 2)]
    after = [b + 0.1 * normal(len(b), seed + 7 + i) for i, b in enumerate(before)]
    return [b.to(dtype) for b in before], [a.to(dtype) for a in after]


@pytest.mark.parametrize(("reduction", "p"), WAYS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("seed", range(5))
def test_change_equals_the_plain_loop(reduction, p, dtype, seed):
    before, after = two_layers(seed, dtype)
    found = relative_change(before, after, OWNER, 2, p, reduction)
    expected = reference.relative_change(before, after, OWNER, 2, p, reduction)
    # Float32 cannot hold the difference of two numbers better than to half its last digit.
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_large_layer_loses_no_digits(p, dtype):
    before = [normal(2_400_000, scale=0.03).to(dtype)]
    after = [(before[0] * 1.01 + 0.001).to(dtype)]
    found = relative_change(before, after, owners([1]), 1, p)
    expected = reference.relative_change(before, after, owners([1]), 1, p, "ratio")
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@settings(max_examples=30)
@given(factor=st.floats(1e-3, 1e3), seed=st.integers(0, 50), way=st.sampled_from(WAYS))
def test_scaling_the_weights_changes_nothing(factor, seed, way):
    before, after = ([t.double() for t in side] for side in two_layers(seed))
    scaled = [[factor * t for t in side] for side in (before, after)]
    for sign in (1, -1):
        found = relative_change(
            [sign * t for t in scaled[0]], [sign * t for t in scaled[1]], OWNER, 2, way[1], way[0]
        )
        expected = relative_change(before, after, OWNER, 2, way[1], way[0])
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize(("reduction", "p"), WAYS)
def test_no_movement_is_zero_also_for_zeros(reduction, p):
    tensors = [normal(4), torch.zeros(2), torch.zeros(3)]
    assert relative_change(tensors, tensors, OWNER, 2, p, reduction).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("reduction", "p"), WAYS)
def test_a_layer_of_zeros_that_moves_is_infinite(reduction, p):
    before = [normal(4), normal(2), torch.zeros(3)]
    after = [before[0], before[1], torch.ones(3)]
    moved = math.pi / 2 if reduction == "angle" else math.inf
    assert relative_change(before, after, OWNER, 2, p, reduction).tolist() == [0.0, moved]


@pytest.mark.parametrize("turned", [1e-9, 1e-6, 1e-3, 0.5, math.pi / 2, 3.0, math.pi])
@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_angle_of_a_known_rotation(turned, factor):
    before = normal(1000).double()
    side = normal(1000, seed=1).double()
    side -= (side @ before) / (before @ before) * before
    side *= before.norm() / side.norm()
    after = factor * (math.cos(turned) * before + math.sin(turned) * side)
    found = angles([before], [after], owners([1]), 1)
    assert float(found) == pytest.approx(turned, rel=1e-6 if factor == 1 else 1e-5, abs=1e-14)


def test_the_angle_of_complex_weights_is_that_of_their_real_and_imaginary_parts():
    before, after = (torch.complex(normal(50, s), normal(50, s + 1)) for s in (0, 2))
    found = angles([before, before], [after, 2 * before], owners([1, 1]), 2)
    parts = [torch.view_as_real(x).flatten() for x in (before, after)]
    expected = angles(parts[:1], parts[1:], owners([1]), 1)
    torch.testing.assert_close(found, torch.cat([expected, torch.zeros(1, dtype=torch.float64)]))


def test_small_angles_keep_their_digits_in_single_precision():
    before = [normal(100_000)]
    after = [before[0] + 1e-5 * normal(100_000, seed=1)]
    cosine = torch.nn.functional.cosine_similarity(before[0], after[0], dim=0)
    assert float(cosine) >= 1.0  # from which no angle comes
    found = relative_change(before, after, owners([1]), 1, 1.0, "angle")
    expected = reference.relative_change(before, after, owners([1]), 1, 1.0, "angle")
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_one_moved_zero_makes_the_mean_infinite_and_is_counted():
    before = [torch.tensor([0.0, 1.0, 2.0]), torch.zeros(2), torch.tensor([1.0])]
    after = [torch.tensor([0.5, 1.5, 3.0]), torch.zeros(2), torch.tensor([2.0])]
    assert relative_change(before, after, OWNER, 2, 1.0, "elementwise").tolist() == [math.inf, 1.0]
    assert relative_change(before, after, OWNER, 2, 1.0, "median").tolist() == [0.5, 1.0]
    assert zero_counts(before, OWNER, 2).tolist() == [3, 0]


def noisy(n, seed):
    """``n`` normal weights, each moved by noise of half their size: the ratio is 0.5."""
    return normal(n, seed), normal(n, seed) + 0.5 * normal(n, seed + 1000)


def test_elementwise_grows_with_size_where_the_other_reductions_stay():
    exact = {"ratio": 0.5, "median": 0.5, "angle": math.atan(0.5)}  # of infinitely many entries
    found = {}
    for n in (1_728, 2_359_296):
        pairs = [noisy(n, seed) for seed in range(5)]
        for reduction in (*exact, "elementwise"):
            values = [relative_change([b], [a], owners([1]), 1, 1.0, reduction) for b, a in pairs]
            found[reduction, n] = float(torch.stack(values).median())
    for reduction, value in exact.items():
        assert found[reduction, 1_728] == pytest.approx(value, rel=0.08)
        assert found[reduction, 2_359_296] == pytest.approx(value, rel=0.01)
    assert found["elementwise", 2_359_296] > 1.5 * found["elementwise", 1_728]


def test_size_matched_layers_of_one_kind_of_change_agree():
    generous, small = noisy(400_000, 0), noisy(2_000, 1)
    indices = size_matched_indices([400_000, 2_000], seed=0)
    before, after = (
        subsample(side, owners([1, 1]), indices) for side in zip(generous, small, strict=True)
    )
    assert [len(t) for t in before] == [2_000, 2_000]
    medians = relative_change(before, after, owners([1, 1]), 2, 1.0, "median")
    assert float(medians[0]) == pytest.approx(float(medians[1]), rel=0.15)


def test_size_matched_entries_are_distinct_sorted_and_repeat():
    first, again, other = (size_matched_indices([50, 9, 20], seed) for seed in (3, 3, 4))
    assert all(len(set(i.tolist())) == 9 and i.tolist() == sorted(i.tolist()) for i in first)
    assert first[1].tolist() == list(range(9))
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])


def test_subsample_counts_entries_through_a_layers_tensors():
    tensors = [torch.tensor([[0, 1], [2, 3]]), torch.tensor([4, 5]), torch.tensor([6, 7])]
    found = subsample(tensors, OWNER, [torch.tensor([1, 4]), torch.tensor([0])])
    assert [t.tolist() for t in found] == [[1, 4], [6]]
