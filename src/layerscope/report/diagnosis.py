"""What a run says in plain sentences: which layers learned, when, and how far.

Each finding comes with its evidence and, where it judges, the threshold it applied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from layerscope.functional.estimates import mean_interval
from layerscope.functional.robustness import FROZEN
from layerscope.networks.discovery import preview
from layerscope.report.finding import Finding

Measured = Mapping[str, xr.Dataset]
BARELY_MOVED = 0.01
GRADIENT_SPAN = 1e3
MOST_RESETS = 6
MOST_NAMES = 6
NOT_TRAINED = "not trained"
WORDS = {
    FROZEN: NOT_TRAINED,
    "ambient": "ambient",
    "critical": "critical",
    "between": "neither ambient nor critical",
    "differs": "its kind differs by seed",
}


def layer_summary(measured: Measured, planned: int | None = None) -> xr.Dataset:
    """One value per layer (and seed) of every weight measurement, over the whole run.

    * ``parameters``: number of parameters.
    * ``change``: median of the relative weight change over measured moments at which the layer
      moved.
    * ``distance``: relative distance from initialisation at the last measured step, infinite for a
      layer that starts at zero; its attribute ``as_of`` says of which step (or epoch) it is where
      that is not the end.
    * ``rms``: RMS distance from initialisation at the same step, in weights.
    * ``half_time``: time from which on less than half of the distance to the final weights remains.
    * ``directness``: net progress over path walked at the end.
    * ``note``: ``"not trained"``, ``"started at zero"`` or nothing.

    The coordinate ``trained`` is false for layers whose parameters require no gradient and did not
    move. Without a measured distance from initialisation the two distances are left out.

    Args:
        measured: Datasets by probe name, as `layerscope.report.measurements.measured` returns them.
        planned: Steps that the training was to take, where known.
    """
    half, path = measured["convergence"]["half_time"], measured["path_and_progress"]
    changes = measured["weight_change"]["change"]
    change = changes.where((changes != 0) | (changes == 0).all("step"))
    change = change.median("step", keep_attrs=True)
    per = _interval(measured["weight_change"])
    columns = {
        "parameters": (path["n_parameters"].astype(float), "parameters", ""),
        "change": (change.reindex(layer=path["layer"]), f"change per {per}", ""),
        "half_time": (half, "half-way time", half.attrs["units"]),
        "directness": (_at_end(path["directness"]), "directness of path", ""),
    }
    moved = columns["directness"][0].notnull()
    if (distance := measured.get("distance_from_initialisation")) is not None:
        relative, rms = (_at_end(distance[f"{kind}_distance"]) for kind in ("relative", "rms"))
        columns["distance"] = (relative, "distance from start", "")
        columns["rms"] = (rms, "RMS distance", "weight")
        moved = relative > 0
    arrays = {
        name: array.reset_coords(drop=True).assign_attrs(long_name=title, units=units)
        for name, (array, title, units) in columns.items()
    }
    found = xr.Dataset(arrays)
    if distance is not None:
        found["distance"].attrs["as_of"] = _as_of(measured, planned)
    requires = path["trained"].values if "trained" in path.coords else True
    found.coords["trained"] = ("layer", requires | _ever(moved).values)
    return found.assign(note=_notes(found))


def _interval(dataset: xr.Dataset) -> str:
    """What lies between two measured moments: an epoch, a step, or whatever it is."""
    for name in ("epoch", "step"):
        if name in dataset.coords and np.allclose(np.diff([0.0, *dataset[name].values]), 1):
            return name
    return "interval"


def _last(values: xr.DataArray) -> xr.DataArray:
    """The last step at which anything was measured (of every seed)."""
    measured = values.notnull().any("layer")
    return measured["step"].where(measured).max("step").fillna(0).astype(int)


def _at_end(values: xr.DataArray) -> xr.DataArray:
    return values.sel(step=_last(values)).drop_vars("step")


def _ever(condition: xr.DataArray) -> xr.DataArray:
    """Whether something holds for a layer in any seed."""
    return condition.any("seed") if "seed" in condition.dims else condition


def _as_of(measured: Measured, planned: int | None) -> str:
    """``"as of epoch 3 of 5"`` where distances do not end with the last checkpoint or the plan."""
    distance, path = measured["distance_from_initialisation"], measured["path_and_progress"]
    last = _last(distance["relative_distance"])
    end = _last(path["path"]) if planned is None else planned
    if bool((last == end).all()):
        return ""
    per, unit = 1.0, "step"
    if "epoch" in distance.coords and int(distance["step"][-1]):
        per, unit = float(distance["step"][-1] / distance["epoch"][-1]), "epoch"
    low, high = float(last.min()) / per, float(last.max()) / per
    when = f"{unit} {high:.6g}" if low == high else f"{unit}s {low:.6g} to {high:.6g}"
    return f"as of {when}" + (f" of {planned / per:.6g}" if planned else "")


def _infinite(summary: xr.Dataset) -> xr.DataArray:
    return summary["distance"] == np.inf


def _notes(summary: xr.Dataset) -> xr.DataArray:
    notes = xr.where(summary["trained"], "", NOT_TRAINED)
    if "distance" in summary:
        notes = xr.where(_ever(_infinite(summary)), "started at zero", notes)
    return notes.assign_attrs(long_name="note", units="")


def findings(summary: xr.Dataset, measured: Measured) -> tuple[Finding, ...]:
    """The sentences that head a report, most important first.

    Layers that are not trained are named once, and compared with no other.

    Args:
        summary: What `layer_summary` returned.
        measured: What it was given.
    """
    means = summary.mean("seed", keep_attrs=True) if "seed" in summary.dims else summary
    trained = means.isel(layer=np.flatnonzero(summary["trained"]))
    found = [_first(trained, summary["half_time"].attrs["units"]), _straight(trained)]
    if "distance" in summary:
        found = [_farthest(trained), *found, _from_zero(trained), *_barely_moved(trained)]
    found.append(_not_trained(means))
    if "gradient_magnitude" in measured:
        found += _gradient_span(measured["gradient_magnitude"]["gradient_magnitude"], trained)
    if "reinitialisation" in measured:
        found += resets(measured["reinitialisation"])
    return tuple(finding for finding in found if finding is not None)


def _listed(names: Sequence[str]) -> str:
    """``a, b are`` or, of many, ``12 layers (a, b, c ...) are``."""
    if len(names) > MOST_NAMES:
        return f"{len(names)} layers ({preview(names, 3)}) are"
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"


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
        f"{high} moved farthest: {far:.0%} of its initial norm; {low} moved least: {near:.0%}"
        f"{_comma(summary)}.",
        evidence=f"L2 distance from initialisation {_when(summary)} over the initial norm.",
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


def _when(summary: xr.Dataset) -> str:
    return summary["distance"].attrs["as_of"] or "at the end"


def _comma(summary: xr.Dataset) -> str:
    as_of = summary["distance"].attrs["as_of"]
    return f", {as_of}" if as_of else ""


def _from_zero(summary: xr.Dataset) -> Finding | None:
    found = summary["rms"].isel(layer=np.flatnonzero(_infinite(summary)))
    names = [str(name) for name in found["layer"].values]
    if not names:
        return None
    one, numbers = len(names) == 1, [f"{value:.3g}" for value in found.values]
    if len(names) > MOST_NAMES:
        numbers = [f"{float(found.min()):.3g} to {float(found.max()):.3g}"]
    who = _listed(names).rpartition(" ")[0]
    return Finding(
        f"{who} started at zero, so that {'its' if one else 'their'} relative "
        f"{'distance has' if one else 'distances have'} no bound; {'it' if one else 'they'} ended "
        f"at RMS {', '.join(numbers)}{_comma(summary)}.",
        evidence=f"Root mean square of the layer's weights {_when(summary)}.",
        layer=names[0] if one else None,
    )


def _not_trained(summary: xr.Dataset) -> Finding | None:
    names = [str(name) for name in summary["layer"].values[~summary["trained"].values]]
    if not names:
        return None
    return Finding(
        f"{_listed(names)} {NOT_TRAINED}.",
        evidence="No parameter requires a gradient, and none moved.",
        layer=names[0] if len(names) == 1 else None,
    )


def _barely_moved(summary: xr.Dataset) -> list[Finding]:
    """Among the trained layers, those that ended where they began."""
    distance = summary["distance"]
    if not distance.sizes["layer"]:
        return []
    names = [str(n) for n in distance["layer"].values[(distance < BARELY_MOVED).values]]
    if not names:
        return [
            Finding(
                "Every trained layer learned: none ended within 1% of where it started"
                f"{_comma(summary)}.",
                "good",
                f"Threshold: relative distance from initialisation of {BARELY_MOVED:.0%}.",
            )
        ]
    return [
        Finding(
            f"{', '.join(names)} barely moved{_comma(summary)}.",
            "warning",
            f"Relative distance from initialisation below {BARELY_MOVED:.0%} {_when(summary)}.",
            names[0],
        )
    ]


def _gradient_span(gradients: xr.DataArray, trained: xr.Dataset) -> list[Finding]:
    start = gradients.isel(step=0)
    start = start.mean("seed") if "seed" in start.dims else start
    start = start.isel(layer=np.flatnonzero(start["layer"].isin(trained["layer"])))
    if (ends := _ends(start)) is None:
        return []
    high, large, low, small = ends
    if small > 0 and large / small < GRADIENT_SPAN:
        return []
    span = f"differ {large / small:.0e}-fold between {high} and {low}" if small else ""
    return [
        Finding(
            f"Gradients at the start {span or f'are zero in {low}'}.",
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
        kinds = _kinds(labels.values[:, None])
        return start, rise.values, 1.96 * error.values, kinds, evidence
    found = mean_interval(rise.transpose("layer", "seed").values, axis=1)
    evidence = f"Rise of the test error; 95% interval over {rise.sizes['seed']} seeds."
    kinds = _kinds(labels.transpose("layer", "seed").values)
    return start, found.mean, found.high - found.mean, kinds, evidence


def _kinds(labels: np.ndarray) -> list[str]:
    """The kind of every layer, from those in every seed."""
    return [str(row[0]) if len(set(row)) == 1 else "differs" for row in labels]


def resets(dataset: xr.Dataset) -> list[Finding]:
    """A sentence per layer on what resetting it costs; ends of the scale if there are many.

    Args:
        dataset: What `layerscope.probes.Reinitialisation` measured, with or without seeds.
    """
    start, costs, margins, kinds, evidence = _reset_costs(dataset)
    order = np.argsort(-costs)
    if len(order) > MOST_RESETS:
        order = np.array([i for i in order if kinds[i] != FROZEN], dtype=int)
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
    n_trained = len(kinds) - kinds.count(FROZEN)
    layers = "layers" if n_trained == len(kinds) else "trained layers"
    return Finding(
        f"{name}: {kinds.count('ambient')} of {n_trained} {layers} are ambient and "
        f"{kinds.count('critical')} critical; resetting {dataset['layer'].values[most]} to {start} "
        f"costs most, {costs[most]:.1f} \N{PLUS-MINUS SIGN} {margins[most]:.1f} points.",
        evidence=evidence
        + " A kind counts where all seeds agree." * (dataset.sizes.get("seed", 1) > 1),
    )
