"""Size of what enters every layer, and of the gradient at what leaves it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import xarray as xr
from torch import Tensor

from layerscope.errors import DivergedError, check_choice
from layerscope.figures.figure import Figure
from layerscope.functional.conditioning import SecondMoment
from layerscope.networks.layers import LayerMap
from layerscope.probes.at_matrices import MODES, Mode, matrix_rows, measured_at, panels
from layerscope.probes.base import Moment, MomentProbe, Need, Variable

SIDES = {"input": "what enters", "gradient": "gradient at what leaves"}


@dataclass(frozen=True)
class SignalMagnitude(MomentProbe):
    r"""Root mean square of what enters every matrix, and of the gradient at what leaves it.

    ``input`` is :math:`\sqrt{E[x_i^2]}` over examples, positions and units, ``gradient``
    :math:`\sqrt{E[g_i^2]}` with g that of one example's loss, N times that of the mean loss. Rows
    and conventions are those of `Conditioning`, which has ``input`` times the root of the number of
    units as the root of a trace; embeddings, whose inputs are indices, and scales have none.
    A signal that vanishes or explodes from layer to layer shows here first.

    Source: Huang, Qin, Liu, Zhu and Shao, "Layer-wise Conditioning Analysis in Exploring the
    Learning Dynamics of DNNs", Section 4.1 and Fig. 3.

    Attributes:
        mode: Mode in which the model runs; ``"train"`` as in the paper.
    """

    mode: Mode = "train"

    needs: ClassVar[frozenset[Need]] = frozenset({"batch", "task", "model"})
    source: ClassVar[str] = "Layer-wise conditioning analysis, Section 4.1"
    summary: ClassVar[str] = "size of what enters each layer and of the gradient that comes back"
    heading: ClassVar[str] = "How large signals are"
    place: ClassVar[int] = 122

    def __post_init__(self) -> None:
        check_choice("mode of SignalMagnitude", self.mode, MODES)

    @property
    def variables(self) -> Mapping[str, Variable]:
        """``input`` and ``gradient``."""
        return {
            side: Variable(f"root mean square of {what}", "", partial=True)
            for side, what in SIDES.items()
        }

    def select(self, layers: LayerMap) -> LayerMap:
        """All layers; their matrices are measured."""
        return layers

    def rows(self, layers: LayerMap, moment: Moment) -> LayerMap:
        """The matrices of the layers."""
        return matrix_rows(moment, layers)

    def measure(self, moment: Moment, layers: LayerMap) -> dict[str, Tensor]:
        """Both sizes of every matrix at this moment."""
        found = measured_at(moment, layers, training=self.mode == "train", most=0)
        values = {side: [math.nan] * len(layers) for side in SIDES}
        for row, layer in enumerate(layers):
            if layer.kind in ("linear", "convolution") and (one := found.get(layer.name)):
                for side in SIDES:
                    values[side][row] = _root_mean_square(getattr(one, side), layer.name)
        return {side: torch.tensor(v, dtype=torch.float64) for side, v in values.items()}

    def figures(self, dataset: xr.Dataset) -> list[Figure]:
        """Both over time."""
        return [
            panels(
                dataset,
                {what: side for side, what in SIDES.items()},
                "root mean square",
                self.slug,
                "Size of signals and gradients",
                "Root mean square of what enters each layer and of the gradient of an example's "
                f"loss at what leaves it, on one fixed batch, model in {self.mode} mode.",
            )
        ]


def _root_mean_square(moment: SecondMoment, name: str) -> float:
    found = math.sqrt(moment.trace / (moment.groups * moment.features))
    if not math.isfinite(found):
        raise DivergedError(
            f"signals at {name!r} are not finite.",
            "The model has diverged: measure an earlier checkpoint.",
        )
    return found
