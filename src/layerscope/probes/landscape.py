"""The loss around the weights of one layer: its surface, and how sharp the minimum is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from layerscope.errors import LayerscopeError
from layerscope.figures.figure import Bars, Figure, Surface
from layerscope.functional.landscape import displaced, scaled_direction
from layerscope.functional.norms import layer_norms, owners
from layerscope.networks.curvature import top_eigenvalue
from layerscope.networks.isolation import device_of, mixed_seed
from layerscope.networks.layers import LayerMap
from layerscope.networks.sharing import shared_loss
from layerscope.networks.variants import evaluate_variants
from layerscope.probes.base import Need, Trajectory, TrajectoryProbe, blank, layer_coordinates

Direction = Mapping[str, Tensor]
SHARPNESS = {
    "increase": ("mean rise of the loss", ""),
    "increase_deviation": ("its deviation over directions", ""),
    "curvature": ("largest eigenvalue of the Hessian", "loss / weight^2"),
    "relative_curvature": ("largest eigenvalue times squared length", "loss"),
}


@dataclass(frozen=True)
class _Displaced(Sequence[dict[str, Tensor]]):
    """A layer's weights moved along directions, made when they are asked for."""

    weights: Direction
    moves: Sequence[tuple[tuple[Direction, ...], tuple[float, ...]]]

    def __len__(self) -> int:
        return len(self.moves)

    def __getitem__(self, index: int) -> dict[str, Tensor]:  # pyright: ignore
        return displaced(self.weights, *self.moves[index])


@dataclass(frozen=True)
class LossLandscape(TrajectoryProbe):
    r"""Loss of the network while one layer is moved away from its weights, the others fixed.

    With :math:`d_1, d_2` Gaussian directions as long as the layer's weights, filter by filter
    (`layerscope.functional.landscape.scaled_direction`):

    * ``loss``: :math:`L(\theta_l + \beta_1 d_1 + \beta_2 d_2)` on a square grid of
      :math:`\beta`; the two coordinates are shares of the layer's own length.
    * ``increase``: mean of :math:`L(\theta_l + r d) - L(\theta_l)` over directions :math:`d`, at
      radius :math:`r`, and ``increase_deviation``, its standard deviation over them.
    * ``curvature``: the largest eigenvalue of the Hessian of the loss with respect to all
      parameters of the layer, by Lanczos iteration.
    * ``relative_curvature``: that eigenvalue times :math:`\|\theta_l\|_2^2`, the second derivative
      along the sharpest direction as long as the layer. It does not depend on a common factor of
      all weights, which is arbitrary in front of a normalisation. The sharpest of more directions
      is sharper: it tends to grow with the number of parameters, which ``increase`` does not.

    The loss is the mean over the run's fixed batch of training examples, the model in eval mode.
    Layers are measured one after the other; the Hessian needs the memory of a backward pass that is
    itself differentiated, over the whole batch. Source: Section 4 of
    "Which Layer is Learning Faster?"; the numbers are beyond the paper, which judges pictures.

    Attributes:
        points: Points along each axis of the grid, odd, so that the middle is the trained layer.
        extent: Largest coefficient.
        checkpoint: Step of the weights; the last by default.
        radius: Radius at which the rise of the loss is averaged.
        draws: Directions it is averaged over; 0 leaves it out.
        hessian: Whether to compute the two curvatures.
        seed: Seed of the directions, mixed with the run's.
        budget_mb: Memory for activations, in MiB.
    """

    points: int = 21
    extent: float = 1.0
    checkpoint: int | None = None
    radius: float = 0.5
    draws: int = 10
    hessian: bool = True
    seed: int = 0
    budget_mb: int = 1024

    needs: ClassVar[frozenset[Need]] = frozenset({"model", "task", "batch"})
    source: ClassVar[str] = "Which layer is learning faster?, Section 4"
    summary: ClassVar[str] = "loss around the weights of each layer, and its sharpness"
    heading: ClassVar[str] = "How the loss rises around each layer"
    place: ClassVar[int] = 100
    revision: ClassVar[int] = 2  # with relative_curvature

    def select(self, layers: LayerMap) -> LayerMap:
        """Layers with a matrix or filters; biases and normalisations move with them, or not."""
        wide = layers.with_dimensions(2).names
        return LayerMap(tuple(layer for layer in layers if layer.name in wide), layers.aliases)

    def measure(self, context: Trajectory, layers: LayerMap) -> xr.Dataset:
        """Surface, rise at the radius and curvatures of every layer."""
        self._check()
        device = device_of(context.model)
        weights = dict(context.run.checkpoint(self._step(context), device))
        context.missing.update(_unreal(layers, weights))
        blank(torch.zeros(len(layers)), layers, context.missing)  # some layer has to be left
        groups = [
            tuple(name for name in layer.parameters if weights[name].is_floating_point())
            for layer in layers
            if layer.name not in context.missing
        ]
        table = torch.stack([self._losses(context, weights, names) for names in groups])
        surface = table[:, : self.points**2].reshape(-1, self.points, self.points)
        middle = self.points // 2
        rise = table[:, self.points**2 :] - surface[:, middle, middle, None]
        values = {"increase": rise.mean(1), "increase_deviation": rise.std(1)} if self.draws else {}
        if self.hessian:
            found = self._curvatures(context, weights, groups)
            values["curvature"] = torch.tensor(found, dtype=torch.float64)
            owner = owners([len(names) for names in groups], device)
            own = [weights[name] for names in groups for name in names]
            lengths = layer_norms(own, owner, len(groups)).cpu()
            values["relative_curvature"] = values["curvature"] * lengths**2
        rows = [index for index, name in enumerate(layers.names) if name not in context.missing]
        spread = partial(_spread, rows, len(layers))
        return self._dataset(layers, spread(surface), {k: spread(v) for k, v in values.items()})

    def _check(self) -> None:
        if self.points < 1 or self.points % 2 == 0:
            raise LayerscopeError(
                f"points is {self.points}.", "An odd number has the trained layer in its middle."
            )
        if self.draws < 0 or self.draws == 1:
            raise LayerscopeError(f"draws is {self.draws}.", "Choose 0, or at least 2.")
        if not self.extent > 0 or not self.radius > 0:
            raise LayerscopeError(
                f"extent is {self.extent}, radius is {self.radius}.", "Both must be positive."
            )

    def _step(self, context: Trajectory) -> int:
        return context.steps[-1] if self.checkpoint is None else self.checkpoint

    def _grid(self) -> np.ndarray:
        half = self.points // 2
        return self.extent * np.arange(-half, half + 1) / max(half, 1)

    def _around(
        self, weights: Direction, names: Sequence[str], context: Trajectory
    ) -> Sequence[dict[str, Tensor]]:
        """The layer on the grid, then at the radius along every direction."""
        own = {name: weights[name] for name in names}
        run_seed = context.run.manifest["seed"] or 0
        seed = mixed_seed("landscape", run_seed, self.seed, names[0])
        generator = torch.Generator().manual_seed(seed)
        directions = [scaled_direction(own, generator) for _ in range(2 + self.draws)]
        grid = [float(step) for step in self._grid()]
        moves = [((directions[0], directions[1]), (a, b)) for a in grid for b in grid]
        moves += [((direction,), (self.radius,)) for direction in directions[2:]]
        return _Displaced(own, moves)

    def _losses(self, context: Trajectory, weights: Direction, names: Sequence[str]) -> Tensor:
        """Mean loss at every place around one layer."""
        found = evaluate_variants(
            context.model,
            self._around(weights, names, context),
            [context.batch],
            context.task,
            weights=weights,
            budget=self.budget_mb * 2**20,
        )
        return found.losses.mean(1).cpu()

    def _curvatures(
        self, context: Trajectory, weights: Direction, groups: Sequence[tuple[str, ...]]
    ) -> list[float]:
        with shared_loss(
            context.model, groups, context.batch, context.task, weights=weights
        ) as loss:
            return [top_eigenvalue(loss, {n: weights[n] for n in names}) for names in groups]

    def _dataset(
        self, layers: LayerMap, surface: Tensor, values: Mapping[str, Tensor]
    ) -> xr.Dataset:
        dims = ("layer", "beta1", "beta2")
        attributes = {"long_name": "loss", "units": "", "source": self.source}
        variables: dict[str, Any] = {"loss": (dims, surface.numpy(), attributes)}
        for name, found in values.items():
            long_name, units = SHARPNESS[name]
            attributes = {"long_name": long_name, "units": units, "source": self.source}
            variables[name] = ("layer", found.numpy(), attributes)
        grid = self._grid()
        axes = {
            name: (name, grid, {"long_name": f"direction {i}", "units": "length of the layer"})
            for i, name in enumerate(("beta1", "beta2"), 1)
        }
        return xr.Dataset(variables, coords=layer_coordinates(layers) | axes)

    def figures(self, dataset: xr.Dataset) -> list[Figure]:
        """One surface per layer, and what sums it up."""
        found: list[Figure] = [
            Surface(
                dataset["loss"],
                key=self.slug,
                title="Loss landscape",
                caption="Loss while one layer moves along two random directions, each as long as "
                "the layer's weights; the trained layer is in the middle.",
                x="beta1",
                y="beta2",
                panel="layer",
                log=True,
            )
        ]
        captions = {
            "increase": "Mean rise of the loss when the layer moves in a random direction by "
            f"{self.radius:g} of its length.",
            "curvature": "Largest eigenvalue of the Hessian of the loss for this layer alone.",
            "relative_curvature": "Largest eigenvalue of the layer's Hessian times its squared "
            "length: curvature along the sharpest direction, in lengths of the layer.",
        }
        for name, caption in captions.items():
            if name in dataset:
                title = SHARPNESS[name][0][:1].upper() + SHARPNESS[name][0][1:]
                key = f"{self.slug}-{name}"
                found.append(Bars(dataset[name], key=key, title=title, caption=caption))
        return found


def _unreal(layers: LayerMap, weights: Direction) -> dict[str, str]:
    """Layers that cannot be moved along real directions, and why."""
    found = {}
    for layer in layers:
        kinds = [weights[name] for name in layer.parameters]
        if any(tensor.is_complex() for tensor in kinds):
            found[layer.name] = "has complex parameters, which have no real directions"
        elif not any(tensor.is_floating_point() for tensor in kinds):
            found[layer.name] = f"has parameters of type {kinds[0].dtype}"
    return found


def _spread(rows: Sequence[int], n: int, values: Tensor) -> Tensor:
    """The values in their rows of ``n``, NaN in the others."""
    if len(rows) == n:
        return values
    found = torch.full((n, *values.shape[1:]), torch.nan, dtype=values.dtype)
    found[list(rows)] = values
    return found
