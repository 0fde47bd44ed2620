"""What a run says in plain sentences: which layers learned, when, and how far.

Each finding comes with its evidence and, where it judges, the threshold it applied.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from layerscope.figures.estimate import mean_interval
from layerscope.report.page import Finding

Measured = Mapping[str, xr.Dataset]
BARELY_MOVED = 0.01
GRADIENT_SPAN = 1e3
MOST_RESETS = 6
WORDS = {
    "ambient": "ambient",
    "critical": "critical",
    "between": "neither ambient nor critical",
    "differs": "its kind differs by seed",
}


def layer_summary(measured: Measured) -> xr.Dataset:
    """One value per layer (and seed) of every weight measurement, over the whole run.

    * ``parameters``: number of parameters.
    * ``change``: median over measured moments of the relative weight change.
    * ``distance``: relative distance from initialisation at the end.
    * ``half_time``: time from which on less than half of the distance to the final weights remains.
    * ``directness``: net progress over path walked at the end.

    Args:
        measured: Datasets by probe name, as `layerscope.publish.measured` returns them.
    """
    distance = measured["distance_from_initialisation"]
    convergence, path = measured["convergence"], measured["path_and_progress"]
    change = measured["weight_change"]["change"].median("step", keep_attrs=True)
    per = "epoch" if "epoch" in measured["weight_change"].coords else "interval"
    values = {
        "parameters": distance["n_parameters"].astype(float),
        "change": change.reindex(layer=distance["layer"]),
        "distance": distance["relative_distance"].isel(step=-1),
        "half_time": convergence["half_time"],
        "directness": path["directness"].isel(step=-1),
    }
    found = xr.Dataset({name: array.reset_coords(drop=True) for name, array in values.items()})
    names = {
        "parameters": ("parameters", ""),
        "change": (f"change per {per}", ""),
        "distance": ("distance from start", ""),
        "half_time": ("half-way time", convergence["half_time"].attrs["units"]),
        "directness": ("directness of path", ""),
    }
    for name, (title, units) in names.items():
        found[name].attrs = {"long_name": title, "units": units}
    return found


def findings(summary: xr.Dataset, measured: Measured) -> tuple[Finding, ...]:
    """The sentences that head a report, most important first."""
    means = summary.mean("seed") if "seed" in summary.dims else summary
    found = [_farthest(means), _first(means, summary["half_time"].attrs["units"]), _straight(means)]
    found += _barely_moved(means)
    if "gradient_magnitude" in measured:
        found += _gradient_span(measured["gradient_magnitude"]["gradient_magnitude"])
    if "reinitialisation" in measured:
        found += resets(measured["reinitialisation"])
    return tuple(finding for finding in found if finding is not None)


def _ends(values: xr.DataArray) -> tuple[str, float, str, float] | None:
    """Layers of the largest and the smallest finite value, with these values."""
    finite = values.where(np.isfinite(values)).dropna("layer")
    if finite.sizes["layer"] < 2:
        return None
    numbers, names = finite.values, [str(name) for name in finite["layer"].values]
    high, low = int(np.argmax(numbers)), int(np.argmin(numbers))
    return names[high], float(numbers[high]), names[low], float(numbers[low])


def _farthest(summary: xr.Dataset) -> Finding | None:
    if (ends := _ends(summary["distance"])) is None:
        return None
    high, far, low, near = ends
    return Finding(
        f"{high} moved farthest: {far:.0%} of its initial norm; {low} moved least: {near:.0%}.",
        evidence="L2 distance from initialisation at the end over the initial norm.",
        layer=high,
    )


def _first(summary: xr.Dataset, units: str) -> Finding | None:
    if (ends := _ends(-summary["half_time"])) is None:
        return None
    first, early, last, late = ends
    return Finding(
        f"{first} got half-way first, after {-early:.3g} {units}; {last} last, after {-late:.3g}.",
        evidence="Time from which on less than half of the distance to the final weights remains.",
        layer=first,
    )


def _straight(summary: xr.Dataset) -> Finding | None:
    if (ends := _ends(summary["directness"])) is None:
        return None
    high, straight, low, winding = ends
    return Finding(
        f"{high} took the straightest path ({straight:.0%} of it was progress), "
        f"{low} the most winding ({winding:.0%}).",
        evidence="Net progress towards the final weights over path length between checkpoints.",
        layer=high,
    )


def _barely_moved(summary: xr.Dataset) -> list[Finding]:
    distance = summary["distance"]
    names = [str(n) for n in distance["layer"].values[(distance < BARELY_MOVED).values]]
    if not names:
        return [
            Finding(
                "Every layer learned: none ended within 1% of where it started.",
                "good",
                f"Threshold: relative distance from initialisation of {BARELY_MOVED:.0%}.",
            )
        ]
    return [
        Finding(
            f"{', '.join(names)} barely moved.",
            "warning",
            f"Relative distance from initialisation below {BARELY_MOVED:.0%} at the end.",
            names[0],
        )
    ]


def _gradient_span(gradients: xr.DataArray) -> list[Finding]:
    start = gradients.isel(step=0)
    start = start.mean("seed") if "seed" in start.dims else start
    if (ends := _ends(start)) is None:
        return []
    high, large, low, small = ends
    if small > 0 and large / small < GRADIENT_SPAN:
        return []
    return [
        Finding(
            f"Gradients at the start differ {large / small if small else np.inf:.0e}-fold between "
            f"{high} and {low}.",
            "warning",
            f"Mean absolute gradient on the fixed batch; threshold {GRADIENT_SPAN:.0e}.",
            low,
        )
    ]


def _reset_costs(
    dataset: xr.Dataset,
) -> tuple[str, np.ndarray, np.ndarray, list[str], str]:
    """What resetting each layer to its earliest weights costs.

    Returns:
        What the layers are reset to; cost, its margin and kind for every layer; the evidence.
    """
    if dataset.sizes.get("seed") == 1:
        dataset = dataset.isel(seed=0, drop=True)
    steps = [str(c) for c in dataset["checkpoint"].values if str(c) != "random"]
    chosen = dataset.sel(checkpoint=steps[0])
    rise, error = chosen["degradation"], chosen["degradation_error"]
    labels = chosen["label"]
    start = "its initial weights" if steps[0] == "0" else f"step {steps[0]}"
    if "seed" not in rise.dims:
        evidence = "Rise of the test error; 95% interval over test examples, paired."
        kinds = [str(kind) for kind in labels.values]
        return start, rise.values, 1.96 * error.values, kinds, evidence
    found = mean_interval(rise.transpose("layer", "seed").values, axis=1)
    evidence = f"Rise of the test error; 95% interval over {rise.sizes['seed']} seeds."
    rows = labels.transpose("layer", "seed").values
    kinds = [str(row[0]) if len(set(row)) == 1 else "differs" for row in rows]
    return start, found.mean, found.high - found.mean, kinds, evidence


def resets(dataset: xr.Dataset) -> list[Finding]:
    """A sentence per layer on what resetting it costs; ends of the scale if there are many.

    Args:
        dataset: What `layerscope.probes.Reinitialisation` measured, with or without seeds.
    """
    start, costs, margins, kinds, evidence = _reset_costs(dataset)
    order = np.argsort(-costs)
    shown = order if len(order) <= MOST_RESETS else [*order[:3], *order[-3:]]
    return [
        Finding(
            f"Resetting {dataset['layer'].values[i]} to {start} costs "
            f"{costs[i]:.1f} \N{PLUS-MINUS SIGN} {margins[i]:.1f} points: {WORDS[kinds[i]]}.",
            evidence=evidence,
            layer=str(dataset["layer"].values[i]),
        )
        for i in shown
    ]


def reset_summary(dataset: xr.Dataset, name: str) -> Finding:
    """One sentence on all layers of one of several networks.

    Args:
        dataset: As for `resets`.
        name: What the network is called.
    """
    start, costs, margins, kinds, evidence = _reset_costs(dataset)
    most = int(np.argmax(costs))
    return Finding(
        f"{name}: {kinds.count('ambient')} of {len(kinds)} layers are ambient and "
        f"{kinds.count('critical')} critical; resetting {dataset['layer'].values[most]} to {start} "
        f"costs most, {costs[most]:.1f} \N{PLUS-MINUS SIGN} {margins[most]:.1f} points.",
        evidence=evidence
        + " A kind counts where all seeds agree." * (dataset.sizes.get("seed", 1) > 1),
    )
