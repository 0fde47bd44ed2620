"""A run on disk: manifest, checkpoints and results, readable at any moment of its life.

::

    run.json                          format, status, layers, configuration, environment
    batch.safetensors                 the fixed batch that probes measure on, if there is one
    checkpoints/000000469.safetensors weights and buffers at one step, read tensor by tensor
    resume.safetensors                optimiser, random state and what the recorder keeps
    results/<probe>/<part>.nc         measurements, netCDF

Every file is written beside its place and renamed into it, so that a crash leaves no file half
written. A process that records holds a lock; a run whose manifest says *running* but whose lock
is free was interrupted.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import xarray as xr
from filelock import FileLock, Timeout
from torch import Tensor, nn

from layerscope.checkpoints import Tensors, write_tensors
from layerscope.environment import describe, now
from layerscope.errors import LayerscopeError
from layerscope.files import check_writable, read_json, remove_temporaries, write_json
from layerscope.layers import LayerMap
from layerscope.results import compact, read_parts, write_dataset, write_part
from layerscope.sources import read_state_dict
from layerscope.sources.state_dicts import StateDict

FORMAT_VERSION = 1
Status = Literal["running", "complete", "interrupted", "diverged"]


class Run:
    """One training of one model with one seed, on disk.

    Open one with `Run.open`, make one with `Run.create` (the recorder does) or
    `Run.from_checkpoints`.

    Attributes:
        path: The run's folder.
        manifest: What ``run.json`` holds.
        layers: The layers of the model.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self.layers = LayerMap.from_json(manifest["layers"])
        self._lock = FileLock(path / ".lock")

    @classmethod
    def create(
        cls,
        path: str | Path,
        layers: LayerMap,
        *,
        steps_per_epoch: int | None = None,
        total_steps: int | None = None,
        config: Mapping[str, Any] | None = None,
        seed: int | None = None,
        device: str = "cpu",
    ) -> Run:
        """Start a new run and hold its lock until `finish`.

        Args:
            path: Folder that does not hold a run yet.
            layers: The model's layers.
            steps_per_epoch: Optimiser steps per epoch, where known.
            total_steps: Planned length, where known.
            config: Plain values of the configuration that made the run.
            seed: Seed of the run, where known.
            device: Where it trains, for the record.

        Raises:
            LayerscopeError: The folder holds a run already or cannot be written.
        """
        path = Path(path)
        manifest = {
            "format_version": FORMAT_VERSION,
            "status": "running",
            "created": now(),
            "seed": seed,
            "steps_per_epoch": steps_per_epoch,
            "total_steps": total_steps,
            "config": dict(config) if config is not None else None,
            "layers": layers.to_json(),
            "environment": describe(device),
            "notes": {},
        }
        run = cls(path, manifest)
        # The lock comes first: a manifest without one would be that of an interrupted run.
        run.acquire()
        try:
            if (path / "run.json").exists():
                raise LayerscopeError(
                    f"{path} already holds a run.", "Choose another folder, or delete this one."
                )
            write_json(path / "run.json", manifest)
        except BaseException:
            run._lock.release()
            raise
        return run

    @classmethod
    def from_checkpoints(
        cls,
        path: str | Path,
        checkpoints: Mapping[int, StateDict | str | Path],
        model: nn.Module,
        *,
        layers: LayerMap | None = None,
        steps_per_epoch: int | None = None,
    ) -> Run:
        """Make a run of checkpoints that exist already, copying them into its format.

        Args:
            path: Folder for the run; must not hold one.
            checkpoints: State dict, or file of one, for every step; step 0 is the initialisation,
                which probes of distance need.
            model: The module they belong to.
            layers: Its layers; by default every module that owns parameters, in order of
                registration.
            steps_per_epoch: Optimiser steps per epoch, where known.

        Raises:
            LayerscopeError: A file is missing or damaged, or does not fit the model.
        """
        layers = layers or LayerMap.from_model(model, None)
        expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
        states = {step: read_state_dict(source) for step, source in checkpoints.items()}
        for step, state in states.items():
            _check_fit(f"the checkpoint of step {step}", state, expected)
        run = cls.create(path, layers, steps_per_epoch=steps_per_epoch)
        for step, state in states.items():
            unique = {k: v for k, v in state.items() if k not in layers.aliases}
            run.write_checkpoint(step, unique)
        run.finish("complete")
        return run

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Open a run for reading, whatever state it is in; `status` and `missing` tell which.

        Raises:
            LayerscopeError: The folder holds no run, or one of a newer format.
        """
        path = Path(path)
        if not (path / "run.json").exists():
            raise LayerscopeError(
                f"{path} holds no run (there is no run.json).",
                "Give the folder of one run, e.g. runs/x, or record one first.",
            )
        manifest = read_json(path / "run.json")
        if not isinstance(manifest, dict):
            raise LayerscopeError(
                f"{path / 'run.json'} is not the manifest of a run.", "Record the run again."
            )
        found = manifest.get("format_version")
        if not isinstance(found, int) or found > FORMAT_VERSION:
            raise LayerscopeError(
                f"{path} has format version {found}; this layerscope reads up to {FORMAT_VERSION}.",
                "Upgrade layerscope: pip install -U layerscope.",
            )
        return cls(path, manifest)

    # State

    def acquire(self) -> None:
        """Take the run's lock for writing and clear what a killed writer left behind.

        Raises:
            LayerscopeError: Another process is recording this run.
        """
        check_writable(self.path)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise LayerscopeError(
                f"another process is recording {self.path}.", "Wait for it, or choose a new folder."
            ) from error
        remove_temporaries(self.path)

    def _is_recording(self) -> bool:
        if self._lock.is_locked:
            return True
        try:
            with self._lock.acquire(timeout=0):
                return False
        except Timeout:
            return True
        except OSError:  # a folder that cannot be written has no recorder
            return False

    @property
    def status(self) -> Status:
        """``running``, ``complete``, ``interrupted`` (crashed ones included) or ``diverged``."""
        status = self.manifest["status"]
        return "interrupted" if status == "running" and not self._is_recording() else status

    @property
    def missing(self) -> str:
        """What a run that did not complete lacks, as a sentence; empty for a complete one."""
        if self.status in ("complete", "running"):
            return ""
        last = self.steps[-1] if self.steps else None
        total = self.manifest["total_steps"]
        goal = f" of {total}" if total else ""
        kept = (
            f"the last checkpoint is at step {last}{goal}" if last is not None else "no checkpoint"
        )
        if self.status == "diverged":
            return f"diverged at step {self.manifest['notes'].get('diverged_at')}: {kept}"
        resumable = (self.path / "resume.safetensors").exists()
        return f"interrupted: {kept}; {'it can be resumed' if resumable else 'it cannot resume'}"

    def finish(self, status: Status, **notes: Any) -> None:
        """Write the final status and further facts, merge result parts and free the lock."""
        try:
            for folder in self._result_folders():
                compact(folder)
            self.note(status, **notes)
            if status == "complete":
                (self.path / "resume.safetensors").unlink(missing_ok=True)
        finally:
            self._lock.release()

    def note(self, status: Status | None = None, /, **notes: Any) -> None:
        """Add facts to the manifest, e.g. the final test error."""
        if status is not None:
            self.manifest["status"] = status
            self.manifest["ended"] = now()
        self.manifest["notes"].update(notes)
        write_json(self.path / "run.json", self.manifest)

    # Weights

    @property
    def steps(self) -> list[int]:
        """Steps of all checkpoints, ascending; 0 is the initialisation."""
        folder = self.path / "checkpoints"
        stems = (path.stem for path in folder.glob("[!.]*.safetensors"))
        return sorted(int(stem) for stem in stems if stem.isdigit())

    @property
    def steps_per_epoch(self) -> int | None:
        """Optimiser steps per epoch, where known."""
        return self.manifest["steps_per_epoch"]

    def checkpoint(self, step: int, device: torch.device | str = "cpu") -> Tensors:
        """Weights and buffers at one step, by name, each read when it is asked for.

        Raises:
            LayerscopeError: There is no checkpoint at this step, or its file is damaged.
        """
        path = self._checkpoint_path(step)
        if not path.exists():
            raise LayerscopeError(
                f"{self.path} has no checkpoint at step {step}.",
                f"It has {_some(self.steps)}.",
            )
        return Tensors(path, device)

    def write_checkpoint(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Keep weights and buffers at one step."""
        write_tensors(self._checkpoint_path(step), tensors)

    def load(self, model: nn.Module, step: int) -> nn.Module:
        """Put the weights and buffers of one step into ``model`` and return it.

        Raises:
            LayerscopeError: Names or shapes do not fit the model.
        """
        state = dict(self.checkpoint(step))
        state |= {alias: state[name] for alias, name in self.layers.aliases.items()}
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise LayerscopeError(
                f"the checkpoints of {self.path} do not fit {type(model).__name__}: {error}",
                "Build the model with the sizes it was trained with.",
            ) from error
        return model

    def _checkpoint_path(self, step: int) -> Path:
        return self.path / "checkpoints" / f"{step:09d}.safetensors"

    # Results

    def _result_folders(self) -> list[Path]:
        folder = self.path / "results"
        return sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []

    @property
    def result_keys(self) -> list[str]:
        """Keys of everything measured."""
        return [folder.name for folder in self._result_folders() if any(folder.glob("[!.]*.nc"))]

    def results(self, key: str) -> xr.Dataset:
        """The measurements of one probe.

        Args:
            key: The probe's key, e.g. ``"weight_change"``; ``result_keys`` has them all.

        Raises:
            LayerscopeError: Nothing was measured under this key, or a file is damaged.
        """
        if key not in self.result_keys:
            raise LayerscopeError(
                f"{self.path} has no results of {key!r}.",
                f"It has {', '.join(self.result_keys) or 'none'}; measure it first.",
            )
        return read_parts(self.path / "results" / key)

    def append_results(self, key: str, dataset: xr.Dataset) -> None:
        """Add measurements of some steps to those of a probe."""
        write_part(self.path / "results" / key, dataset)

    def replace_results(self, key: str, dataset: xr.Dataset) -> None:
        """Put a whole measurement in the place of what was there."""
        write_dataset(self.path / "results" / key / "all.nc", dataset)


def _check_fit(what: str, state: StateDict, expected: Mapping[str, torch.Size]) -> None:
    for name in [*expected, *state]:
        if name not in state or name not in expected:
            raise LayerscopeError(
                f"{what} {'lacks' if name in expected else 'has the unknown tensor'} {name!r}.",
                "Build the model that was saved; wrappers such as DDP prefix the names.",
            )
        if state[name].shape != expected[name]:
            raise LayerscopeError(
                f"{name!r} has shape {tuple(state[name].shape)} in {what}, "
                f"{tuple(expected[name])} in the model.",
                "Build the model with the sizes it was trained with.",
            )


def _some(steps: list[int]) -> str:
    """A readable list of steps, shortened in the middle."""
    shown = [str(step) for step in steps]
    return "steps " + ", ".join(shown if len(shown) <= 12 else [*shown[:6], "...", *shown[-3:]])
