"""How a layer approaches its final weights, and how directly.

Source: Chen, Yuille and Zhou, "Which Layer is Learning Faster? A Systematic Exploration of
Layer-wise Convergence Rate for Deep Neural Networks" (ICLR 2023), Definition 2.1.
"""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor


def _start(distance: Tensor) -> Tensor:
    """Initial distance of every layer; NaN for one that ends where it began."""
    return torch.where(distance[0] == 0, torch.nan, distance[0])


def convergence_curve(
    distance: Float64[Tensor, "steps layers"],
) -> Float64[Tensor, "steps layers"]:
    r"""Remaining distance to the final weights as a share of the initial one.

    :math:`\|\theta^t_l - \theta^*_l\|_2 / \|\theta^0_l - \theta^*_l\|_2`; unitless, 1 at the
    start, 0 at the end, above 1 where a layer moves away from where it will end.

    Args:
        distance: L2 distance to the final weights at every checkpoint, the first at
            initialisation and the last at the end.

    Returns:
        The curve; NaN for a layer that ends where it began.
    """
    return distance / _start(distance)


def convergence_rate(
    distance: Float64[Tensor, "steps layers"],
    times: Float64[Tensor, " steps"],
    t1: float,
    t2: float,
) -> Float64[Tensor, " layers"]:
    r"""Convergence rate of every layer between two times (Definition 2.1).

    .. math::
        C_l^{(t_1, t_2)} = \frac{1}{t_2 - t_1}
        \frac{\|\theta^{t_1}_l - \theta^*_l\| - \|\theta^{t_2}_l - \theta^*_l\|}
             {\|\theta^{0}_l - \theta^*_l\|}

    Per unit of ``times`` (epochs in the paper). Over the whole training it is 1/T exactly.

    Args:
        distance: L2 distance to the final weights at every checkpoint.
        times: Time of every checkpoint, ascending.
        t1: Begin of the interval; must be one of ``times``.
        t2: End of the interval; must be one of ``times`` and after ``t1``.

    Returns:
        One rate per layer; NaN for a layer that ends where it began.

    Raises:
        ValueError: The interval is empty or one of its ends is no checkpoint.
    """
    rows = []
    for t in (t1, t2):
        match = torch.isclose(times, torch.tensor(t, dtype=times.dtype), rtol=0.0, atol=1e-9)
        if not bool(match.any()):
            raise ValueError(f"no checkpoint at time {t:g}; there are {times.tolist()}")
        rows.append(int(match.nonzero()[0]))
    if t2 <= t1:
        raise ValueError(f"the interval ({t1:g}, {t2:g}) is empty")
    # The share first: over the whole training it is 1, and the rate 1/T without a rounding error.
    return (distance[rows[0]] - distance[rows[1]]) / _start(distance) / (t2 - t1)


def directness(
    path: Float64[Tensor, "steps layers"], progress: Float64[Tensor, "steps layers"]
) -> Float64[Tensor, "steps layers"]:
    r"""Share of a layer's path that brought it nearer to its final weights.

    Net progress :math:`\|\theta^0 - \theta^*\| - \|\theta^t - \theta^*\|` over the cumulated
    path :math:`\sum_{s \le t} \|\theta^s - \theta^{s-1}\|_2`. Unitless, at most 1; 1 is a
    straight line, 0 a walk that came no nearer, negative one that led away.

    Args:
        path: Cumulated path length at every checkpoint.
        progress: Net progress at every checkpoint.

    Returns:
        The ratio; NaN where no path has been walked.
    """
    return progress / torch.where(path == 0, torch.nan, path)


def settling_time(
    curve: Float64[Tensor, "steps layers"], times: Float64[Tensor, " steps"], share: float
) -> Float64[Tensor, " layers"]:
    """Time from which on a layer keeps within ``share`` of its initial distance to the end.

    The last crossing of the convergence curve, interpolated linearly between checkpoints.

    Args:
        curve: What `convergence_curve` returns.
        times: Time of every checkpoint, ascending.
        share: Level that is crossed, between 0 and 1.

    Returns:
        One time per layer, in units of ``times``; NaN where the curve is.
    """
    above = curve > share
    last = torch.where(above, torch.arange(len(times))[:, None], 0).amax(0)
    after = (last + 1).clamp(max=len(times) - 1)
    high, low = curve.gather(0, last[None])[0], curve.gather(0, after[None])[0]
    crossing = times[last] + (times[after] - times[last]) * (high - share) / (high - low)
    return torch.where(curve.isnan().any(0), torch.nan, crossing)
