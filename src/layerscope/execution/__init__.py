"""Where runs and measurements execute."""

from layerscope.execution.local import Job, LocalExecutor, Progress

__all__ = ["Job", "LocalExecutor", "Progress"]
