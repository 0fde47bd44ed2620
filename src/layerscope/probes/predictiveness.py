"""How stable the direction of a layer's gradient is."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import xarray as xr
from torch import Tensor, nn

from layerscope.errors import LayerscopeError
from layerscope.figures.figure import Figure, Lines
from layerscope.functional.similarity import layer_cosines
from layerscope.networks.curvature import gradients
from layerscope.networks.layers import LayerMap
from layerscope.networks.names import every_tensor
from layerscope.networks.sharing import shared_loss
from layerscope.networks.task import examples, rows
from layerscope.probes.base import Moment, MomentProbe, Need, Variable, blank, over_time
from layerscope.probes.gradient import batch_gradients, without_derivatives

TITLES = {"data": "other data", "parameters": "an update of the other layers"}


@dataclass(frozen=True)
class GradientPredictiveness(MomentProbe):
    r"""Cosine between a layer's gradient and the one it has on other data, or after an update.

    The run's fixed batch is cut into equal batches :math:`x, x', \dots`. With :math:`G_l(x)` the
    gradient of the mean loss on :math:`x` with respect to all parameters of layer :math:`l`:

    * ``data``: :math:`\cos(G_l(x), G_l(x'))`, the mean over all pairs of batches.
    * ``parameters``: :math:`\cos(G_l(x), G''_l(x))`, the mean over batches, where :math:`G''_l` is
      taken after every *other* layer has made the gradient step
      :math:`\theta - \eta\, G(x)` and layer :math:`l` has not.

    Between -1 and 1, unitless; 0 where a gradient vanishes. The model is in eval mode. The step is
    plain gradient descent over all parameters that are trained: the update of SGD without momentum
    and weight decay, and not that of other optimisers, whose rates mean something else. Source:
    Definition 4.1 of "Which Layer is Learning Faster?", whose norm in the numerator is a misprint;
    not the measure of Santurkar et al., in which only the preceding layers are updated.

    Attributes:
        batches: Into how many batches the fixed batch is cut, at least 2.
        learning_rate: The step size :math:`\eta`; by default the run's own at that moment.
    """

    batches: int = 4
    learning_rate: float | None = None

    needs: ClassVar[frozenset[Need]] = frozenset({"batch", "task", "model"})
    source: ClassVar[str] = "Which layer is learning faster?, Definition 4.1"
    summary: ClassVar[str] = "stability of gradient directions, over data and updates"
    heading: ClassVar[str] = "Whether gradients keep their direction"
    place: ClassVar[int] = 90

    @property
    def needed(self) -> frozenset[Need]:
        """Model, task and batch; the run's learning rate too where no step size is set."""
        if self.learning_rate is not None:
            return self.needs
        return frozenset({"learning_rate", *self.needs})

    @property
    def variables(self) -> Mapping[str, Variable]:
        """``data`` and ``parameters``."""
        return {
            "data": Variable("gradient predictiveness w.r.t. data"),
            "parameters": Variable("gradient predictiveness w.r.t. parameters"),
        }

    def select(self, layers: LayerMap) -> LayerMap:
        """All layers."""
        return layers

    def measure(self, moment: Moment, layers: LayerMap) -> dict[str, Tensor]:
        """Both cosines of every layer at this moment."""
        moment.missing.update(without_derivatives(layers, moment.weights))
        batches = self._cut(moment)
        names = _moving(moment.model, layers)
        every = [
            dict(zip(names, batch_gradients(moment, names, batch=b), strict=True)) for b in batches
        ]
        rate = moment.learning_rate if self.learning_rate is None else self.learning_rate
        slopes = [layers.values(slope) for slope in every]
        after = [
            _after_others(moment, layers, batch, slope, rate)
            for batch, slope in zip(batches, every, strict=True)
        ]
        owner, n = layers.owner.to(slopes[0][0].device), len(layers)
        pairs, updated = itertools.combinations(slopes, 2), zip(slopes, after, strict=True)
        return {
            name: blank(
                torch.stack([layer_cosines(a, b, owner, n) for a, b in compared]).mean(0),
                layers,
                moment.missing,
            )
            for name, compared in (("data", pairs), ("parameters", updated))
        }

    def _cut(self, moment: Moment) -> Sequence[Any]:
        size = examples(moment.batch) // max(self.batches, 1)
        if self.batches < 2 or size < 1:
            raise LayerscopeError(
                f"a batch of {examples(moment.batch)} examples cannot be cut into {self.batches}.",
                "Choose batches between 2 and the size of the run's fixed batch.",
            )
        return [rows(moment.batch, i * size, (i + 1) * size) for i in range(self.batches)]

    def figures(self, dataset: xr.Dataset) -> list[Figure]:
        """Both cosines over time."""
        found: list[Figure] = []
        for name, title in TITLES.items():
            values, x = over_time(dataset[name])
            found.append(
                Lines(
                    values,
                    key=f"{self.slug}-{name}",
                    title=f"Gradient predictiveness under {title}",
                    caption="Cosine between a layer's gradient and the one it has under "
                    f"{title}: 1 is a direction that does not change.",
                    x=x,
                )
            )
        return found


def _trained(model: nn.Module) -> set[str]:
    """Parameters that training moves, by the first of their names."""
    return {name for name, tensor in every_tensor(model).items() if tensor.requires_grad}


def _moving(model: nn.Module, layers: LayerMap) -> list[str]:
    """Parameters that training moves, and those of the measured layers."""
    own = every_tensor(model)
    moved = [name for name, tensor in own.items() if tensor.requires_grad]
    return list(dict.fromkeys([*moved, *layers.parameter_names]))


def _after_others(
    moment: Moment, layers: LayerMap, batch: Any, slopes: Mapping[str, Tensor], rate: float
) -> list[Tensor]:
    """Each layer's gradient where all other layers have made a step, in one flat list."""
    trained = _trained(moment.model)
    stepped = {
        name: moment.weights[name].detach() - rate * slope
        for name, slope in slopes.items()
        if name in trained
    }
    groups = [tuple(layer.parameters) for layer in layers]
    base = {**moment.weights, **stepped}
    found: list[Tensor] = []
    with shared_loss(moment.model, groups, batch, moment.task, weights=base) as loss:
        for names in groups:
            value, leaves = loss({name: moment.weights[name] for name in names})
            found += gradients(value, leaves)
    return found
