"""Statistics that claims of several figures rest on; each takes arrays or quantities."""

from __future__ import annotations

import numpy as np
import xarray as xr
from scipy.stats import rankdata

from layerscope.studies.quantity import statistic


@statistic
def log2(values: xr.DataArray) -> xr.DataArray:
    """Logarithm to base 2."""
    return values.copy(data=np.log2(values.values))


@statistic
def contrast(more: xr.DataArray, less: xr.DataArray) -> xr.DataArray:
    """``(more - less) / (|more| + |less|)``: between -1 and 1, whatever the signs.

    0 for equal values, 1/3 for twice the value; also where one is negative, which a ratio loses.
    """
    return (more - less) / (abs(more) + abs(less))


@statistic
def shared(values: xr.DataArray) -> xr.DataArray:
    r"""Share of a seed's differences between layers that the other seeds show too, (seed,).

    :math:`1 - \sum_l (v_{sl} - \bar v_{-s,l})^2 / \sum_l (v_{sl} - \bar v_s)^2`, with the mean
    :math:`\bar v_{-s,l}` over the other seeds: 1 where all seeds are alike, 0 where the others
    tell no more than the seed's own mean would, negative where they mislead. Layers without a
    finite value for every seed are left out.
    """
    values = values.where(np.isfinite(values)).dropna("layer")
    n = values.sizes["seed"]
    others = (values.sum("seed") - values) / (n - 1)
    own = values - values.mean("layer")
    return 1 - ((values - others) ** 2).sum("layer") / (own**2).sum("layer")


@statistic
def largest_elsewhere(values: xr.DataArray) -> xr.DataArray:
    """A seed's value of the layer whose mean over the other seeds is largest, (seed,).

    The largest value itself would be biased upwards by the noise of every layer.
    """
    n = values.sizes["seed"]
    others = (values.sum("seed") - values) / (n - 1) if n > 1 else values
    return values.isel(layer=others.argmax("layer"), drop=True)


@statistic
def rank_correlation(a: xr.DataArray, b: xr.DataArray, dim: str = "layer") -> xr.DataArray:
    """Spearman's rank correlation along a dimension, per seed; NaN where a side is constant."""
    ranks = [
        xr.apply_ufunc(
            rankdata,
            values,
            input_core_dims=[[dim]],
            output_core_dims=[[dim]],
            kwargs={"axis": -1},
        )
        for values in (a, b)
    ]
    return xr.corr(*ranks, dim=dim)


@statistic
def slope(values: xr.DataArray, dim: str) -> xr.DataArray:
    """Slope of the least-squares line along a dimension that has numbers as its labels."""
    return values.polyfit(dim, 1)["polyfit_coefficients"].sel(degree=1, drop=True)


@statistic
def trend(values: xr.DataArray, dim: str) -> xr.DataArray:
    """Rank correlation of values with their places along a dimension, per seed."""
    places = xr.DataArray(np.arange(values.sizes[dim]), dims=dim, coords={dim: values[dim]})
    _, places = xr.broadcast(values, places)
    return rank_correlation(values, places, dim)
