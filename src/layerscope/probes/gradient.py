"""Size of the gradient that reaches a layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import xarray as xr
from torch import Tensor

from layerscope.curvature import gradients
from layerscope.figures.figure import Figure, Lines
from layerscope.functional.norms import layer_norms
from layerscope.isolation import isolated
from layerscope.layers import LayerMap
from layerscope.probes.base import Moment, MomentProbe, Need, Variable, over_time
from layerscope.task import Program


def batch_gradients(moment: Moment, names: Sequence[str], training: bool = False) -> list[Tensor]:
    """Gradient of the mean loss on the fixed batch with respect to parameters.

    Evaluated at ``moment.weights`` through a functional call, so that neither the model nor its
    ``.grad`` is touched; a frozen parameter has a gradient too, an unused one has zeros.

    Returns:
        One gradient per name.
    """
    assert moment.model is not None
    assert moment.task is not None
    program = Program(moment.model, moment.task)
    with isolated(moment.model, training), torch.inference_mode(False), torch.enable_grad():
        parameters = {name for name, _ in moment.model.named_parameters()}
        weights = {
            f"model.{name}": w.detach() if name in parameters else w.detach().clone()
            for name, w in moment.weights.items()
        }
        wanted = [weights[f"model.{name}"].requires_grad_() for name in names]
        loss = torch.func.functional_call(program, weights, (moment.batch,))
        return list(gradients(loss, wanted))


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

    @property
    def variables(self) -> Mapping[str, Variable]:
        """``gradient_magnitude``."""
        return {"gradient_magnitude": Variable("mean absolute gradient", "loss / weight")}

    def select(self, layers: LayerMap) -> LayerMap:
        """All layers."""
        return layers

    def measure(self, moment: Moment, layers: LayerMap) -> dict[str, Tensor]:
        """Mean absolute gradient of every layer at this moment."""
        slopes = batch_gradients(moment, layers.parameter_names, self.mode == "train")
        owner = layers.owner.to(slopes[0].device)
        total = layer_norms(slopes, owner, len(layers), 1.0)
        size = torch.tensor([layer.n_parameters for layer in layers], device=total.device)
        return {"gradient_magnitude": total / size}

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
