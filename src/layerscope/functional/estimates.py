r"""Mean over seeds and its confidence interval, on plain arrays.

For $n$ finite values $v_1 \dots v_n$ with mean $\bar v$ and sample standard deviation $s$
(denominator $n - 1$), the interval of level $1 - \alpha$ for the mean is Student's

$$\bar v \pm t_{1 - \alpha/2,\; n - 1} \, \frac{s}{\sqrt{n}} .$$

It needs $n \geq 2$; with one seed there is a mean and no interval.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit


class Estimate(NamedTuple):
    """A mean with its interval; every array has the input's shape without the reduced axis."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: np.ndarray


def mean_interval(values: np.ndarray, axis: int, level: float = 0.95) -> Estimate:
    """Mean and Student-t interval along one axis; values that are not finite are left out.

    Args:
        values: Any shape, real.
        axis: The axis the seeds lie on.
        level: Confidence level, between 0 and 1.

    Returns:
        Mean, lower and upper end, and the number of finite values. The mean is NaN where ``n == 0``
        and the interval is NaN where ``n < 2``.
    """
    values = np.asarray(values, dtype=float)
    finite = np.isfinite(values)
    n = finite.sum(axis=axis)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(finite, values, 0.0).sum(axis=axis) / np.where(n > 0, n, np.nan)
        deviation = np.where(finite, values - np.expand_dims(mean, axis), 0.0)
        freedom = np.where(n > 1, n - 1, np.nan)
        variance = (deviation**2).sum(axis=axis) / freedom
        margin = stdtrit(freedom, 0.5 + level / 2) * np.sqrt(variance / n)
    return Estimate(mean, mean - margin, mean + margin, n)
