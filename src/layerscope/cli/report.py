"""``layerscope figure`` and ``layerscope report``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from layerscope.cli.choices import parse
from layerscope.cli.options import DrawFigures, Report
from layerscope.cli.output import command_line, out, print_path
from layerscope.errors import LayerscopeError


def figure(words: list[str]) -> None:
    """Draw the figures of a run, or of several seeds of it, as PNG and PDF."""
    options = parse(DrawFigures, words, "figure")
    from layerscope.report.publish import save_figures
    from layerscope.report.run_page import run_page

    runs = _open(options.runs)
    figures = run_page(runs).figures()
    for path in save_figures(figures, options.out or runs[0].path / "figures"):
        out.print(str(path), soft_wrap=True)


def report(words: list[str]) -> None:
    """Write the interactive report on a run, or on several seeds of it."""
    options = parse(Report, words, "report")
    from layerscope.report.publish import write_report

    runs = _open(options.runs)
    path = options.out or runs[0].path / "report.html"
    print_path("report", write_report(runs, path, command=command_line("report", words)))


def _open(paths: Sequence[Path]) -> list[Any]:
    from layerscope.runs.store import Run

    if not paths:
        raise LayerscopeError("no run was given.", "Name the folder of at least one run.")
    return [Run.open(path) for path in paths]
