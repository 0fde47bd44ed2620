"""How good the whole model is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import xarray as xr

from layerscope.config.base import LATER
from layerscope.errors import check_choice
from layerscope.figures.figure import Figure, Lines
from layerscope.figures.table import Column, Table
from layerscope.networks.isolation import device_of
from layerscope.networks.layers import LayerMap
from layerscope.networks.variants import evaluate_variants
from layerscope.probes.base import Need, Trajectory, TrajectoryProbe, over_time, step_coordinates

FORMATS = {"loss": ".4g", "error": ".2f"}


@dataclass(frozen=True)
class Performance(TrajectoryProbe):
    """Loss and, where predictions are right or wrong, error of the whole model on the test data.

    ``loss`` is the mean over the examples, ``error`` the share of wrong predictions in per
    cent; the model is in eval mode.

    Attributes:
        checkpoints: ``"last"`` or ``"all"``.
        on: The ``"test"`` or the ``"training"`` data, as they are without augmentation.
    """

    checkpoints: Literal["last", "all"] = "last"
    on: Literal["test", "training"] = field(default="test", metadata={LATER: True})

    needs: ClassVar[frozenset[Need]] = frozenset({"model", "task"})
    source: ClassVar[str] = "mean over the data"
    summary: ClassVar[str] = "loss and error of the whole model, on test or training data"
    heading: ClassVar[str] = "The whole model"
    place: ClassVar[int] = 130

    def __post_init__(self) -> None:
        check_choice("checkpoints of Performance", self.checkpoints, ("last", "all"))
        check_choice("on of Performance", self.on, ("test", "training"))

    @property
    def needed(self) -> frozenset[Need]:
        """Model, task, and the data it is about."""
        return frozenset({*self.needs, "data" if self.on == "test" else "training_data"})

    def select(self, layers: LayerMap) -> LayerMap:
        """All layers; they are not told apart."""
        return layers

    def measure(self, context: Trajectory, layers: LayerMap) -> xr.Dataset:
        """Loss and error at the chosen checkpoints."""
        del layers
        steps = list(context.steps)[-1 if self.checkpoints == "last" else 0 :]
        device = device_of(context.model)
        data = context.data if self.on == "test" else context.training_data
        losses, errors = [], []
        for step in steps:
            weights = dict(context.run.checkpoint(step, device))
            found = evaluate_variants(context.model, [{}], data, context.task, weights=weights)
            losses.append(float(found.losses.mean()))
            if found.correct is not None:
                errors.append(100 * float(found.errors[0]))
        variables = {"loss": ("step", losses, self._attributes(f"{self.on} loss", "loss"))}
        if errors:
            variables["error"] = ("step", errors, self._attributes(f"{self.on} error", "%"))
        return xr.Dataset(variables, coords=step_coordinates(steps, context.run.steps_per_epoch))

    def _attributes(self, name: str, units: str) -> dict[str, str]:
        return {"long_name": name, "units": units, "source": self.source}

    def figures(self, dataset: xr.Dataset) -> list[Figure]:
        """Loss and error over time, or a row for a single checkpoint."""
        names = [name for name in ("loss", "error") if name in dataset]
        caption = f"Mean over the {self.on} examples."
        if dataset.sizes["step"] == 1:
            return [self._table(dataset[names], caption)]
        found: list[Figure] = []
        for name in names:
            values, x = over_time(dataset[name])
            found.append(
                Lines(
                    values,
                    key=f"{self.slug}-{name}",
                    title=f"{self.on.title()} {name} at checkpoints",
                    caption=caption,
                    x=x,
                    hue=None,
                    markers=True,
                )
            )
        return found

    def _table(self, values: xr.Dataset, caption: str) -> Table:
        time = "epoch" if "epoch" in values.coords else "step"
        names = [f"{time} {value:g}" for value in values[time].values]
        return Table(
            values.drop_vars("epoch", errors="ignore").rename(step="at").assign_coords(at=names),
            key=f"{self.slug}-table",
            title=f"Performance on the {self.on} data",
            caption=caption,
            columns=tuple(Column(n, format=FORMATS[n], bar=False) for n in map(str, values)),
            rows="at",
        )
