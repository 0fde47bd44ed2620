"""A run on disk: manifest, checkpoints and results, readable at any moment of its life.

::

    run.json                          format, status, layers, configuration, environment
    batch.safetensors                 the fixed batch that probes measure on, if there is one
    checkpoints/000000469.safetensors weights and buffers at one step, read tensor by tensor
    checkpoints/000000469.json        or where those weights are, in files of somebody else
    resume.safetensors                optimiser, random state and what the recorder keeps
    results/<probe>/<part>.nc         measurements, netCDF

Every file is written beside its place and renamed into it, so that a crash leaves no file half
written. A process that records holds a lock; a run whose manifest says *running* but whose lock
is free was interrupted.
"""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from torch import Tensor, nn

from layerscope.catalogue import Entry
from layerscope.config import RunConfig, from_dict
from layerscope.config.rates import learning_rate
from layerscope.display import html
from layerscope.errors import LayerscopeError
from layerscope.networks.layers import LayerMap
from layerscope.networks.names import unwrap
from layerscope.runs.checkpoints import (
    LazyTensors,
    check_parameters,
    kinds,
)
from layerscope.runs.environment import describe, now
from layerscope.runs.files import check_name
from layerscope.runs.fixed_batch import read_batch, write_batch
from layerscope.runs.locking import RunLock
from layerscope.runs.manifest import (
    FORMAT_VERSION,
    Status,
    check_new,
    rate_drops,
    read_manifest,
    write_manifest,
)
from layerscope.runs.results import compact, read_parts, write_dataset, write_part
from layerscope.runs.sources.fitting import load
from layerscope.runs.sources.gathering import Checkpoints, Gathered, gather, open_source
from layerscope.runs.weights import KeptWeights

FIGURES = Entry("figures", "What a probe draws.", "layerscope.probes.figures", "figures")
PLOT = Entry("plot", "The same, drawn.", "layerscope.probes.figures", "plot")
"""What a run shows of its results stands above it and is imported when it is asked for."""


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
        with self._naming_manifest():
            self.layers = LayerMap.from_json(manifest["layers"])
        self._lock = RunLock(path)
        self._weights = KeptWeights(path / "checkpoints")

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
            LayerscopeError: The folder holds a run already or cannot be written; a value is out of
                range or cannot be kept as JSON.
        """
        path = Path(path)
        check_name(path)
        manifest = {
            "id": uuid.uuid4().hex,
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
        check_new(manifest, path)
        run = cls(path, manifest)
        if run.manifest["config"] is not None:
            _ = run.config
        # The lock comes first: a manifest without one would be that of an interrupted run.
        run.acquire()
        try:
            if (path / "run.json").exists():
                raise LayerscopeError(
                    f"{path} already holds a run.", "Choose another folder, or delete this one."
                )
            write_manifest(path, manifest)
        except BaseException:
            run._lock.release()
            raise
        return run

    @classmethod
    def from_checkpoints(
        cls,
        path: str | Path,
        checkpoints: Checkpoints,
        model: nn.Module | None = None,
        *,
        layers: LayerMap | None = None,
        key: str | None = None,
        copy: bool = False,
        steps_per_epoch: int | None = None,
    ) -> Run:
        """Make a run of checkpoints that exist already, without training or copying anything.

        Files stay where they are: the run refers to them, reads of them what is asked for, and
        refuses those that were changed since. State dicts in memory are copied. Formats are those
        of `layerscope.runs.sources.opening`; nothing that a file holds is executed. Names, shapes
        and types of all are compared before there is a run, and on an error nothing is left behind.
        Names may be those of a tied or wrapped model, see
        `layerscope.runs.sources.fitting.fitted`. What was found is in the note ``imported``.

        Args:
            path: Folder for the run; must not hold one.
            checkpoints: State dict, file or folder for every step, an integer from 0 on; or a path,
                a pattern such as ``"out/checkpoint-*"``, a folder of checkpoints, or a list of
                these, whose names say the steps (`layerscope.runs.sources.steps.step_of`); or
                ``"hub:owner/name@step*"``, revisions on the Hugging Face hub, of which the first is
                fetched now and others when they are measured. Step 0 is the initialisation, which
                probes of distance need.
            model: The module they belong to. Without one layers come from names and shapes, and
                probes of weights alone can be measured.
            layers: Its layers; by default every module that owns parameters, in order of
                registration; without a model in the order of the file where that is one, and else
                of names.
            key: Where in every file the weights are, e.g. ``"state_dict"`` or ``"app.model"``; by
                default the outermost dictionary of nothing but tensors.
            copy: Copy weights into the run, which then stands alone.
            steps_per_epoch: Optimiser steps per epoch, where known.

        Raises:
            LayerscopeError: There is no checkpoint, a step is unknown, or a file is missing or
                damaged, asks for code, or does not fit the model.
        """
        path = Path(path)
        found = gather(checkpoints, model, layers, key)
        existed = path.exists()
        run = cls.create(path, found.layers, steps_per_epoch=steps_per_epoch)
        try:
            run._take(found, copy)
            run.finish("complete", imported=found.notes | {"copied": copy})
        except BaseException:
            run._discard(whole=not existed)
            raise
        return run

    def _take(self, found: Gathered, copy: bool) -> None:
        """Refer to checkpoints, or copy them, one at a time."""
        for member in found.members:
            if isinstance(member.source, Mapping) or copy:
                state = open_source(member.source, member.key or None).state
                places = member.fitted.places.items()
                self.write_checkpoint(member.step, {own: state[name] for own, name in places})
                continue
            self._weights.refer(member, self.manifest["id"])
            if "kinds" not in self.manifest:
                found_kinds = kinds(self.checkpoint(member.step), self.layers.parameter_names)
                self.manifest["kinds"] = found_kinds

    def refer(self, step: int, checkpoint: str | Path, key: str | None = None) -> None:
        """Refer to a checkpoint that somebody else keeps, as `from_checkpoints` does.

        Args:
            step: Its step.
            checkpoint: The file or folder.
            key: Where in it the weights are.

        Raises:
            LayerscopeError: It is missing or damaged, asks for code, or is of another model.
        """
        self._take(gather({step: checkpoint}, None, self.layers, key), copy=False)

    def _discard(self, whole: bool) -> None:
        """Remove what `create` and `write_checkpoint` made, or the folder as a whole."""
        self._lock.release()
        if whole:
            shutil.rmtree(self.path, ignore_errors=True)
            return
        shutil.rmtree(self.path / "checkpoints", ignore_errors=True)
        for name in ("run.json", ".lock"):
            (self.path / name).unlink(missing_ok=True)

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
        return cls(path, read_manifest(path))

    @contextlib.contextmanager
    def _naming_manifest(self) -> Iterator[None]:
        """Name the manifest in errors about what it holds."""
        try:
            yield
        except LayerscopeError as error:
            raise LayerscopeError(
                f"{self.path / 'run.json'}: {error.message}", error.remedy
            ) from error

    @property
    def config(self) -> RunConfig | None:
        """The configuration that made the run; None for a run of another training loop.

        Raises:
            LayerscopeError: This version does not know one of its fields, or a value is wrong.
        """
        stored = self.manifest["config"]
        if stored is None or stored.get("type") != "RunConfig":
            return None
        with self._naming_manifest():
            return from_dict(stored)

    def learning_rate(self, step: int) -> float | None:
        """Learning rate of the step after ``step`` others; None where no configuration says it.

        Raises:
            LayerscopeError: This version cannot read the configuration.
        """
        config, per_epoch = self.config, self.steps_per_epoch
        if config is None or per_epoch is None:
            return None
        return learning_rate(config, step, per_epoch, rate_drops(self.manifest))

    @property
    def batch(self) -> Any:
        """The fixed batch that probes measure on, read anew; None if there is none.

        Raises:
            LayerscopeError: The file is damaged, or is that of another run.
        """
        return read_batch(self.path, self.mark)

    def store_batch(self, batch: Any) -> None:
        """Keep the fixed batch with the run, so that probes measure the same one later.

        Args:
            batch: Tensors in tuples, lists and dicts of any depth, or one alone.

        Raises:
            LayerscopeError: The batch is something else, or the folder cannot be written.
        """
        write_batch(self.path, batch, self.mark)

    # State

    def acquire(self) -> None:
        """Take the run's lock for writing and clear what a killed writer left behind.

        Raises:
            LayerscopeError: Another process is recording this run.
        """
        self._lock.acquire()

    @property
    def status(self) -> Status:
        """``running``, ``complete``, ``interrupted`` (crashed ones included) or ``diverged``."""
        if self.manifest["status"] == "running" and not self._lock.is_held:
            # Its end is written before the lock is freed, and maybe since this was read.
            self.manifest = read_manifest(self.path)
            if self.manifest["status"] == "running":
                return "interrupted"
        return self.manifest["status"]

    @property
    def missing(self) -> str:
        """What a run lacks, as a sentence: its end, or checkpoints; empty if nothing."""
        lost = {*self.manifest.get("checkpoints", ())} - {*self.steps}
        gone = sorted(lost | self._weights.gone)
        sentence = f"the checkpoints at {_some(gone)} are gone" if gone else ""
        if self.keeps_none and self.status != "running":
            sentence = "it kept no checkpoints, so that only what was measured live is there"
        return "; ".join(part for part in (self._end_missing, sentence) if part)

    @property
    def keeps_none(self) -> bool:
        """Whether it was recorded without any checkpoint, on purpose, and has none."""
        return bool(self.manifest["notes"].get("keeps_none")) and not self.steps

    @property
    def _end_missing(self) -> str:
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
                compact(folder, self._belongs(folder.name))
        finally:  # parts that cannot be merged are no reason to lose the status
            try:
                self.note(status, **notes)
                if status == "complete":
                    (self.path / "resume.safetensors").unlink(missing_ok=True)
            finally:
                self._lock.release()

    def note(self, status: Status | None = None, /, **notes: Any) -> None:
        """Add facts to the manifest, e.g. the final test error, and which checkpoints there are.

        Raises:
            LayerscopeError: A note that reports calculate with is of another type, e.g. a text for
                ``test_error``.
        """
        known = {*self.manifest.get("checkpoints", ()), *self._weights.written, *self.steps}
        changed = self.manifest | {"notes": self.manifest["notes"] | notes}
        changed["checkpoints"] = sorted(known)
        if status is not None:
            changed |= {"status": status, "ended": now()}
        check_new(changed, self.path)
        self.manifest.update(changed)
        write_manifest(self.path, self.manifest)

    # Showing

    def figures(self, key: str) -> list[Any]:
        """The figures of one measurement, as their probe draws them.

        Args:
            key: A key of `result_keys`, or how one, and only one, of them begins.

        Raises:
            LayerscopeError: There is none, or several begin so; or a file is damaged.
        """
        return FIGURES.load()(self, key)

    def plot(self, key: str) -> Any:
        """Draw the figures of one measurement, e.g. ``run.plot("convergence")``.

        Args:
            key: As for `figures`.

        Returns:
            A tuple of matplotlib figures, which a notebook shows.

        Raises:
            LayerscopeError: As for `figures`.
        """
        return PLOT.load()(self, key)

    def __repr__(self) -> str:
        lines = (f"  {name}: {value}" for name, value in self._facts())
        return "\n".join([f"Run {self.path}", *lines])

    def _repr_html_(self) -> str:
        rows = [[name, value] for name, value in self._facts()]
        return html.block(html.heading("Run", str(self.path)), html.table(["", ""], rows))

    def _facts(self) -> Iterator[tuple[str, str]]:
        """What it is and holds, for people."""
        status = "" if self._end_missing else self.status
        yield "status", "; ".join(part for part in (status, self.missing) if part)
        n = sum(layer.n_parameters for layer in self.layers)
        yield "layers", f"{len(self.layers)}, {n:,} parameters"
        yield "checkpoints", f"{len(self.steps)}, {_some(self.steps)}" if self.steps else "none"
        for name in ("steps_per_epoch", "seed"):
            if self.manifest[name] is not None:
                yield name.replace("_", " "), str(self.manifest[name])
        for name in ("test_error", "test_loss"):
            if name in self.manifest["notes"]:
                yield name.replace("_", " "), f"{self.manifest['notes'][name]:.4g}"
        yield "results", ", ".join(self.result_keys) or "none"

    # Weights

    @property
    def steps(self) -> list[int]:
        """Steps of all checkpoints, ascending; 0 is the initialisation."""
        return self._weights.steps

    @property
    def steps_per_epoch(self) -> int | None:
        """Optimiser steps per epoch, where known."""
        return self.manifest["steps_per_epoch"]

    def checkpoint(self, step: int, device: torch.device | str = "cpu") -> LazyTensors:
        """Weights and buffers at one step, by name, each read when it is asked for.

        Raises:
            LayerscopeError: There is no checkpoint at this step, or its file is damaged, or of
                another step, run or model; or the run refers to a file that is gone or was changed.
        """
        if self.keeps_none:
            raise self.without_checkpoints()
        if (tensors := self._weights.read(step, self.mark, device)) is None:
            raise LayerscopeError(
                f"{self.path} has no checkpoint at step {step}.",
                f"It has {_some(self.steps) if self.steps else 'none'}.",
            )
        shapes = {k: v for layer in self.layers for k, v in layer.parameters.items()}
        check_parameters(tensors, shapes, self.manifest.get("kinds"))
        return tensors

    def without_checkpoints(self) -> LayerscopeError:
        """The error where checkpoints are asked for and none were kept."""
        return LayerscopeError(
            f"{self.path} was recorded with checkpoints=never() and has none.",
            "What was measured while it trained is there, run.results(key); for anything else make "
            "a run of the checkpoints that the trainer kept: Run.from_checkpoints(path, {0: ..., "
            "...}, model).",
        )

    def write_checkpoint(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        read: Callable[[str], Tensor] | None = None,
    ) -> None:
        """Keep weights and buffers at one step; ``read`` gives their values one at a time."""
        self._weights.write(step, tensors, self.mark, read)
        if "kinds" not in self.manifest:
            self.manifest["kinds"] = kinds(tensors, self.layers.parameter_names)

    @property
    def mark(self) -> dict[str, str]:
        """What the metadata of the run's files say; empty for a run from before they did."""
        return {"run": self.manifest["id"]} if "id" in self.manifest else {}

    def load(self, model: nn.Module, step: int) -> nn.Module:
        """Put the weights and buffers of one step into ``model`` and return it.

        Raises:
            LayerscopeError: Names or shapes do not fit the model.
        """
        state = dict(self.checkpoint(step))
        tied = self.layers.aliases.items()
        state |= {alias: state[name] for alias, name in tied if name in state}
        try:
            load(unwrap(model), state, "the checkpoint")
        except LayerscopeError as error:
            what = f"the checkpoints of {self.path} do not fit {type(model).__name__}"
            raise LayerscopeError(f"{what}: {error.message}", error.remedy) from error
        return model

    # Results

    def _belongs(self, key: str) -> dict[str, str]:
        """What the seal of a result file says."""
        return {"key": key, **self.mark}

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
            LayerscopeError: Nothing was measured under this key, or a file is damaged, lacks a
                variable, or is that of another probe or run.
        """
        if key not in self.result_keys:
            raise LayerscopeError(
                f"{self.path} has no results of {key!r}.",
                f"It has {', '.join(self.result_keys) or 'none'}; measure it first.",
            )
        return read_parts(self.path / "results" / key, self._belongs(key))

    def append_results(self, key: str, dataset: xr.Dataset) -> None:
        """Add measurements of some steps to those of a probe."""
        write_part(self.path / "results" / key, dataset, self._belongs(key))

    def replace_results(self, key: str, dataset: xr.Dataset) -> None:
        """Put a whole measurement in the place of what was there."""
        write_dataset(self.path / "results" / key / "all.nc", dataset, self._belongs(key))


def _some(steps: list[int]) -> str:
    """A readable list of steps, shortened in the middle."""
    shown = [str(step) for step in steps]
    return "steps " + ", ".join(shown if len(shown) <= 12 else [*shown[:6], "...", *shown[-3:]])
