"""Whether a layer's weights are so large that its gradients hardly move them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import xarray as xr
from torch import Tensor

from layerscope.config.base import LATER
from layerscope.errors import LayerscopeError, check_choice
from layerscope.figures.figure import Figure, Lines
from layerscope.functional.norms import spectral_norms
from layerscope.networks.layers import LayerMap
from layerscope.probes.at_matrices import MODES, Mode
from layerscope.probes.base import Moment, MomentProbe, Need, Variable, blank, over_time
from layerscope.probes.gradient import batch_gradients, without_derivatives


@dataclass(frozen=True)
class WeightDomination(MomentProbe):
    r"""Largest singular value of a layer's gradient over that of its weights.

    ``ratio`` is :math:`\sigma_{\max}(\partial L / \partial W_l) / \sigma_{\max}(W_l)`, with L the
    mean loss on the fixed batch and filters as matrices (outputs by everything else); the largest
    over the matrices of a layer that has several. Where it is far below 1, the layer is in a state
    of weight domination (Definition 1): gradients are feeble for such weights, which may look like
    a minimum and be none. ``dominated`` is 1 where it is below the threshold; ``gradient`` and
    ``weight`` are both singular values.

    The ratio says nothing of the learning rate: times that it is about the relative change of a
    step of gradient descent.

    Source: Huang, Qin, Liu, Zhu and Shao, "Layer-wise Conditioning Analysis in Exploring the
    Learning Dynamics of DNNs", Definition 1.

    Attributes:
        mode: Mode in which the model runs; ``"train"`` as in the paper.
        threshold: Ratio below which a layer counts as dominated; the paper says "far below 1".
        layers: Patterns of the layers that are measured; all by default.
    """

    mode: Mode = "train"
    threshold: float = 1e-3
    layers: tuple[str, ...] = field(default=(), metadata={LATER: True})

    needs: ClassVar[frozenset[Need]] = frozenset({"batch", "task", "model"})
    source: ClassVar[str] = "Layer-wise conditioning analysis, Definition 1"
    summary: ClassVar[str] = "largest singular value of each layer's gradient over its weights'"
    heading: ClassVar[str] = "Whether weights dominate their gradients"
    place: ClassVar[int] = 128

    def __post_init__(self) -> None:
        check_choice("mode of WeightDomination", self.mode, MODES)
        if not self.threshold > 0:
            raise LayerscopeError(
                f"WeightDomination has threshold {self.threshold}.", "The threshold is above 0."
            )

    @property
    def variables(self) -> Mapping[str, Variable]:
        """``ratio``, both singular values, and whether the threshold is not reached."""
        return {
            "ratio": Variable("gradient over weights, largest singular values", "loss / weight^2"),
            "gradient": Variable("largest singular value of the gradient", "loss / weight"),
            "weight": Variable("largest singular value of the weights", "weight"),
            "dominated": Variable("weight domination"),
        }

    def select(self, layers: LayerMap) -> LayerMap:
        """Layers with matrices or filters, and only these."""
        return (layers.only(self.layers) if self.layers else layers).with_dimensions(2)

    def measure(self, moment: Moment, layers: LayerMap) -> dict[str, Tensor]:
        """Both singular values of every layer at this moment."""
        moment.missing.update(without_derivatives(layers, moment.weights))
        slopes = batch_gradients(moment, layers.parameter_names, self.mode == "train")
        owner = layers.owner.to(slopes[0].device)
        gradient, weight = (
            spectral_norms(tensors, owner, len(layers))
            for tensors in (slopes, layers.values(moment.weights))
        )
        zero = {n: "has weights of 0" for n, w in zip(layers.names, weight, strict=True) if w == 0}
        moment.missing.update(zero)
        ratio = gradient / weight
        found = {"ratio": ratio, "gradient": gradient, "weight": weight}
        found["dominated"] = (ratio < self.threshold).double()
        return {name: blank(value, layers, moment.missing) for name, value in found.items()}

    def figures(self, dataset: xr.Dataset) -> list[Figure]:
        """The ratio over time."""
        ratio, x = over_time(dataset["ratio"])
        return [
            Lines(
                ratio,
                key=self.slug,
                title="Gradients against weights",
                caption="Largest singular value of each layer's gradient over that of its weights. "
                f"Below {self.threshold:g} weights are said to dominate.",
                x=x,
                log_y=True,
            )
        ]
