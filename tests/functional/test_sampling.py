"""Random entries: distinct, uniform, and the same wherever they are drawn."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from tests.memory import peak_bytes
from tests.reference import sampling as reference

from layerscope.functional.change import relative_change
from layerscope.functional.sampling import draw, layer_seed, split

SEEDS = st.integers(0, 2**63 - 1)


@given(population=st.integers(0, 400), size=st.integers(1, 100), seed=SEEDS)
def test_a_sample_is_distinct_places_in_order(population, size, seed):
    found = draw(population, size, seed).tolist()
    assert found == sorted(set(found))
    assert len(found) == min(size, population)
    assert all(0 <= place < population for place in found)
    assert found == draw(population, size, seed).tolist()


@pytest.mark.parametrize(("population", "size"), [(5, 2), (9, 2), (13, 3)])
def test_every_choice_is_equally_likely(population, size):
    """(5, 2) takes a permutation, the others draw until enough are distinct; 20 per choice."""
    choices = list(combinations(range(population), size))
    draws = 20 * len(choices)
    found = (draw(population, size, layer_seed(seed, "a", [])) for seed in range(draws))
    seen = Counter(tuple(places.tolist()) for places in found)
    assert chisquare([seen[choice] for choice in choices]).pvalue > 1e-3


def test_what_is_drawn_from_takes_no_memory():
    assert peak_bytes(lambda: draw(10**12, 1000, 0)) < 200_000


def test_the_seed_is_that_of_name_and_sizes():
    seeds = [
        layer_seed(*given)
        for given in [(0, "a", [4, 2]), (1, "a", [4, 2]), (0, "b", [4, 2]), (0, "a", [6])]
    ]
    assert len(set(seeds)) == 4
    assert seeds[0] == layer_seed(0, "a", (4, 2)) == 9180036880018852598


@given(sizes=st.lists(st.integers(0, 6), min_size=1, max_size=5), seed=SEEDS)
def test_places_in_a_layer_are_those_in_its_tensors(sizes, seed):
    chosen = draw(sum(sizes), 7, seed)
    found = split(chosen, sizes)
    expected = reference.split(chosen.tolist(), sizes)
    assert [places.tolist() for places in found] == expected


@pytest.mark.parametrize(("p", "reduction"), [(1, "ratio"), (2, "ratio"), (2, "angle")])
def test_samples_agree_with_the_layer_on_average_and_err_by_the_root_of_their_size(p, reduction):
    generator = torch.Generator().manual_seed(0)
    before = torch.randn(20_000, generator=generator)
    after = before + 0.1 * torch.randn(20_000, generator=generator) * (1 + before.abs())
    owner = torch.zeros(1, dtype=torch.int64)

    def measured(b, a):
        value = float(relative_change([b], [a], owner, 1, float(p), reduction))
        return value**p if reduction == "ratio" else value

    def sampled(size):
        places = [draw(20_000, size, layer_seed(s, "a", [20_000])) for s in range(300)]
        return torch.tensor([measured(before[i], after[i]) for i in places], dtype=torch.float64)

    expected = measured(before, after)
    few, many = sampled(100), sampled(1600)
    for values in (few, many):
        assert abs(values.mean() - expected) < 4 * values.std() / len(values) ** 0.5
    # 16 times the entries, a quarter of the error; the spread of 300 is known to 4%
    assert 3.2 < few.std() / many.std() < 4.8
