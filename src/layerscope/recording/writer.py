"""What a recording writes, and who writes it: of several processes the one of rank 0."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from torch import Tensor

from layerscope.errors import LayerscopeError
from layerscope.networks.layers import LayerMap
from layerscope.networks.shards import Shards
from layerscope.recording.feed import Feed
from layerscope.recording.sinks import Sink
from layerscope.runs.manifest import Status
from layerscope.runs.store import Run
from layerscope.runs.streaming import layout


def rank() -> int:
    """The rank of this process; 0 where there is only one."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_rank() if distributed else 0


def not_open() -> LayerscopeError:
    """The error where a recorder is used that was not opened."""
    return LayerscopeError("the recorder is not open.", "Use it in a with statement.")


METADATA = ("config", "seed", "total_steps", "device")
"""What the user may say of a run that is recorded."""


def checked_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The user's facts for the manifest.

    Raises:
        LayerscopeError: One has a name that the manifest does not know.
    """
    if unknown := sorted(str(name) for name in metadata.keys() - {*METADATA}):
        raise LayerscopeError(
            f"metadata has {', '.join(map(repr, unknown))}, which no manifest holds.",
            f"It takes {', '.join(METADATA)}; numbers of one's own are kept by log().",
        )
    return dict(metadata)


class Writer:
    """Writes a run. Every process may call it with what it has; that of rank 0 writes.

    Args:
        path: Folder of the run.
        rank: Rank of this process.
        shards: How processes share the weights, where they do.
        sinks: Where what is appended goes as well, once it is written.
    """

    def __init__(
        self,
        path: Path,
        rank: int,
        shards: Shards | None = None,
        sinks: Sequence[Sink] = (),
    ) -> None:
        self.path = path
        self.writes = rank == 0
        self._rank = rank
        self._shards = shards
        self._run: Run | None = None
        self._before: set[Path] = set()
        self._feed = Feed(sinks)

    @property
    def run(self) -> Run:
        """The run.

        Raises:
            LayerscopeError: It was not started yet, or another process writes it.
        """
        if self._run is not None:
            return self._run
        if not self.writes:
            raise LayerscopeError(
                f"the process of rank {self._rank} does not record; rank 0 does.",
                "Use the run on rank 0 only.",
            )
        raise not_open()

    def start(
        self,
        layers: LayerMap,
        steps_per_epoch: int | None,
        metadata: Mapping[str, Any],
        batch: Any,
    ) -> None:
        """Make a new run.

        Args:
            layers: The model's layers.
            steps_per_epoch: Optimiser steps per epoch, where known.
            metadata: Further arguments of `Run.create`.
            batch: The fixed batch, or None.

        Raises:
            LayerscopeError: The folder holds a run or cannot be written, or the batch cannot be
                stored; then nothing is left behind.
        """
        if not self.writes:
            return
        self._before = _content(self.path)
        self._run = Run.create(self.path, layers, steps_per_epoch=steps_per_epoch, **metadata)
        if batch is not None:
            try:
                self._run.store_batch(batch)
            except BaseException:
                self.undo_start()
                raise
        self._feed.start(self._run)

    def undo_start(self) -> None:
        """Remove what was written since `start`, so that the folder is as found."""
        if self._run is None:
            return
        with contextlib.suppress(LayerscopeError):  # a full disk takes no status; the lock is freed
            self._feed.finish("interrupted")
            self._run.finish("interrupted")
        self._run = None
        for path in sorted(_content(self.path) - self._before, reverse=True):  # children first
            path.rmdir() if path.is_dir() else path.unlink()

    def resume(self, layers: LayerMap) -> dict[str, Any]:
        """Go on with an interrupted run.

        Args:
            layers: Those of the model that goes on.

        Returns:
            The failures that were noted, by key of the probe.

        Raises:
            LayerscopeError: There is none, or another process writes it.
        """
        if not self.writes:
            return {}
        run = Run.open(self.path)
        _check_same(run, layers)
        run.acquire()
        self._run = run
        notes = self._run.manifest["notes"]
        for ended in ("error", "diverged_at"):
            notes.pop(ended, None)
        self._run.note("running")
        self._feed.start(self._run)
        return notes.get("failed_probes", {})

    def checkpoint(self, step: int, state: Mapping[str, Tensor]) -> None:
        """Keep weights and buffers; sharded ones are gathered, and written, one at a time."""
        if (shards := self._shards) is None:
            if self.writes:
                self.run.write_checkpoint(step, state)
        elif self.writes:
            self.run.write_checkpoint(step, state, lambda name: shards.gather(state[name]))
        else:
            for name in layout(state):
                shards.gather(state[name])

    def append(self, datasets: Iterable[tuple[str, xr.Dataset]]) -> None:
        """Add measurements to those under their keys."""
        try:
            for key, dataset in datasets:
                if self.writes:
                    self.run.append_results(key, dataset)
                    self._feed.take(key, dataset)
        finally:
            self._feed.send()

    def note(self, **notes: Any) -> None:
        """Note facts in the manifest."""
        if self.writes:
            self.run.note(**notes)

    def note_failures(self, failures: Mapping[str, Any]) -> None:
        """Note the probes that failed, where that is news."""
        if self.writes and failures != self.run.manifest["notes"].get("failed_probes", {}):
            self.run.note(failed_probes=failures)

    def finish(self, status: Status, **notes: Any) -> None:
        """Close the run."""
        if self.writes:
            try:
                self.run.finish(status, **notes)
            finally:
                self._feed.finish(status)


def _check_same(run: Run, layers: LayerMap) -> None:
    """Refuse to go on with a run of another model."""
    before = {layer.name: layer.parameters for layer in run.layers}
    now = {layer.name: layer.parameters for layer in layers}
    for name in dict.fromkeys((*before, *now)):
        if before.get(name) != now.get(name):
            raise LayerscopeError(
                f"layer {name!r} of {run.path} is not that of the model.",
                "Resume with the model that was recorded, or record into another folder.",
            )


def _content(folder: Path) -> set[Path]:
    return {folder, *folder.rglob("*")} if folder.is_dir() else set()
