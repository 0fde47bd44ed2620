import json

import numpy as np
import pytest

from layerscope.errors import LayerscopeError
from layerscope.studies.claims import Claim, above, all_of

CASES = {
    "far above": ([1.0, 1.1, 0.9], "holds"),
    "far below": ([-1.0, -1.1, -0.9], "fails"),
    "around": ([-1.0, 1.0, 0.2], "inconclusive"),
    "one seed": ([5.0], "inconclusive"),
    "no seed": ([np.nan], "inconclusive"),
    "one diverged": ([1.0, np.nan, 1.1], "holds"),
}


@pytest.mark.parametrize(("effects", "outcome"), CASES.values(), ids=CASES)
def test_interval_decides(effects, outcome):
    assert above(effects, "effect").outcome == outcome


def test_the_interval_is_students():
    from scipy import stats

    values = np.random.default_rng(0).normal(1, 2, 7)
    expected = stats.t.interval(0.95, 6, values.mean(), stats.sem(values))
    np.testing.assert_allclose(above(values, "effect").interval, expected)


def test_the_threshold_counts():
    assert above([1.0, 1.1, 0.9], "effect", threshold=2).outcome == "fails"


def test_verdicts_are_right_as_often_as_their_level():
    """An effect of exactly zero is called holding in about 2.5 % of 4000 experiments of 5 seeds."""
    draws = np.random.default_rng(1).normal(0, 1, (4000, 5))
    share = np.mean([above(row, "effect").outcome == "holds" for row in draws])
    assert share == pytest.approx(0.025, abs=0.008)


PARTS = {
    "all hold": ("a", "b", "holds"),
    "one fails": ("a", "c", "fails"),
    "one open": ("a", "d", "inconclusive"),
    "fails beats open": ("c", "d", "fails"),
}
VERDICTS = {
    "a": above([1.0, 1.1, 0.9], "a"),
    "b": above([0.1, 0.11, 0.12], "b"),
    "c": above([-1.0, -1.1, -0.9], "c"),
    "d": above([1.0], "d"),
}


@pytest.mark.parametrize(("first", "second", "outcome"), PARTS.values(), ids=PARTS)
def test_a_claim_of_parts_holds_only_if_each_does(first, second, outcome):
    found = all_of({name: VERDICTS[name] for name in (first, second)})
    assert found.outcome == outcome
    assert first in found.note
    assert second in found.note


def test_the_weakest_part_is_shown():
    assert all_of({"a": VERDICTS["a"], "b": VERDICTS["b"]}).statistic == "b"


def test_no_parts_is_an_error():
    with pytest.raises(LayerscopeError, match="without parts"):
        all_of({})


def test_rows_are_plain_json():
    claim = Claim("id", "text", "source", lambda data: VERDICTS["d"])
    row = claim.row(above([np.nan], "effect"))
    assert json.loads(json.dumps(row, allow_nan=False))["value"] is None
    assert set(row) >= {"id", "text", "source", "verdict", "statistic", "interval", "n_seeds"}
