"""Close recorders that nobody closed: when the process ends, or when nothing refers to them."""

from __future__ import annotations

import atexit
import os
import sys
from typing import Protocol
from weakref import WeakKeyDictionary


class Closable(Protocol):
    """What is closed."""

    def close(self, error: BaseException | None = None) -> None:
        """Close it, saying what ended the work before its time."""


_open: WeakKeyDictionary[Closable, tuple[int, BaseException | None]] = WeakKeyDictionary()
"""Each with the process that opened it, and the error that this had seen by then."""


def closing(one: Closable) -> None:
    """Close it at the end of the process, if nobody has by then."""
    _open[one] = os.getpid(), _last_error()


@atexit.register
def close_all() -> None:
    """Close every one that is left: as ended by the error that ends the process, if there is."""
    failed: list[Exception] = []
    for one, (process, before) in list(_open.items()):
        error = _last_error()
        try:
            if process == os.getpid():  # not one that this was forked from
                one.close(None if error is before else error)
        except Exception as late:  # the others are to be closed, too
            failed.append(late)
    if failed:
        raise failed[0]


def _last_error() -> BaseException | None:
    """The last error that reached the top of the process, or of a notebook's cell."""
    return getattr(sys, "last_value", None)
