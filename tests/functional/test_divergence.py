from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from tests.reference import divergence as reference

from layerscope.errors import LayerscopeError
from layerscope.functional.divergence import divergence_points, sensitivity

TIMES = np.arange(0.0, 2000.0, 100.0)  # 20 steps
FULL = np.linspace(0.2, 0.8, 20)
PLAIN = {"window": 1, "order": 0}


def kept(*shares, seeds=1):
    """Models (models, seeds, steps) with these shares of the accuracy of the full one."""
    return np.stack([np.tile(np.broadcast_to(share, 20) * FULL, (seeds, 1)) for share in shares])


def falls_at(step, share=0.5):
    return np.where(np.arange(20) < step, 1.0, share)


def of_full(seeds=1):
    return np.tile(FULL, (seeds, 1))


def test_the_first_time_below_the_threshold():
    models = kept(falls_at(0), falls_at(7), falls_at(19), falls_at(20))
    found = divergence_points(of_full(), models, TIMES, **PLAIN)
    np.testing.assert_array_equal(found.time, [0.0, 700.0, 1900.0, np.nan])
    assert found.censored.tolist() == [False, False, False, True]


def test_a_crossing_of_smooth_curves_is_where_the_formula_has_it():
    """The filter leaves a parabola as it is: 1 - s^2/400 < .95 from s > sqrt(20) on."""
    ones, steps = np.ones((1, 20)), np.arange(20)
    found = divergence_points(ones, (1 - steps**2 / 400)[None, None], TIMES)
    assert found.time.tolist() == [500.0]


def test_catching_up_does_not_undo_a_divergence():
    share = np.where(np.arange(20) == 4, 0.9, 1.0)
    assert divergence_points(of_full(), kept(share), TIMES, **PLAIN).time.tolist() == [400.0]


@pytest.mark.parametrize("threshold", [0.95, 0.9, 1.0, 1 / 3])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_a_model_at_exactly_the_threshold_keeps_up(threshold, scale):
    """Smoothing rounds the product otherwise than the product of the smoothed."""
    noisy = scale * np.random.default_rng(0).uniform(0.1, 1, (5, 200))
    times = np.arange(200.0)
    at = divergence_points(noisy, threshold * noisy[None], times, threshold)
    below = divergence_points(noisy, (1 - 1e-9) * threshold * noisy[None], times, threshold)
    assert at.censored.tolist() == [True]
    assert not below.censored.any()


def test_the_filter_sees_half_a_window_ahead():
    """A fall to zero lowers the fit two steps before it, by 3/35, and not three before."""
    ones = np.ones((1, 20))
    found = divergence_points(ones, falls_at(10, 0.0)[None, None], TIMES, threshold=1.0)
    above = divergence_points(ones, falls_at(10, 2.0)[None, None], TIMES, threshold=1.0)
    assert found.time.tolist() == [900.0]  # at 800 the fit is above 1 by 3/35
    assert above.time.tolist() == [800.0]


def test_guessing_differs_by_chance_and_the_floor_leaves_it_out():
    full = np.where(np.arange(20) < 3, 0.1, 0.5)[None]
    partial = np.where(np.arange(20) < 3, 0.09, np.where(np.arange(20) < 12, 0.5, 0.4))
    rule = divergence_points(full, partial[None, None], TIMES, **PLAIN)
    floored = divergence_points(full, partial[None, None], TIMES, **PLAIN, floor=0.1)
    assert (rule.time.tolist(), floored.time.tolist()) == ([0.0], [1200.0])


def test_undershoot_of_the_filter_below_zero_is_no_divergence():
    """Both models alike: 0.95 times a negative accuracy lies above it."""
    late = np.where(np.arange(20) < 10, 0.0, 1.0)[None]
    assert divergence_points(late, late[None], TIMES).censored.tolist() == [True]


@pytest.mark.parametrize(("full", "partial"), [(1, 5), (2, 5), (5, 2)])
def test_few_seeds_have_a_point_and_no_interval(full, partial):
    found = divergence_points(of_full(full), kept(falls_at(7), seeds=partial), TIMES, **PLAIN)
    assert found.time.tolist() == [700.0]
    assert np.isnan([found.low, found.high]).all()


def test_seeds_that_agree_have_an_interval_of_no_width():
    models = kept(falls_at(7), falls_at(20), seeds=3)
    found = divergence_points(of_full(4), models, TIMES, **PLAIN)
    assert found.low.tolist() == found.high.tolist() == [700.0, np.inf]


def test_the_interval_spans_what_the_draws_of_seeds_give():
    """Seeds fall at steps 2, 4, 6 by half: in a mean one of three is enough, (.5 + 2) / 3 < .95.

    So a resample diverges with its earliest seed: at 200 with probability 1 - (2/3)^3 = .70, at 400
    with 7/27 = .26, at 600 with 1/27 = .037, more than the .025 that are left out.
    """
    seeds = np.stack([falls_at(step) * FULL for step in (2, 4, 6)])[None]
    found = divergence_points(of_full(3), seeds, TIMES, **PLAIN)
    assert (found.time, found.low, found.high) == ([200.0], [200.0], [600.0])
    narrow = divergence_points(of_full(3), seeds, TIMES, **PLAIN, level=0.9)
    assert narrow.high.tolist() == [400.0]


def test_an_interval_may_reach_beyond_the_run():
    """One of three seeds falls: (2/3)^3 = .30 of the resamples never diverge."""
    some = kept(falls_at(5), falls_at(20), falls_at(20))[:, 0][None]
    found = divergence_points(of_full(3), some, TIMES, **PLAIN)
    assert (found.time, found.low, found.high) == ([500.0], [500.0], [np.inf])
    slight = kept(falls_at(5, 0.9), falls_at(20), falls_at(20))[:, 0][None]  # mean .967, two: .933
    censored = divergence_points(of_full(3), slight, TIMES, **PLAIN)
    assert censored.censored.tolist() == [True]
    assert (censored.low, censored.high) == ([500.0], [np.inf])


def test_full_and_partial_runs_are_drawn_independently():
    """Pairs that always fall together would never diverge; unpaired runs do in some resamples."""
    runs = np.stack([FULL, 0.8 * FULL, 1.2 * FULL])
    found = divergence_points(runs, runs[None], TIMES, **PLAIN)
    assert found.censored.tolist() == [True]
    assert found.low.tolist() == [0.0]


def noisy(seed, models=3, full=5, partial=4):
    """Runs that fall behind at different times, some not at all."""
    rng = np.random.default_rng(seed)
    falls = [[falls_at(rng.integers(1, 24), 0.9) for _ in range(partial)] for _ in range(models)]
    noise = rng.normal(0, 0.01, (models, partial, 20))
    return FULL + rng.normal(0, 0.01, (full, 20)), np.array(falls) * FULL + noise


def test_draws_depend_on_the_generator_alone():
    full, partial = noisy(0)

    def ends(models, **settings):
        found = divergence_points(full, models, TIMES, floor=0.3, **settings)
        return np.array([found.low, found.high])

    expected = ends(partial, rng=3)
    np.testing.assert_array_equal(ends(partial, rng=np.random.default_rng(3)), expected)
    np.testing.assert_array_equal(ends(partial[2:], rng=3), expected[:, 2:])
    assert any((ends(partial, resamples=40, rng=seed) != expected).any() for seed in range(9))


SMOOTHING = st.sampled_from([(5, 2), (1, 0), (7, 3), (3, 1), (5, 0)])
PERCENT = st.integers(0, 20).map(lambda k: k / 20)  # coarse, so that exact ties are common


@st.composite
def curves(draw):
    steps, models = draw(st.integers(7, 9)), draw(st.integers(1, 3))
    full, partial = draw(st.integers(1, 4)), draw(st.integers(1, 4))

    def runs(n):
        one = st.lists(PERCENT, min_size=steps, max_size=steps)
        return st.lists(one, min_size=n, max_size=n)

    times = np.cumsum(draw(st.lists(st.integers(1, 9), min_size=steps, max_size=steps)))
    chosen = [draw(runs(partial)) for _ in range(models)]
    return draw(runs(full)), chosen, times.astype(float)


@settings(max_examples=150)
@given(curves(), SMOOTHING, st.sampled_from([0.95, 0.5, 1.0]), st.sampled_from([0.0, 0.25]))
def test_points_equal_the_plain_loops(curves, smoothing, threshold, floor):
    full, partial, times = curves
    arrays = np.array(full), np.array(partial), times
    expected = reference.points(full, partial, times, threshold, *smoothing, floor)
    found = divergence_points(*arrays, threshold, *smoothing, floor=floor, resamples=40)
    np.testing.assert_array_equal(found.time, expected)
    np.testing.assert_array_equal(found.censored, np.isnan(expected))
    thresholds = (threshold, 0.8, 0.95)
    several = sensitivity(*arrays, thresholds, *smoothing, floor=floor)
    for share, row in zip(thresholds, several, strict=True):
        expected = reference.points(full, partial, times, share, *smoothing, floor)
        np.testing.assert_array_equal(row, expected)


@settings(max_examples=10)
@given(st.integers(0, 10**6), SMOOTHING, st.sampled_from([0.95, 0.8]), st.sampled_from([0.0, 0.4]))
def test_intervals_equal_the_plain_loops(seed, smoothing, level, floor):
    full, partial = noisy(seed, models=2)
    found = divergence_points(
        full, partial, TIMES, 0.95, *smoothing, floor=floor, level=level, resamples=60, rng=seed
    )
    low, high = reference.interval(
        full.tolist(), partial.tolist(), TIMES, 0.95, *smoothing, floor, level, 60, seed
    )
    np.testing.assert_array_equal(found.low, low)
    np.testing.assert_array_equal(found.high, high)
    assert (found.low <= found.high).all()


@settings(max_examples=40)
@given(st.integers(0, 10**6))
def test_a_higher_threshold_never_gives_a_later_time(seed):
    full, partial = noisy(seed)
    found = sensitivity(full, partial, TIMES, (0.8, 0.9, 0.95, 0.99))
    late = np.where(np.isnan(found), np.inf, found)
    assert (late[1:] <= late[:-1]).all()
    np.testing.assert_array_equal(found[2], divergence_points(full, partial, TIMES).time)


def at(array, index, value):
    array = array.copy()
    array[index] = value
    return array


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"full": at(of_full(2), (1, 3), np.nan)}, r"full\[1\] is nan at time 300"),
        ({"partial": at(kept(1.0, 1.0), (1, 0, 19), np.inf)}, r"partial\[1, 0\] is inf at .* 1900"),
        ({"full": FULL}, r"full has shape \(20,\).*\(seeds, steps\)"),
        ({"partial": of_full()}, r"partial has shape \(1, 20\).*\(models, seeds, steps\)"),
        ({"partial": kept(1.0)[:0]}, "none of them empty"),
        ({"full": of_full()[:, 1:]}, r"\(1, 19\), times has \(20,\)"),
        ({"times": TIMES[None]}, r"times has \(1, 20\)"),
        ({"times": TIMES[::-1]}, "times do not ascend"),
        ({"times": at(TIMES, 3, 200.0)}, "times do not ascend"),
        ({"times": at(TIMES, 19, np.nan)}, "times do not ascend"),
        ({"window": 21}, "20 steps are fewer than the filter's window of 21"),
        ({"window": 4}, "window 4 and order 2 does not exist"),
        ({"window": 5, "order": 5}, "window 5 and order 5 does not exist"),
        ({"threshold": 0.0}, "threshold is 0"),
        ({"threshold": 95.0}, "threshold is 95"),
        ({"level": 95.0}, "level is 95"),
        ({"resamples": 39}, "39 resamples .* level 0.95.*at least 4[01]"),
    ],
)
def test_what_is_wrong_is_named_with_a_remedy(change, message):
    given = {"full": of_full(2), "partial": kept(1.0, 1.0), "times": TIMES} | change
    with pytest.raises(LayerscopeError, match=f"(?s){message}") as raised:
        divergence_points(**given)
    assert raised.value.remedy


def test_sensitivity_checks_as_well():
    with pytest.raises(LayerscopeError, match="threshold is 2"):
        sensitivity(of_full(), kept(1.0), TIMES, (0.9, 2.0))
    with pytest.raises(LayerscopeError, match="do not ascend"):
        sensitivity(of_full(), kept(1.0), -TIMES, (0.9,))
