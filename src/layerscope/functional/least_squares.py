"""Affine maps of least squares, with a ridge that is chosen where there are few examples.

Everything is computed in float64 and without gradients, on the device of the values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from layerscope.errors import LayerscopeError

RIDGES = (0.0, *(10.0**k for k in range(-6, 4)))
"""Ridges that are tried, as shares of the mean variance of an input."""


class AffineMap(NamedTuple):
    """The map ``x @ weight + intercept``, fitted with a ridge to inputs of some rank."""

    weight: Float64[Tensor, "inputs outputs"]
    intercept: Float64[Tensor, " outputs"]
    ridge: float
    rank: int


class HeldOutFit(NamedTuple):
    """How well an affine map predicts, fitted to n examples of inputs that have some rank."""

    r2: float
    ridge: float
    n: int
    inputs: int
    rank: int

    @property
    def enough(self) -> bool:
        """Whether there were two examples or more for every coefficient of an output.

        With fewer, a low `r2` may come from too few examples: at two, plain least squares already
        leaves twice as much unexplained as the best affine map.
        """
        return self.n >= 2 * (self.rank + 1)


def least_squares_map(
    x: Float[Tensor, "n inputs"], y: Float[Tensor, "n outputs"], ridges: Sequence[float] = RIDGES
) -> AffineMap:
    r"""Affine map of least squares from inputs to outputs, in closed form.

    .. math:: \min_{W, b} \frac{1}{n} \|x W + b - y\|_F^2
              + \rho \frac{\mathrm{tr} \, \mathrm{Cov} \, x}{d} \|W\|_F^2

    The intercept b is not penalised. Of the given ridges :math:`\rho` that with the least
    generalised cross-validation score is taken, one for all outputs,

    .. math:: \frac{n \cdot \mathrm{RSS}(\rho)}{(n - \mathrm{df}(\rho))^2}, \quad
              \mathrm{df}(\rho) = 1 + \sum_k \frac{\sigma_k^2}{\sigma_k^2 + n \rho
              \mathrm{tr} \, \mathrm{Cov} \, x / d},

    all from one eigendecomposition of the smaller Gram matrix (:math:`\sigma_k` singular values of
    the centred inputs). A ridge that leaves no degree of freedom, as 0 does with :math:`n \le d +
    1`, is taken only where no other is given. Directions with :math:`\sigma_k^2` below :math:`10
    \max(n, d) \epsilon \sigma_1^2` do not count: without a ridge the map is the one of least norm.

    The score takes rows for independent; those that are places of one image are less than that.
    With one output and few more rows than inputs it sometimes takes too small a ridge.

    Args:
        x: Inputs, one example per row, at least 2.
        y: Outputs, likewise.
        ridges: Ridges to choose from, at least one, each at least 0.

    Raises:
        LayerscopeError: There are fewer than 2 examples, values that are not finite, no ridge, or
            one below 0.

    Source: Golub, Heath and Wahba, "Generalized cross-validation as a method for choosing a good
    ridge parameter" (Technometrics 1979).
    """
    return _ridge_fit(x, y, ridges).map()


class _RidgeFit(NamedTuple):
    """An affine map ``(x - x_mean) @ axes @ coefficients + y_mean``.

    With fewer examples than inputs it takes far less memory than the matrix of the map.
    """

    x_mean: Tensor
    y_mean: Tensor
    axes: Tensor
    coefficients: Tensor
    ridge: float

    def map(self) -> AffineMap:
        weight = self.axes @ self.coefficients
        intercept = self.y_mean - self.x_mean @ weight
        return AffineMap(weight, intercept, self.ridge, self.axes.shape[1])

    def predicted(self, x: Tensor) -> Tensor:
        return (x - self.x_mean) @ self.axes @ self.coefficients + self.y_mean


def _ridge_fit(x: Tensor, y: Tensor, ridges: Sequence[float]) -> _RidgeFit:
    x_mean, x_centred = centred(finite("x", x, 2))
    y_mean, y_centred = centred(finite("y", y, 2))
    if not ridges or min(ridges) < 0:
        raise LayerscopeError(f"ridges are {tuple(ridges)}.", "Give at least one, each 0 or more.")
    n, inputs = x_centred.shape
    squares, axes = _principal_axes(x_centred)
    unit = float(x_centred.square().sum()) / inputs
    projected = (x_centred @ axes).T @ y_centred
    explained = projected.square().sum(1) / squares
    outside = (y_centred.square().sum() - explained.sum()).clamp_min(0.0)

    def score(ridge: float) -> float:
        left = ridge * unit / (squares + ridge * unit)
        freedom = n - 1 - len(squares) + float(left.sum())
        residual = outside + (left.square() * explained).sum()
        return n * float(residual) / freedom**2 if freedom else math.inf

    ridge = min(ridges, key=score)
    coefficients = projected / (squares + ridge * unit)[:, None]
    return _RidgeFit(x_mean, y_mean, axes, coefficients, ridge)


def held_out_r2(
    x_fit: Float[Tensor, "n inputs"],
    y_fit: Float[Tensor, "n outputs"],
    x_test: Float[Tensor, "m inputs"],
    y_test: Float[Tensor, "m outputs"],
    ridges: Sequence[float] = RIDGES,
) -> HeldOutFit:
    r"""How well an affine map fitted to some examples predicts others.

    .. math:: R^2 = 1 - \frac{\sum_i \|y_i - (x_i W + b)\|^2}{\sum_i \|y_i - \bar y\|^2}

    over the test examples and all outputs together, so that outputs weigh by their variance. The
    mean :math:`\bar y` is that of the *fitted* examples: 0 is then what a map that ignores its
    input gets, and noise gives about 0 however few examples there are. 1 for an affine layer,
    negative where the map is worse than that mean. Outputs that are constant give 1.

    Args:
        x_fit: Inputs to fit to, as `least_squares_map` takes them.
        y_fit: Outputs to fit to.
        x_test: Inputs of other examples, at least one.
        y_test: Their outputs.
        ridges: Ridges to choose from; the choice sees the fitted examples only.

    Raises:
        LayerscopeError: There are fewer than 2 examples to fit to or none to test on, values that
            are not finite, no ridge, or one below 0.
    """
    fitted = _ridge_fit(x_fit, y_fit, ridges)
    x, y = finite("x_test", x_test, 1), finite("y_test", y_test, 1)
    residual = (y - fitted.predicted(x)).square().sum()
    r2 = 1.0 if float(residual) == 0 else float(1 - residual / (y - fitted.y_mean).square().sum())
    n, inputs = x_fit.shape
    return HeldOutFit(r2, fitted.ridge, n, inputs, fitted.axes.shape[1])


def _principal_axes(centred: Tensor) -> tuple[Tensor, Tensor]:
    """Squared singular values above the tolerance, ascending, and right singular vectors."""
    n, d = centred.shape
    gram = centred @ centred.T if n < d else centred.T @ centred
    squares, vectors = torch.linalg.eigh(gram)
    kept = squares > 10 * max(n, d) * torch.finfo(squares.dtype).eps * squares[-1]
    squares, vectors = squares[kept], vectors[:, kept]
    return squares, centred.T @ vectors / squares.sqrt() if n < d else vectors


def centred(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over rows, and deviations from it; those of a constant column are 0 exactly."""
    shifted = values - values[:1]
    mean = shifted.mean(0)
    return values[0] + mean, shifted.sub_(mean)


def finite(name: str, tensor: Tensor, least: int) -> Tensor:
    """The values in float64, if there are enough of them and all are finite."""
    enough(name, tensor, least)
    values = tensor.detach().double()
    refuse_infinite(name, values)
    return values


def enough(name: str, tensor: Tensor, least: int) -> None:
    """Refuse too few samples.

    Raises:
        LayerscopeError: There are fewer.
    """
    if len(tensor) < least or not tensor.numel():
        raise LayerscopeError(
            f"{name} has shape {tuple(tensor.shape)}.",
            f"It needs at least {least} in its first dimension and 1 in every other.",
        )


def refuse_infinite(name: str, values: Tensor) -> None:
    """Refuse values that are not finite.

    Raises:
        LayerscopeError: Some are not.
    """
    if not bool(values.isfinite().all()):
        raise LayerscopeError(
            f"{name} holds values that are not finite.",
            "Measure a moment at which the network has not diverged.",
        )
