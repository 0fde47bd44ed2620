"""One call that measures probes on a run: what they share, and how each comes to its result."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from typing import Any

import torch
import xarray as xr
from torch import Tensor

from layerscope.display.progress import Advance
from layerscope.errors import DivergedError, LayerscopeError
from layerscope.networks.isolation import device_of
from layerscope.networks.layers import LayerMap
from layerscope.networks.names import unwrap
from layerscope.probes.base import FoldingProbe, MomentProbe, Probe, Trajectory, TrajectoryProbe
from layerscope.probes.conditions import Conditions
from layerscope.probes.datasets import assemble, with_reasons
from layerscope.probes.given import Given, blamed, check_needs
from layerscope.probes.kept import Identity, identity
from layerscope.probes.observer import Observer, Watch
from layerscope.runs.memory import give_back
from layerscope.runs.store import Run
from layerscope.schedule import every

GIVE_BACK = 10
"""Checkpoints after which freed memory is returned; after each one it costs a quarter more time."""


@dataclass(frozen=True)
class Shared:
    """A probe that takes part in the one reading of every checkpoint."""

    identity: Identity
    watch: Watch[MomentProbe | FoldingProbe]

    @property
    def key(self) -> str:
        """That of the probe."""
        return self.watch.probe.key

    @property
    def given(self) -> Given:
        """What the probe needs."""
        return self.watch.given

    def result(self, run: Run, steps: Sequence[int]) -> xr.Dataset:
        """The dataset of what was measured of all checkpoints."""
        probe, layers, missing = self.watch.probe, self.watch.layers, self.watch.missing
        if not self.watch.rows:
            raise LayerscopeError(
                f"{type(probe).__name__} compares checkpoints and {run.path} has only one.",
                "Record more checkpoints.",
            )
        if isinstance(probe, MomentProbe):
            return assemble(probe, layers, self.watch.rows, run.steps_per_epoch, missing)
        rows = [values for _, values in self.watch.rows]
        kept = {name: torch.stack([values[name] for values in rows]).cpu() for name in rows[0]}
        context = _trajectory(run, steps, self.given, missing)
        return with_reasons(probe.conclude(kept, context, layers), missing)


@dataclass(frozen=True)
class Alone:
    """A trajectory probe, which reads what it wants."""

    identity: Identity
    probe: TrajectoryProbe
    layers: LayerMap
    given: Given

    @property
    def key(self) -> str:
        """That of the probe."""
        return self.probe.key

    def result(self, run: Run, steps: Sequence[int]) -> xr.Dataset:
        """What the probe measures of the run."""
        missing: dict[str, str] = {}
        context = _trajectory(run, steps, self.given, missing)
        return with_reasons(self.probe.measure(context, self.layers), missing)


def _trajectory(
    run: Run, steps: Sequence[int], given: Given, missing: dict[str, str]
) -> Trajectory:
    return Trajectory(
        run,
        steps,
        model=given.model,
        task=given.task,
        batch=given.batch,
        data=given.data,
        training_data=given.training_data,
        factory=given.factory,
        missing=missing,
    )


class Call:
    """What all probes of one call share: run, checkpoints, layers, and what was given."""

    def __init__(
        self, run: Run, given: Given, steps: list[int], layers: Sequence[str] | None
    ) -> None:
        model = None if given.model is None else unwrap(given.model)
        self.steps = steps
        self._run = run
        self._device = device_of(model)
        self._layers = None if layers is None else run.layers.only(layers)
        self._given = replace(given, model=model)
        self._conditions = Conditions()

    @cached_property
    def _own_batch(self) -> Any:
        return self._run.batch

    def _given_to(self, probe: Probe) -> Given:
        """What a probe needs, by default with the run's own batch."""
        given = self._given.only(probe.needed)
        if "batch" in probe.needed and given.batch is None:
            return replace(given, batch=self._own_batch)
        return given

    def identity(self, probe: Probe) -> Identity:
        """What makes a result that of this measurement."""
        conditions = self._conditions.of(self._given_to(probe))
        return identity(probe, self._run, self.steps, self._layers, conditions)

    def plan(self, probe: Probe, same: Identity) -> Shared | Alone:
        """How to measure a probe."""
        given = self._given_to(probe)
        check_needs(type(probe).__name__, probe.needed, given)
        layers = probe.select(self._layers or self._run.layers)
        if isinstance(probe, MomentProbe | FoldingProbe):
            return Shared(same, Watch(probe, every(1), layers, given))
        if isinstance(probe, TrajectoryProbe):
            return Alone(same, probe, layers, given)
        kinds = "MomentProbe, FoldingProbe nor TrajectoryProbe"
        raise TypeError(f"{type(probe).__name__} is neither {kinds}")

    def observe(
        self,
        watches: Sequence[Watch[MomentProbe | FoldingProbe]],
        errors: dict[str, Exception],
        advance: Advance,
    ) -> None:
        """Show every checkpoint to all probes that look at one after the other."""

        def note(one: Watch[MomentProbe | FoldingProbe], step: int, error: Exception) -> None:
            del step
            errors[one.probe.key] = blamed(error, one.given)

        # Of a sample few entries are kept, so that tensors are read one at a time.
        lazy = all(one.probe.sampling is not None for one in watches)
        read = partial(self._read, _names(watches), lazy)
        final = cache(partial(read, self.steps[-1]))
        observer = Observer(
            watches,
            initial=self._initial,
            final=final,
            learning_rate=self._run.learning_rate,
            live=False,
            judge=note,
        )
        for done, step in enumerate(self.steps, 1):
            if not observer.active:
                return
            try:
                now = final() if step == self.steps[-1] else read(step)
            except Exception as error:  # nothing can be measured here
                for one in observer.active:
                    observer.leave_out(one, step, error)
                return
            observer.observe(step, now, observer.active)
            if done % GIVE_BACK == 0:
                give_back()
            advance(done, len(self.steps))

    def _read(self, names: Sequence[str] | None, lazy: bool, step: int) -> Mapping[str, Tensor]:
        tensors = self._run.checkpoint(step, self._device)
        if lazy:
            return tensors
        return dict(tensors) if names is None else {name: tensors[name] for name in names}

    def _initial(self) -> Mapping[str, Tensor]:
        if 0 not in self._run.steps:
            raise LayerscopeError(
                f"{self._run.path} has no checkpoint at step 0, from which distances count.",
                "Import it with the others, Run.from_checkpoints(path, {0: ..., ...}), or "
                "measure PathAndProgress, which counts from the first checkpoint there is.",
            )
        return self._run.checkpoint(0, self._device)


def _names(watches: Iterable[Watch[Any]]) -> list[str] | None:
    """The tensors that some probe looks at; None for all, buffers included."""
    if any("model" in one.probe.needed for one in watches):
        return None
    return list(dict.fromkeys(name for one in watches for name in one.layers.parameter_names))


@contextmanager
def noting(errors: dict[str, Exception], key: str, given: Given | None = None) -> Iterator[None]:
    """Note what fails in here instead of raising it."""
    try:
        yield
    except Exception as error:  # a probe may do anything; the others go on
        errors[key] = blamed(error, given or Given())


def together(errors: Mapping[str, Exception]) -> Exception:
    """One error for those of several probes: it itself, or a list where they differ."""
    different = list({str(error): error for error in errors.values()}.values())
    unexpected = [error for error in different if not isinstance(error, LayerscopeError)]
    if len(different) == 1:
        return different[0]
    if unexpected:
        unexpected[0].add_note(f"These probes failed: {', '.join(errors)}.")
        return unexpected[0]
    known = {key: error for key, error in errors.items() if isinstance(error, LayerscopeError)}
    diverged = all(isinstance(error, DivergedError) for error in known.values())
    return (DivergedError if diverged else LayerscopeError)(
        f"{len(known)} probes failed: "
        + "; ".join(f"{key}: {error.message.rstrip('.')}" for key, error in known.items())
        + ".",
        " ".join(dict.fromkeys(error.remedy for error in known.values() if error.remedy)),
    )
