"""How far a layer is from where it started."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from layerscope.config.base import LATER
from layerscope.figures.figure import Figure, Lines
from layerscope.functional.norms import layer_distances, layer_norms
from layerscope.networks.discovery import preview
from layerscope.networks.layers import LayerMap
from layerscope.probes.base import (
    Moment,
    MomentProbe,
    Need,
    Variable,
    blank,
    over_time,
    without_entries,
)
from layerscope.probes.sampling import Sampling, of_sample, sampling


@dataclass(frozen=True)
class DistanceFromInitialisation(MomentProbe):
    r"""Distance of every layer's parameters from their initial values.

    * ``rms_distance``: :math:`\|\theta^t_l - \theta^0_l\|_2 / \sqrt{n_l}`, in units of weights.
    * ``max_distance``: :math:`\max_i |\theta^t_i - \theta^0_i|`, in units of weights.
    * ``relative_distance``: :math:`\|\theta^t_l - \theta^0_l\|_2 / \|\theta^0_l\|_2`, unitless;
      infinite for a layer that starts at zero.

    All parameters of the layer, biases and normalisation included. The first two are the
    distances of Zhang, Bengio and Singer, "Are All Layers Created Equal?" (Fig. 1).

    Attributes:
        sample: Look at so many random entries of each layer, the same at every moment, so that
            memory and time do not grow with the model. The square of ``rms_distance`` is then
            that of the layer on average, without bias; it and ``relative_distance`` themselves are
            consistent, with a bias of order 1/n and an error of order 1/sqrt(n).
            ``max_distance`` is that of the sample, a lower bound for the layer.
        subset_seed: Seed of the sample.
    """

    sample: int | None = field(default=None, metadata={LATER: True})
    subset_seed: int = field(default=0, metadata={LATER: True})

    needs: ClassVar[frozenset[Need]] = frozenset({"initial"})
    source: ClassVar[str] = "Are all layers created equal?, Fig. 1"
    summary: ClassVar[str] = "distance of weights from initialisation, RMS, largest and relative"
    heading: ClassVar[str] = "How far each layer has come"
    place: ClassVar[int] = 20

    def __post_init__(self) -> None:
        _ = self.sampling

    @property
    def sampling(self) -> Sampling | None:
        """The entries that are looked at."""
        return sampling("DistanceFromInitialisation", self.sample, self.subset_seed)

    @property
    def additive(self) -> bool:
        """It adds up squares."""
        return True

    @property
    def variables(self) -> Mapping[str, Variable]:
        """The three distances."""
        bound = "" if self.sample is None else " in the sample, a lower bound for the layer"
        return {
            "rms_distance": Variable("RMS distance from initialisation", "weight"),
            "max_distance": Variable(f"largest distance from initialisation{bound}", "weight"),
            "relative_distance": Variable("relative distance from initialisation"),
        }

    def select(self, layers: LayerMap) -> LayerMap:
        """All layers."""
        return layers

    def measure(self, moment: Moment, layers: LayerMap) -> dict[str, Tensor]:
        """Distances of every layer at this moment."""
        initial, now = layers.values(moment.initial), layers.values(moment.weights)
        owner, n = layers.owner.to(now[0].device), len(layers)
        total = moment.total
        distance = layer_distances(initial, now, owner, n, 2.0, total)
        size = torch.tensor([layer.n_parameters for layer in layers], device=distance.device)
        start = layer_norms(initial, owner, n, 2.0, total)
        moment.missing.update(without_entries(layers))
        found = {
            "rms_distance": distance / size.double().sqrt(),
            "max_distance": layer_distances(initial, now, owner, n, math.inf, total),
            "relative_distance": torch.where(distance == 0, 0.0, distance / start),
        }
        return {name: blank(values, layers, moment.missing) for name, values in found.items()}

    def figures(self, dataset: xr.Dataset) -> list[Figure]:
        """Relative and RMS distance over time; the first without layers that start at zero."""
        relative, x = over_time(dataset["relative_distance"])
        unbounded = (relative == np.inf).any([dim for dim in relative.dims if dim != "layer"])
        names = [str(name) for name in relative["layer"].values[unbounded.values]]
        note = ""
        if 0 < len(names) < relative.sizes["layer"]:
            relative = relative.isel(layer=np.flatnonzero(~unbounded))
            note = f" Without layers that started at zero: {preview(names, 6)}."
        sample = of_sample(self.sampling)
        rms, _ = over_time(dataset["rms_distance"])
        return [
            Lines(
                relative,
                key=f"{self.slug}-relative",
                title="Distance from initialisation, relative",
                caption="L2 distance of a layer from its initial weights over their norm."
                f"{note}{sample}",
                x=x,
            ),
            Lines(
                rms,
                key=f"{self.slug}-rms",
                title="Distance from initialisation, per weight",
                caption="Root mean square of how far a weight is from its initial value." + sample,
                x=x,
            ),
        ]
