import numpy as np
import pytest
import xarray as xr

from layerscope.studies.statistics import contrast, largest_elsewhere, shared


def test_the_largest_of_equal_layers_is_no_larger():
    """The layer is chosen by the other seeds, so that noise alone gives it nothing."""
    values = np.random.default_rng(0).normal(size=(400, 5, 12))
    found = [largest_elsewhere(xr.DataArray(v, dims=("seed", "layer"))).mean() for v in values]
    assert abs(float(np.mean(found))) < 0.05
    assert float(np.mean(values.max(2))) > 1


def test_shared_differences_of_layers():
    """All alike: 1; other seeds tell nothing: 0; they mislead: negative."""
    layers = np.array([0.0, 1.0, 2.0])

    def found(*rows):
        return shared(xr.DataArray(np.array(rows), dims=("seed", "layer"))).values

    assert found(layers, layers, layers) == pytest.approx([1, 1, 1])
    assert found(layers, [1.0] * 3)[0] == pytest.approx(0)
    assert found(layers, layers[::-1])[0] == pytest.approx(-3)
    assert found(np.array([0.0, np.nan, 2.0]), layers) == pytest.approx([1, 1])


def test_a_block_that_moves_away_counts():
    """Its ratio of rates has no logarithm; the relative bias has."""
    first, away, half = (xr.DataArray([value], dims="seed") for value in (0.1, -0.02, 0.05))
    assert contrast(first, away).item() == pytest.approx(1.0)
    assert contrast(first, half).item() == pytest.approx(1 / 3)
