"""What it costs to replace activations or layers of the trained network by affine maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import xarray as xr

from layerscope.errors import LayerscopeError, check_choice, unknown
from layerscope.figures.figure import Bars, Figure, Heatmap
from layerscope.networks.affine import with_layer_maps, with_lines
from layerscope.networks.isolation import device_of
from layerscope.networks.layers import LayerMap
from layerscope.networks.names import unwrap
from layerscope.networks.sites import find_sites
from layerscope.networks.task import first_examples
from layerscope.networks.variants import Evaluation
from layerscope.probes.at_sites import site_rows
from layerscope.probes.base import (
    Need,
    Trajectory,
    TrajectoryProbe,
    layer_coordinates,
    over_time,
    step_coordinates,
)

Of = Literal["sites", "first", "layers"]
TITLES = {
    "sites": "What removing one nonlinearity costs",
    "first": "What removing all nonlinearities up to each costs",
    "layers": "What making one layer affine costs",
}
LINE = "the best straight line for every node"
MAPS = {"sites": LINE, "first": LINE, "layers": "the best affine map"}
WORDS = {"sites": "one activation", "first": "all activations up to each", "layers": "one layer"}


@dataclass(frozen=True)
class LinearisationCost(TrajectoryProbe):
    r"""Loss and error of the network with activations or layers replaced by affine maps.

    The trained network is not trained again. The maps are the best ones on samples of the run's
    fixed batch: for an activation a straight line for every node (channel, unit), for a layer the
    affine map of least squares that `LinearShare` tests (convolutions by place, with zeros beyond
    the image). All are fitted in the network as it is.

    * ``loss``, ``error`` (in per cent): of the network with the row's map in place, on the data;
    * ``loss_increase``, ``error_increase``: less those of the network as it is, ``base_loss`` and
      ``base_error``.

    A nonlinearity that costs nothing is not used by the function that the network has become.

    Attributes:
        of: ``"sites"``: one activation at a time; ``"first"``: each with all before it;
            ``"layers"``: one layer at a time.
        samples: Examples of the fixed batch to fit to; all of it where it has fewer.
        checkpoints: ``"last"`` or ``"all"``.
    """

    of: Of = "sites"
    samples: int = 500
    checkpoints: Literal["last", "all"] = "last"

    needs: ClassVar[frozenset[Need]] = frozenset({"model", "task", "batch", "data"})
    source: ClassVar[str] = "affine maps of least squares in the trained network"
    summary: ClassVar[str] = "loss and error with activations or layers made affine"
    heading: ClassVar[str] = "What each nonlinearity is worth"
    place: ClassVar[int] = 116

    def __post_init__(self) -> None:
        if self.of not in get_args(Of):
            raise unknown("of of LinearisationCost", str(self.of), get_args(Of))
        check_choice("checkpoints of LinearisationCost", self.checkpoints, ("last", "all"))

    def select(self, layers: LayerMap) -> LayerMap:
        """All layers."""
        return layers

    def measure(self, context: Trajectory, layers: LayerMap) -> xr.Dataset:
        """Evaluate the network with every map in place."""
        model = unwrap(context.model)
        batch = first_examples(context.batch, self.samples)
        steps = list(context.steps)[-1 if self.checkpoints == "last" else 0 :]
        if self.of != "layers":
            sites = find_sites(model, batch, context.task.forward)
            layers = site_rows(layers, sites, model)
        found: list[Evaluation] = []
        for step in steps:
            weights = dict(context.run.checkpoint(step, device_of(model)))
            replaced = with_layer_maps if self.of == "layers" else with_lines
            subject, reasons = replaced(model, weights, batch, context.task, layers.names)
            context.missing.update(self._missing(layers.names, reasons))
            found.append(subject.evaluated(context.data, context.task, self.of == "first"))
        return self._dataset(found, steps, layers, context)

    def _missing(self, names: Sequence[str], reasons: Mapping[str, str]) -> Mapping[str, str]:
        """Why a row has no value; all activations up to one need a line each."""
        if self.of != "first" or not reasons:
            return reasons
        first = min(names.index(name) for name in reasons)
        after = dict.fromkeys(names[first + 1 :], f"follows {names[first]!r}, which has no line")
        return after | dict(reasons)

    def _dataset(
        self, found: Sequence[Evaluation], steps: list[int], layers: LayerMap, context: Trajectory
    ) -> xr.Dataset:
        values = {"loss": np.array([one.losses.mean(1).tolist() for one in found])}
        if found[0].correct is not None:
            values["error"] = np.array([(100 * one.errors).tolist() for one in found])
        gone = [name in context.missing for name in layers.names]
        if all(gone):
            name = layers.names[0]
            raise LayerscopeError(
                f"nothing can be made affine: {name!r} {context.missing[name]}.",
                "Give a larger fixed batch, or leave the probe out.",
            )
        variables: dict[str, Any] = {}
        for name, both in values.items():
            base, of_rows = both[:, :1], both[:, 1:].copy()
            of_rows[:, gone] = np.nan
            units = "" if name == "loss" else "%"
            about = {"units": units, "source": self.source}
            variables[f"base_{name}"] = ("step", base[:, 0], about | {"long_name": f"test {name}"})
            label = f"test {name} with {WORDS[self.of]} affine"
            variables[name] = (("step", "layer"), of_rows, about | {"long_name": label})
            rise = {"long_name": f"increase of the test {name}"}
            rise |= {"units": units and "percentage points"}
            variables[f"{name}_increase"] = (("step", "layer"), of_rows - base, about | rise)
        coordinates = layer_coordinates(layers)
        return xr.Dataset(
            variables, coordinates | step_coordinates(steps, context.run.steps_per_epoch)
        )

    def figures(self, dataset: xr.Dataset) -> list[Figure]:
        """What each map costs at the end and, where all checkpoints were measured, over time."""
        names = [name for name in ("error", "loss") if name in dataset]
        keys = dict(zip(names, (self.slug, f"{self.slug}-loss"), strict=False))
        found: list[Figure] = [
            Bars(
                dataset[f"{name}_increase"].isel(step=-1),
                key,
                f"{TITLES[self.of]}: test {name}",
                self._caption(dataset, name),
            )
            for name, key in keys.items()
        ]
        if dataset.sizes["step"] > 1:
            values, x = over_time(dataset[f"{names[0]}_increase"])
            title = f"{TITLES[self.of]}: test {names[0]} over depth and time"
            caption = self._caption(dataset, names[0], ", at every checkpoint")
            key = f"{self.slug}-over-time"
            found.append(Heatmap(values, key, title, caption, x=x, centre=0.0))
        return found

    def _caption(self, dataset: xr.Dataset, name: str, when: str = "") -> str:
        base = float(dataset[f"base_{name}"].isel(step=-1).mean())
        as_it_is = f"{base:.1f}%" if name == "error" else f"{base:.3g}"
        return (
            f"Test {name} with {WORDS[self.of]} replaced by {MAPS[self.of]}, less that of the "
            f"network as it is ({as_it_is} at the end){when}; nothing was trained again."
        )
