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
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from layerscope.errors import LayerscopeError
from layerscope.functional.least_squares import centred, enough, finite, refuse_infinite

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


def node_shares(before: Float[Tensor, "samples nodes *places"]) -> NodeShares:
    """Shares of nodes that are always on, always off, or both in turn.

    On: every value above 0, over samples and places; off: every value at most 0. A rectifier is
    the identity on the first and constant on the second; only mixed nodes make it nonlinear.

    Args:
        before: What enters the activation; a node is an entry of the second dimension.

    Raises:
        LayerscopeError: There is no value, or one is not finite.
    """
    enough("before", before, 1)
    low, high = _extremes(before)
    refuse_infinite("before", torch.stack([low, high]))
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
    enough("before", before, 1)
    values = before.detach().permute(_memory_order(before)).flatten()
    values = values if values.dtype == torch.float64 else values.float()
    refuse_infinite("before", mean := values.mean(dtype=torch.float64))
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
    return finite(name, tensor, 1).movedim(1, -1).flatten(0, -2)


def _paired(before: Tensor, after: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Mean and deviations of inputs and outputs, per node."""
    _same_shape(before, after)
    return [centred(_rows(name, t)) for name, t in (("before", before), ("after", after))]


def _pooled(name: str, tensor: Tensor) -> Tensor:
    """(samples, nodes): deviations from the mean of means over places."""
    values = finite(name, tensor, 2)
    return centred(values.reshape(*values.shape[:2], -1).mean(2))[1]


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
