"""From runs to files: the report as one HTML file, figures as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from layerscope.errors import LayerscopeError
from layerscope.figures.figure import Figure
from layerscope.report.render import write
from layerscope.report.run_page import run_page
from layerscope.runs.store import Run


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


def save_figures(figures: Sequence[Figure], folder: Path) -> list[Path]:
    """Write every figure as PNG and PDF."""
    from layerscope.figures.matplotlib import save

    return [path for figure in figures for path in save(figure, folder)]
