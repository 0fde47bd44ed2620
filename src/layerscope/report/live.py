"""What is known of a run that may still be going: read from disk, nothing is measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import TypeVar

import xarray as xr

from layerscope.errors import LayerscopeError
from layerscope.figures.table import Column, Table
from layerscope.probes import MomentProbe
from layerscope.probes.figures import made_by
from layerscope.recording.feed import live_keys
from layerscope.report.conditioning import conditioning_findings
from layerscope.report.linearity import linearity_findings
from layerscope.report.measurements import place, probe_figures, seed_labels
from layerscope.report.page import Page
from layerscope.report.run_page import facts, notices, provenance, sections, training_figures
from layerscope.runs.manifest import Status
from layerscope.runs.store import Run

T = TypeVar("T")
ATTEMPTS, PAUSE = 5, 0.2
"""How often a run is read while another process merges its files, and seconds in between."""


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        status: That of the run.
        step: The last step of which anything was written.
        total: Steps that it is to take, where known.
        seconds: Since it began, or that it took.
        loss: The training loss written last, where there is one.
    """

    status: Status
    step: int
    total: int | None
    seconds: float
    loss: float | None

    @property
    def left(self) -> float | None:
        """Seconds that are left at the present pace, where that is known."""
        if self.status != "running" or not self.total or not self.step:
            return None
        return self.seconds * max(self.total - self.step, 0) / self.step


@dataclass(frozen=True, eq=False)
class Live:
    """A run at this moment.

    Attributes:
        run: The run.
        measured: Everything that was measured while it trained, by key.
        whole: Numbers of the whole model, by key.
        progress: How far it is.
    """

    run: Run
    measured: Mapping[str, xr.Dataset]
    whole: Mapping[str, xr.Dataset]
    progress: Progress

    def table(self) -> Table | None:
        """One row per layer: the value that was measured last, of every probe; None without any."""
        found: dict[str, xr.DataArray] = {}
        for values in self.columns():
            last = values.isel(step=-1).reset_coords(drop=True)
            found.setdefault(str(values.attrs["long_name"]), last)
        if not found:
            return None
        data = xr.Dataset({f"column{i}": values for i, values in enumerate(found.values())})
        columns = tuple(Column(str(name)) for name in data.data_vars)
        caption = "One row per layer, shallowest first: the values that were measured last."
        return Table(data, key="layers", title="Layers", caption=caption, columns=columns)

    def columns(self) -> list[xr.DataArray]:
        """The first variable over steps and layers of every probe that measures layers."""
        own = set(self.run.layers.names)
        found = []
        for dataset in self.measured.values():
            probe = made_by(dataset)
            if isinstance(probe, MomentProbe) and own.issuperset(dataset["layer"].values.tolist()):
                over = [dataset[v] for v in probe.variables if dataset[v].dims == ("step", "layer")]
                found += over[:1]
        return [values for values in found if values.sizes["step"]]


class Watched:
    """A run that another process writes, read again when it has changed on disk.

    Threads may share one.

    Args:
        path: Folder of the run.

    Raises:
        LayerscopeError: There is no run, or a file is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = Lock()
        self._version = version(self.path)
        self._live = _patiently(lambda: _read(Run.open(self.path)))

    def now(self) -> tuple[str, Live]:
        """The version of what is on disk, and the run as it is there.

        Raises:
            LayerscopeError: The run is gone, or a file is damaged.
        """
        with self._lock:
            self._renew()
            progress = _timed(self._live)
            if progress.status != "running" and self._renew():  # it ended since
                progress = _timed(self._live)
            return self._version, replace(self._live, progress=progress)

    def _renew(self) -> bool:
        """Read the run again if it has changed on disk, and say whether it has."""
        now = version(self.path)
        if now == self._version:
            return False
        self._live = _patiently(lambda: _read(Run.open(self.path)))
        self._version = now
        return True


def _patiently(action: Callable[[], T]) -> T:
    """Do it again where files were exchanged while they were read."""
    for _ in range(ATTEMPTS - 1):
        try:
            return action()
        except (LayerscopeError, OSError):
            time.sleep(PAUSE)
    return action()


def _read(run: Run) -> Live:
    found = {key: run.results(key) for key in live_keys(run)}
    whole = {k: v for k, v in found.items() if "layer" not in v.dims}
    measured = {k: v for k, v in found.items() if k not in whole and "step" in v.dims}
    measured = {k: measured[k] for k in sorted(measured, key=place)}
    steps = [int(v["step"][-1]) for v in found.values() if v.sizes.get("step")]
    losses = found.get("training")
    status = run.status
    return Live(
        run,
        measured,
        whole,
        Progress(
            status,
            max([*steps, *run.steps[-1:]], default=0),
            run.manifest["total_steps"],
            _seconds(run, status),
            None if losses is None else float(losses["loss"][-1]),
        ),
    )


def _timed(live: Live) -> Progress:
    """How far the run is, now: a process that was killed writes nothing more."""
    status = live.run.status
    return replace(live.progress, status=status, seconds=_seconds(live.run, status))


def _seconds(run: Run, status: Status) -> float:
    start = datetime.fromisoformat(run.manifest["created"])
    if status == "running":
        end = datetime.now(UTC)
    elif run.manifest["status"] != "running" and "ended" in run.manifest:
        end = datetime.fromisoformat(run.manifest["ended"])
    else:  # killed: it lived when it wrote last
        end = datetime.fromtimestamp(max(written for _, written, _ in _files(run.path)) / 1e9, UTC)
    return (end - start).total_seconds()


def live_page(live: Live) -> Page:
    """The report on a run that may still be going: what was measured live, and nothing else."""
    figures = probe_figures(live.measured)
    lead = next((name for name in figures if figures[name]), None)
    first = None if lead is None else figures[lead][0]
    if lead is not None:
        figures[lead] = figures[lead][1:]
    running = live.progress.status == "running"
    return Page(
        title="How each layer is learning" if running else "How each layer learned",
        subtitle=f"{live.run.path.name}: {describe(live.progress)}.",
        facts=(
            *(fact for fact in facts([live.run]) if fact[0] != "steps"),
            ("steps", f"{live.progress.step:,}"),
        ),
        findings=(*linearity_findings(live.measured), *conditioning_findings(live.measured)),
        table=live.table(),
        lead=first,
        sections=sections(figures, training_figures([live.whole], seed_labels([live.run]))),
        provenance=provenance([live.run], ""),
        notices=tuple(notices(live.run)) if not running else (),
    )


def describe(progress: Progress) -> str:
    """How far a run is, in words: ``running, step 120 of 900, loss 0.31, 40 s, 4 min left``."""
    of = f" of {progress.total:,}" if progress.total else ""
    parts = [progress.status, f"step {progress.step:,}{of}"]
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.3g}")
    parts.append(duration(progress.seconds))
    if progress.left is not None:
        parts.append(f"about {duration(progress.left)} left")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """A time in its two largest units, e.g. ``2 h 5 min``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def version(path: Path) -> str:
    """What changes whenever a run on disk does."""
    return f"{hash(tuple(_files(path))) & (2**64 - 1):x}"


def _files(path: Path) -> list[tuple[str, int, int]]:
    """Name, time in nanoseconds and size of every file that a recorder writes."""
    files = [path / "run.json", *path.glob("results/*/*.nc"), *path.glob("checkpoints/*")]
    found = []
    for file in sorted(files):
        try:
            status = file.stat()
        except FileNotFoundError:  # merged meanwhile
            continue
        found.append((file.name, status.st_mtime_ns, status.st_size))
    return found
