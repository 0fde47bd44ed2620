"""From runs and studies to pages, figures and files; everything shown was measured before."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from layerscope.errors import LayerscopeError
from layerscope.figures.figure import Figure, Lines
from layerscope.figures.table import Column, Table
from layerscope.probes import (
    PROBES,
    Convergence,
    DistanceFromInitialisation,
    PathAndProgress,
    Probe,
    Reinitialisation,
    WeightChange,
    measure_all,
)
from layerscope.report.diagnosis import findings, layer_summary, reset_summary, resets
from layerscope.report.page import Finding, Page, Section, VerdictRow, write
from layerscope.runs.environment import describe
from layerscope.runs.store import Run
from layerscope.schedule import parse
from layerscope.studies.claims import Claim, Verdict
from layerscope.studies.study import Outcome, Study

COLUMNS = (
    Column("parameters", "parameters", format=",.0f", bar=False, note="Number of parameters."),
    Column("change", format=".2%", note="Median over time of the relative weight change."),
    Column("distance", format=".1%", note="L2 distance from initialisation over initial norm."),
    Column("half_time", format=".3g", note="Less than half of the way remains from then on."),
    Column("directness", format=".0%", note="Net progress over path walked."),
)
MOST_NETWORKS = 8
"""Networks of a study up to which each has a sentence."""
LEADING = ("distance_from_initialisation", "convergence")
LIVE = ("weight_change", "distance_from_initialisation")
SECTIONS = {
    "weight_change": "How much each layer changes",
    "distance_from_initialisation": "How far each layer has come",
    "convergence": "When each layer arrives",
    "path_and_progress": "Path walked and progress made",
    "reinitialisation": "Which layers can be reset",
    "generalisation_bound": "What resetting says about generalisation",
    "adversarial_accuracy": "Random resets against an adversary",
    "gradient_magnitude": "What reaches each layer",
}


def weight_probes(run: Run) -> tuple[Probe, ...]:
    """The probes that need nothing but checkpoints."""
    time = "epoch" if run.steps_per_epoch else "step"
    return (
        WeightChange(),
        DistanceFromInitialisation(),
        Convergence(time=time),
        PathAndProgress(),
    )


def measured(run: Run) -> dict[str, xr.Dataset]:
    """What is known of a run by probe name; weight probes are measured where they are missing.

    Live measurements are preferred to those from checkpoints unless they stop before the last
    checkpoint, and default settings to others; of several others the one that differs in the
    fewest settings is shown. The distance from initialisation is left out where it was not
    measured live and there is no checkpoint 0.
    """
    found: dict[str, xr.Dataset] = {}
    due: dict[str, Probe] = {}
    for probe in weight_probes(run):
        name = next(n for n, cls in PROBES.items() if cls is type(probe))
        live = run.results(probe.key) if probe.key in run.result_keys and name in LIVE else None
        startless = isinstance(probe, DistanceFromInitialisation) and 0 not in run.steps
        if live is not None and (startless or _reaches_end(run, probe, live)):
            found[name] = live
        elif not startless:
            due[name] = probe
    fresh = measure_all(due.values(), run)
    found |= {name: fresh[probe.key] for name, probe in due.items()}
    for name in PROBES.keys() - found.keys():
        own = [k for k in run.result_keys if k == name or k.startswith((f"{name},", f"{name}@"))]
        if own:  # the default settings where they were measured
            found[name] = run.results(min(own, key=lambda key: (len(key), key)))
    return found


def _reaches_end(run: Run, probe: Probe, live: xr.Dataset) -> bool:
    """Whether what was measured live goes as far as the last checkpoint.

    A probe that compares two moments ends with the last full interval of its schedule.
    """
    after = range(int(live["step"][-1]) + 1, run.steps[-1] + 1 if run.steps else 0)
    if "previous" not in probe.needs:
        return not after
    schedule = parse(live.attrs["schedule"])
    return not any(schedule(step) for step in after)


def stacked(runs: Sequence[Run]) -> dict[str, xr.Dataset]:
    """Measurements of several runs of one architecture, over a dimension ``seed``.

    Raises:
        LayerscopeError: The runs have different layers.
    """
    first = runs[0]
    for run in runs[1:]:
        if run.layers.names != first.layers.names:
            raise LayerscopeError(
                f"{run.path} and {first.path} have different layers.",
                "Report them apart: one page shows runs of one architecture.",
            )
    parts = [measured(run) for run in runs]
    if len(runs) == 1:
        return parts[0]
    index = xr.DataArray(_labels(runs), dims="seed", name="seed")
    shared = [name for name in PROBES if all(name in part for part in parts)]
    return {
        name: xr.concat(
            [part[name] for part in parts],
            index,
            join="outer",
            coords="minimal",
            compat="override",
            combine_attrs="drop_conflicts",
        )
        for name in shared
    }


def _labels(runs: Sequence[Run]) -> list[Any]:
    seeds = [run.manifest["seed"] for run in runs]
    return seeds if None not in seeds and len(set(seeds)) == len(seeds) else list(range(len(runs)))


def layer_table(measurements: Mapping[str, xr.Dataset]) -> Table:
    """One row per layer: parameters, change, distance, convergence, directness."""
    return _table(layer_summary(measurements))


def _table(summary: xr.Dataset) -> Table:
    """The table of a summary; notes only where a layer has one."""
    columns = tuple(column for column in COLUMNS if column.name in summary)
    caption = "One row per layer, shallowest first; ± is the 95% interval over seeds."
    if "distance" in summary and (as_of := summary["distance"].attrs["as_of"]):
        caption += f" Distances are {as_of}."
    if summary["note"].values.any():
        columns = (*columns, Column("note", bar=False))
    return Table(summary, key="layers", title="Layers", caption=caption, columns=columns)


def probe_figures(measurements: Mapping[str, xr.Dataset]) -> dict[str, list[Figure]]:
    """The figures of every measurement, by probe name, each drawn by the probe itself."""
    found: dict[str, list[Figure]] = {}
    for name, dataset in measurements.items():
        settings = json.loads(dataset.attrs.get("settings", "{}"))
        found[name] = PROBES[name](**_tuples(settings)).figures(dataset)
    return found


def _tuples(settings: Mapping[str, Any]) -> dict[str, Any]:
    def made(value: Any) -> Any:
        return tuple(made(v) for v in value) if isinstance(value, list) else value

    return {name: made(value) for name, value in settings.items()}


def _training_figures(runs: Sequence[Run]) -> list[Figure]:
    """Loss and test error of the whole model."""
    found: list[Figure] = []
    for key, name, title in (
        ("training", "loss", "Training loss"),
        ("evaluation", "test_error", "Test error"),
        ("evaluation", "test_loss", "Test loss"),
    ):
        parts = [run.results(key) for run in runs if key in run.result_keys]
        parts = [part[name] for part in parts if name in part]
        if len(parts) != len(runs):
            continue
        values = xr.concat(parts, xr.DataArray(_labels(runs), dims="seed", name="seed"))
        x = "step"
        if "epoch" in values.coords:
            values, x = values.swap_dims(step="epoch"), "epoch"
        caption = f"{title} of the whole model; mean and 95% interval over seeds."
        found.append(
            Lines(values, key=name.replace("_", "-"), title=title, caption=caption, x=x, hue=None)
        )
    return found


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
    leading = next(name for name in LEADING if figures.get(name))
    lead, *figures[leading] = figures[leading]
    sections = [
        Section(heading, figures=tuple(figures[name]))
        for name, heading in SECTIONS.items()
        if figures.get(name)
    ]
    if training := _training_figures(runs):
        sections.append(Section("The whole model", figures=tuple(training)))
    return Page(
        title=title or "How each layer learned",
        subtitle=_subtitle(runs),
        facts=_facts(runs),
        findings=findings(summary, measurements),
        table=_table(summary),
        lead=lead,
        sections=tuple(sections),
        provenance=_provenance(runs, command),
        notices=(*(n for run in runs for n in _notices(run)), *_not_measured(measurements)),
    )


def _notices(run: Run) -> Iterator[str]:
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


def write_report(
    runs: Run | str | Path | Sequence[Run | str | Path],
    path: str | Path,
    title: str = "",
    command: str = "",
) -> Path:
    """Write the interactive report on one run, or on several seeds of it.

    Args:
        runs: One run or its folder, or several of one architecture.
        path: Where the HTML file goes.
        title: Heading; made from the run where empty.
        command: The command that makes the page again, for the record.

    Returns:
        The path written.

    Raises:
        LayerscopeError: A folder holds no run; the runs have different layers, or too few
            checkpoints; there is none.
    """
    several = [runs] if isinstance(runs, Run | str | Path) else runs
    chosen = [run if isinstance(run, Run) else Run.open(run) for run in several]
    if not chosen:
        raise LayerscopeError("there is no run to report.", "Pass a run, or the path of one.")
    return write(run_page(chosen, title, command), path)


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


def _facts(runs: Sequence[Run]) -> tuple[tuple[str, str], ...]:
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
    errors = [r.manifest["notes"].get("test_error") for r in runs]
    if None not in errors:
        facts.append(("test error", f"{sum(errors) / len(errors):.2%}"))
    if len(runs) > 1:
        facts.append(("seeds", str(len(runs))))
    if notes.get("data_note"):
        facts.append(("data", notes["data_note"]))
    return tuple(facts)


def _provenance(runs: Sequence[Run], command: str) -> dict[str, str]:
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


# Studies


def study_page(
    study: Study,
    data: xr.DataTree,
    verdicts: Sequence[tuple[Claim, Verdict]],
    outcomes: Sequence[Outcome],
    command: str = "",
) -> Page:
    """The report on a study: verdicts beside figures."""
    figures = study.draw(data)
    lead = next((figure for figure in figures if not isinstance(figure, Table)), None)
    rest = tuple(figure for figure in figures if figure is not lead)
    failed = [f"{o.path.name} has no measurements: {o.error}" for o in outcomes if o.error]
    environment = {k.replace("_", " "): v for k, v in describe().items() if v}
    configurations = {name: repr(config) for name, config in study.variants.items()}
    return Page(
        title=study.title,
        subtitle=study.description,
        facts=(
            ("recipe", study.name),
            ("source", study.source),
            ("scale", study.scale),
            ("seeds", ", ".join(map(str, study.seeds))),
            ("runs", str(len(outcomes))),
        ),
        findings=_study_findings(study, data),
        lead=lead,
        sections=(Section("Measurements", figures=rest),) if rest else (),
        verdicts=tuple(verdict_row(claim, verdict) for claim, verdict in verdicts),
        provenance={"made by": command} | environment | configurations,
        notices=tuple(failed),
    )


def _study_findings(study: Study, data: xr.DataTree) -> tuple[Finding, ...]:
    """What resetting layers one at a time costs: layer by layer, or a sentence for each variant."""
    found = [
        (variant, data[variant][probe.key].to_dataset())
        for variant in study.variants
        for probe in study.probes
        if isinstance(probe, Reinitialisation) and probe.joint == "alone"
    ]
    if len(found) == 1:
        return tuple(resets(found[0][1]))
    if len(found) > MOST_NETWORKS:  # the figures compare them
        return ()
    return tuple(reset_summary(dataset, variant) for variant, dataset in found)


def verdict_row(claim: Claim, verdict: Verdict) -> VerdictRow:
    """A verdict as the page shows it."""
    return VerdictRow(
        id=claim.id,
        text=claim.text,
        source=claim.source,
        outcome=verdict.outcome,
        statistic=verdict.statistic,
        value=verdict.value,
        interval=verdict.interval,
        n_seeds=verdict.n_seeds,
        note=verdict.note,
        threshold=verdict.threshold,
    )


def save_figures(figures: Sequence[Figure], folder: Path) -> list[Path]:
    """Write every figure as PNG and PDF."""
    from layerscope.figures.matplotlib import save

    return [path for figure in figures for path in save(figure, folder)]
