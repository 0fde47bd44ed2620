r"""How linear an activation, a layer or a block is on the data that pass through it.

Pinson et al., "Exploring the development of complexity over depth and time in deep neural
networks", read it off the mean of the preactivations and ask for more precise measures. Here are
four: which nodes of an activation switch at all; how much of an activation's output a straight line
explains; how well an affine map predicts a layer's or a block's output on examples that it was not
fitted to; and the affinity score of Bouniot et al., "From Alexnet to Transformers: Measuring the
Non-linearity of Deep Neural Networks with Affine Optimal Transport" (CVPR 2025).

The first three ask whether outputs are an affine function of the inputs they belong to. The last
one compares distributions: it is made for activations, and of the linear maps of whole layers it
recognises only those with a symmetric positive semi-definite matrix.

Everything is computed in float64 and without gradients, on the device of the values; of
preactivations, which may be measured at every step, only the sums are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from layerscope.errors import LayerscopeError

RIDGES = (0.0, *(10.0**k for k in range(-6, 4)))
"""Ridges that are tried, as shares of the mean variance of an input."""
NORMAL_RECTIFIER = math.pi / (2 * (math.pi - 1))
"""Share that a straight line explains of a rectifier's output for normal inputs of mean 0: .73."""
NEARLY_CONSTANT = 1e-3
"""Variance, as a share of the mean square, below which it is taken of deviations."""


class NodeShares(NamedTuple):
    """Shares of an activation's nodes, from 0 to 1; they add up to 1."""

    on: float
    off: float
    mixed: float


class Preactivation(NamedTuple):
    """Mean and standard deviation of what enters an activation, in its units."""

    mean: float
    deviation: float


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


def node_shares(before: Float[Tensor, "samples nodes *places"]) -> NodeShares:
    """Shares of nodes that are always on, always off, or both in turn.

    On: every value above 0, over samples and places; off: every value at most 0. A rectifier is
    the identity on the first and constant on the second; only mixed nodes make it nonlinear.

    Args:
        before: What enters the activation; a node is an entry of the second dimension.

    Raises:
        LayerscopeError: There is no value, or one is not finite.
    """
    _enough("before", before, 1)
    low, high = _extremes(before)
    _refuse_infinite("before", torch.stack([low, high]))
    on, off = low > 0, high <= 0
    return NodeShares(*(float(nodes.double().mean()) for nodes in (on, off, ~(on | off))))


def preactivation(before: Float[Tensor, "samples nodes *places"]) -> Preactivation:
    r"""Mean and standard deviation of the preactivations z of a layer.

    .. math:: \bar p = \frac{1}{M} \sum_{i=1}^{M} \frac{1}{N} \sum_{s=1}^{N} z_{s,i}

    over N samples and M nodes; where nodes have places, over those too. The deviation is that of
    all values around this one mean, with denominator N M (population).

    Args:
        before: What enters the activation, after the normalisation and after the addition of a
            residual network.

    Raises:
        LayerscopeError: There is no value, or one is not finite.
    """
    _enough("before", before, 1)
    values = before.detach().permute(_memory_order(before)).flatten()
    values = values if values.dtype == torch.float64 else values.float()
    _refuse_infinite("before", mean := values.mean(dtype=torch.float64))
    variance, square = _about(values, mean)
    if float(variance) < NEARLY_CONSTANT * float(square):  # the difference has lost its digits
        near = mean.to(values.dtype)
        variance, _ = _about(values - near, mean - near)
    return Preactivation(float(mean), float(variance.clamp_min(0.0).sqrt()))


def _about(values: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Variance of values with a known mean, and their mean square."""
    square = torch.linalg.vector_norm(values, dtype=torch.float64).square() / values.numel()
    return square - mean.square(), square


def affine_fit(
    before: Float[Tensor, "samples nodes *places"], after: Float[Tensor, "*shape"]
) -> tuple[Float64[Tensor, " nodes"], Float64[Tensor, " nodes"]]:
    """Straight line of least squares through every node's inputs and outputs.

    Args:
        before: What enters the activation.
        after: What leaves it, of the same shape.

    Returns:
        Slope and intercept per node, over samples and places. Where the input is constant the slope
        is 0 and the intercept the mean of the output.

    Raises:
        LayerscopeError: Shapes differ, there is no value, or one is not finite.
    """
    (x_mean, x), (y_mean, y) = _paired(before, after)
    spread = x.square().sum(0)
    slope = torch.where(spread == 0, 0.0, (x * y).sum(0) / spread)
    return slope, y_mean - slope * x_mean


def affine_share(
    before: Float[Tensor, "samples nodes *places"], after: Float[Tensor, "*shape"]
) -> Float64[Tensor, " nodes"]:
    r"""Share of every node's output variance that a straight line in its input explains.

    The squared correlation :math:`R^2` of output and input over samples and places, between 0
    and 1. A constant output is an affine function of the input, exactly: 1, so that nodes that are
    always off count as linear (`node_shares` tells them apart). An output that varies while the
    input does not has 0.

    A mean over nodes gives all of them the same weight, whatever their variance.

    Args:
        before: What enters the activation.
        after: What leaves it, of the same shape.

    Raises:
        LayerscopeError: Shapes differ, there is no value, or one is not finite.
    """
    (_, x), (_, y) = _paired(before, after)
    inner, x_spread, y_spread = (x * y).sum(0), x.square().sum(0), y.square().sum(0)
    share = ((inner / x_spread) * (inner / y_spread)).clamp(0.0, 1.0)
    share = torch.where(x_spread == 0, 0.0, share)
    return torch.where(y_spread == 0, 1.0, share)


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
    x_mean, x_centred = _centred(_finite("x", x, 2))
    y_mean, y_centred = _centred(_finite("y", y, 2))
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
    x, y = _finite("x_test", x_test, 1), _finite("y_test", y_test, 1)
    residual = (y - fitted.predicted(x)).square().sum()
    r2 = 1.0 if float(residual) == 0 else float(1 - residual / (y - fitted.y_mean).square().sum())
    n, inputs = x_fit.shape
    return HeldOutFit(r2, fitted.ridge, n, inputs, fitted.axes.shape[1])


def affinity_score(
    x: Float[Tensor, "samples nodes *places"], y: Float[Tensor, "*shape"], shrink: bool = False
) -> float:
    r"""Affinity score: how near affine optimal transport brings inputs x to outputs y.

    .. math:: \rho = 1 - \sqrt{\frac{W_2^2(T x, y)}{2 \, \mathrm{tr} \, \Sigma_y}}, \quad
              T x = \Sigma_y^{1/2} \left( \Sigma_y^{1/2} \Sigma_x \Sigma_y^{1/2} \right)^{-1/2}
              \Sigma_y^{1/2} (x - \bar x) + \bar y

    T is the optimal transport between the Gaussians with the means and covariances of x and y,
    :math:`W_2` the Wasserstein distance between the samples, by an optimal assignment. Both clouds
    have the same mean and T x no more variance than y, so that pairs drawn at random are
    :math:`2 \, \mathrm{tr} \, \Sigma_y` apart at most, and :math:`\rho` lies between 0 and 1.

    It is 1 for :math:`y = A x + b` with A symmetric positive semi-definite, and for another A only
    where :math:`T^{-1} A`, which turns or mirrors the whitened samples, maps them to themselves.
    Gaussian samples come near that in few dimensions; a square turned by 45 degrees or a skewed
    variable times -1 does not, nor do many dimensions: with 500 standard normal samples of 512
    nodes a random matrix has 0.12, unrelated outputs 0.10. For one node and a non-decreasing
    function it is :math:`1 - \sqrt{1 - \mathrm{corr}(x, y)}`: 0.62 for a rectifier of standard
    normal values.

    With few samples T fits them too well: that rectifier has 0.63 with 500 samples of 64 nodes,
    0.71 of 512 and 0.85 of 2048. Ledoit and Wolf's covariances keep it at 0.62, and cost maps with
    a symmetric positive definite matrix their 1.

    Translations, positive factors of x or y, an orthogonal map of both and the order of samples
    change nothing, nor does it count which output belongs to which input. Constant outputs have 1,
    as in `affine_share`; constant inputs with outputs that vary have :math:`1 - 1 / \sqrt 2`.

    As in the authors' code (github.com/qbouniot/AffScoreDeep), values are averaged over places
    first; hand in (samples, nodes * places) to keep them apart. Unlike there, covariances have the
    denominator n, which the bound needs, and nothing is added to them: the inverse root leaves out
    eigenvalues below :math:`10 d \epsilon` times the product of the largest variances of x and y.
    The assignment runs on the processor and takes time of order :math:`n^3`.

    Args:
        x: Inputs, at least 2 samples.
        y: Outputs, of the same shape.
        shrink: Whether to take Ledoit and Wolf's covariances, as the authors offer; nothing then
            keeps the score from falling below 0.

    Raises:
        LayerscopeError: Shapes differ, there is one sample, or a value that is not finite.
    """
    _same_shape(x, y)
    source, target = _pooled("x", x), _pooled("y", y)
    n, nodes = source.shape
    variance = float(target.square().sum()) / n
    if variance == 0:
        return 1.0
    if nodes > 2 * n:  # both clouds, and with them T, live in the span of their samples
        span = torch.linalg.qr(torch.cat([source, target]).T).Q
        source, target = source @ span, target @ span
    transport = _transport(*(_covariance(cloud, nodes, shrink) for cloud in (source, target)))
    return 1 - math.sqrt(_squared_wasserstein(source @ transport, target) / (2 * variance))


def _finite(name: str, tensor: Tensor, least: int) -> Tensor:
    """The values in float64, if there are enough of them and all are finite."""
    _enough(name, tensor, least)
    values = tensor.detach().double()
    _refuse_infinite(name, values)
    return values


def _enough(name: str, tensor: Tensor, least: int) -> None:
    if len(tensor) < least or not tensor.numel():
        raise LayerscopeError(
            f"{name} has shape {tuple(tensor.shape)}.",
            f"It needs at least {least} in its first dimension and 1 in every other.",
        )


def _refuse_infinite(name: str, values: Tensor) -> None:
    if not bool(values.isfinite().all()):
        raise LayerscopeError(
            f"{name} holds values that are not finite.",
            "Measure a moment at which the network has not diverged.",
        )


def _extremes(before: Tensor) -> tuple[Tensor, Tensor]:
    """Least and largest value of every node: over samples first, then over places."""
    order = [dim for dim in _memory_order(before) if dim]
    laid_out = before.detach().permute(0, *order)
    shape, node = laid_out.shape[1:], order.index(1)
    low, high = (
        values.view(shape).movedim(node, 0).reshape(before.shape[1], -1)
        for values in (laid_out.flatten(1).amin(0), laid_out.flatten(1).amax(0))
    )
    return low.amin(1), high.amax(1)


def _memory_order(tensor: Tensor) -> list[int]:
    """Dimensions as they lie in memory, where channels may come last.

    Reductions over several dimensions in another order take longer than the model does.
    """
    return sorted(range(tensor.ndim), key=tensor.stride, reverse=True)


def _same_shape(inputs: Tensor, outputs: Tensor) -> None:
    if inputs.shape != outputs.shape:
        raise LayerscopeError(
            f"Inputs have shape {tuple(inputs.shape)}, outputs {tuple(outputs.shape)}.",
            "Hand in what enters and what leaves an activation, which have one shape.",
        )


def _rows(name: str, tensor: Tensor) -> Tensor:
    """(values, nodes): samples and places together."""
    return _finite(name, tensor, 1).movedim(1, -1).flatten(0, -2)


def _centred(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over rows, and deviations from it; those of a constant column are 0 exactly."""
    shifted = values - values[:1]
    mean = shifted.mean(0)
    return values[0] + mean, shifted.sub_(mean)


def _paired(before: Tensor, after: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Mean and deviations of inputs and outputs, per node."""
    _same_shape(before, after)
    return [_centred(_rows(name, t)) for name, t in (("before", before), ("after", after))]


def _principal_axes(centred: Tensor) -> tuple[Tensor, Tensor]:
    """Squared singular values above the tolerance, ascending, and right singular vectors."""
    n, d = centred.shape
    gram = centred @ centred.T if n < d else centred.T @ centred
    squares, vectors = torch.linalg.eigh(gram)
    kept = squares > 10 * max(n, d) * torch.finfo(squares.dtype).eps * squares[-1]
    squares, vectors = squares[kept], vectors[:, kept]
    return squares, centred.T @ vectors / squares.sqrt() if n < d else vectors


def _pooled(name: str, tensor: Tensor) -> Tensor:
    """(samples, nodes): deviations from the mean of means over places."""
    values = _finite(name, tensor, 2)
    return _centred(values.reshape(*values.shape[:2], -1).mean(2))[1]


def _covariance(centred: Tensor, nodes: int, shrink: bool) -> Tensor:
    r"""Covariance of samples, or that of Ledoit and Wolf: a step towards a multiple of I.

    "A well-conditioned estimator for large-dimensional covariance matrices" (Journal of
    Multivariate Analysis 2004): :math:`(1 - a) S + a m I` with :math:`m = \mathrm{tr} S / d` and

    .. math:: a = \min \left( 1, \frac{\sum_i \|x_i\|^4 / n - \|S\|_F^2}
              {n (\|S\|_F^2 - d m^2)} \right).

    ``nodes`` is d, also where the samples are given in a basis of fewer dimensions.
    """
    n = len(centred)
    covariance = centred.T @ centred / n
    if not shrink:
        return covariance
    level = covariance.trace() / nodes
    size = covariance.square().sum()
    error = (centred.square().sum(1).square().mean() - size) / n
    spread = size - nodes * level.square()
    share = float(error / spread) if error < spread else 1.0
    identity = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    return (1 - share) * covariance + share * level * identity


def _power(matrix: Tensor, exponent: float, largest: Tensor) -> Tensor:
    """Power of a positive semi-definite matrix on eigenvalues above 10 d epsilon ``largest``."""
    values, vectors = torch.linalg.eigh(matrix)
    kept = values > 10 * len(values) * torch.finfo(values.dtype).eps * largest
    values, vectors = values[kept], vectors[:, kept]
    return vectors * values**exponent @ vectors.T


def _transport(source: Tensor, target: Tensor) -> Tensor:
    """Matrix of the optimal transport between centred Gaussians of these covariances."""
    widths = [torch.linalg.eigvalsh(covariance)[-1] for covariance in (source, target)]
    root = _power(target, 0.5, widths[1])
    return root @ _power(root @ source @ root, -0.5, widths[0] * widths[1]) @ root


def _squared_wasserstein(x: Tensor, y: Tensor) -> float:
    """Mean squared distance of two clouds of as many points, each of one paired with its best."""
    if x.shape[1] == 1:
        x, y = x.sort(0).values, y.sort(0).values
    else:  # squared lengths are the same for every assignment
        _, best = linear_sum_assignment((x @ y.T).cpu().numpy(), maximize=True)
        y = y[torch.from_numpy(best).to(y.device)]
    return float((x - y).square().sum(1).mean())
