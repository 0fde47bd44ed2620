"""Size of the gradient that reaches a layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import xarray as xr
from torch import Tensor

from layerscope.figures.figure import Figure, Lines
from layerscope.functional.norms import layer_norms
from layerscope.networks.curvature import gradients
from layerscope.networks.isolation import differentiable, isolated, leaves
from layerscope.networks.layers import LayerMap
from layerscope.networks.names import unwrap
from layerscope.probes.base import (
    Moment,
    MomentProbe,
    Need,
    Variable,
    blank,
    over_time,
    without_entries,
)


def batch_gradients(
    moment: Moment, names: Sequence[str], training: bool = False, batch: Any = None
) -> list[Tensor]:
    """Gradient of the mean loss on the fixed batch with respect to parameters.

    Evaluated while the model holds ``moment.weights``, so that neither its own nor its ``.grad``
    is touched; a frozen parameter has a gradient too, an unused one has zeros, and so has one of
    a type that cannot have any.

    Args:
        moment: Has model, task and batch.
        names: Parameters.
        training: Mode in which the model runs.
        batch: Another batch in place of the fixed one.

    Returns:
        One gradient per name, dense.
    """
    model, task = unwrap(moment.model), moment.task
    batch = moment.batch if batch is None else batch
    with isolated(model, training, weights=moment.weights), torch.enable_grad():
        wanted = leaves(model, names)
        loss = task.loss(task.forward(model, batch), batch)
        return list(gradients(loss, wanted))


def without_derivatives(layers: LayerMap, weights: Mapping[str, Tensor]) -> dict[str, str]:
    """The layers whose parameters have no entries or no derivatives, and why."""
    return without_entries(layers) | {
        layer.name: f"has parameters of type {weights[next(iter(layer.parameters))].dtype}"
        for layer in layers
        if not any(differentiable(weights[name]) for name in layer.parameters)
    }


@dataclass(frozen=True)
class GradientMagnitude(MomentProbe):
    r"""Mean absolute gradient of every layer on the run's fixed batch.

    ``gradient_magnitude`` is :math:`\frac{1}{n_l}\sum_i |\partial L / \partial \theta_{l,i}|`,
    the loss averaged over the batch; units of loss per weight. Source: Fig. 1 of "Which Layer is
    Learning Faster?".

    Attributes:
        mode: ``"eval"`` uses running statistics and no dropout, so that the value repeats;
            ``"train"`` the batch's own statistics and dropout with a fixed seed.
    """

    mode: Literal["eval", "train"] = "eval"

    needs: ClassVar[frozenset[Need]] = frozenset({"batch", "task", "model"})
    source: ClassVar[str] = "Which layer is learning faster?, Fig. 1"
    summary: ClassVar[str] = "mean absolute gradient on the fixed batch"
    heading: ClassVar[str] = "What reaches each layer"
    place: ClassVar[int] = 80

    @property
    def variables(self) -> Mapping[str, Variable]:
        """``gradient_magnitude``."""
        return {"gradient_magnitude": Variable("mean absolute gradient", "loss / weight")}

    def select(self, layers: LayerMap) -> LayerMap:
        """All layers."""
        return layers

    def measure(self, moment: Moment, layers: LayerMap) -> dict[str, Tensor]:
        """Mean absolute gradient of every layer at this moment."""
        moment.missing.update(without_derivatives(layers, moment.weights))
        slopes = batch_gradients(moment, layers.parameter_names, self.mode == "train")
        owner = layers.owner.to(slopes[0].device)
        total = layer_norms(slopes, owner, len(layers), 1.0)
        size = torch.tensor([layer.n_parameters for layer in layers], device=total.device)
        return {"gradient_magnitude": blank(total / size, layers, moment.missing)}

    def figures(self, dataset: xr.Dataset) -> list[Figure]:
        """Gradient magnitude over time."""
        values, x = over_time(dataset["gradient_magnitude"])
        return [
            Lines(
                values,
                key=self.slug,
                title="Gradient magnitude",
                caption="Mean absolute gradient of the loss on one fixed batch, "
                f"model in {self.mode} mode.",
                x=x,
                log_y=True,
            )
        ]
