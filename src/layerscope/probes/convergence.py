"""How fast, and how directly, every layer approaches its final weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
import xarray as xr
from torch import Tensor

from layerscope.config.base import LATER
from layerscope.errors import DivergedError, LayerscopeError
from layerscope.figures.figure import Bars, Figure, Lines
from layerscope.functional.convergence import (
    convergence_curve,
    convergence_rate,
    directness,
    settling_time,
)
from layerscope.functional.norms import layer_distances
from layerscope.networks.layers import LayerMap
from layerscope.networks.names import Weights
from layerscope.probes.base import (
    FoldingProbe,
    Moment,
    Need,
    Trajectory,
    Variable,
    layer_coordinates,
    over_time,
    step_coordinates,
)
from layerscope.probes.sampling import Sampling, of_sample, sampling


def _distances(layers: LayerMap, one: Weights, other: Weights) -> Tensor:
    """L2 distance of every layer between two moments."""
    before, after = layers.values(one), layers.values(other)
    return layer_distances(before, after, layers.owner.to(after[0].device), len(layers))


def _check(distance: Tensor, context: Trajectory, layers: LayerMap) -> None:
    """Refuse distances to the last checkpoint, (steps, layers), that say nothing."""
    if len(context.steps) < 2:
        raise LayerscopeError(
            f"{context.run.path} has checkpoints at {list(context.steps)} only.",
            "Convergence and path need at least the initialisation and one later checkpoint.",
        )
    bad = ~distance.isfinite()
    if bool(bad.any()):
        row, layer = (bad if not bad[-1].any() else bad[-1:]).nonzero()[0].tolist()
        step = context.steps[row if not bad[-1].any() else -1]
        raise DivergedError(
            f"the weights of layer {layers.names[layer]!r} are not finite at step {step}.",
            "The model has diverged: measure the steps before, e.g. measure(..., steps=[...]).",
        )


def _array(values: Tensor, variable: Variable, source: str, *first: str) -> xr.DataArray:
    dims = (*first, *variable.dims)
    return xr.DataArray(values.numpy(), dims=dims, attrs=variable.attributes(source))


@dataclass(frozen=True)
class Convergence(FoldingProbe):
    r"""Layer-wise convergence: remaining distance to the final weights, and rates.

    With :math:`\theta^*` the last checkpoint, L2 norm over all parameters of the layer:

    * ``curve``: :math:`\|\theta^t - \theta^*\| / \|\theta^0 - \theta^*\|`, unitless.
    * ``rate``: :math:`C_l^{(t_1,t_2)}` of Definition 2.1 for every interval, per epoch (or step).
    * ``half_time``: time from which on less than half of the initial distance remains,
      interpolated between checkpoints.

    Since :math:`\theta^*` is where this run ended, a run that was cut short has other rates.
    :math:`\theta^0` is the first checkpoint measured: the attribute ``initial_step`` of the result
    is its step, 0 unless the initialisation is missing or left out.
    Source: Definition 2.1 of "Which Layer is Learning Faster?".

    Attributes:
        intervals: Pairs (t1, t2) for ``rate``; both must be checkpoints.
        time: Unit of the intervals, of ``rate`` and of ``half_time``; epochs need a run that
            knows its steps per epoch.
        sample: Look at so many random entries of each layer, the same at every checkpoint, so
            that memory does not grow with the model. Curves and rates, ratios of distances, are
            consistent, with an error of order 1/sqrt(n).
        subset_seed: Seed of the sample.
    """

    intervals: tuple[tuple[float, float], ...] = ()
    time: Literal["epoch", "step"] = "epoch"
    sample: int | None = field(default=None, metadata={LATER: True})
    subset_seed: int = field(default=0, metadata={LATER: True})

    needs: ClassVar[frozenset[Need]] = frozenset({"final"})
    source: ClassVar[str] = "Which layer is learning faster?, Definition 2.1"
    summary: ClassVar[str] = "approach to the final weights: curves, rates and half times"
    heading: ClassVar[str] = "When each layer arrives"
    place: ClassVar[int] = 30
    revision: ClassVar[int] = 2

    def __post_init__(self) -> None:
        for start, end in self.intervals:
            if not start < end:
                raise LayerscopeError(
                    f"Convergence: interval ({start:g}, {end:g}) is empty.",
                    "Give one that ends after its start; a run may be too short for it.",
                )
        _ = self.sampling

    @property
    def sampling(self) -> Sampling | None:
        """The entries that are looked at."""
        return sampling("Convergence", self.sample, self.subset_seed)

    def select(self, layers: LayerMap) -> LayerMap:
        """All layers."""
        return layers

    def _times(self, context: Trajectory) -> Tensor:
        steps = torch.tensor(context.steps, dtype=torch.float64)
        if self.time == "step":
            return steps
        if context.run.steps_per_epoch is None:
            raise LayerscopeError(
                f"{context.run.path} does not say how many steps an epoch has.",
                'Use Convergence(time="step"), or record with steps_per_epoch.',
            )
        return steps / context.run.steps_per_epoch

    def measure(self, moment: Moment, layers: LayerMap) -> dict[str, Tensor]:
        """Distance of every layer to the last checkpoint."""
        return {"distance": _distances(layers, moment.final, moment.weights)}

    def conclude(
        self, kept: Mapping[str, Tensor], context: Trajectory, layers: LayerMap
    ) -> xr.Dataset:
        """Curves, half times and, where intervals are given, rates of every layer."""
        distance = kept["distance"]
        _check(distance, context, layers)
        times = self._times(context)
        curve = convergence_curve(distance)
        per_time = {"epoch": "epochs", "step": "steps"}[self.time]
        variables = {
            "curve": _array(
                curve, Variable("remaining distance to the final weights"), self.source, "step"
            ),
            "half_time": _array(
                settling_time(curve, times, 0.5),
                Variable("time to half the distance", per_time),
                self.source,
            ),
        }
        coordinates = layer_coordinates(layers) | step_coordinates(
            context.steps, context.run.steps_per_epoch
        )
        if self.intervals:
            try:
                rates = [
                    convergence_rate(distance, times, float(a), float(b)) for a, b in self.intervals
                ]
            except ValueError as error:
                raise LayerscopeError(
                    f"Convergence of {context.run.path}: {error}.",
                    f"Choose intervals between checkpoints, in {per_time}.",
                ) from error
            variables["rate"] = _array(
                torch.stack(rates),
                Variable("convergence rate", f"1 / {self.time}"),
                self.source,
                "interval",
            )
            coordinates["interval"] = [f"{a:g}-{b:g}" for a, b in self.intervals]
        return xr.Dataset(variables, coordinates, {"initial_step": context.steps[0]})

    def figures(self, dataset: xr.Dataset) -> list[Figure]:
        """Convergence curves and, where there are intervals, the rates."""
        values, x = over_time(dataset["curve"])
        found: list[Figure] = [
            Lines(
                values,
                key=self.slug,
                title="Convergence",
                caption="Distance to the final weights as a share of the distance at the start: "
                "a layer that falls earlier converges faster." + of_sample(self.sampling),
                x=x,
            )
        ]
        for interval in dataset["interval"].values if "interval" in dataset.dims else ():
            found.append(
                Bars(
                    dataset["rate"].sel(interval=interval),
                    key=f"{self.slug}-rate-{interval}",
                    title=f"Convergence rate over {interval} {self.time}s",
                    caption=f"Share of the way to the final weights covered per {self.time} "
                    "(Definition 2.1)." + of_sample(self.sampling),
                )
            )
        return found


@dataclass(frozen=True)
class PathAndProgress(FoldingProbe):
    r"""Path walked against progress made: why "changes more" and "converges faster" can differ.

    * ``path``: :math:`\sum_{s \le t} \|\theta^s - \theta^{s-1}\|_2` over checkpoints, in weights.
    * ``progress``: :math:`\|\theta^0 - \theta^*\| - \|\theta^t - \theta^*\|`, in weights.
    * ``directness``: progress over path, unitless, at most 1.

    The path is that between checkpoints: with fewer of them it is shorter and looks straighter,
    so compare layers of one run, or runs with one checkpoint schedule. Both begin at the first
    checkpoint measured, whose step is the attribute ``initial_step``. Relative weight change
    measures path, layer convergence progress; Definition 2.1 of "Which Layer is Learning
    Faster?" gives the second.

    Attributes:
        sample: Look at so many random entries of each layer, the same at every checkpoint, so
            that memory does not grow with the model. Lengths are then those in the sample,
            shorter by sqrt(n / N) on average; directness is that of the layer, consistent with an
            error of order 1/sqrt(n).
        subset_seed: Seed of the sample.
    """

    sample: int | None = field(default=None, metadata={LATER: True})
    subset_seed: int = field(default=0, metadata={LATER: True})

    needs: ClassVar[frozenset[Need]] = frozenset({"final", "previous"})
    source: ClassVar[str] = "path and progress, after Which layer is learning faster?, Def. 2.1"
    summary: ClassVar[str] = "path walked, net progress and their ratio, directness"
    heading: ClassVar[str] = "Path walked and progress made"
    place: ClassVar[int] = 40
    revision: ClassVar[int] = 2

    def __post_init__(self) -> None:
        _ = self.sampling

    @property
    def sampling(self) -> Sampling | None:
        """The entries that are looked at."""
        return sampling("PathAndProgress", self.sample, self.subset_seed)

    def select(self, layers: LayerMap) -> LayerMap:
        """All layers."""
        return layers

    def measure(self, moment: Moment, layers: LayerMap) -> dict[str, Tensor]:
        """Distance of every layer to the last checkpoint, and way from the one before."""
        return {
            "distance": _distances(layers, moment.final, moment.weights),
            "leg": _distances(layers, moment.previous, moment.weights),
        }

    def conclude(
        self, kept: Mapping[str, Tensor], context: Trajectory, layers: LayerMap
    ) -> xr.Dataset:
        """Cumulated path, net progress and directness of every layer at every checkpoint."""
        distance = kept["distance"]
        _check(distance, context, layers)
        path, progress = kept["leg"].cumsum(0), distance[0] - distance
        named = {
            "path": (path, Variable("cumulated path", "weight")),
            "progress": (progress, Variable("net progress to the final weights", "weight")),
            "directness": (directness(path, progress), Variable("directness of the path")),
        }
        return xr.Dataset(
            {
                name: _array(values, variable, self.source, "step")
                for name, (values, variable) in named.items()
            },
            coords=layer_coordinates(layers)
            | step_coordinates(context.steps, context.run.steps_per_epoch),
            attrs={"initial_step": context.steps[0]},
        )

    def figures(self, dataset: xr.Dataset) -> list[Figure]:
        """Path, progress and directness over time."""
        captions = {
            "path": "Length of the way walked, summed over checkpoints.",
            "progress": "How much nearer to its final weights a layer is than at the start.",
            "directness": "Progress over path: 1 is a straight line to the final weights.",
        }
        found: list[Figure] = []
        for name, caption in captions.items():
            values, x = over_time(dataset[name])
            title, said = name.capitalize(), caption + of_sample(self.sampling)
            found.append(Lines(values, key=f"{self.slug}-{name}", title=title, caption=said, x=x))
        return found
