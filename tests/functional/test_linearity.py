from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from sklearn.covariance import ledoit_wolf
from tests.memory import peak_bytes
from tests.reference import linearity as reference

from layerscope.errors import LayerscopeError
from layerscope.functional.least_squares import (
    RIDGES,
    HeldOutFit,
    held_out_r2,
    least_squares_map,
)
from layerscope.functional.linearity import (
    NORMAL_RECTIFIER,
    affine_fit,
    affine_share,
    affinity_score,
    node_shares,
    preactivation,
)

SEEDS = st.integers(0, 10_000)
CASES = settings(max_examples=30)
PLACES = st.sampled_from([(), (3,), (2, 2)])


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def coarse(*shape, seed=0):
    """Few different values, so that nodes are constant, and values 0, every now and then."""
    return normal(*shape, seed=seed).round()


def quantiles(n=20_000):
    """Evenly likely values of a standard normal variable."""
    return torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n)[:, None]


def positive_definite(d, seed=0):
    root = normal(d, d, seed=seed)
    return root @ root.T / d + 0.1 * torch.eye(d, dtype=torch.float64)


def orthogonal(d, seed=0):
    return torch.linalg.qr(normal(d, d, seed=seed)).Q


# nodes of an activation


def laid_out(values, order):
    """The same values, in memory in another order of dimensions."""
    order = [dim for dim in order if dim < values.ndim]
    back = [order.index(dim) for dim in range(values.ndim)]
    return values.permute(order).contiguous().permute(back)


@given(seed=SEEDS, places=PLACES, order=st.permutations(range(4)))
@CASES
def test_shares_of_nodes_and_preactivations_equal_the_plain_loop(seed, places, order):
    before = laid_out(coarse(3, 5, *places, seed=seed), order)
    np.testing.assert_allclose(node_shares(before), reference.node_shares(before.numpy()))
    expected = reference.preactivation(before.numpy())
    np.testing.assert_allclose(preactivation(before), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_preactivations_of_any_type_are_summed_precisely(dtype, offset):
    before = (offset + normal(64, 8, 16)).to(dtype)
    exact = before.double()
    found = preactivation(before)
    assert found.mean == pytest.approx(float(exact.mean()), rel=1e-12)
    assert found.deviation == pytest.approx(float(exact.std(correction=0)), rel=1e-6)
    assert node_shares(before) == node_shares(exact)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("measured", [preactivation, node_shares])
def test_one_value_that_is_not_finite_is_noticed(measured, bad):
    before = torch.ones(4, 3, 5)
    before[1, 2, 3] = bad
    with pytest.raises(LayerscopeError, match="before holds values that are not finite"):
        measured(before)


def test_a_map_between_wide_layers_is_tested_without_its_matrix():
    x, y = normal(20, 3000), normal(20, 2000, seed=1)
    assert peak_bytes(lambda: held_out_r2(x[:10], y[:10], x[10:], y[10:])) < 3000 * 2000 * 8 / 4


def test_a_node_at_zero_is_off():
    before = torch.tensor([[1.0, 0.0, -1.0, 1.0], [2.0, 0.0, -2.0, 0.0]])
    assert node_shares(before) == (0.25, 0.5, 0.25)


def test_the_mean_preactivation_after_batch_normalisation_is_the_mean_shift():
    shift = normal(4, seed=1)
    before = torch.nn.functional.batch_norm(
        3 + 2 * normal(6, 4, 5, 5), None, None, normal(4, seed=2), shift, training=True
    )
    assert preactivation(before).mean == pytest.approx(float(shift.mean()), abs=1e-14)


@given(seed=SEEDS, places=PLACES)
@CASES
def test_straight_lines_equal_least_squares_node_by_node(seed, places):
    before = coarse(4, 6, *places, seed=seed)
    after = (before + coarse(4, 6, *places, seed=seed + 1)).relu()
    slope, intercept, share = reference.straight_lines(before.numpy(), after.numpy())
    found = affine_fit(before, after)
    np.testing.assert_allclose(found[0], slope, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found[1], intercept, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(affine_share(before, after), share, rtol=1e-9, atol=1e-12)


def test_a_rectifier_that_never_switches_is_linear():
    before = torch.stack([normal(50).abs(), -normal(50).abs()], 1)
    after = before.relu()
    torch.testing.assert_close(affine_share(before, after), torch.ones(2, dtype=torch.float64))
    slope, intercept = affine_fit(before, after)
    np.testing.assert_allclose(slope, [1, 0], atol=1e-14)
    np.testing.assert_allclose(intercept, [0, 0], atol=1e-14)


@pytest.mark.parametrize("constant", [0.1, 1e6 + 0.1, -1 / 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_nodes_are_told_from_rounding(constant, dtype):
    varying, same = normal(997, 1).to(dtype), torch.full((997, 1), constant, dtype=dtype)
    assert affine_share(varying, same).tolist() == [1]
    assert affine_share(same, same).tolist() == [1]
    assert affine_share(same, varying).tolist() == [0]
    slope, intercept = affine_fit(same, varying)
    assert slope.tolist() == [0]
    assert float(intercept) == pytest.approx(float(varying.double().mean()), rel=1e-12)


def test_share_of_a_rectifier_of_normal_values():
    x = quantiles()
    expected = 0.25 / (0.5 - 1 / (2 * math.pi))  # cov^2 / (var x var relu)
    assert float(affine_share(x, x.relu())) == pytest.approx(expected, abs=1e-4)
    assert pytest.approx(expected) == NORMAL_RECTIFIER


@given(seed=SEEDS, factor=st.floats(0.01, 100), shift=st.floats(-10, 10))
@CASES
def test_the_share_does_not_depend_on_units(seed, factor, shift):
    before = normal(20, 3, seed=seed)
    share = affine_share(before, before.relu())
    moved = affine_share(shift - factor * before, factor * before.relu() + shift)
    torch.testing.assert_close(moved, share, rtol=1e-9, atol=1e-12)


def test_places_count_like_samples():
    before = normal(4, 3, 5)
    rows = before.movedim(1, 2).reshape(20, 3)
    torch.testing.assert_close(
        affine_share(before, before.relu()), affine_share(rows, rows.relu()), rtol=1e-12, atol=0
    )


def test_single_precision_and_gradients_are_taken_off():
    before = normal(30, 3).float().requires_grad_()
    share = affine_share(before, before.relu())
    assert share.dtype == torch.float64
    assert not share.requires_grad
    exact = before.detach().double()
    torch.testing.assert_close(share, affine_share(exact, exact.relu()), rtol=0, atol=0)


# affine maps


@given(
    seed=SEEDS,
    shape=st.sampled_from([(12, 3, 2), (9, 8, 1), (8, 8, 3), (6, 10, 4), (4, 1, 1)]),
    noise=st.sampled_from([0.01, 1.0, 30.0]),
)
@CASES
def test_the_map_equals_least_squares_on_augmented_rows(seed, shape, noise):
    n, d, outputs = shape
    x = 5 + normal(n, d, seed=seed) * torch.logspace(0, -2, d)
    y = x @ normal(d, outputs, seed=seed + 1) + noise * normal(n, outputs, seed=seed + 2)
    found = least_squares_map(x, y)
    rows = x.numpy(), y.numpy()
    scores = [reference.generalised_cross_validation(*rows, ridge) for ridge in RIDGES]
    assert scores[RIDGES.index(found.ridge)] == pytest.approx(min(scores), rel=1e-3)
    weight, intercept, _ = reference.ridge_map(*rows, found.ridge)
    np.testing.assert_allclose(found.weight, weight, rtol=1e-5, atol=1e-6 * noise)
    np.testing.assert_allclose(found.intercept, intercept, rtol=1e-5, atol=1e-5 * noise)
    assert found.rank == min(n - 1, d)
    x_test, y_test = normal(7, d, seed=seed + 3), normal(7, outputs, seed=seed + 4)
    expected = reference.r2(weight, intercept, y.numpy(), x_test.numpy(), y_test.numpy())
    assert held_out_r2(x, y, x_test, y_test).r2 == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_without_a_ridge_it_is_plain_least_squares():
    x, y = normal(20, 4), normal(20, 3, seed=1)
    rows = np.hstack([x, np.ones((20, 1))])
    expected, *_ = np.linalg.lstsq(rows, y.numpy(), rcond=None)
    found = least_squares_map(x, y, ridges=[0.0])
    np.testing.assert_allclose(found.weight, expected[:4], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.intercept, expected[4], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("n", "d"), [(50, 40), (80, 40), (500, 40), (500, 1)])
def test_an_affine_layer_is_predicted(n, d):
    x, weight = 3 + normal(n + 20, d), normal(d, 6, seed=1)
    y = x @ weight - 7
    found = held_out_r2(x[:n], y[:n], x[n:], y[n:])
    assert found.r2 == pytest.approx(1, abs=1e-10)
    assert found.enough == (n >= 2 * (d + 1))
    assert (found.n, found.inputs, found.rank) == (n, d, d)


def test_an_affine_layer_is_predicted_where_inputs_repeat_each_other():
    x = normal(120, 5) @ normal(5, 30, seed=1)
    y = x @ normal(30, 4, seed=2) + 1
    found = held_out_r2(x[:100], y[:100], x[100:], y[100:])
    assert found.r2 == pytest.approx(1, abs=1e-10)
    assert (found.rank, found.inputs, found.enough) == (5, 30, True)


@pytest.mark.parametrize("outputs", [1, 10])
@pytest.mark.parametrize(("n", "d"), [(60, 30), (60, 55), (60, 60), (60, 200)])
def test_noise_is_not_predicted_however_few_examples_there_are(n, d, outputs):
    scores = [
        held_out_r2(
            normal(n, d, seed=seed),
            normal(n, outputs, seed=seed + 100),
            normal(200, d, seed=seed + 200),
            normal(200, outputs, seed=seed + 300),
        ).r2
        for seed in range(10)
    ]
    assert max(scores) < 0.1
    assert np.median(scores) > -0.1


def test_the_explained_share_of_a_noisy_layer():
    x = normal(4000, 10)
    y = x @ normal(10, 20, seed=1) / 10**0.5
    noisy = y + y.std() * normal(4000, 20, seed=2)
    found = held_out_r2(x[:2000], noisy[:2000], x[2000:], noisy[2000:])
    assert found.r2 == pytest.approx(0.5, abs=0.02)


def test_outputs_weigh_by_their_variance():
    x = normal(2000, 2)
    y = torch.stack([3 * x[:, 0], normal(2000, seed=1)], 1)  # variances 9 and 1
    assert held_out_r2(x[:1000], y[:1000], x[1000:], y[1000:]).r2 == pytest.approx(0.9, abs=0.02)


def test_zero_is_what_the_mean_of_the_fitted_outputs_gets():
    x, y = torch.ones(10, 3), normal(10, 2)
    found = held_out_r2(x, y, torch.zeros(5, 3), 10 + normal(5, 2, seed=1))
    assert found.r2 == 0
    assert found.rank == 0


def test_constant_outputs_are_predicted():
    same = torch.full((20, 2), 0.1)
    assert held_out_r2(normal(20, 3).float(), same, normal(5, 3).float(), same[:5]).r2 == 1
    assert held_out_r2(normal(20, 3).float(), same, normal(5, 3).float(), 1 + same[:5]).r2 == 0


@given(seed=SEEDS, factor=st.sampled_from([1e-3, 7.0, 1e4]), shift=st.floats(-10, 10))
@CASES
def test_units_of_inputs_and_outputs_do_not_matter(seed, factor, shift):
    x = normal(30, 10, seed=seed)
    y = x.relu() @ normal(10, 3, seed=seed + 1)
    found = held_out_r2(x[:20], y[:20], x[20:], y[20:])
    x, y = factor * x + shift, factor * y - shift
    moved = held_out_r2(x[:20], y[:20], x[20:], y[20:])
    assert moved.ridge == found.ridge
    assert moved.r2 == pytest.approx(found.r2, rel=1e-6, abs=1e-8)


def test_two_examples_for_every_coefficient_are_enough():
    assert HeldOutFit(0.5, 0.0, n=22, inputs=10, rank=10).enough
    assert not HeldOutFit(0.5, 0.0, n=21, inputs=10, rank=10).enough
    assert not HeldOutFit(0.5, 0.0, n=2, inputs=10, rank=1).enough


# affinity score


@given(
    seed=SEEDS,
    shape=st.sampled_from([(5, 1), (6, 2), (6, 5), (6, 6), (5, 8), (3, 12)]),
    shrink=st.booleans(),
)
@CASES
def test_affinity_equals_the_formula_over_all_pairings(seed, shape, shrink):
    x, y = 2 + normal(*shape, seed=seed), normal(*shape, seed=seed + 1).relu() - 1
    estimate = reference.ledoit_wolf if shrink else reference.covariance
    expected = reference.affinity_score(x.numpy(), y.numpy(), estimate)
    assert affinity_score(x, y, shrink) == pytest.approx(expected, abs=1e-6)


def test_the_twin_shrinks_as_scikit_learn_does():
    x = normal(9, 4).numpy()
    np.testing.assert_allclose(reference.ledoit_wolf(x), ledoit_wolf(x)[0], rtol=1e-10)


@given(seed=SEEDS, shape=st.sampled_from([(40, 1), (40, 5), (12, 20), (6, 30)]))
@CASES
def test_maps_with_a_positive_definite_matrix_are_affine(seed, shape):
    x = normal(*shape, seed=seed).exp()
    y = x @ positive_definite(shape[1], seed=seed + 1) - 3
    assert affinity_score(x, y) == pytest.approx(1, abs=1e-6)


def test_a_projection_is_affine_also_of_inputs_in_a_subspace():
    x = normal(40, 3) @ normal(3, 6, seed=1)
    basis = orthogonal(6, seed=2)[:, :2]
    assert affinity_score(x, x @ basis @ basis.T) == pytest.approx(1, abs=1e-6)
    assert affinity_score(x, x) == pytest.approx(1, abs=1e-6)


def test_other_linear_maps_are_affine_only_where_they_keep_the_whitened_samples():
    side = torch.linspace(-1, 1, 15, dtype=torch.float64)
    square = torch.cartesian_prod(side, side)

    def turned(degrees):
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        return square @ torch.tensor([[c, s], [-s, c]], dtype=torch.float64)

    assert affinity_score(square, turned(90)) == pytest.approx(1, abs=1e-6)
    assert affinity_score(square, turned(45)) < 0.9
    assert affinity_score(quantiles(), -quantiles()) == pytest.approx(1, abs=1e-6)
    assert affinity_score(quantiles().exp(), -quantiles().exp()) < 0.6


def test_any_linear_map_of_many_normal_samples_in_few_dimensions_is_almost_affine():
    near, far = (
        affinity_score(normal(n, 2), normal(n, 2) @ normal(2, 2, seed=1)) for n in (1000, 50)
    )
    assert 0.9 < near < 1
    assert far < near


def test_in_many_dimensions_a_linear_map_looks_like_noise():
    x = normal(100, 80)
    mapped, noise = x @ normal(80, 80, seed=1), normal(100, 80, seed=2)
    assert affinity_score(x, mapped) == pytest.approx(affinity_score(x, noise), abs=0.05)
    assert affinity_score(x, mapped) < 0.3


@pytest.mark.parametrize(
    ("x", "correlation"),
    [
        # cov(x, relu) = var(x) / 2 by symmetry; var(relu) = var(x) / 2 - mean(relu)^2
        (quantiles(), 0.5 / math.sqrt(0.5 - 1 / (2 * math.pi))),
        (torch.linspace(-1, 1, 20_001, dtype=torch.float64)[:, None], 2 / math.sqrt(5)),
    ],
    ids=["normal", "uniform"],
)
def test_known_scores_of_a_rectifier_of_one_node(x, correlation):
    expected = 1 - math.sqrt(1 - correlation)
    assert affinity_score(x, x.relu()) == pytest.approx(expected, abs=2e-4)


@given(seed=SEEDS, function=st.sampled_from([torch.relu, torch.tanh, torch.exp, torch.sigmoid]))
@CASES
def test_for_one_node_the_score_follows_from_the_correlation(seed, function):
    x = 2 * normal(30, 1, seed=seed)
    y = function(x)
    correlation = math.sqrt(float(affine_share(x, y)))
    assert affinity_score(x, y) == pytest.approx(1 - math.sqrt(1 - correlation), abs=1e-6)


@given(seed=SEEDS, shape=st.sampled_from([(20, 1), (20, 4), (8, 12), (4, 20)]))
@CASES
def test_translations_factors_rotations_and_order_change_nothing(seed, shape):
    x, y = normal(*shape, seed=seed), normal(*shape, seed=seed + 1).relu()
    score = affinity_score(x, y)
    assert 0 <= score <= 1
    turn = orthogonal(shape[1], seed=seed)
    order = torch.randperm(shape[0], generator=torch.Generator().manual_seed(seed))
    for moved in (
        (x + 5, 3 * y - 2),
        (1e-3 * x, 1e3 * y),
        (x, y[order]),
        (x[order], y),
        (x @ turn, y @ turn),
    ):
        assert affinity_score(*moved) == pytest.approx(score, abs=1e-6)


@given(seed=SEEDS, ranks=st.tuples(st.integers(1, 5), st.integers(1, 5)))
@example(seed=10_000, ranks=(1, 1))  # lines at right angles: what is left is rounding
@CASES
def test_the_score_of_unrelated_degenerate_clouds_lies_between_its_bounds(seed, ranks):
    x, y = (
        coarse(10, rank, seed=seed + k) @ coarse(rank, 5, seed=seed + k + 2)
        for k, rank in enumerate(ranks)
    )
    assert 0 <= affinity_score(x, y) <= 1


@given(seed=SEEDS, ranks=st.tuples(st.integers(1, 3), st.integers(1, 3)))
@CASES
def test_nothing_is_transported_between_subspaces_at_right_angles(seed, ranks):
    axes = orthogonal(6, seed=seed).split([*ranks, 6 - sum(ranks)], dim=1)
    x, y = (normal(10, rank, seed=seed + rank) @ axes[k].T for k, rank in enumerate(ranks))
    assert affinity_score(x, y) == pytest.approx(1 - 1 / math.sqrt(2), abs=1e-6)


def test_constants():
    x, same = normal(30, 4, 3), torch.full((30, 4, 3), 0.1, dtype=torch.float64)
    assert affinity_score(x, same) == 1
    assert affinity_score(same, same) == 1
    assert affinity_score(same, x) == pytest.approx(1 - 1 / math.sqrt(2), abs=1e-12)


def test_places_are_averaged():
    x = normal(20, 3, 2, 2)
    pooled = affinity_score(x.mean((2, 3)), x.relu().mean((2, 3)))
    assert affinity_score(x, x.relu()) == pytest.approx(pooled, abs=1e-12)


def test_shrinkage_undoes_the_overfit_of_few_samples():
    x = normal(100, 300)
    exact = 1 - math.sqrt(1 - 0.5 / math.sqrt(0.5 - 1 / (2 * math.pi)))
    assert affinity_score(x, x.relu()) > exact + 0.1
    assert affinity_score(x, x.relu(), shrink=True) == pytest.approx(exact, abs=0.02)


# what is refused

BAD, EMPTY, TWO = torch.tensor([[1.0], [torch.inf]]), torch.empty(0, 1), torch.ones(2, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: node_shares(BAD), "before holds values that are not finite"),
        (lambda: preactivation(EMPTY), r"before has shape \(0, 1\)"),
        (lambda: affine_fit(TWO, BAD), "after holds"),
        (lambda: affine_share(BAD, TWO), "before holds"),
        (lambda: affine_share(TWO, TWO[:1]), r"shape \(2, 1\), outputs \(1, 1\)"),
        (lambda: least_squares_map(TWO[:1], TWO[:1]), r"(?s)x has shape \(1, 1\).*at least 2"),
        (lambda: least_squares_map(TWO, BAD), "y holds"),
        (lambda: least_squares_map(TWO, TWO, []), r"ridges are \(\)"),
        (lambda: least_squares_map(TWO, TWO, [0.1, -0.1]), "each 0 or more"),
        (lambda: held_out_r2(TWO, TWO, EMPTY, EMPTY), "x_test has shape"),
        (lambda: held_out_r2(TWO, TWO, TWO, BAD), "y_test holds"),
        (lambda: affinity_score(TWO, torch.ones(2, 2)), r"outputs \(2, 2\)"),
        (lambda: affinity_score(TWO, BAD), "y holds"),
        (lambda: affinity_score(TWO[:1], TWO[:1]), "at least 2"),
    ],
)
def test_refused(call, message):
    with pytest.raises(LayerscopeError, match=message):
        call()
