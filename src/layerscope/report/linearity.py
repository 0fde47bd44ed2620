"""Where activation functions act linearly, which stop to, and what enters them.

Whether a site acts linearly is said of every run alone, numbers are means over the runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import numpy as np
import xarray as xr

from layerscope.functional.linearity import NORMAL_RECTIFIER
from layerscope.report.finding import Finding
from layerscope.report.linearisation import costs
from layerscope.report.sites import (
    Estimates,
    Sites,
    agree,
    joined,
    kinds,
    moment,
    name_of,
    named,
    number,
    where_measured,
    which,
)

LINEAR = 0.99
"""Share of what leaves an activation that a straight line explains where it acts linearly."""
QUIET = 0.1
"""Share of nodes that never switch from which on an activation is named."""
DEAD = 0.5
"""Share of nodes that are always off from which on there is a warning."""
RECTIFIERS = ("ReLU", "LeakyReLU", "PReLU", "RReLU")
REVIVE = "To try: a lower learning rate, or a normalisation before the activation."
MOST_SITES = 3
_LINEARLY = f"linearly (a straight line explains {LINEAR:.0%} of what leaves)"


def linearity_findings(measured: Mapping[str, xr.Dataset]) -> list[Finding]:
    """What was measured of activation functions, in sentences.

    Args:
        measured: Datasets by name, as `layerscope.report.measurements.measured` returns them.
            Measurements of layers are passed over.
    """
    found: list[Finding] = []
    for name, (variable, say) in _SENTENCES.items():
        dataset = measured.get(name)
        if dataset is not None and _of_sites(dataset):
            dataset = where_measured(dataset, variable)
            found += say(dataset) if dataset.sizes["step"] else []
    return found


def _of_sites(dataset: xr.Dataset) -> bool:
    return json.loads(dataset.attrs.get("settings", "{}")).get("of", "sites") == "sites"


def _linear_shares(dataset: xr.Dataset) -> list[Finding]:
    """Which sites act linearly throughout, which only at first or at the end, which never."""
    shares, (_, gates, given) = Estimates.of(dataset["linear_share"]), kinds(dataset)
    linear, curved = shares.least >= LINEAR, shares.greatest < LINEAR
    free = ~given & np.isfinite(shares.mean).any(0)
    left = linear[0] & curved.any(0)
    came = linear[-1] & curved.any(0)
    told = linear.all(0) | curved.all(0) | left | came
    found = [
        _given(dataset, which(dataset, given)),
        _throughout(dataset, which(dataset, free & linear.all(0)), gates, shares),
        _left(dataset, which(dataset, free & left), curved, shares),
        _came(dataset, which(dataset, free & came), shares),
        _never(dataset, which(dataset, free & curved.all(0)), int(free.sum()), shares),
        _near(dataset, which(dataset, free & ~told), shares),
    ]
    return [finding for finding in found if finding is not None]


def _given(dataset: xr.Dataset, sites: Sites) -> Finding | None:
    if not sites.size:
        return None
    return Finding(
        f"{named(dataset, sites)} {agree(sites, 'is', 'are')} the identity by construction; "
        "what follows is about the others.",
        evidence="How the network was built.",
    )


def _throughout(
    dataset: xr.Dataset, sites: Sites, gates: np.ndarray, shares: Estimates
) -> Finding | None:
    if not sites.size:
        return None
    when = "throughout" if dataset.sizes["step"] > 1 else f"at {moment(dataset, 0)}"
    text = (
        f"{named(dataset, sites)} {agree(sites, 'acts', 'act')} linearly {when}{shares.in_each}: a "
        f"straight line explains at least {LINEAR:.0%} of what leaves {agree(sites, 'it', 'them')}."
    )
    if (behind := sites[gates[sites]]).size:
        text += (
            f" {named(dataset, behind)} {agree(behind, 'is a gate', 'are gates')}: what is "
            f"multiplied by {agree(behind, 'it', 'them')} is not linear for that."
        )
    evidence = (
        "R\N{SUPERSCRIPT TWO} of the best straight line from what enters a node to what leaves it, "
        f"mean over nodes, at every measured moment; threshold {LINEAR:.0%}. Nodes that are always "
        f"off count as linear. {shares.basis}"
    )
    return Finding(text, evidence=evidence, layer=_alone(dataset, sites))


def _left(
    dataset: xr.Dataset, sites: Sites, curved: np.ndarray, shares: Estimates
) -> Finding | None:
    """Which sites left the linear regime, the first and the last with the moment."""
    if not sites.size:
        return None
    since = curved[:, sites].argmax(0)
    first, last = sites[since == since.min()], sites[since == since.max()]
    text = f"{named(dataset, first)} left the linear regime ({LINEAR:.0%}){shares.in_each}"
    if len(first) == len(sites):
        text += f" by {moment(dataset, since.min())}."
    else:
        n = len(sites) - len(first)
        text += (
            f" first, by {moment(dataset, since.min())}; {n} {'others' if n > 1 else 'other'} "
            f"followed, {'the last ' * (n > 1)}by {moment(dataset, since.max())}: "
            f"{named(dataset, last, 'activation')}."
        )
    evidence = (
        f"The first measured moment at which a straight line explains less than {LINEAR:.0%}, of "
        f"those that acted linearly at {moment(dataset, 0)}. {shares.basis}"
    )
    return Finding(text, evidence=evidence, layer=_alone(dataset, first))


def _came(dataset: xr.Dataset, sites: Sites, shares: Estimates) -> Finding | None:
    if not sites.size:
        return None
    return Finding(
        f"{named(dataset, sites)} {agree(sites, 'acts', 'act')} {_LINEARLY} at "
        f"{moment(dataset, -1)}, but not at every measured moment before{shares.in_each}.",
        evidence=f"Mean over nodes. {shares.basis}",
        layer=_alone(dataset, sites),
    )


def _never(dataset: xr.Dataset, sites: Sites, of: int, shares: Estimates) -> Finding | None:
    if not sites.size:
        return None
    runs = "" if shares.runs == 1 else f" of {shares.runs} runs"
    whom = f"any of the {of} activations"
    if not len(sites) == of > 1:
        whom = named(dataset, sites, "activation")
    order = sites[np.argsort(shares.mean[-1, sites])]
    low, high = (shares.at_end(site, ".1%", 1.0) for site in (order[0], order[-1]))
    how = low
    if len(sites) > 1:
        how = f"from {low} ({name_of(dataset, order[0])}) to {high} ({name_of(dataset, order[-1])})"
    return Finding(
        f"At no measured moment{runs} does a straight line explain {LINEAR:.0%} of what leaves "
        f"{whom}; at {moment(dataset, -1)} it explains {how}.",
        evidence="R\N{SUPERSCRIPT TWO} of the best line for every node, mean over nodes. A "
        f"rectifier of normal values about 0 has {NORMAL_RECTIFIER:.0%}. {shares.basis}",
        layer=_alone(dataset, sites),
    )


def _near(dataset: xr.Dataset, sites: Sites, shares: Estimates) -> Finding | None:
    if not sites.size:
        return None
    runs = "" if shares.runs == 1 else ", or in some runs,"
    return Finding(
        f"{named(dataset, sites)} {agree(sites, 'acts', 'act')} {_LINEARLY} at some measured "
        f"moments{runs} only.",
        evidence=f"Mean over nodes. {shares.basis}",
        layer=_alone(dataset, sites),
    )


def _alone(dataset: xr.Dataset, sites: Sites) -> str | None:
    """The one site that a sentence is about, if it is about one."""
    return name_of(dataset, sites[0]) if len(sites) == 1 else None


def _preactivations(dataset: xr.Dataset) -> list[Finding]:
    """What enters the sites at the end, and the nodes of rectifiers that do not switch."""
    names, _, given = kinds(dataset)
    found = [
        _mean(dataset, which(dataset, ~given)),
        _quiet(dataset, which(dataset, ~given & np.isin(names, RECTIFIERS))),
        _dead(dataset, which(dataset, ~given & (names == "ReLU"))),
    ]
    return [finding for finding in found if finding is not None]


def _mean(dataset: xr.Dataset, sites: Sites) -> Finding | None:
    means, spread = (Estimates.of(dataset[name]) for name in ("mean", "deviation"))
    sites = sites[np.isfinite(means.least[-1, sites])]
    if len(sites) < 2:
        return None
    order = sites[np.argsort(means.mean[-1, sites])]
    low, high = (
        f"{name_of(dataset, site)} ({means.at_end(site, '.2f')}, with deviation "
        f"{number(spread.mean[-1, site], '.2f')})"
        for site in (order[0], order[-1])
    )
    return Finding(
        f"At {moment(dataset, -1)} the mean of what enters an activation is highest at {high}, and "
        f"lowest at {low}.",
        evidence="Mean over samples and nodes. Well above 0 a rectifier passes on what enters, "
        "well below 0 it passes nothing. Right behind a normalisation the mean is near that of its "
        f"shift. {means.basis}",
        layer=name_of(dataset, order[-1]),
    )


def _quiet(dataset: xr.Dataset, sites: Sites) -> Finding | None:
    """Rectifiers with nodes that are on for every sample, or off for every sample."""
    quiet = Estimates.of(1 - dataset["mixed"])
    on, off = (Estimates.of(dataset[f"always_{state}"]).mean[-1] for state in ("on", "off"))
    sites = sites[np.isfinite(quiet.least[-1, sites])]
    if not sites.size:
        return None
    many = sites[quiet.least[-1, sites] >= QUIET]
    none = not (quiet.greatest[-1, sites] >= QUIET).any()
    if not (many.size or none):
        return None
    parts = [
        f"{quiet.at_end(site, '.0%', 1.0)} of {name_of(dataset, site)} ({on[site]:.0%} always on, "
        f"{off[site]:.0%} always off)"
        for site in many[np.argsort(-quiet.mean[-1, many], kind="stable")]
    ]
    if len(parts) > MOST_SITES:
        parts[MOST_SITES:] = [f"{QUIET:.0%} or more of {len(parts) - MOST_SITES} other activations"]
    text = f"At {moment(dataset, -1)} some nodes never switch{quiet.in_each}: {joined(parts)}."
    if none:
        who = "the rectifier does not have" if len(sites) == 1 else "no rectifier has"
        runs = "" if quiet.runs == 1 else f", in any of {quiet.runs} runs,"
        text = f"At {moment(dataset, -1)} {who}{runs} {QUIET:.0%} or more nodes that never switch."
    return Finding(
        text,
        evidence="Nodes above 0 for all samples and places, or for none; on them a rectifier is "
        f"linear. Threshold: {QUIET:.0%} of the nodes of an activation. {quiet.basis}",
        layer=_alone(dataset, many),
    )


def _dead(dataset: xr.Dataset, sites: Sites) -> Finding | None:
    off = Estimates.of(dataset["always_off"])
    dead = sites[off.least[-1, sites] >= DEAD]
    if not dead.size:
        return None
    return Finding(
        f"At least {DEAD:.0%} of the nodes of {named(dataset, dead, 'activation')} pass nothing "
        f"on at {moment(dataset, -1)}{off.in_each}. {REVIVE}",
        "warning",
        f"Nodes above 0 for no sample and no place; threshold {DEAD:.0%}. {off.basis}",
        _alone(dataset, dead),
    )


_SENTENCES: Mapping[str, tuple[str, Callable[[xr.Dataset], list[Finding]]]] = {
    "linear_share": ("linear_share", _linear_shares),
    "preactivations": ("mean", _preactivations),
    "linearisation_cost": ("loss_increase", costs),
}
"""Sentences by measurement, with the variable that says at which moments it was made."""
