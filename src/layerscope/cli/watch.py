"""``layerscope watch``."""

from __future__ import annotations

import math
import time
import webbrowser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from layerscope.cli.choices import parse
from layerscope.cli.options import Watch
from layerscope.cli.output import out
from layerscope.errors import LayerscopeError

if TYPE_CHECKING:
    from layerscope.report.live import Live, Watched
    from layerscope.report.serve import Served

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 16
"""Letters of a course."""
LAST_LOOK = 20.0
"""Seconds that a page has to look at a run that has ended."""
VALUE = 10
"""Letters of a value, with the space around it."""


def watch(words: list[str]) -> None:
    """Watch a run that is still going."""
    options = parse(Watch, words, "watch")
    if not options.refresh > 0:
        raise LayerscopeError(f"refresh is {options.refresh}.", "Look every 2 seconds, say.")
    from layerscope.report.live import Watched

    watched = Watched(options.run)
    with _served(watched, options) if options.open else nullcontext() as served:
        if out.is_terminal:
            _keep_showing(watched, options.refresh)
        else:  # what goes into a file is said once
            out.print(view(watched.now()[1]))
        if served is not None:
            while watched.now()[1].progress.status == "running":
                time.sleep(options.refresh)
            served.wait_for_a_last_look(LAST_LOOK)


def _keep_showing(watched: Watched, refresh: float) -> None:
    from rich.live import Live as Screen

    with Screen(console=out, auto_refresh=False) as screen:
        while True:
            live = watched.now()[1]
            screen.update(view(live), refresh=True)
            if live.progress.status != "running":
                return
            time.sleep(refresh)


@contextmanager
def _served(watched: Watched, options: Watch) -> Iterator[Served]:
    from layerscope.report.serve import serving

    with serving(watched, options.port, options.refresh) as (address, served):
        opened = webbrowser.open(address)
        out.print(f"[bold]page[/]: {address}" + ("" if opened else " (open it in a browser)"))
        yield served


def view(live: Live) -> Any:
    """What the terminal shows: how far the run is, and a row for each layer.

    Of every probe that measures layers there is the value measured last and its course, as far as
    the terminal is wide.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from layerscope.figures.axes import title
    from layerscope.report.live import describe

    progress = live.progress
    colour = {"running": "cyan", "complete": "green"}.get(progress.status, "red")
    head: list[Any] = [Text(f"{live.run.path.name}: {describe(progress)}", style=f"bold {colour}")]
    if progress.total:
        head.append(_bar(progress.step / progress.total))
    columns = live.columns()
    if not columns:
        return Group(*head, Text("nothing was measured of the layers yet", style="dim"))
    names = list(live.run.layers.names)
    room = out.width - max(map(len, names)) - 2
    shown = columns[: max(1, room // (VALUE + WIDTH + 4))]
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("layer", no_wrap=True)
    for values in shown:
        table.add_column(title(values), justify="right", max_width=VALUE + WIDTH)
        table.add_column("", no_wrap=True)
    for name in names:
        row = [name]
        for values in shown:
            course = values.sel(layer=name).values.tolist() if name in values["layer"] else []
            row += [f"{course[-1]:.3g}" if len(course) else "", sparkline(course)]
        table.add_row(*row)
    hidden = len(columns) - len(shown)
    more = [Text(f"{hidden} more in a wider terminal", style="dim")] if hidden else []
    return Group(*head, Text(""), table, *more)


def _bar(share: float) -> Any:
    from rich.progress_bar import ProgressBar

    return ProgressBar(total=1.0, completed=min(share, 1.0), width=min(60, out.width))


def sparkline(values: Sequence[float], width: int = WIDTH) -> str:
    """The course of a number as a row of blocks, from its smallest to its largest value.

    Values of one sign that span more than two factors of ten are shown by their logarithms. More
    values than letters are averaged; what is not finite is a gap.

    Args:
        values: The numbers, oldest first.
        width: Letters at most.
    """
    finite = [float(v) for v in values if math.isfinite(v)]
    if not finite:
        return ""
    decades = min(finite) > 0 and max(finite) > 100 * min(finite)
    heights = [_height(float(v), decades) for v in values]
    count = min(width, len(heights))
    bins = [
        heights[len(heights) * i // count : len(heights) * (i + 1) // count] for i in range(count)
    ]
    means = [_mean(part) for part in bins]
    low = min(m for m in means if m is not None)
    span = max(m for m in means if m is not None) - low
    return "".join(
        " " if m is None else BARS[round((len(BARS) - 1) * (m - low) / span)] if span else BARS[3]
        for m in means
    )


def _height(value: float, decades: bool) -> float | None:
    if not math.isfinite(value):
        return None
    return math.log10(value) if decades else value


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None
