"""Who writes a run: the process that holds its lock, which the system frees when that dies."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout

from layerscope.errors import LayerscopeError
from layerscope.runs.files import check_writable, remove_temporaries

LOOK = 0.5
"""Seconds to wait for the lock: whoever looks whether it is free holds it for a moment."""


class RunLock:
    """The lock of the run in a folder.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = FileLock(folder / ".lock")

    def acquire(self) -> None:
        """Take the lock and clear what a killed writer left behind.

        Raises:
            LayerscopeError: Another process holds it, or the folder cannot be written.
        """
        check_writable(self._folder)
        try:
            self._lock.acquire(timeout=LOOK)
        except Timeout as error:
            raise LayerscopeError(
                f"another process is recording {self._folder}.",
                "Wait for it, or choose a new folder.",
            ) from error
        except OSError as error:
            raise LayerscopeError(
                f"cannot lock {self._folder / '.lock'}: {error.strerror or error}.",
                "Remove what is in the place of this file.",
            ) from error
        remove_temporaries(self._folder)

    def release(self) -> None:
        """Free the lock."""
        self._lock.release()

    @property
    def is_held(self) -> bool:
        """Whether a process, this one or another, holds it."""
        if self._lock.is_locked:
            return True
        try:
            with self._lock.acquire(timeout=0):
                return False
        except Timeout:
            return True
        except OSError:  # a folder that cannot be written has no recorder
            return False
