from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from layerscope.recording.numbers import Scalars, scalars


def test_losses_are_kept_as_means_since_the_last_time():
    found = Scalars()
    assert all(found.add(loss) for loss in (1.0, torch.tensor(3.0)))
    assert found.close(2)
    assert found.add(5.0)
    assert found.close(3)
    assert found.means == [(2, {"loss": 2.0}), (3, {"loss": 5.0})]
    assert (found.total, found.count) == (0.0, 0)


@pytest.mark.parametrize("loss", [math.nan, math.inf, torch.tensor(-math.inf)])
def test_a_loss_that_is_not_finite_is_not_added(loss):
    found = Scalars()
    assert not found.add(loss)
    assert (found.total, found.count) == (0.0, 0)


def test_a_sum_that_is_not_finite_is_found_at_the_end():
    """As where the losses on an accelerator are not waited for."""
    found = Scalars(total=torch.tensor(math.nan), count=2)
    assert not found.close(4)
    assert found.means == []


def test_what_was_written_is_forgotten_once_the_next_is_asked_for():
    found = Scalars(means=[(1, {"loss": 2.0})], logged=[(1, {"error": 0.5})])
    (first, _), *_ = [next(found.datasets(None))]
    assert (first, len(found.means)) == ("training", 1)
    assert [key for key, _ in found.datasets(None)] == ["training", "evaluation"]
    assert list(found.datasets(None)) == []


def test_rows_of_one_step_are_merged_and_gaps_are_no_numbers():
    rows = [(2, {"a": 1.0}), (2, {"b": 2.0}), (4, {"a": 3.0})]
    found = scalars(rows, 2)
    assert (found["step"].values.tolist(), found["epoch"].values.tolist()) == ([2, 4], [1.0, 2.0])
    np.testing.assert_array_equal(found["b"], [2.0, math.nan])
