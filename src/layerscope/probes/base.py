"""What a probe is: a frozen dataclass that measures one value, or one array, per layer.

Three kinds and no others. A `MomentProbe` looks at one moment of training and works live and from
checkpoints alike. A `FoldingProbe` looks at every checkpoint of a finished run in turn and then
concludes; a `TrajectoryProbe` is handed the finished run. A new probe is one file with one
dataclass and its test: `layerscope.catalogue` finds it for lists, commands and reports.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from layerscope.catalogue import LAST, snake
from layerscope.config.base import LATER
from layerscope.errors import LayerscopeError
from layerscope.figures.figure import Figure
from layerscope.networks.layers import LayerMap
from layerscope.probes.given import Need
from layerscope.probes.moment import Moment, Trajectory
from layerscope.probes.sampling import Sampling


@dataclass(frozen=True)
class Variable:
    """One variable of a probe's dataset: its dimensions after ``step``, its meaning and unit.

    Where it is ``partial``, a layer may have none while it has others: NaN is no error there.
    """

    long_name: str
    units: str = "1"
    dims: tuple[str, ...] = ("layer",)
    partial: bool = False

    def attributes(self, source: str) -> dict[str, str]:
        """The attributes that every variable carries."""
        return {"long_name": self.long_name, "units": self.units, "source": source}


class Probe(ABC):
    """A measurement per layer; the fields of the dataclass are its settings."""

    needs: ClassVar[frozenset[Need]] = frozenset()
    """What every measurement needs, whatever the settings; `needed` says what this one does."""
    source: ClassVar[str] = ""
    """Where the quantity is defined."""
    summary: ClassVar[str] = ""
    """What it measures, in a line for lists; a literal, which `layerscope.catalogue` reads."""
    heading: ClassVar[str] = ""
    """What stands above its figures in a report; the summary where empty."""
    place: ClassVar[int] = LAST
    """Its place in reports and lists, ascending; a literal too."""
    revision: ClassVar[int] = 1
    """Raised when the probe's numbers or variables change: results kept before are not reused."""

    @property
    def needed(self) -> frozenset[Need]:
        """What a measurement with these settings needs."""
        return self.needs

    @property
    def sampling(self) -> Sampling | None:
        """The random entries that it looks at instead of all weights; None for all.

        Only for probes that look at weights and nothing else. What they are shown, layers
        included, is the sample.
        """
        return None

    @property
    def additive(self) -> bool:
        """Whether it looks at nothing but weights and adds up over the entries of each layer.

        Such a probe measures one layer as it measures many, and passes its sums through
        `Moment.total`, so that processes can share the entries of a layer.
        """
        return False

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting by name."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore

    @property
    def later(self) -> dict[str, Any]:
        """Defaults of the settings that earlier versions did not have."""
        return {f.name: _default(f) for f in dataclasses.fields(self) if f.metadata.get(LATER)}  # type: ignore

    @property
    def key(self) -> str:
        """Name of the results: the class, then the settings that differ from their defaults."""
        changed = [
            f"{f.name}={json.dumps(getattr(self, f.name))}"
            for f in dataclasses.fields(self)  # type: ignore
            if getattr(self, f.name) != _default(f)
        ]
        return ",".join([snake(type(self).__name__), *(re.sub(r'[\s"/]', "", c) for c in changed)])

    @property
    def expression(self) -> str:
        """The probe as text that `layerscope.probes.expression.parse` reads."""
        changed = [
            f"{f.name}={_literal(getattr(self, f.name))}"
            for f in dataclasses.fields(self)  # type: ignore
            if getattr(self, f.name) != _default(f)
        ]
        return snake(type(self).__name__) + (f"({', '.join(changed)})" if changed else "")

    @property
    def slug(self) -> str:
        """The key in letters, digits and dashes, for file names of figures."""
        return re.sub(r"[^a-z0-9.]+", "-", self.key.lower()).strip("-")

    @abstractmethod
    def select(self, layers: LayerMap) -> LayerMap:
        """The part of the layers that is measured."""

    def rows(self, layers: LayerMap, moment: Moment) -> LayerMap:
        """What has a value each: the selected layers, unless a probe finds others in the model.

        Asked once, at the first moment that is measured.

        Args:
            layers: What `select` returned.
            moment: The moment, with everything that ``needs`` names.
        """
        del moment
        return layers

    @abstractmethod
    def figures(self, dataset: xr.Dataset) -> list[Figure]:
        """What to draw of a measurement; the dataset may have a ``seed`` dimension."""


class MomentProbe(Probe):
    """A probe of one moment; the same numbers live and from checkpoints."""

    @property
    @abstractmethod
    def variables(self) -> Mapping[str, Variable]:
        """The variables that `measure` yields."""

    @abstractmethod
    def measure(self, moment: Moment, layers: LayerMap) -> dict[str, Tensor]:
        """Measure.

        Args:
            moment: The moment, with everything that ``needs`` names.
            layers: What `select` returned.

        Returns:
            One tensor per variable, its first dimension the layers.
        """


class FoldingProbe(Probe):
    """A probe of a finished run that looks at its checkpoints one at a time, then concludes.

    All such probes of a run, and those of moments, share one reading of every checkpoint, and no
    more weights are held than a moment has: now, previous, initial and final ones.
    """

    @abstractmethod
    def measure(self, moment: Moment, layers: LayerMap) -> dict[str, Tensor]:
        """What is kept of one checkpoint.

        Args:
            moment: The moment, with everything that ``needs`` names.
            layers: What `select` returned.

        Returns:
            Tensors by name, of equal shapes at every moment.
        """

    @abstractmethod
    def conclude(
        self, kept: Mapping[str, Tensor], context: Trajectory, layers: LayerMap
    ) -> xr.Dataset:
        """Make the result of what was kept.

        Args:
            kept: What `measure` returned, stacked over checkpoints (the first dimension), on the
                CPU.
            context: The run and its steps.
            layers: What `select` returned.

        Returns:
            A dataset with at least the dimension ``layer``.
        """


class TrajectoryProbe(Probe):
    """A probe of a finished run."""

    @abstractmethod
    def measure(self, context: Trajectory, layers: LayerMap) -> xr.Dataset:
        """Measure a whole run.

        Args:
            context: The run, with everything that ``needs`` names.
            layers: What `select` returned.

        Returns:
            A dataset with at least the dimension ``layer``.
        """


def _literal(value: Any) -> str:
    """A setting as a Python literal, which infinity has none of its own as."""
    return "1e999" if value == math.inf else repr(value)


def _default(setting: dataclasses.Field[Any]) -> Any:
    if setting.default_factory is not dataclasses.MISSING:
        return setting.default_factory()
    return setting.default


def layer_coordinates(layers: LayerMap) -> dict[str, Any]:
    """Coordinates along ``layer``: name, depth, group, kind, parameters measured, if it trains."""
    return {
        "layer": list(layers.names),
        "depth": ("layer", [layer.depth for layer in layers]),
        "group": ("layer", [layer.group for layer in layers]),
        "kind": ("layer", [layer.kind for layer in layers]),
        "n_parameters": ("layer", [layer.n_parameters for layer in layers]),
        "trained": ("layer", [layer.trained for layer in layers]),
    }


def step_coordinates(steps: Sequence[int], steps_per_epoch: int | None) -> dict[str, Any]:
    """Coordinates along ``step``: the step and, where an epoch's length is known, the epoch."""
    coordinates: dict[str, Any] = {"step": ("step", np.asarray(steps, "int64"), {"units": "steps"})}
    if steps_per_epoch:
        epoch = np.asarray(steps, "float64") / steps_per_epoch
        coordinates["epoch"] = ("step", epoch, {"long_name": "epoch", "units": "epochs"})
    return coordinates


def without_entries(layers: LayerMap) -> dict[str, str]:
    """The layers whose parameters have no entries, and that reason."""
    return {layer.name: "has no entries" for layer in layers if layer.n_parameters == 0}


def blank(values: Tensor, layers: LayerMap, missing: Mapping[str, str]) -> Tensor:
    """The values, layers along the first dimension, with NaN for those that have none.

    Raises:
        LayerscopeError: No layer has any.
    """
    gone = [name in missing for name in layers.names]
    if not any(gone):
        return values
    if all(gone):
        name = layers.names[0]
        raise LayerscopeError(
            f"no layer can be measured: {name!r} {missing[name]}.",
            "Choose other layers, e.g. measure(..., layers=[...]), or leave this probe out.",
        )
    where = torch.tensor(gone, device=values.device).reshape(-1, *[1] * (values.dim() - 1))
    return torch.where(where, torch.nan, values)


def over_time(values: xr.DataArray) -> tuple[xr.DataArray, str]:
    """The same values over epochs where they are known, over steps otherwise; and the dimension."""
    if "epoch" in values.coords:
        return values.swap_dims(step="epoch"), "epoch"
    return values, "step"
