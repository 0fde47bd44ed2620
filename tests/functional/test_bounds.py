import math

import hypothesis.strategies as st
import pytest
from hypothesis import given
from tests.reference import bounds as reference

from layerscope.errors import LayerscopeError
from layerscope.functional.bounds import (
    generalisation_gap,
    parameter_counting_bound,
    vc_dimension,
)

COUNTS = st.integers(1, 10**9)
SHARES = st.floats(0, 1)


def test_dimension_by_hand():
    # 2 * 10 * 2 * log2(4 * 10 * 2 * 2 * 3 / ln 2) + 2 * 10 * 2^2 * log2(2) + 2 * 2
    assert vc_dimension(10, units=3, layers=2) == pytest.approx(40 * 9.435653 + 80 + 4)
    # Thresholds, one piece of degree 0 on either side: 2 * 4 * log2(4 * 4 * 2 / ln 2) + 2
    assert vc_dimension(4, 1, 1, degree=0) == pytest.approx(8 * 5.528766 + 2)
    assert vc_dimension(0, 3, 2) == 0


def test_gap_by_hand():
    # sqrt((10 (ln 200 + 1) + ln 80) / 1000)
    assert generalisation_gap(10, 1000) == pytest.approx(math.sqrt((62.983174 + 4.382027) / 1000))
    assert generalisation_gap(10, 1000, 0.1, 2) == generalisation_gap(10, 1000)
    # Every labelling: sqrt(2 ln 2 + ln 80 / 1000)
    assert generalisation_gap(1e9, 1000) == pytest.approx(math.sqrt(1.386294 + 0.004382))
    assert generalisation_gap(0, 1000) == pytest.approx(math.sqrt(0.004382), rel=1e-4)


NETWORKS = [(1, 1, 1, 2, 1), (3, 1, 1, 2, 0), (4, 3, 2, 2, 1), (10, 5, 3, 2, 1), (6, 4, 3, 3, 2)]


@pytest.mark.parametrize("network", NETWORKS)
def test_the_dimension_lies_above_what_counting_labellings_gives(network):
    bound = vc_dimension(*network)
    assert reference.vc_dimension(*network) <= bound <= 3 * reference.vc_dimension(*network)
    # From there on there are fewer labellings than subsets.
    assert reference.log2_labellings(bound + 1, *network) < bound + 1


@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_the_gap_lies_above_that_of_sauers_sum(n):
    for dimension in range(2 * n + 3):
        bound = generalisation_gap(dimension, n, 0.1, 3)
        exact = reference.gap(dimension, n, 0.1, 3)
        assert exact <= bound * (1 + 1e-12)
        assert dimension not in (0, 2 * n) or exact == pytest.approx(bound)


@given(weights=COUNTS, more=COUNTS, units=COUNTS, layers=st.integers(1, 200))
def test_the_dimension_rises_with_everything(weights, more, units, layers):
    found = vc_dimension(weights, units, layers)
    assert found < vc_dimension(weights + more, units, layers)
    assert found <= vc_dimension(weights, units + more, layers)
    assert found < vc_dimension(weights, units, layers + 1)


@given(dimension=st.floats(1, 1e12), n=COUNTS, more=COUNTS, guesses=COUNTS)
def test_the_gap_falls_with_examples_and_rises_with_the_rest(dimension, n, more, guesses):
    found = generalisation_gap(dimension, n, guesses=guesses)
    slack = found * (1 + 1e-12)
    assert generalisation_gap(dimension, n + more, guesses=guesses) <= slack
    assert generalisation_gap(dimension + more, n, guesses=guesses) >= found * (1 - 1e-12)
    assert generalisation_gap(dimension, n, guesses=guesses + more) >= found
    assert generalisation_gap(dimension, n, 0.01, guesses) > found


@given(risk=SHARES, rise=SHARES, share=SHARES, more=SHARES, parameters=COUNTS, n=COUNTS)
def test_resetting_more_helps_by_what_it_does_not_cost(risk, rise, share, more, parameters, n):
    network = {"units": 100, "layers": 4, "n": n}
    low, high = sorted((share, more))
    less = parameter_counting_bound(risk, rise, parameters, low, **network)
    best = parameter_counting_bound(risk, rise, parameters, high, **network)
    assert best.reset <= less.reset * (1 + 1e-12)
    assert best.plain == less.plain
    none = parameter_counting_bound(risk, 0, parameters, 0, **network)
    assert none.plain == none.reset


def test_both_bounds_add_up():
    found = parameter_counting_bound(0.1, 0.02, 1000, 0.9, 30, 2, 10**6, guesses=5)
    dimensions = vc_dimension(1000, 30, 2), vc_dimension(100, 30, 2)
    assert found.plain == 0.1 + generalisation_gap(dimensions[0], 10**6)
    assert found.reset == 0.1 + 0.02 + generalisation_gap(dimensions[1], 10**6, guesses=5)
    everything = parameter_counting_bound(0.1, 0.8, 1000, 1, 30, 2, 10**6)
    assert everything.reset == 0.1 + 0.8 + generalisation_gap(0, 10**6)


BAD = {
    "weights": lambda: vc_dimension(-1, 1, 1),
    "units": lambda: vc_dimension(1, 0, 1),
    "layers": lambda: vc_dimension(1, 1, 0),
    "pieces": lambda: vc_dimension(1, 1, 1, pieces=0),
    "degree": lambda: vc_dimension(1, 1, 1, degree=-1),
    "dimension": lambda: generalisation_gap(math.nan, 1),
    "n": lambda: generalisation_gap(1.0, 0),
    "delta": lambda: generalisation_gap(1.0, 1, delta=1.0),
    "guesses": lambda: generalisation_gap(1.0, 1, guesses=0),
    "risk": lambda: parameter_counting_bound(1.1, 0, 1, 0, 1, 1, 1),
    "rise": lambda: parameter_counting_bound(1, math.inf, 1, 0, 1, 1, 1),
    "ambient_share": lambda: parameter_counting_bound(1, 0, 1, -0.1, 1, 1, 1),
}


@pytest.mark.parametrize(("name", "call"), BAD.items(), ids=BAD)
def test_numbers_out_of_range_are_refused(name, call):
    with pytest.raises(LayerscopeError, match=f"^{name} is"):
        call()
