"""Memory of the process between one checkpoint and the next."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any


def give_back() -> None:
    """Return memory that was freed to the system, where the C library keeps it (glibc on Linux).

    Blocks of some megabytes, aligned as torch asks for, are cut out of a common heap and leave
    holes that the next ones do not fit into (glibc before 2.38): a process that reads checkpoint
    after checkpoint grew by thirty of them while it held three. The pages of holes are returned
    here, and have to be asked for again.
    """
    if (trim := _trim()) is not None:
        trim(0)


@cache
def _trim() -> Any:
    if sys.platform != "linux":
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
