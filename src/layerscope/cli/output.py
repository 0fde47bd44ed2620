"""What commands print: progress, tables, verdicts, paths."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

out = Console()
HEADER = 12
"""Letters in a line of a header."""
COLUMN = HEADER + 2
"""Letters across a column."""


@contextmanager
def bar(label: str, total: int | None = None) -> Iterator[Callable[..., None]]:
    """A progress bar with time left; ``advance(done, total)`` or ``advance(done)`` moves it."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=out, transient=True) as progress:
        task = progress.add_task(label, total=total)

        def advance(done: int, of: int | None = None) -> None:
            progress.update(task, completed=done, total=of if of is not None else total)

        yield advance


def command_line(name: str, words: Sequence[str]) -> str:
    """The command as it could be typed again."""
    return shlex.join(["layerscope", name, *words])


def print_path(label: str, path: Path) -> None:
    """Say where something was written."""
    out.print(f"[bold]{label}[/]: {path}", soft_wrap=True)


def print_table(measurements: Any) -> None:
    """The table of layers of one or more runs."""
    from layerscope.report.run_page import layer_table

    print_cells(layer_table(measurements))


def print_cells(table: Any) -> None:
    """Any table, for a terminal."""
    from rich.table import Table

    shown = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    shown.add_column(table.rows)
    for column in table.resolved():
        unit = f" ({column.unit})" if column.unit not in (None, "", "1") else ""
        header = "\n".join(textwrap.wrap(column.header + unit, HEADER))
        shown.add_column(header, justify="right", no_wrap=True)
    for name, cells in zip(table.row_names(), table.cells(), strict=True):
        texts = [f"{c.text} [dim]{c.margin}[/]" if c.margin else c.text for c in cells]
        shown.add_row(name, *texts)
    out.print(shown)


def print_measurement(dataset: Any) -> None:
    """Every variable over layers, at the last step where it has steps.

    Columns that do not fit beside one another stand in further tables.

    Of variables with one more dimension (intervals, checkpoints) the first follows in a table of
    its own, a column for each value.
    """
    from layerscope.figures.table import Column, Table

    last = dataset.isel(step=-1, drop=True) if "step" in dataset.dims else dataset
    flat = {name: values for name, values in last.items() if values.dims == ("layer",)}
    if flat:
        room = out.width - max(map(len, map(str, last["layer"].values)))
        names, most = list(flat), max(1, room // COLUMN)
        for start in range(0, len(names), most):
            some = names[start : start + most]
            columns = tuple(Column(name) for name in some)
            out.print("\n" * (start > 0), end="")
            print_cells(Table(last[some], key="measurement", title="", columns=columns))
    for values in last.data_vars.values():
        others = [dim for dim in values.dims if dim != "layer"]
        if "layer" in values.dims and len(others) == 1:
            wide = values.reset_coords(drop=True).to_dataset(others[0])
            columns = tuple(Column(name, str(name), "") for name in wide)
            units = values.attrs["units"]
            out.print(f"\n[bold]{values.attrs['long_name']} ({units}), by {others[0]}[/]")
            print_cells(Table(wide, key="measurement", title="", columns=columns))
            break


def print_verdicts(verdicts: Sequence[tuple[Any, Any]]) -> None:
    """One row per claim."""
    from rich.table import Table

    colours = {"holds": "green", "fails": "red", "inconclusive": "yellow"}
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for header in ("claim", "verdict", "statistic", "value", "95% interval", "seeds"):
        table.add_column(header, no_wrap=header != "statistic")
    for claim, verdict in verdicts:
        interval = "" if verdict.interval is None else "{:.3g} .. {:.3g}".format(*verdict.interval)
        table.add_row(
            claim.id,
            f"[{colours[verdict.outcome]}]{verdict.outcome}[/]",
            verdict.statistic,
            f"{verdict.value:.3g}",
            interval,
            str(verdict.n_seeds),
        )
    out.print(table)
