"""Whether signals and gradients keep their size from layer to layer."""

from __future__ import annotations

import numpy as np
import xarray as xr

from layerscope.report.factors import (
    PAPER,
    at_ends,
    basis,
    factor,
    in_order,
    in_runs,
    matrices,
)
from layerscope.report.finding import Finding
from layerscope.report.sites import moment, name_of

SPAN = 1e3
"""Factor between the first and the last matrix from which on a signal vanishes or explodes."""
KEPT = 10.0
"""Factor between any two below which sizes are said to be kept."""


def signals(dataset: xr.Dataset) -> list[Finding | None]:
    """Whether signals and gradients vanish or explode over depth, or that they do not.

    Args:
        dataset: What `layerscope.probes.SignalMagnitude` measured, perhaps of several seeds.
    """
    dataset, (inputs, gradients) = at_ends(matrices(dataset), "input", "gradient")
    if dataset.sizes["layer"] < 2:
        return []
    warned = [
        _over_depth(dataset, "signal", "what enters", inputs, (-1, 0)),
        _over_depth(dataset, "gradient", "the gradient at what leaves", gradients, (0, -1)),
    ]
    return warned if any(warned) else [_kept(dataset, np.stack([inputs, gradients]))]


def _over_depth(
    dataset: xr.Dataset, who: str, what: str, sizes: np.ndarray, ends: tuple[int, int]
) -> Finding | None:
    """What has passed all layers, at the first of two ends, over what starts at the other."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = sizes[..., ends[0]] / sizes[..., ends[1]]
        inverse, logs = 1 / ratio, np.log(ratio)
    low, high = ratio <= 1 / SPAN, ratio >= SPAN
    if not (low | high).any():
        return None
    smaller = np.nan_to_num(np.clip(logs, -1e3, 1e3)).mean(0) < 0

    def compared(t: int) -> str:
        if smaller[t]:
            return f"{factor(inverse[:, t])} times smaller"
        return f"{factor(ratio[:, t])} times larger"

    (first, *rest), (far, near) = in_order(ratio, low | high), (name_of(dataset, i) for i in ends)
    verb, hit = max(("vanishes", low[:, first]), ("explodes", high[:, first]), key=_how_often)
    also = "".join(f"; at {moment(dataset, t)} it is {compared(t)}" for t in rest)
    return Finding(
        f"At {moment(dataset, first)} the {who} {verb} over depth{in_runs(hit)}: {what} {far} is "
        f"{compared(first)} than {what} {near}{also}. To try: He initialisation, or a "
        "normalisation after each layer.",
        "warning",
        f"Root mean squares on the fixed batch; threshold: a factor of {SPAN:,g}. Scales of weights"
        " multiply over the layers, unless a normalisation follows each of them "
        f"({PAPER}, Theorems 4.1 and 4.2). {basis(len(ratio))}",
        far,
    )


def _how_often(told: tuple[str, np.ndarray]) -> int:
    return int(told[1].sum())


def _kept(dataset: xr.Dataset, sizes: np.ndarray) -> Finding | None:
    """By which factor layers differ at most, from sizes as (side, run, moment, layer)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = (sizes.max(-1) / sizes.min(-1)).max((0, 2))
    if np.isnan(spread).any():
        return None
    well, n = bool((spread < KEPT).all()), dataset.sizes["layer"]
    when = " and ".join(moment(dataset, t) for t in range(dataset.sizes["step"]))
    text = (
        f"signals and gradients keep their size within a factor of {factor(spread)} over all {n} "
        "matrices."
        if well
        else f"signals and gradients differ up to {factor(spread)}-fold between any two of {n} "
        f"matrices, and less than {SPAN:,g}-fold between the first and the last."
    )
    evidence = (
        "Root mean square of what enters a matrix, and of the gradient at what leaves it, on the "
        f"fixed batch; the largest over the smallest, kept where that is below {KEPT:g} ({PAPER}, "
        f"Section 4.1). {basis(len(spread))}"
    )
    return Finding(f"At {when} {text}", "good" if well else "plain", evidence)
