from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from tests.reference import convergence as reference

from layerscope.functional.convergence import (
    convergence_curve,
    convergence_rate,
    directness,
    settling_time,
)

TIMES = torch.tensor([0.0, 1.0, 2.5, 4.0], dtype=torch.float64)
DISTANCES = st.lists(st.floats(1e-3, 1e3), min_size=12, max_size=12)


def falling(numbers):
    """Distances (4 steps, 4 layers) that end at 0; the last layer ends where it began."""
    distance = torch.zeros(4, 4, dtype=torch.float64)
    distance[:3] = torch.tensor(numbers, dtype=torch.float64).view(3, 4)
    distance[0, 3] = 0.0
    return distance


@settings(max_examples=40)
@given(numbers=DISTANCES)
def test_curve_rate_and_settling_time_equal_the_plain_loop(numbers):
    distance, times = falling(numbers), TIMES.tolist()
    rows = distance.tolist()
    found = convergence_curve(distance)
    np.testing.assert_allclose(found, reference.curve(rows), rtol=1e-12)
    for t1, t2 in ((0.0, 1.0), (1.0, 4.0), (0.0, 2.5)):
        expected = reference.rate(rows, times, t1, t2)
        np.testing.assert_allclose(
            convergence_rate(distance, TIMES, t1, t2), expected, rtol=1e-12, atol=1e-12
        )
    for share in (0.5, 0.1):
        expected = reference.settling_time(found.numpy(), times, share)
        np.testing.assert_allclose(settling_time(found, TIMES, share), expected, rtol=1e-9)


@given(start=st.floats(1e-6, 1e6), steps=st.integers(1, 10_000))
@settings(max_examples=150)
def test_the_rate_over_the_whole_training_is_one_over_t_exactly(start, steps):
    distance = torch.tensor([[start], [0.0]], dtype=torch.float64)
    times = torch.tensor([0.0, steps], dtype=torch.float64)
    assert float(convergence_rate(distance, times, 0.0, float(steps))) == 1.0 / steps


def test_a_layer_that_ends_where_it_began_has_no_rate_even_if_it_moved():
    distance = torch.tensor([[0.0], [2.0], [1.0], [0.0]], dtype=torch.float64)
    assert convergence_curve(distance).isnan().all()
    assert convergence_rate(distance, TIMES, 0.0, 1.0).isnan().all()


def test_the_curve_runs_from_one_to_zero_and_may_rise():
    distance = torch.tensor([[2.0], [3.0], [1.0], [0.0]], dtype=torch.float64)
    assert convergence_curve(distance).flatten().tolist() == [1.0, 1.5, 0.5, 0.0]


@pytest.mark.parametrize(
    ("t1", "t2", "message"),
    [
        (0.0, 3.0, "no checkpoint at time 3"),
        (0.5, 4.0, "time 0.5"),
        (2.5, 1.0, "empty"),
        (1.0, 1.0, "empty"),
    ],
)
def test_an_interval_must_lie_between_checkpoints(t1, t2, message):
    with pytest.raises(ValueError, match=message):
        convergence_rate(torch.ones(4, 1, dtype=torch.float64), TIMES, t1, t2)


def test_times_that_are_no_binary_fractions_are_found():
    times = torch.arange(11, dtype=torch.float64) / 10
    distance = torch.linspace(1, 0, 11, dtype=torch.float64)[:, None]
    assert float(convergence_rate(distance, times, 0.1 + 0.2, 0.7)) == pytest.approx(1.0)


@settings(max_examples=40)
@given(seed=st.integers(0, 1000))
def test_directness_equals_the_plain_loop_and_is_at_most_one(seed):
    generator = torch.Generator().manual_seed(seed)
    walk = torch.randn(5, 2, 3, generator=generator, dtype=torch.float64).cumsum(0)
    weights = [[layer.numpy() for layer in step] for step in walk]
    path, distance = reference.path(weights), reference.distance_to_final(weights)
    progress = distance[0] - distance
    found = directness(torch.tensor(path), torch.tensor(progress))
    np.testing.assert_allclose(found, reference.directness(path, progress), rtol=1e-12)
    assert found[0].isnan().all()
    assert bool((found[1:] <= 1 + 1e-12).all())


def test_a_straight_line_is_direct():
    walk = [[np.full(3, t)] for t in (0.0, 0.1, 0.5, 0.9)]
    path, distance = reference.path(walk), reference.distance_to_final(walk)
    found = directness(torch.tensor(path), torch.tensor(distance[0] - distance))
    np.testing.assert_allclose(found[1:], 1.0, rtol=1e-12)


def test_settling_counts_the_last_crossing():
    curve = torch.tensor([[1.0], [0.2], [0.8], [0.0]], dtype=torch.float64)
    assert float(settling_time(curve, TIMES, 0.4)) == pytest.approx(2.5 + 1.5 * 0.5)
