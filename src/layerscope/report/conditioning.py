"""Whether signals keep their size over depth, how steep layers are, and which hardly move.

What is judged is judged of every run alone. Factors are geometric means over runs; see
`layerscope.report.factors`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import numpy as np
import xarray as xr

from layerscope.report.curvature import curvature, trust
from layerscope.report.factors import PAPER, each_run, in_each, listed
from layerscope.report.finding import Finding
from layerscope.report.linearity import DEAD, QUIET, REVIVE
from layerscope.report.signals import signals
from layerscope.report.sites import (
    ONE_RUN,
    Estimates,
    joined,
    kinds,
    moment,
    name_of,
    named,
    where_measured,
    which,
)

MANY = 0.5
"""Share of layers from which on weights that dominate early in training are suspicious."""
_TONES = ("warning", "plain", "good")


def conditioning_findings(measured: Mapping[str, xr.Dataset]) -> tuple[Finding, ...]:
    """What was measured of signals, curvature and weights that dominate; warnings come first.

    Args:
        measured: Datasets by name, as `layerscope.report.measurements.measured` returns them.
    """
    found: list[Finding | None] = []
    for name, (variable, say) in _SENTENCES.items():
        if name in measured and (dataset := where_measured(measured[name], variable)).sizes["step"]:
            found += say(dataset)
    said = [finding for finding in found if finding is not None]
    return tuple(sorted(said, key=lambda finding: _TONES.index(finding.tone)))


def _dominating(dataset: xr.Dataset) -> list[Finding | None]:
    """Layers whose weights dominate at the end, and whether many did before."""
    each = each_run(dataset["dominated"])
    known = ~np.isnan(each).any((0, 1))
    each, dataset = each[..., known], dataset.isel(layer=np.flatnonzero(known))
    low: np.ndarray = (each[:, -1] == 1).all(0)
    if not low.any():
        return []
    history, suspicious = _history(dataset, each.mean((0, 2)))
    return [
        Finding(
            f"At {moment(dataset, -1)} weights dominate the gradients of {low.sum()} of {len(low)} "
            f"layers ({listed(dataset, which(dataset, low))}){in_each(len(each))}. {history}",
            "warning" if suspicious else "plain",
            "Largest singular value of the gradient on the fixed batch over that of the weights, "
            f"{_limit(dataset)}; suspicious where {MANY:.0%} of layers are so at the first or the "
            f"middle measured moment ({PAPER}, Definition 1, which says far below 1). "
            f"{ONE_RUN if len(each) == 1 else 'Shares are means over runs.'}",
        )
    ]


def _history(dataset: xr.Dataset, shares: np.ndarray) -> tuple[str, bool]:
    """What the shares of dominated layers before the end say of it; whether that is suspicious."""
    n = len(shares)
    before = sorted({0, n // 2} - {n - 1})
    if not before:
        return "Small gradients also end a good training; this is the only measured moment.", False
    told = joined([f"{shares[t]:.0%} at {moment(dataset, t)}" for t in before])
    text = f"Of all layers it was {told}: "
    if suspicious := bool((shares[before] >= MANY).any()):
        text += (
            "so many so early are suspicious, since small gradients that end a good training come "
            "late. To try: a lower learning rate at first, so that weights grow less, or a "
            "normalisation of what enters."
        )
    else:
        text += "small gradients also end a good training, and these may be such."
    return text, suspicious


def _limit(dataset: xr.Dataset) -> str:
    threshold = json.loads(dataset.attrs.get("settings", "{}")).get("threshold")
    return "threshold" if threshold is None else f"below {threshold:g}"


def _dying(dataset: xr.Dataset) -> list[Finding | None]:
    """Rectifiers with nodes that are always off, but for those of which `linearity` warns."""
    (names, _, given), off = kinds(dataset), Estimates.of(dataset["always_off"])
    least = off.least[-1]
    sites = which(dataset, (names == "ReLU") & ~given & (least >= QUIET) & (least < DEAD))
    if not sites.size:
        return []
    most = sites[np.argmax(off.mean[-1, sites])]
    return [
        Finding(
            f"At {moment(dataset, -1)} at least {QUIET:.0%} of the nodes of "
            f"{named(dataset, sites, 'activation')} are dying neurons, off for every "
            f"sample{off.in_each}. {REVIVE}",
            "warning",
            f"Nodes above 0 for no sample and no place, most in {name_of(dataset, most)}: "
            f"{off.at_end(most, '.0%', 1.0)}; threshold: {QUIET:.0%} ({PAPER}, Section 4.2, where "
            f"networks with normalisation have none). {off.basis}",
        )
    ]


_SENTENCES: Mapping[str, tuple[str, Callable[[xr.Dataset], list[Finding | None]]]] = {
    "signal_magnitude": ("input", signals),
    "weight_domination": ("dominated", _dominating),
    "preactivations": ("always_off", _dying),
    "conditioning": ("largest", curvature),
    "conditioning_error": ("largest_ratio", trust),
}
"""Sentences by measurement, with the variable that says at which moments it was made."""
