from __future__ import annotations

import inspect
from itertools import permutations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from sklearn.metrics import mutual_info_score
from tests.reference import information as reference

from layerscope.errors import LayerscopeError
from layerscope.functional.information import (
    conditional_mutual_information,
    explained_information,
    mutual_information,
)

LN2 = 0.6931471805599453
LABELS = st.integers(1, 60).flatmap(
    lambda n: st.lists(st.lists(st.integers(-2, 4), min_size=n, max_size=n), min_size=3, max_size=3)
)
CORRECTIONS = st.sampled_from([None, "miller_madow"])


def drawn(seed, classes, n, count=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(classes, (count, n), generator=generator)


@settings(max_examples=150)
@given(LABELS, CORRECTIONS)
def test_everything_equals_counting_in_dictionaries(labels, correction):
    x, y, z = tensors = [torch.tensor(label) for label in labels]
    corrected = correction is not None
    expected = reference.mutual(*labels[:2], corrected)
    assert mutual_information(x, y, correction) == pytest.approx(expected, abs=1e-12)
    expected = reference.conditional(*labels, corrected)
    assert conditional_mutual_information(x, y, z, correction) == pytest.approx(expected, abs=1e-12)
    expected = reference.explained(*labels, corrected)
    assert explained_information(*tensors, correction) == pytest.approx(expected, abs=1e-12)


@given(LABELS)
def test_conditional_information_is_the_mean_of_that_within_each_value(labels):
    found = conditional_mutual_information(*map(torch.tensor, labels))
    assert found == pytest.approx(reference.plug_in_conditional(*labels), abs=1e-12)
    assert found >= -1e-12


@pytest.mark.parametrize(("classes", "n"), [(2, 10), (10, 3000), (200, 10_000)])
def test_mutual_information_is_that_of_scikit_learn(classes, n):
    x, y, copied = drawn(classes, classes, n)
    y = torch.where(copied > classes // 2, x, y)
    expected = mutual_info_score(x.numpy(), y.numpy()) / LN2
    assert mutual_information(x, y) == pytest.approx(expected, rel=1e-10)


def test_by_hand():
    """Both fair coins, equal in 3 of 4 cases: 1 - H(1/4) = 0.1887 bits."""
    x, y = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]), torch.tensor([0, 0, 0, 1, 1, 1, 1, 0])
    assert mutual_information(x, y) == pytest.approx(0.1887218755)
    # Miller-Madow: (1 + 1 - 3) / (2 * 8 ln 2) more.
    corrected = mutual_information(x, y, "miller_madow")
    assert corrected == pytest.approx(0.1887218755 - 1 / (16 * LN2))
    one = torch.tensor([7])
    assert mutual_information(one, one) == 0


def test_independent_labels_share_nothing():
    x, y = torch.arange(5).repeat(7), torch.arange(7).repeat_interleave(5)
    assert mutual_information(x, y) == pytest.approx(0, abs=1e-12)
    assert conditional_mutual_information(x, y, x) == pytest.approx(0, abs=1e-12)


def test_exclusive_or_is_known_from_both_only():
    x, y = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    assert mutual_information(x, x ^ y) == pytest.approx(0, abs=1e-12)
    assert conditional_mutual_information(x, x ^ y, y) == pytest.approx(1)
    assert explained_information(x, x ^ y, y) == pytest.approx(-1)


@settings(max_examples=40)
@given(LABELS, CORRECTIONS)
def test_a_model_explains_itself_and_one_that_is_constant_explains_nothing(labels, correction):
    m, y, _ = map(torch.tensor, labels)
    everything = mutual_information(m, y, correction)
    assert explained_information(m, y, m, correction) == pytest.approx(everything, abs=1e-12)
    constant = torch.full_like(m, 3)
    assert explained_information(m, y, constant, correction) == pytest.approx(0, abs=1e-12)


@settings(max_examples=40)
@given(LABELS, CORRECTIONS)
def test_order_and_names_of_labels_do_not_matter(labels, correction):
    x, y, z = tensors = [torch.tensor(label) for label in labels]
    names = torch.tensor([40, -3, 10**12, 0, 7, 5, 1])
    other = [names[t + 2] for t in tensors]
    expected = mutual_information(x, y, correction)
    assert mutual_information(y, x, correction) == pytest.approx(expected, abs=1e-12)
    assert mutual_information(other[0], y, correction) == pytest.approx(expected, abs=1e-12)
    expected = conditional_mutual_information(x, y, z, correction)
    found = conditional_mutual_information(other[1], x, other[2], correction)
    assert found == pytest.approx(conditional_mutual_information(x, y, z, correction), abs=1e-12)
    expected = explained_information(x, y, z, correction)
    for order in permutations(other):
        assert explained_information(*order, correction) == pytest.approx(expected, abs=1e-12)


def test_the_correction_takes_most_of_the_bias_away():
    """Independent labels, 10 classes, 500 examples: (10 - 1)^2 / (2 * 500 ln 2) = .117 bits."""
    pairs = [drawn(seed, 10, 500, 2) for seed in range(30)]
    plain = sum(mutual_information(x, y) for x, y in pairs) / 30
    corrected = sum(mutual_information(x, y, "miller_madow") for x, y in pairs) / 30
    assert plain == pytest.approx(81 / (1000 * LN2), rel=0.1)
    assert abs(corrected) < 0.1 * plain


def test_labels_of_any_whole_type():
    x, y, z = drawn(0, 3, 50)
    expected = explained_information(x, y, z)
    assert explained_information(x.to(torch.uint8), y.int(), z.short()) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(3), torch.zeros(3).long()), r"x is torch.float32 of shape \(3,\).*argmax"),
        ((torch.zeros(3).long(), torch.zeros(3, 2).long()), r"y is torch.int64 of shape \(3, 2\)"),
        ((torch.zeros(3).long(), torch.zeros(4).long()), "x 3, y 4"),
        ((torch.zeros(0).long(), torch.zeros(0).long()), "x 0, y 0"),
        ((torch.zeros(3).long(), torch.zeros(3).long(), "miller"), "'miller'.*'miller_madow'"),
    ],
)
def test_what_is_wrong_is_named_with_a_remedy(arguments, message):
    unchecked = inspect.unwrap(mutual_information)  # without the tests' checks of annotations
    with pytest.raises(LayerscopeError, match=f"(?s){message}") as raised:
        unchecked(*arguments)
    assert raised.value.remedy
