"""Spectra and condition numbers: against matrices that are written out."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from layerscope.errors import DivergedError, LayerscopeError
from layerscope.functional import conditioning
from layerscope.functional.conditioning import (
    SecondMoment,
    condition,
    kronecker_condition,
    kth_product,
)

SHARES = (0.5, 0.8, 1.0)


def _moment(rows: Tensor, chunk: int = 7, most: int = 4096) -> SecondMoment:
    found = SecondMoment(most)
    for part in rows.split(chunk, dim=1):
        found.add(part)
    return found


def _written_out(rows: Tensor) -> Tensor:
    """Eigenvalues of the mean outer product, group by group, in a loop over rows."""
    found = []
    for group in rows.double():
        total = torch.zeros(group.shape[1], group.shape[1], dtype=torch.float64)
        for row in group:
            total += torch.outer(row, row)
        found.append(torch.linalg.eigvalsh(total / len(group)).flip(0))
    return torch.stack(found)


@pytest.mark.parametrize(("n", "d"), [(40, 6), (6, 40), (20, 20), (1, 5), (5, 1)])
@pytest.mark.parametrize("groups", [1, 3])
def test_second_moment_is_the_mean_of_outer_products(n: int, d: int, groups: int) -> None:
    torch.manual_seed(0)
    rows = torch.randn(groups, n, d)
    found = _moment(rows)
    values = found.eigenvalues()
    torch.testing.assert_close(values, _written_out(rows), atol=1e-12, rtol=1e-9)
    assert math.isclose(found.trace, float(values.sum()), rel_tol=1e-9)
    assert int((values > 0).sum()) == groups * min(n, d)  # not one that rounding made


def test_rows_kept_and_rows_added_up_agree() -> None:
    torch.manual_seed(0)
    rows = torch.randn(1, 30, 31)
    kept, added = _moment(rows), _moment(torch.cat([rows, torch.zeros(1, 30, 31)], 1))
    torch.testing.assert_close(kept.eigenvalues(), 2 * added.eigenvalues(), rtol=1e-9, atol=1e-12)


def test_indices_are_rows_of_the_unit_matrix() -> None:
    indices = torch.tensor([0, 2, 2, 1, 2])
    found = SecondMoment()
    found.add_indices(indices[:3], 5)
    found.add_indices(indices[3:], 5)
    written = _moment(torch.eye(5)[indices][None])
    torch.testing.assert_close(found.eigenvalues(), written.eigenvalues())
    assert found.trace == 1


def test_more_rows_for_one_example_add_up() -> None:
    """As the labels of an exact Fisher matrix do: a sum over labels, a mean over examples."""
    torch.manual_seed(0)
    labels = torch.randn(3, 1, 10, 4)
    found = SecondMoment()
    for k, rows in enumerate(labels):
        found.add(rows, None if k == 0 else 0)
    expected = sum(torch.einsum("ni,nj->ij", g[0].double(), g[0].double()) for g in labels) / 10
    torch.testing.assert_close(found.eigenvalues()[0], torch.linalg.eigvalsh(expected).flip(0))


def test_what_the_type_of_rows_rounds_is_zero() -> None:
    torch.manual_seed(0)
    exact = torch.randn(200, 3, dtype=torch.float64) @ torch.randn(3, 12, dtype=torch.float64)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        assert condition(_moment(exact.to(dtype)[None]).eigenvalues()).rank == 3, dtype


def test_too_many_features_are_refused_only_where_examples_are_too_many_too() -> None:
    torch.manual_seed(0)
    rows = torch.randn(1, 9, 20)
    torch.testing.assert_close(_moment(rows, most=9).eigenvalues(), _written_out(rows))
    with pytest.raises(LayerscopeError, match="20 features and 9 rows"):
        _moment(rows, chunk=4, most=8).eigenvalues()
    with pytest.raises(LayerscopeError, match="20 features, more than 8"):
        _moment(rows, most=8).matrix()
    assert math.isclose(_moment(rows, most=8).trace, float(_written_out(rows).sum()), rel_tol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("n", "d"), [(40, 6), (6, 40), (40, 40), (7, 1)])
@pytest.mark.parametrize("groups", [1, 3])
def test_the_largest_eigenvalue_is_known_without_a_matrix(
    n: int, d: int, groups: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    rows = (torch.randn(groups, n, d) @ torch.randn(d, d)).to(dtype)
    expected = _written_out(rows)[:, 0]
    for most in (4096, 5, 1):
        torch.testing.assert_close(_moment(rows, most=most).largest(), expected)
    assert _moment(rows, most=5).refused == (
        f"has {d} features and {n} rows, both above 5" if min(n, d) > 5 else ""
    )


def test_rows_beyond_a_bound_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    rows = torch.randn(2, 30, 20)
    monkeypatch.setattr(conditioning, "KEPT", 2 * 28 * 20)
    few, many = _moment(rows[:, :28], most=8), _moment(rows, most=8)
    assert (few.complete, many.complete) == (True, False)
    torch.testing.assert_close(few.largest(), _written_out(rows[:, :28])[:, 0])
    assert (few._held, many._held) == (28, 0)
    with pytest.raises(LayerscopeError, match=r"30 rows, more than 1,120 numbers"):
        many.largest()
    assert math.isclose(many.trace, float(_written_out(rows).sum()), rel_tol=1e-6)


def test_traces_need_no_rows() -> None:
    assert _moment(torch.randn(1, 9, 20), most=0)._held == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_rows_may_change_after_they_were_added(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    rows = torch.randn(1, 4, 9, dtype=dtype)
    expected, found = _written_out(rows), _moment(rows)
    rows.zero_()
    torch.testing.assert_close(found.eigenvalues(), expected, atol=1e-12, rtol=1e-9)


def test_values_that_are_not_finite_and_no_examples_are_errors() -> None:
    with pytest.raises(DivergedError, match="not finite"):
        _moment(torch.full((1, 3, 2), math.nan)).eigenvalues()
    with pytest.raises(DivergedError, match="not finite"):
        _moment(torch.full((1, 3, 2), math.inf), most=1).largest()
    for asked in (SecondMoment.eigenvalues, SecondMoment.largest):
        with pytest.raises(LayerscopeError, match="no examples"):
            asked(_moment(torch.zeros(1, 0, 2)))


def test_condition_numbers_of_a_known_spectrum() -> None:
    found = condition(torch.tensor([[8.0, 4, 2, 1, 0]], dtype=torch.float64), (0.2, 0.4, 0.5, 1.0))
    assert found == (8, 15, 4, 8, (1, 2, 4, math.inf))
    assert condition(torch.zeros(1, 3, dtype=torch.float64)).nonzero == math.inf


def test_the_share_is_not_misread_by_rounding() -> None:
    """0.8 of 5 is 4, although 0.8 * 5 and 0.07 * 100 are not exact."""
    values = torch.arange(100, 0, -1, dtype=torch.float64)[None]
    assert condition(values, (0.07,)).shares == (100 / 94,)
    assert condition(values[:, :5], (0.8,)).shares == (100 / 97,)


def test_proposition_1_holds_and_kappa_50_is_no_product() -> None:
    """The counterexample: spectra (2, 1) and (2, 1) have the products 4, 2, 2, 1."""
    a = torch.tensor([[2.0, 1.0]], dtype=torch.float64)
    product = kronecker_condition(a, a)
    assert product.largest == 4
    assert product.shares[2] == product.nonzero == 4
    assert product.shares[0] == 2
    assert condition(a).shares[0] ** 2 == 1
    torch.manual_seed(0)
    x, g = torch.randn(1, 30, 4), torch.randn(1, 30, 3)
    dense = torch.kron((x[0].T @ x[0]).double() / 30, (g[0].T @ g[0]).double() / 30)
    values = torch.linalg.eigvalsh(dense).flip(0)[None]
    found = kronecker_condition(_moment(x).eigenvalues(), _moment(g).eigenvalues())
    expected = condition(values)
    assert found.rank == expected.rank == 12
    for one, other in zip(found[:2], expected[:2], strict=True):
        assert math.isclose(one, other, rel_tol=1e-5)
    torch.testing.assert_close(
        torch.tensor(found.shares), torch.tensor(expected.shares), rtol=1e-5, atol=0
    )


def test_groups_are_blocks() -> None:
    torch.manual_seed(0)
    x, g = torch.randn(3, 20, 4), torch.randn(3, 20, 2)
    left, right = _moment(x).eigenvalues(), _moment(g).eigenvalues()
    products = torch.cat([torch.outer(a, b).flatten() for a, b in zip(left, right, strict=True)])
    found = kronecker_condition(left, right, SHARES)
    expected = condition(products[None], SHARES)
    assert found.rank == expected.rank
    assert math.isclose(found.trace, expected.trace)
    assert found.shares == pytest.approx(expected.shares)
    assert found.nonzero == pytest.approx(expected.nonzero)


numbers = st.one_of(st.just(0.0), st.floats(1e-120, 1e100))


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))
def test_bisection_finds_what_sorting_does(data: st.DataObject, g: int, m: int, n: int) -> None:
    left, right = (
        torch.tensor(
            [data.draw(st.lists(numbers, min_size=size, max_size=size)) for _ in range(g)],
            dtype=torch.float64,
        )
        .sort(1, descending=True)
        .values
        for size in (m, n)
    )
    k = data.draw(st.integers(1, g * m * n))
    written_out = kth_product(left, right, k)
    searched = conditioning._searched(left, right, k)
    assert math.isclose(searched, written_out, rel_tol=1e-14)


def test_products_that_are_zero_are_not_found_beside_ones_that_are_nearly() -> None:
    left = torch.tensor([[0.0, 0.0], [2.11e-111, 0.0], [4.27e92, 0.0]], dtype=torch.float64)
    right = torch.tensor([[0.0], [1e-120], [0.0]], dtype=torch.float64)
    assert kth_product(left, right, 2) == conditioning._searched(left, right, 2) == 0


def test_many_products_are_searched() -> None:
    torch.manual_seed(0)
    left, right = (
        torch.rand(1, n, dtype=torch.float64).sort(1, descending=True).values for n in (700, 900)
    )
    products = torch.outer(left[0], right[0]).flatten().sort(descending=True).values
    for share, found in zip(SHARES, kronecker_condition(left, right).shares, strict=True):
        expected = float(products[0] / products[math.ceil(share * len(products)) - 1])
        assert math.isclose(found, expected, rel_tol=1e-14)


@pytest.mark.parametrize("rows", [300, 900])
@pytest.mark.parametrize("groups", [1, 2])
def test_symmetric_products_by_blocks_are_those_written_out(rows: int, groups: int) -> None:
    """300 features are beyond the side up to which a product is computed whole."""
    torch.manual_seed(0)
    x = torch.randn(groups, rows, 301, dtype=torch.float64)
    found = _moment(x, chunk=rows)
    expected = torch.stack([one.T @ one for one in x]) / rows
    torch.testing.assert_close(found.matrix(), expected)
    torch.testing.assert_close(
        found.eigenvalues(), torch.linalg.eigvalsh(expected).flip(-1), rtol=1e-9, atol=1e-11
    )


def test_rows_that_are_kept_do_not_follow_what_is_done_to_them_later() -> None:
    for dtype in (torch.float32, torch.float64):
        x = torch.randn(1, 2, 5, dtype=dtype)
        found = SecondMoment()
        found.add(x)
        before = found.eigenvalues()
        x.zero_()
        assert torch.equal(found.eigenvalues(), before)
        assert before.any()
