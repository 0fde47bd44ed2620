"""What the nonlinearity of each activation function is worth to the trained network.

"Costs" is said of the mean over several runs, and only where its 95% interval excludes 0; of one
run as of one run. "Nothing" is said where the whole interval is small.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from layerscope.report.finding import Finding
from layerscope.report.sites import Estimates, Sites, agree, joined, kinds, name_of, named, which

NOTHING = {"error_increase": 0.5, "loss_increase": 1.0}
"""What costs nothing costs at most this: points of test error, or per cent of the test loss."""
FEWEST_RUNS = 3
"""Two agree by chance too easily: test errors have steps, and equal ones an empty interval."""
MOST_SITES = 3
_UNITS = {"error_increase": "points of test error", "loss_increase": "% of the test loss"}


def costs(dataset: xr.Dataset) -> list[Finding]:
    """What it costs to put straight lines in the place of one activation.

    Args:
        dataset: What `layerscope.probes.LinearisationCost` measured of sites, perhaps of seeds.
    """
    name = "error_increase" if "error_increase" in dataset else "loss_increase"
    values = dataset[name]
    if name == "loss_increase":
        values = 100 * values / abs(dataset["base_loss"])
    cost, margin = Estimates.of(values), NOTHING[name]
    low, high = cost.low[-1], cost.high[-1]
    free = ~kinds(dataset)[2] & np.isfinite(cost.least[-1])
    none = (low >= -margin) & (high <= margin)
    least = margin if cost.runs == 1 else 0.0
    up, down = free & (low > least), free & (high < -least)
    if 1 < cost.runs < FEWEST_RUNS:
        up = down = none = np.zeros_like(free)
    found = [
        _worth(dataset, which(dataset, up), cost, name),
        _gained(dataset, which(dataset, down), cost, name),
        _nothing(dataset, which(dataset, free & none & ~up & ~down), cost, name),
        _undecided(dataset, which(dataset, free & ~none & ~up & ~down), cost, name),
    ]
    evidence = (
        f"Test {name.removesuffix('_increase')} with the best straight line for every node in the "
        "place of one activation, nothing trained again, less that of the network as it is. At "
        f"most {margin:g} {_UNITS[name]} count as nothing. {cost.basis}"
    )
    if cost.runs > 1:
        evidence += " Of many such intervals about one in 20 misses by chance."
    texts = [text for text in found if text]
    return [Finding(text, evidence=evidence * (text is texts[0])) for text in texts]


def _amount(cost: Estimates, site: int, name: str) -> str:
    return f"{cost.at_end(site, '.1f')} {_UNITS[name]}"


def _removing(cost: Estimates, what: str) -> str:
    begin = "In this one run, removing" if cost.runs == 1 else "Removing"
    return f"{begin} the nonlinearity of {what}"


def _each(dataset: xr.Dataset, sites: Sites, cost: Estimates) -> str:
    """``Removing the nonlinearity of`` some sites in turn."""
    text = _removing(cost, named(dataset, sites, "activation"))
    return text + agree(sites, "", ", one at a time,")


def _worth(dataset: xr.Dataset, sites: Sites, cost: Estimates, name: str) -> str:
    """The sites whose nonlinearity is worth something, the largest first."""
    if not sites.size:
        return ""
    first, *rest = sites[np.argsort(-cost.mean[-1, sites], kind="stable")]
    parts = [f"that of {name_of(dataset, i)} {cost.at_end(i, '.1f')}" for i in rest]
    if (more := len(parts) - MOST_SITES) > 0:
        parts[MOST_SITES:] = [f"that of {more} {'others' if more > 1 else 'other'} less"]
    text = f"{_removing(cost, name_of(dataset, first))} costs {_amount(cost, first, name)}"
    base = float(dataset[f"base_{name.removesuffix('_increase')}"].isel(step=-1).mean())
    as_it_is = f"{base:.1f}%" if name == "error_increase" else f"{base:.3g}"
    return f"{joined([text, *parts])} (as it is: {as_it_is})."


def _gained(dataset: xr.Dataset, sites: Sites, cost: Estimates, name: str) -> str:
    if not sites.size:
        return ""
    most = sites[np.argmin(cost.mean[-1, sites])]
    amount = _amount(cost, most, name)
    if len(sites) > 1:
        amount = f"down to {amount} ({name_of(dataset, most)})"
    return f"{_each(dataset, sites, cost)} costs less than nothing: {amount}."


def _nothing(dataset: xr.Dataset, sites: Sites, cost: Estimates, name: str) -> str:
    if not sites.size:
        return ""
    within = f"within {NOTHING[name]:g} {_UNITS[name]}"
    return f"{_each(dataset, sites, cost)} costs nothing ({within})."


def _undecided(dataset: xr.Dataset, sites: Sites, cost: Estimates, name: str) -> str:
    if not sites.size:
        return ""
    most = sites[np.argmax(cost.mean[-1, sites])]
    why = f"{agree(sites, 'the', 'every')} interval includes 0"
    if cost.runs < FEWEST_RUNS:
        why = f"that takes {FEWEST_RUNS} at least"
    return (
        f"{cost.runs} runs do not decide what removing the nonlinearity of "
        f"{named(dataset, sites, 'activation')} costs: {why}. The largest mean is "
        f"{_amount(cost, most, name)} ({name_of(dataset, most)})."
    )
