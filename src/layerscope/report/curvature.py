"""How steep layers are, how that is spread over directions, and how far that can be trusted."""

from __future__ import annotations

import numpy as np
import xarray as xr

from layerscope.report.factors import (
    PAPER,
    at_ends,
    basis,
    factor,
    in_each,
    in_order,
    in_runs,
    listed,
    matrices,
)
from layerscope.report.finding import Finding
from layerscope.report.sites import ONE_RUN, Estimates, agree, moment, name_of, which

STEEP = 100.0
"""Factor over the median of the other layers above which the last one is ill-conditioned."""
MEASURED = (
    "in residual networks of 20, 56 and 110 layers it lowered this eigenvalue 4-, 13- and 32-fold "
    "before training (layerwise_conditioning.fig8 at small scale)"
)
"""What a normalisation before the last layer does: LOG.md, 2026-11-27."""
NEAR = 2.0
"""Factor within which an approximated eigenvalue counts as near the exact one."""
FEWEST_OTHERS = 2


def curvature(dataset: xr.Dataset) -> list[Finding | None]:
    """Whether the last layer is ill-conditioned, which is steepest, whose inputs are redundant.

    Args:
        dataset: What `layerscope.probes.Conditioning` measured, perhaps of several seeds.
    """
    dataset = matrices(dataset)
    found = [_last(dataset), _steepest(dataset)]
    return [*found, _empty(dataset)] if "kappa_50_input" in dataset else found


def _last(dataset: xr.Dataset) -> Finding | None:
    """Whether what enters the last matrix is far larger than what enters the others."""
    dataset, (largest,) = at_ends(dataset, "largest_input")
    if (others := dataset.sizes["layer"] - 1) < FEWEST_OTHERS:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = largest[..., -1] / np.median(largest[..., :-1], -1)
    if not (hit := ratio > STEEP).any():
        return None
    (first, *rest), last = in_order(ratio, hit), name_of(dataset, -1)
    also = (f"; at {moment(dataset, t)} it is {factor(ratio[:, t])} times as large" for t in rest)
    return Finding(
        f"At {moment(dataset, first)} the last layer, {last}, is ill-conditioned"
        f"{in_runs(hit[:, first])}: the largest eigenvalue of the second moment of what enters it "
        f"is {factor(ratio[:, first])} times as large as the median of the {others} other matrices"
        f"{''.join(also)}. To try: a batch normalisation right before it, where there is none; "
        f"{MEASURED}.",
        "warning",
        f"S_x on the fixed batch, which grows with the number of features too; threshold: {STEEP:g}"
        f" times the median ({PAPER}, Section 5.1, ResNetLastBN). {basis(len(ratio))}",
        last,
    )


def _steepest(dataset: xr.Dataset) -> Finding | None:
    """The matrix of the largest curvature at the end."""
    dataset, (largest,) = at_ends(dataset.isel(step=[-1]), "largest")
    largest = largest[:, -1]
    if dataset.sizes["layer"] < 2 or not (largest.max(1) > 0).all():
        return None
    with np.errstate(divide="ignore"):
        top = int(np.clip(np.log(largest), -1e3, None).mean(0).argmax())
        ratio = largest[:, top] / np.median(largest, 1)
    name, often = name_of(dataset, top), in_runs(largest.argmax(1) == top)
    return Finding(
        f"The largest curvature at {moment(dataset, -1)} is that of {name}{often}, {factor(ratio)} "
        f"times the median of all {dataset.sizes['layer']} matrices: of these it is the first to "
        "limit the learning rate.",
        evidence="Largest eigenvalue of S_x \N{CIRCLED TIMES} S_g on the fixed batch, in place of "
        "the curvature; positions and places count as examples. Gradient descent diverges along a "
        "direction whose curvature is above 2 over the learning rate "
        f"({PAPER}, Sections 2 and 3). {basis(len(ratio))}",
        layer=name,
    )


def _empty(dataset: xr.Dataset) -> Finding | None:
    """The matrices whose inputs never point in more than half of all directions."""
    dataset, (kappa,) = at_ends(dataset.isel(step=[-1]), "kappa_50_input")
    empty = np.asarray(np.isinf(kappa[:, -1]).all(0))
    if not empty.any():
        return None
    found = which(dataset, empty)
    return Finding(
        f"At {moment(dataset, -1)} more than half of the eigenvalues of the second moment of what "
        f"enters are 0{in_each(len(kappa))} for {len(found)} of {len(empty)} matrices "
        f"({listed(dataset, found)}): {agree(found, 'its', 'their')} inputs are dead or redundant, "
        "or the batch is too small to tell.",
        evidence="kappa_50 of S_x is infinite; it always is where the batch has fewer examples "
        f"(and places) than half of the features ({PAPER}, Sections 3 and 4.2). "
        f"{ONE_RUN if len(kappa) == 1 else 'Those that are so in every run.'}",
    )


def trust(dataset: xr.Dataset) -> list[Finding | None]:
    """How far the Kronecker product is from the exact block at the end.

    Args:
        dataset: What `layerscope.probes.ConditioningError` measured, perhaps of several seeds.
    """
    overlaps = Estimates.of(dataset["overlap"])
    ends, (ratio,) = at_ends(dataset.isel(step=[-1]), "largest_ratio")
    if not ends.sizes["layer"]:
        return []
    with np.errstate(divide="ignore"):
        apart = np.maximum(ratio[:, -1], 1 / ratio[:, -1])
        worst = int(np.clip(np.log(apart), None, 1e3).mean(0).argmax())
    near = np.asarray((apart <= NEAR).all(0))
    off, smallest = factor(apart[:, worst]), ""
    if np.isfinite(lowest := overlaps.mean[-1]).any():
        at = int(np.nanargmin(lowest))
        smallest = (
            f"; the smallest overlap of both is {overlaps.at_end(at, '.2f', 1.0)} "
            f"({name_of(dataset, at)})"
        )
    return [
        Finding(
            f"At {moment(ends, -1)} the largest eigenvalue of the Kronecker product is within a "
            f"factor of {NEAR:g} of that of the exact block for {near.sum()} of {len(near)} "
            f"layers{in_each(len(ratio))}{smallest}. At worst they are a factor of {off} apart "
            f"({name_of(ends, worst)}): differences between layers in how steep they are say "
            "little where they are smaller than that.",
            evidence="Kronecker product of second moments, times the positions, against the second "
            "moment of the gradients of examples, on a part of the fixed batch; overlap: their "
            "cosine as vectors of entries, 1 where they are the same up to a factor, its plain "
            f"mean (beyond {PAPER}, Section 3). {basis(len(ratio))}",
        )
    ]
