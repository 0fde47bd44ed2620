"""How fast a sampled function varies."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float64
from torch import Tensor


def mean_frequency(values: Tensor, spacing: float) -> Float64[Tensor, " functions"]:
    r"""Mean frequency of sampled functions, weighted by their power.

    :math:`\sum_k f_k P_k / \sum_k P_k` over the positive frequencies, where :math:`P` is the
    squared magnitude of the discrete Fourier transform after the straight line of least squares
    has been subtracted and a Hann window applied, so that neither slope nor edges count.

    Args:
        values: (functions, samples), evenly spaced, at least 4 samples.
        spacing: Distance between samples.

    Returns:
        One frequency per function in cycles per unit; 0 for a straight line, up to a hundred times
        the rounding of the values' type.
    """
    rounding = 100 * torch.finfo(values.dtype).eps
    functions = values.double()
    n = functions.shape[1]
    place = torch.linspace(-1.0, 1.0, n, dtype=torch.float64)
    level = functions.mean(1, keepdim=True)
    slope = (functions @ place)[:, None] / (place @ place)
    rest = functions - level - slope * place
    scale = functions.abs().amax(1, keepdim=True)
    rest = torch.where(rest.abs().amax(1, keepdim=True) < rounding * scale, 0.0, rest)
    window = 0.5 - 0.5 * torch.cos(2 * math.pi * torch.arange(n, dtype=torch.float64) / n)
    power = torch.fft.rfft(rest * window).abs().square()[:, 1:]
    frequency = torch.fft.rfftfreq(n, spacing, dtype=torch.float64)[1:]
    total = power.sum(1)
    return torch.where(total == 0, 0.0, (power @ frequency) / total.clamp_min(1e-300))
