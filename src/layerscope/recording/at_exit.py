"""Close recorders that nobody closed: when the process ends, or when nothing refers to them."""

from __future__ import annotations

import atexit
import sys
from typing import Protocol
from weakref import WeakKeyDictionary


class Closable(Protocol):
    """What is closed."""

    def close(self, error: BaseException | None = None) -> None:
        """Close it, saying what ended the work before its time."""


_open: WeakKeyDictionary[Closable, BaseException | None] = WeakKeyDictionary()
"""Each with the error that the process had seen when it was opened."""


def closing(one: Closable) -> None:
    """Close it at the end of the process, if nobody has by then."""
    _open[one] = _last_error()


@atexit.register
def close_all() -> None:
    """Close every one that is left: as ended by the error that ends the process, if there is."""
    for one, before in list(_open.items()):
        error = _last_error()
        one.close(None if error is before else error)


def _last_error() -> BaseException | None:
    """The last error that reached the top of the process, or of a notebook's cell."""
    return getattr(sys, "last_value", None)
