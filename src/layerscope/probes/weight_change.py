"""Relative weight change between one measured moment and the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar, get_args

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from layerscope.config.base import LATER
from layerscope.errors import LayerscopeError, unknown
from layerscope.figures.figure import Figure, Lines
from layerscope.functional.change import (
    Reduction,
    relative_change,
    size_matched_indices,
    subsample,
    zero_counts,
)
from layerscope.networks.layers import LayerMap
from layerscope.probes.base import Moment, MomentProbe, Need, Variable, over_time
from layerscope.probes.sampling import Sampling, of_sample, sampling

PER_ENTRY = ("elementwise", "median")
"""Reductions of quotients of single entries."""


def _of_groups(values: xr.DataArray) -> xr.DataArray | None:
    """Geometric mean over the layers of each group; None where there are not two groups."""
    labels = [str(label) for label in values["group"].values] if "group" in values.coords else []
    names = list(dict.fromkeys(label for label in labels if label))
    if len(names) < 2:
        return None
    positive = values.where((values > 0) & np.isfinite(values))
    logs = positive.copy(data=np.log(positive.values))
    means = [logs.isel(layer=np.equal(labels, name)).mean("layer") for name in names]
    found = xr.concat(means, xr.DataArray(names, dims="group", name="group"))
    return found.copy(data=np.exp(found.values)).assign_attrs(values.attrs)


@lru_cache(maxsize=8)
def _indices(sizes: tuple[int, ...], seed: int) -> list[Tensor]:
    return size_matched_indices(sizes, seed)


@dataclass(frozen=True)
class WeightChange(MomentProbe):
    r"""Relative weight change (RWC): how much of itself a layer changed since the moment before.

    ``change`` is :math:`\|w_t - w_{t-1}\|_p / \|w_{t-1}\|_p` (``reduction="ratio"``), unitless.
    With p = 1, between epochs, it is the RWC of Eq. 1 of "Investigating Learning in Deep Neural
    Networks using Layer-Wise Weight Change"; with p = 2 the weight variation of Appendix A.2 of
    "Which Layer is Learning Faster?". The first value compares initialisation and the end of
    the first interval. The value depends on the time between two moments: quote it with the
    schedule.

    ``"angle"`` is how far the layer turned, in rad: :math:`\arccos` of the cosine between
    :math:`w_t` and :math:`w_{t-1}`. Before a normalisation the length of the weights means nothing
    and only their direction does.

    The other reductions, described in `layerscope.functional.change.relative_change`, average
    per-entry quotients; ``zeros`` then counts the entries that were exactly zero before, each of
    which makes the mean infinite if it moved.

    Attributes:
        p: Order of the norm.
        reduction: ``"ratio"``, ``"elementwise"`` (mean of quotients), ``"median"`` (of them) or
            ``"angle"``.
        minimum_dimensions: Parameters with fewer dimensions are left out; 2 keeps matrices and
            filters only, as the paper does, 1 adds biases and normalisation.
        size_matched: Reduce a random choice of entries, as many as the smallest layer has, in
            every layer: a control for effects of layer size.
        subset_seed: Seed of that choice, and of the sample.
        sample: Look at so many random entries of each layer, the same at every moment, so that
            memory and time do not grow with the model. Sums over them are those over the layer
            times n / N on average, without bias; the ratio and the angle, which are functions of
            sums, are consistent, with a bias of order 1/n and an error of order 1/sqrt(n). So is
            the median; the mean of quotients has no bias.
    """

    p: float = 1.0
    reduction: Reduction = "ratio"
    minimum_dimensions: int = 2
    size_matched: bool = False
    subset_seed: int = 0
    sample: int | None = field(default=None, metadata={LATER: True})

    needs: ClassVar[frozenset[Need]] = frozenset({"previous"})
    source: ClassVar[str] = "Relative weight change, Eq. 1"
    summary: ClassVar[str] = "relative change of weights between measured moments"
    heading: ClassVar[str] = "How much each layer changes"
    place: ClassVar[int] = 10

    def __post_init__(self) -> None:
        if self.reduction not in get_args(Reduction):
            raise unknown("reduction of WeightChange", str(self.reduction), get_args(Reduction))
        if not (isinstance(self.p, int | float) and self.p >= 1):
            raise LayerscopeError(f"p of WeightChange is {self.p!r}.", "It is at least 1.")
        _ = self.sampling

    @property
    def sampling(self) -> Sampling | None:
        """The entries that are looked at."""
        return sampling("WeightChange", self.sample, self.subset_seed)

    @property
    def additive(self) -> bool:
        """A median is no sum, and sizes are matched over all layers."""
        return self.reduction != "median" and not self.size_matched

    @property
    def variables(self) -> Mapping[str, Variable]:
        """``change`` and, for the per-entry reductions, ``zeros``."""
        if self.reduction == "angle":
            return {"change": Variable("angle turned", "rad")}
        found = {"change": Variable("relative weight change")}
        if self.reduction in PER_ENTRY:
            found["zeros"] = Variable("entries that were exactly zero", "entries")
        return found

    def select(self, layers: LayerMap) -> LayerMap:
        """Layers with a parameter of enough dimensions, and only such parameters."""
        return layers.with_dimensions(self.minimum_dimensions)

    def measure(self, moment: Moment, layers: LayerMap) -> dict[str, Tensor]:
        """Change of every layer since the previous moment."""
        before, after = layers.values(moment.previous), layers.values(moment.weights)
        owner = layers.owner.to(after[0].device)
        if self.size_matched:
            sizes = tuple(layer.n_parameters for layer in layers)
            indices = _indices(sizes, self.subset_seed)
            before, after = subsample(before, owner, indices), subsample(after, owner, indices)
            owner = torch.arange(len(layers), device=owner.device)
        n = len(layers)
        p, total = float(self.p), moment.total
        found = {"change": relative_change(before, after, owner, n, p, self.reduction, total)}
        if self.reduction in PER_ENTRY:
            found["zeros"] = zero_counts(before, owner, n, total)
        return found

    def figures(self, dataset: xr.Dataset) -> list[Figure]:
        """Change of every layer over time."""
        values, x = over_time(dataset["change"])
        how = {
            "ratio": f"L{self.p:g} norm of the change over that of the weights before it",
            "angle": "angle in rad between the weights and those before",
        }
        text = how.get(self.reduction, f"{self.reduction} over weights of |change| / |weight|")
        size = ", on equally many weights of every layer" if self.size_matched else ""
        title = "Rotation" if self.reduction == "angle" else "Relative weight change"
        caption = (
            f"{text[0].upper()}{text[1:]}{size}, since the moment measured before."
            f"{of_sample(self.sampling)}"
        )
        found: list[Figure] = [Lines(values, self.slug, title, caption, x=x, log_y=True)]
        if (means := _of_groups(values)) is not None:
            found.append(
                Lines(
                    means,
                    key=f"{self.slug}-groups",
                    title=f"{title} of groups of layers",
                    caption=f"{caption} Geometric mean over the layers of a group that move.",
                    x=x,
                    hue="group",
                    log_y=True,
                )
            )
        return found
