"""What enters the activation functions of a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import xarray as xr
from torch import Tensor

from layerscope.errors import check_choice
from layerscope.figures.figure import Figure, Heatmap, Lines
from layerscope.functional.linearity import node_shares, preactivation
from layerscope.networks.layers import LayerMap
from layerscope.networks.sites import Site
from layerscope.probes.at_sites import find, measured_at
from layerscope.probes.base import Moment, MomentProbe, Need, Variable, over_time

ZERO_AT_THE_START = (
    "Where normalisation comes right before, the mean in train mode is that of its shift, which "
    "starts at 0 by construction."
)


@dataclass(frozen=True)
class Preactivations(MomentProbe):
    r"""Mean of what enters every activation function, and how many of its nodes switch.

    The rows are the sites where activation functions act, in order of execution
    (`layerscope.surgery.find_sites`), not the layers. Of the values z that enter one, after
    normalisation and after the addition of a residual network:

    * ``mean``: :math:`\bar p = \frac{1}{M} \sum_i \frac{1}{N} \sum_s z_{s,i}` over N samples and
      M nodes (and places);
    * ``deviation``: standard deviation of all values;
    * ``always_on``, ``always_off``, ``mixed``: shares of nodes (channels, units) above 0 for all
      samples and places, never above 0, or either in turn. A rectifier is linear but for the last.

    With batch normalisation and no residual connection the mean in train mode is the mean of the
    normalisation's shift :math:`\beta` exactly: near 0 at the start by construction, whatever the
    layer does.

    Source: Pinson, Boland, Ginis and Pechenizkiy, "Exploring the development of complexity over
    depth and time in deep neural networks", Section 2.

    Attributes:
        samples: Examples of the run's fixed batch that pass; all of it where it has fewer.
        mode: ``"eval"`` uses running statistics, ``"train"`` the batch's own.
    """

    samples: int = 500
    mode: Literal["eval", "train"] = "eval"

    needs: ClassVar[frozenset[Need]] = frozenset({"batch", "task", "model"})
    source: ClassVar[str] = "Complexity over depth and time, Section 2"
    summary: ClassVar[str] = "mean of what enters each activation, and nodes that switch"
    heading: ClassVar[str] = "What enters the activations"
    place: ClassVar[int] = 112

    def __post_init__(self) -> None:
        check_choice("mode of Preactivations", self.mode, ("eval", "train"))

    @property
    def variables(self) -> Mapping[str, Variable]:
        """``mean``, ``deviation`` and three shares of nodes."""
        return {
            "mean": Variable("mean preactivation", ""),
            "deviation": Variable("deviation of preactivations", ""),
            "always_on": Variable("share of nodes always on"),
            "always_off": Variable("share of nodes always off"),
            "mixed": Variable("share of nodes that switch"),
        }

    def select(self, layers: LayerMap) -> LayerMap:
        """All layers; sites behind them are measured."""
        return layers

    def rows(self, layers: LayerMap, moment: Moment) -> LayerMap:
        """The sites where activation functions act."""
        return find(moment, layers, self.samples)

    def measure(self, moment: Moment, layers: LayerMap) -> dict[str, Tensor]:
        """Statistics of every site at this moment."""
        return measured_at(moment, layers, self.samples, self.mode == "train", _seen)

    def figures(self, dataset: xr.Dataset) -> list[Figure]:
        """Mean over depth and time, and nodes that do not switch."""
        mean, x = over_time(dataset["mean"])
        states = xr.concat(
            [over_time(dataset[name])[0] for name in ("always_on", "always_off")],
            xr.Variable("state", ["always on", "always off"]),
            combine_attrs="drop",
        )
        return [
            Heatmap(
                mean,
                key=self.slug,
                title="Mean preactivation over depth and time",
                caption="Mean over samples and nodes of what enters each activation, in "
                f"{self.mode} mode. Well above 0 a rectifier passes on what enters, about 0 it "
                f"cuts off half, well below 0 it passes nothing. {ZERO_AT_THE_START}",
                x=x,
                centre=0.0,
            ),
            Lines(
                states.assign_attrs(long_name="share of nodes", units=""),
                key=f"{self.slug}-states",
                title="Nodes that never switch",
                caption="Share of nodes above 0 for all samples and places, and of those above 0 "
                "for none. On both a rectifier is linear; all other nodes switch.",
                x=x,
                panel="state",
            ),
        ]


def _seen(site: Site, before: Tensor, after: Tensor) -> Mapping[str, float]:
    del site, after
    mean, deviation = preactivation(before)
    on, off, mixed = node_shares(before)
    return {
        "mean": mean,
        "deviation": deviation,
        "always_on": on,
        "always_off": off,
        "mixed": mixed,
    }
