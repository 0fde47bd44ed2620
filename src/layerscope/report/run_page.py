"""The report on runs of one architecture; everything shown was measured before."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import xarray as xr

from layerscope.figures.figure import Figure
from layerscope.figures.table import Column, Table
from layerscope.probes import PROBES
from layerscope.probes.figures import whole_model
from layerscope.report.change import change_findings, frozen_findings
from layerscope.report.conditioning import conditioning_findings
from layerscope.report.diagnosis import findings, layer_summary
from layerscope.report.linearity import linearity_findings
from layerscope.report.measurements import probe_figures, probe_of, seed_labels, stacked
from layerscope.report.page import Page, Section
from layerscope.runs.manifest import rate_drops
from layerscope.runs.store import Run

COLUMNS = (
    Column("parameters", "parameters", format=",.0f", bar=False, note="Number of parameters."),
    Column("change", format=".2%", note="Median over time of the relative weight change."),
    Column("distance", format=".1%", note="L2 distance from initialisation over initial norm."),
    Column("half_time", format=".3g", note="Less than half of the way remains from then on."),
    Column("directness", format=".0%", note="Net progress over path walked."),
)
LEADING = ("distance_from_initialisation", "convergence")
WHOLE = "The whole model"


def run_page(runs: Sequence[Run], title: str = "", command: str = "") -> Page:
    """The report on one run, or on several seeds of it.

    Args:
        runs: Runs of one architecture.
        title: Heading; made from the run where empty.
        command: The command that makes the page again.

    Raises:
        LayerscopeError: The runs have different layers, or too few checkpoints.
    """
    measurements = stacked(runs)
    figures = probe_figures(measurements)
    planned = {run.manifest["total_steps"] for run in runs}
    summary = layer_summary(measurements, planned.pop() if len(planned) == 1 else None)
    configs = [run.config for run in runs]
    alike = {replace(config, seed=0).hash for config in configs if config is not None}
    shared = configs[0] if len(alike) == 1 and None not in configs else None
    leading = next(name for name in LEADING if figures.get(name))
    lead, *figures[leading] = figures[leading]
    return Page(
        title=title or "How each layer learned",
        subtitle=_subtitle(runs),
        facts=facts(runs),
        findings=(
            *findings(summary, measurements),
            *change_findings(measurements, shared),
            *frozen_findings([run.manifest for run in runs], shared),
            *linearity_findings(measurements),
            *conditioning_findings(measurements),
        ),
        table=_table(summary),
        lead=lead,
        sections=sections(
            figures, training_figures([_whole(run) for run in runs], seed_labels(runs))
        ),
        provenance=provenance(runs, command),
        notices=(*(n for run in runs for n in notices(run)), *_not_measured(measurements)),
    )


def sections(
    figures: Mapping[str, Sequence[Figure]], training: Sequence[Figure]
) -> tuple[Section, ...]:
    """A section for every heading that has figures, in the order of the probes."""
    headed: dict[str, list[Figure]] = {}
    for name, drawn in figures.items():
        probe = PROBES[probe_of(name)]
        headed.setdefault(probe.heading or probe.summary, []).extend(drawn)
    headed.setdefault(WHOLE, []).extend(training)
    return tuple(Section(heading, figures=tuple(all_)) for heading, all_ in headed.items() if all_)


def notices(run: Run) -> Iterator[str]:
    """What a reader must know of a run: that it stopped, lacks its start, or a probe failed."""
    if run.missing:
        yield f"{run.path.name}: {run.missing}."
    if run.steps and (first := run.steps[0]):
        yield f"{run.path.name}: no checkpoint at step 0: distances count from step {first}."
    for key, failure in run.manifest["notes"].get("failed_probes", {}).items():
        reason = str(failure["error"]).rstrip(".")
        yield (
            f"{run.path.name}: {key} failed at step {failure['step']} and was left out from then "
            f"on: {reason}."
        )


def _not_measured(measurements: Mapping[str, xr.Dataset]) -> Iterator[str]:
    """The layers that a probe has no value for, and why."""
    for name, dataset in measurements.items():
        if "missing" not in dataset.coords:
            continue
        layers: dict[str, list[str]] = {}
        for layer, why in zip(dataset["layer"].values, dataset["missing"].values, strict=True):
            layers.setdefault(str(why), []).append(str(layer))
        layers.pop("", None)
        if layers:
            reasons = "; ".join(f"{', '.join(names)} ({why})" for why, names in layers.items())
            yield f"{name} was not measured for {reasons}."


def layer_table(measurements: Mapping[str, xr.Dataset]) -> Table:
    """One row per layer: parameters, change, distance, convergence, directness."""
    return _table(layer_summary(measurements))


def _table(summary: xr.Dataset) -> Table:
    """The table of a summary; notes only where a layer has one."""
    columns = tuple(column for column in COLUMNS if column.name in summary)
    caption = "One row per layer, shallowest first"
    caption += "; ± is the 95% interval over seeds." if "seed" in summary.dims else "."
    if "distance" in summary and (as_of := summary["distance"].attrs["as_of"]):
        caption += f" Distances are {as_of}."
    if summary["note"].values.any():
        columns = (*columns, Column("note", bar=False))
    return Table(summary, key="layers", title="Layers", caption=caption, columns=columns)


def _whole(run: Run) -> dict[str, xr.Dataset]:
    """Numbers of the whole model, by key."""
    return {k: run.results(k) for k in ("training", "evaluation") if k in run.result_keys}


def training_figures(
    numbers: Sequence[Mapping[str, xr.Dataset]], seeds: Sequence[Any]
) -> list[Figure]:
    """Loss and test error of the whole model.

    Args:
        numbers: What each run has of it, by key.
        seeds: How the runs are told apart.
    """
    found: list[Figure] = []
    for key, name, title in (
        ("training", "loss", "Training loss"),
        ("evaluation", "test_error", "Test error"),
        ("evaluation", "test_loss", "Test loss"),
    ):
        parts = [own[key][name] for own in numbers if key in own and name in own[key]]
        if len(parts) != len(numbers):
            continue
        values = xr.concat(parts, xr.DataArray(list(seeds), dims="seed", name="seed"))
        if name == "test_error":
            values = (100 * values).assign_attrs(values.attrs | {"units": "%"})
        interval = "; mean and 95% interval over seeds" if len(numbers) > 1 else ""
        caption = f"{title} of the whole model{interval}."
        found.append(whole_model(values, name, title, caption))
    return found


def describe_config(config: Mapping[str, Any]) -> str:
    """A configuration in a few words, e.g. ``FCN depth 3, width 256, activation relu``."""
    values = [f"{k.replace('_', ' ')} {v}" for k, v in config.items() if k != "type" and v]
    return f"{config['type']} {', '.join(values)}".strip()


def _config(run: Run) -> dict[str, Any] | None:
    """The stored configuration of a run that was trained from one; loops may keep others."""
    config = run.manifest["config"]
    return config if config is not None and config.get("type") == "RunConfig" else None


def _subtitle(runs: Sequence[Run]) -> str:
    if (config := _config(runs[0])) is None:
        return f"{len(runs[0].layers)} layers, recorded around a training loop."
    data = runs[0].manifest["notes"].get("data", describe_config(config["data"]))
    return f"{describe_config(config['model'])}, trained on {data}."


def facts(runs: Sequence[Run]) -> tuple[tuple[str, str], ...]:
    """Short pairs on what was trained, and how well."""
    run, manifest = runs[0], runs[0].manifest
    notes = manifest["notes"]
    facts = [("parameters", f"{sum(layer.n_parameters for layer in run.layers):,}")]
    if run.steps:
        facts.append(("steps", f"{run.steps[-1]:,}"))
    for name in ("epochs", "n_train"):
        if name in notes:
            facts.append((name.replace("n_train", "training examples"), f"{notes[name]:,}"))
    if config := _config(run):
        facts.append(("optimiser", describe_config(config["optimizer"])))
    if any(drops := [_drops(r) for r in runs]):
        facts.append(("learning rate fell after epoch", "; ".join(d or "none" for d in drops)))
    errors = [r.manifest["notes"].get("test_error") for r in runs]
    if None not in errors:
        facts.append(("test error", f"{sum(errors) / len(errors):.2%}"))
    if len(runs) > 1:
        facts.append(("seeds", str(len(runs))))
    if notes.get("data_note"):
        facts.append(("data", notes["data_note"]))
    return tuple(facts)


def _drops(run: Run) -> str:
    """The epochs after which a plateau of the test loss lowered the learning rate."""
    return ", ".join(f"{step / (run.steps_per_epoch or 1):g}" for step in rate_drops(run.manifest))


def provenance(runs: Sequence[Run], command: str) -> dict[str, str]:
    """When, by what and with which configuration the runs were made."""
    manifest = runs[0].manifest
    found = {"recorded": manifest["created"]}
    if command:
        found["made by"] = command
    found |= {k.replace("_", " "): v for k, v in manifest["environment"].items() if v}
    found["runs"] = "\n".join(
        f"{run.path.name}: {run.status}, seed {run.manifest['seed']}" for run in runs
    )
    if manifest["config"]:
        found["configuration"] = json.dumps(manifest["config"], indent=1)
    return found
