"""Reproduce a study: execute its runs, measure, decide, draw, report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import xarray as xr

from layerscope.display import html
from layerscope.display.progress import Advance, reporting
from layerscope.errors import LayerscopeError
from layerscope.execution import Job, LocalExecutor
from layerscope.recording.sinks import Sink, checked
from layerscope.report.publish import save_figures
from layerscope.report.render import write
from layerscope.report.study_page import study_page
from layerscope.runs.files import check_writable
from layerscope.runs.store import Run
from layerscope.studies import study as studies
from layerscope.studies.claims import Claim, Verdict, verdict_table
from layerscope.studies.sending import send
from layerscope.studies.study import Study


@dataclass(frozen=True)
class Reproduction:
    """What a study came to.

    Attributes:
        data: All measurements.
        verdicts: Every claim with its verdict.
        files: What was written: data, claims, figures folder, report.
    """

    data: xr.DataTree
    verdicts: list[tuple[Claim, Verdict]]
    files: tuple[Path, ...]

    def __repr__(self) -> str:
        lines = (f"  {claim.id}: {verdict!r}" for claim, verdict in self.verdicts)
        return "\n".join([f"Reproduction in {self.files[-1].parent}", *lines])

    def _repr_html_(self) -> str:
        head = html.heading("Reproduction", str(self.files[-1].parent))
        return html.block(head, verdict_table(self.verdicts))


def reproduce(
    study: Study,
    out: str | Path,
    *,
    processes: int | None = None,
    threads: int | None = None,
    data_root: str | None = None,
    accelerator: str = "auto",
    command: str = "",
    advance: Advance | None = None,
    sinks: Sequence[Sink] = (),
) -> Reproduction:
    """Execute a study and write its results to ``<out>/<paper>.<figure>/<scale>/``.

    Runs live under ``<out>/runs/<hash>``: complete ones are reused, interrupted ones resume, and
    one that diverged is reported and leaves the others untouched.

    Args:
        study: What to do.
        out: Folder for everything.
        processes: Runs at once; one per core by default.
        threads: Threads of each process.
        data_root: Folder of local data sets.
        accelerator: Where to train.
        command: The command that does this again, for the report.
        advance: Called with (done, in all) over all runs together; by default a progress bar,
            where there is a terminal or a notebook.
        sinks: Where verdicts and figures go as well, e.g. ``[WandB("studies")]`` of
            `layerscope.integrations`.

    Raises:
        LayerscopeError: A sink is none, the folder cannot be written, or no run of a variant could
            be measured.
    """
    sinks = checked(sinks)
    out = Path(out)
    folder = out / study.folder
    check_writable(folder)
    planned = study.runs()
    jobs: dict[str, Job] = {}
    for variant, _, config in planned:
        known = jobs[config.hash].probes if config.hash in jobs else ()
        probes = tuple(dict.fromkeys((*known, *study.probes_on(variant))))
        path = out / "runs" / config.hash
        jobs[config.hash] = Job(config, path, probes, data_root, accelerator)
    executor = LocalExecutor(processes, threads)
    with reporting(f"{len(jobs)} runs", advance) as advance:
        done = executor.map(list(jobs.values()), _overall(len(jobs), advance))
    outcome_of = dict(zip(jobs, done, strict=True))
    outcomes = [outcome_of[config.hash] for _, _, config in planned]
    measured: dict[tuple[str, int], dict[str, xr.Dataset]] = {}
    failed: dict[Path, str] = {}
    for (variant, seed, _), outcome in zip(planned, outcomes, strict=True):
        if outcome.error:
            continue
        try:
            measured[variant, seed] = studies.gathered(study, variant, Run.open(outcome.path))
        except LayerscopeError as error:
            failed[outcome.path] = str(error)
    outcomes = [replace(o, error=o.error or failed.get(o.path, "")) for o in outcomes]
    if not measured:
        raise LayerscopeError(
            f"no run of {study.name} could be measured: {outcomes[0].error}",
            "Change the settings named above and run again.",
        )
    data = studies.collect(study, measured)
    said = dict.fromkeys(outcome.fidelity for outcome in outcomes if outcome.fidelity)
    if said:
        data.attrs[studies.FIDELITY] = f"Data: {'; '.join(said)}."
    verdicts = studies.decide(study, data)
    files = studies.write(data, verdicts, folder)
    page = study_page(study, data, verdicts, outcomes, command)
    save_figures(page.figures(), folder / "figures")
    report = write(page, folder / "report.html")
    send(sinks, study, verdicts, page.figures())
    return Reproduction(data, verdicts, (*files, folder / "figures", report))


def _overall(n_jobs: int, advance: Advance) -> Callable[[int, int, int], None]:
    """Progress over all jobs from that of each, which are taken to be equally long."""
    shares = [0.0] * n_jobs

    def report(job: int, done: int, total: int) -> None:
        shares[job] = done / total
        advance(round(1000 * sum(shares) / n_jobs), 1000)

    return report
