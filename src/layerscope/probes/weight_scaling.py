"""What scaling the weights of every layer does to signals and gradients, against two theorems."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import xarray as xr
from torch import Tensor

from layerscope.errors import LayerscopeError
from layerscope.figures.figure import Figure, Lines
from layerscope.functional.scaling import Scaled, scaled_signals
from layerscope.networks.factors import row_names
from layerscope.networks.isolation import mixed_seed
from layerscope.networks.layers import LayerMap
from layerscope.networks.products import Use
from layerscope.networks.scaling import PRODUCTS, Chain, pass_chain
from layerscope.probes.at_matrices import matrix_rows, of_some_layers
from layerscope.probes.base import Moment, MomentProbe, Need, Variable, over_time

SIDES = {
    "input": "what enters",
    "gradient": "gradient at what leaves",
    "weight": "gradient of the weights",
}


@dataclass(frozen=True)
class WeightScaling(MomentProbe):
    r"""Measured and predicted change of signals and gradients where all weights are scaled.

    Every weight matrix is multiplied by a factor :math:`a_k` of its own, drawn so that its
    logarithm is uniform, in a copy of the model in float64 and train mode. The gradient at the
    outputs is that of the mean loss before scaling, also after it: the assumption of Theorem 4.1,
    which holds by itself where the outputs are normalised. For what enters a layer (``input``), the
    gradient at what leaves it (``gradient``) and that of its weights (``weight``):

    * ``measured_input`` and so on: decades by which the norm changes, :math:`log_10` of a ratio;
    * ``predicted_input`` and so on: what `layerscope.functional.scaling` says, Theorem 4.1 where
      no normalisation follows any layer, Theorem 4.2 where one follows each;
    * ``deviation_input`` and so on: :math:`|y - c y_0| / |c y_0|` of the whole tensors, with the
      predicted factor c. It bounds how far the ratio of norms over the predicted one is from 1.

    The rules are exact for rectifiers and other positively homogeneous functions, and for
    normalisations without epsilon. Others are not looked for: deviations show them. Networks in
    which layers do not follow one another, or biases are added, are refused.

    Source: Huang, Qin, Liu, Zhu and Shao, "Layer-wise Conditioning Analysis in Exploring the
    Learning Dynamics of DNNs", Theorems 4.1 and 4.2.

    Attributes:
        draws: How often factors are drawn.
        spread: Factors are between :math:`10^{-s}` and :math:`10^s`.
        epsilon: That of all normalisations of the copy; None for each one's own.
        seed: Of the factors.
    """

    draws: int = 3
    spread: float = 1.0
    epsilon: float | None = 0.0
    seed: int = 0

    needs: ClassVar[frozenset[Need]] = frozenset({"batch", "task", "model"})
    source: ClassVar[str] = "Layer-wise conditioning analysis, Theorems 4.1 and 4.2"
    summary: ClassVar[str] = "what scaling the weights does to signals and gradients"
    heading: ClassVar[str] = "What scaling the weights does"
    place: ClassVar[int] = 129

    def __post_init__(self) -> None:
        if self.draws < 1 or not 0 < self.spread < math.inf:
            raise LayerscopeError(
                f"WeightScaling has draws {self.draws}, spread {self.spread}.",
                "draws is at least 1, spread positive and finite.",
            )
        if self.epsilon is not None and not 0 <= self.epsilon < math.inf:
            raise LayerscopeError(
                f"WeightScaling has epsilon {self.epsilon}.",
                "epsilon is at least 0, or None for that of each normalisation.",
            )

    @property
    def variables(self) -> Mapping[str, Variable]:
        """Three numbers each for what enters and two gradients."""
        words = {
            "measured": ("change of {}", "decades"),
            "predicted": ("predicted change of {}", "decades"),
            "deviation": ("{}, relative deviation from the prediction", "1"),
        }
        return {
            f"{kind}_{side}": Variable(text.format(what), units, ("layer", "draw"), partial=True)
            for side, what in SIDES.items()
            for kind, (text, units) in words.items()
        }

    def select(self, layers: LayerMap) -> LayerMap:
        """All layers; their matrices are measured."""
        return layers

    def rows(self, layers: LayerMap, moment: Moment) -> LayerMap:
        """The matrices of the layers, without scales."""
        rows = matrix_rows(moment, layers)
        found = tuple(row for row in rows if row.kind in (*PRODUCTS, "unused"))
        if not found:
            raise LayerscopeError(
                "the layers have no matrices that signals pass.", "Choose other layers."
            )
        return LayerMap(found)

    def measure(self, moment: Moment, layers: LayerMap) -> dict[str, Tensor]:
        """Changes of every matrix at this moment, (layer, draw)."""
        given = (moment.model, moment.batch, moment.task)
        options: dict[str, Any] = {"weights": moment.weights, "epsilon": self.epsilon}
        before = pass_chain(*given, **options)
        rows = {name: row for row, name in enumerate(_named(before))}
        drawn: list[dict[str, Tensor]] = []
        for draw in range(self.draws):
            decades = self._decades(len(before.names), draw)
            factors = dict(zip(before.names, (10**decades).tolist(), strict=True))
            after = pass_chain(*given, scales=factors, cotangent=before.cotangent, **options)
            expected = scaled_signals(decades, list(before.normalised.values()))
            drawn.append(_compared(before, after, expected))
        for name in layers.names:
            if name not in rows:
                moment.missing[name] = "takes part in no product"
        values = {name: torch.stack([one[name] for one in drawn], 1) for name in self.variables}
        for name, row in rows.items():
            if any(bool(v[row].isnan().any()) for v in values.values()):
                moment.missing[name] = "has signals or gradients that are all 0"
        none = torch.full((self.draws,), math.nan, dtype=torch.float64)
        return {
            name: torch.stack([v[rows[n]] if n in rows else none for n in layers.names])
            for name, v in values.items()
        }

    def _decades(self, layers: int, draw: int) -> Tensor:
        """Logarithms of the factors of all layers."""
        generator = torch.Generator().manual_seed(mixed_seed("weight scaling", self.seed, draw))
        uniform = torch.rand(layers, generator=generator, dtype=torch.float64)
        return self.spread * (2 * uniform - 1)

    def figures(self, dataset: xr.Dataset) -> list[Figure]:
        """The largest deviation of every layer over time."""
        several = xr.concat(
            [over_time(dataset[f"deviation_{side}"].max("draw"))[0] for side in SIDES],
            xr.Variable("signal", list(SIDES.values())),
            combine_attrs="drop",
        )
        _, x = over_time(dataset["deviation_input"])
        epsilon = "their own epsilon" if self.epsilon is None else f"epsilon {self.epsilon:g}"
        return [
            Lines(
                of_some_layers(several.where(several > 0)).assign_attrs(
                    long_name="relative deviation", units=""
                ),
                key=self.slug,
                title="Scaling all weights, measured against predicted",
                caption="Relative deviation of signals and gradients from what Theorems 4.1 and "
                f"4.2 say where every layer's weights are scaled, largest of {self.draws} draws "
                f"of factors, in float64; normalisations with {epsilon}. Deviations of 0 are not "
                "drawn.",
                x=x,
                panel="signal",
                log_y=True,
            )
        ]


def _named(chain: Chain) -> Sequence[str]:
    """What rows call the matrices of a chain, in order."""
    uses = {Use(weight, "linear"): name for weight, name in chain.names.items()}
    return list(row_names(uses).values())


def _compared(before: Chain, after: Chain, expected: Scaled) -> dict[str, Tensor]:
    """Measured, predicted, and the deviation, (layer,) each."""
    found: dict[str, Tensor] = {}
    for side in SIDES:
        predicted: Tensor = getattr(expected, side)
        pairs = zip(
            getattr(before, side).values(),
            getattr(after, side).values(),
            (10**predicted).tolist(),
            strict=True,
        )
        rows = [
            (float(y.norm() / y0.norm()), float((y - c * y0).norm() / (c * y0.norm())))
            for y0, y, c in pairs
        ]
        ratio, deviation = torch.tensor(rows, dtype=torch.float64).T
        found |= {
            f"measured_{side}": ratio.log10(),
            f"predicted_{side}": predicted,
            f"deviation_{side}": deviation,
        }
    return found
