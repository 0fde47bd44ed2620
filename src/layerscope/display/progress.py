"""Progress of long calls: a bar in a terminal or a notebook, for a caller who asks for none.

A call that is done within `PATIENCE` shows nothing. The bar goes to the error stream, only where
that is a terminal or the process a notebook's, and is gone when the call is over. With the
environment variable ``LAYERSCOPE_PROGRESS=0`` there is none.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from typing import Any, Protocol

from layerscope.errors import check_choice

Advance = Callable[[int, int], None]
"""Called with (units done, units in all)."""
PATIENCE = 2.0
"""Seconds before there is a bar."""
INTERVAL = 0.1
"""Seconds between two drawings."""
SETTING = "LAYERSCOPE_PROGRESS"


class _Bar(Protocol):
    def draw(self, done: int, total: int) -> None: ...
    def close(self) -> None: ...


_busy = False
"""Whether a call that says how far it is goes on: those inside it say nothing."""


@contextmanager
def reporting(label: str, advance: Advance | None) -> Iterator[Advance]:
    """What a long call reports its progress to.

    ::

        with reporting("measuring", advance) as advance:
            for done, step in enumerate(steps, 1):
                ...
                advance(done, len(steps))

    Args:
        label: What is being done, a word or two.
        advance: What the caller gave; where it is None a bar, if there is somewhere to show one.

    Yields:
        What to call.

    Raises:
        LayerscopeError: ``LAYERSCOPE_PROGRESS`` is set to something else than 0 or 1.
    """
    global _busy
    outermost = not _busy
    shown = _Shown(label, _make_bar()) if outermost and advance is None and _wanted() else None
    _busy = True
    try:
        yield advance or shown or _ignore
    finally:
        if outermost:
            _busy = False
        if shown is not None:
            shown.close()


def silence() -> None:
    """Show no bar in this process from now on; for workers, whose progress others show."""
    global _busy
    _busy = True


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    interactive = sys.modules.get("IPython")
    shell = None if interactive is None else interactive.get_ipython()
    return type(shell).__name__ in ("ZMQInteractiveShell", "Shell")  # the latter is Colab's


def _wanted() -> bool:
    setting = os.environ.get(SETTING, "1")
    check_choice(f"value of {SETTING}", setting, ("0", "1"))
    return setting == "1" and (in_notebook() or sys.stderr.isatty())


def _make_bar() -> Callable[[str], _Bar]:
    return _NotebookBar if in_notebook() else _TerminalBar


def _ignore(done: int, total: int) -> None:
    del done, total


class _Shown:
    """Shows a bar once patience is over, and draws it now and then."""

    def __init__(self, label: str, make: Callable[[str], _Bar]) -> None:
        self._label, self._make = label, make
        self._bar: _Bar | None = None
        self._next = time.monotonic() + PATIENCE

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + INTERVAL
        self._bar = self._bar or self._make(self._label)
        self._bar.draw(done, total)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _console() -> Any:
    from rich.console import Console

    return Console(stderr=True)


class _TerminalBar:
    """Rich's."""

    def __init__(self, label: str) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as Left

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Left())
        # Without its thread: it is drawn when there is something new.
        self._bar = Progress(*columns, console=_console(), transient=True, auto_refresh=False)
        self._bar.start()
        self._task = self._bar.add_task(label, total=None)

    def draw(self, done: int, total: int) -> None:
        self._bar.update(self._task, completed=done, total=total, refresh=True)

    def close(self) -> None:
        self._bar.stop()


class _NotebookBar:
    """The browser's own element, in place; rich would need ipywidgets for it."""

    def __init__(self, label: str) -> None:
        from IPython.display import HTML, display  # pyright: ignore[reportMissingImports]

        self._label, self._html = label, HTML
        self._handle = display(HTML(""), display_id=True)

    def draw(self, done: int, total: int) -> None:
        bar = f'<progress value="{done}" max="{total}"></progress>'
        self._handle.update(self._html(f"{escape(self._label)} {bar} {done}/{total}"))

    def close(self) -> None:
        self._handle.update(self._html(""))
