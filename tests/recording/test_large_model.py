"""A language model of 355 million parameters, recorded by samples; about 3 GB of memory."""

from __future__ import annotations

import pytest
from tests.large_model import Loop, costs, errors, gpt

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")]


@pytest.fixture(scope="module")
def loop():
    return Loop(gpt())


def test_a_sample_costs_less_than_a_hundredth_of_the_weights(loop, tmp_path):
    ways = ("nothing", "a sample")  # with all weights it is 1.6 times the weights, see LOG.md
    found = {name: peak for name, (peak, _) in costs(loop, tmp_path, ways).items()}
    weights = 2 * sum(parameter.numel() for parameter in loop.model.parameters())
    assert found["a sample"] - found["nothing"] < 0.01 * weights


def test_its_ratio_is_that_of_all_weights_within_the_error_of_a_sample(loop, tmp_path):
    error = errors(loop, tmp_path)
    assert float(error.notnull().mean()) > 0.9
    assert float(error.median()) < 0.05
