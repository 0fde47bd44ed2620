"""The report on a study: verdicts beside figures."""

from __future__ import annotations

from collections.abc import Sequence

import xarray as xr

from layerscope.figures.table import Table
from layerscope.probes import Reinitialisation
from layerscope.report.diagnosis import reset_summary, resets
from layerscope.report.finding import Finding
from layerscope.report.page import Page, Section
from layerscope.runs.environment import describe
from layerscope.studies.claims import Claim, Verdict
from layerscope.studies.study import Outcome, Study

MOST_NETWORKS = 8
"""Networks of a study up to which each has a sentence."""


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
        verdicts=tuple(verdicts),
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
