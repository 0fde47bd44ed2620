"""Krylov methods against matrices written out."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from scipy.sparse.linalg import ArpackError
from tests.reference import krylov as reference

from layerscope.errors import DivergedError, LayerscopeError
from layerscope.functional import krylov
from layerscope.functional.krylov import (
    SpectralDensity,
    lanczos,
    largest,
    random_direction,
    smoothed,
    spectral_density,
)

EIGENVALUES = st.lists(st.sampled_from([-3.0, -1.0, 0.0, 0.5, 2.0, 7.0]), min_size=1, max_size=9)
"""With repetitions and zeros, so that matrices lack rank and Krylov spaces end early."""
SEEDS = st.integers(0, 10**6)


def matrix_of(eigenvalues, seed):
    """A symmetric matrix with these eigenvalues, in a random basis."""
    generator = torch.Generator().manual_seed(seed)
    n = len(eigenvalues)
    basis, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    return basis @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ basis.T


def normal(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(n, n, generator=generator, dtype=torch.float64)
    return a + a.T


def by(matrix):
    return lambda vector: matrix @ vector


def dense(found):
    return torch.diag(found.alpha) + torch.diag(found.beta, 1) + torch.diag(found.beta, -1)


@settings(max_examples=60)
@given(seed=SEEDS, n=st.integers(1, 8), steps=st.integers(1, 5))
def test_lanczos_has_the_moments_of_the_matrix(seed, n, steps):
    matrix, start = normal(n, seed), 3 * random_direction(n, seed)
    found = lanczos(by(matrix), start, steps)
    assert len(found.alpha) == len(found.beta) + 1 == min(steps, n)
    unit = start / start.norm()
    first = torch.eye(len(found.alpha), dtype=torch.float64)[0]
    for power in range(2 * len(found.alpha)):
        expected = reference.quadratic_form(matrix.numpy(), unit.numpy(), power)
        value = reference.quadratic_form(dense(found).numpy(), first.numpy(), power)
        assert value == pytest.approx(expected, rel=1e-8, abs=1e-8)


@settings(max_examples=60)
@given(eigenvalues=EIGENVALUES, seed=SEEDS, more=st.integers(0, 3))
def test_enough_steps_are_exact(eigenvalues, seed, more):
    matrix, n = matrix_of(eigenvalues, seed), len(eigenvalues)
    found = spectral_density(by(matrix), n, vectors=1, steps=n + more, seed=seed)
    nodes, shares = reference.spread(matrix.numpy(), random_direction(n, seed).numpy())
    for power in range(4):  # what rounding adds has no weight
        assert float(found.weights @ found.eigenvalues**power) == pytest.approx(
            float(shares @ nodes**power), rel=1e-9, abs=1e-9
        )
    for node, share in zip(nodes, shares, strict=True):
        near = (found.eigenvalues - node).abs() < 1e-6
        assert float(found.weights[near].sum()) == pytest.approx(share, abs=1e-9)


@settings(max_examples=60)
@given(eigenvalues=EIGENVALUES, seed=SEEDS)
def test_the_largest_eigenvalue_is_that_of_the_matrix(eigenvalues, seed):
    matrix = matrix_of(eigenvalues, seed)
    found = largest(by(matrix), random_direction(len(eigenvalues), seed), 1e-8)
    assert found == pytest.approx(float(torch.linalg.eigvalsh(matrix)[-1]), rel=1e-7, abs=1e-7)


@settings(max_examples=30)
@given(seed=SEEDS, n=st.integers(1, 9), vectors=st.integers(1, 4), steps=st.integers(1, 12))
def test_weights_are_shares_and_nodes_are_inside_the_spectrum(seed, n, vectors, steps):
    matrix = normal(n, seed)
    found = spectral_density(by(matrix), n, vectors, steps, seed=seed)
    values = torch.linalg.eigvalsh(matrix)
    assert float(found.weights.sum()) == pytest.approx(1)
    assert (found.weights >= 0).all()
    assert (found.eigenvalues.diff() >= 0).all()
    assert found.eigenvalues[0] >= values[0] - 1e-9
    assert found.eigenvalues[-1] <= values[-1] + 1e-9


def test_the_mean_over_directions_is_the_spectrum():
    matrix = matrix_of([0.0] * 30 + [1.0] * 15 + [4.0] * 15, 1)
    found = spectral_density(by(matrix), 60, vectors=300, steps=3)
    shares = [float(found.weights[(found.eigenvalues - x).abs() < 1e-6].sum()) for x in (0, 1, 4)]
    assert shares == pytest.approx([0.5, 0.25, 0.25], abs=0.02)


def test_a_large_spectrum_from_few_steps():
    values = torch.linspace(0, 1, 2_000, dtype=torch.float64) ** 2
    found = spectral_density(lambda v: values * v, len(values), vectors=20, steps=20)
    for power in range(6):
        mean = float((values**power).mean())
        assert float(found.weights @ found.eigenvalues**power) == pytest.approx(mean, rel=0.03)


@pytest.mark.parametrize("n", [1, 2, 30])
def test_a_zero_operator_has_one_eigenvalue(n):
    found = lanczos(torch.zeros_like, random_direction(n), 10)
    assert found.alpha.tolist() == [0]
    assert len(found.beta) == 0
    density = spectral_density(torch.zeros_like, n, vectors=3)
    assert density.eigenvalues.tolist() == [0, 0, 0]
    assert largest(torch.zeros_like, random_direction(n)) == 0


def test_an_operator_of_one_row():
    assert largest(lambda v: -2 * v, random_direction(1)) == -2
    found = spectral_density(lambda v: -2 * v, 1, vectors=1)
    assert found.eigenvalues.tolist() == [-2]
    assert found.weights.tolist() == [1]


def test_single_precision_will_do():
    matrix = matrix_of([1.0, 2.0, 5.0, 5.0, 0.0, 0.0], 3)
    single = matrix.float()
    found = spectral_density(lambda v: single @ v.float(), 6, vectors=2, steps=9)
    assert found.eigenvalues.dtype == torch.float64
    expected = spectral_density(by(matrix), 6, vectors=2, steps=9)
    for power in (1, 2, 3):
        assert float(found.weights @ found.eigenvalues**power) == pytest.approx(
            float(expected.weights @ expected.eigenvalues**power), rel=1e-5
        )


def test_directions_are_of_length_one_and_repeat():
    first = random_direction(5, 1)
    assert float(first.norm()) == pytest.approx(1)
    assert torch.equal(first, random_direction(5, 1))
    assert not torch.equal(first, random_direction(5, 2))
    generator = torch.Generator().manual_seed(1)
    assert torch.equal(first, random_direction(5, generator))
    assert not torch.equal(first, random_direction(5, generator))


def test_a_smoothed_density_is_the_plain_sum_and_has_mass_one():
    density = spectral_density(by(normal(6)), 6, vectors=3, steps=4)
    grid = torch.linspace(-20, 20, 801, dtype=torch.float64)
    found = smoothed(density, grid, 0.3)
    expected = reference.smoothed(*(x.tolist() for x in density), grid.tolist(), 0.3)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-300)
    assert float(torch.trapezoid(found, grid)) == pytest.approx(1)


def test_what_cannot_be_is_refused():
    start = random_direction(3)
    with pytest.raises(LayerscopeError, match="steps is 0"):
        lanczos(by(torch.eye(3, dtype=torch.float64)), start, 0)
    with pytest.raises(LayerscopeError, match="length is 0"):
        lanczos(by(torch.eye(3, dtype=torch.float64)), torch.zeros_like(start), 2)
    with pytest.raises(LayerscopeError, match="size is 0"):
        random_direction(0)
    with pytest.raises(LayerscopeError, match="vectors is 0"):
        spectral_density(torch.zeros_like, 3, vectors=0)
    density = SpectralDensity(start, start.square())
    with pytest.raises(LayerscopeError, match="width is 0"):
        smoothed(density, start, 0.0)
    with pytest.raises(DivergedError, match="the operator is not finite"):
        lanczos(lambda v: v / 0, start, 2)
    with pytest.raises(DivergedError, match="the block is not finite"):
        largest(lambda v: v / 0, start, what="the block")


def test_an_iteration_that_does_not_converge_is_named(monkeypatch):
    def fail(*_, **__):
        raise ArpackError(-9999)

    monkeypatch.setattr(krylov, "eigsh", fail)
    with pytest.raises(LayerscopeError, match=r"eigenvalue of the block was not found(.|\n)*out"):
        largest(lambda v: 2 * v, random_direction(3), what="the block")
