"""What the whole model predicts for every test example."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from layerscope.errors import LayerscopeError, check_choice
from layerscope.figures.figure import Figure, Lines
from layerscope.functional.information import mutual_information
from layerscope.networks.isolation import device_of, isolated
from layerscope.networks.layers import LayerMap
from layerscope.networks.names import Weights, unwrap
from layerscope.networks.task import IGNORED, Task
from layerscope.probes.base import Need, Trajectory, TrajectoryProbe, over_time, step_coordinates

CLASSIFIERS = (
    "Predictions are measured of classifiers: outputs (examples, classes), batches (inputs, "
    "labels)."
)


@dataclass(frozen=True)
class Predictions(TrajectoryProbe):
    r"""Predicted class of every test example, and what predictions tell of the labels.

    * ``predicted`` (step, example): the class with the largest output, in eval mode;
    * ``label`` (example): the right one;
    * ``information`` (step): mutual information I(M; Y) of predictions and labels in bits, plug-in
      estimate (`layerscope.functional.information`);
    * ``changed`` (step): share of examples predicted otherwise than at the checkpoint before; NaN
      at the first.

    Outputs are logits (examples, classes); labels of -100 are left out.

    Attributes:
        checkpoints: ``"all"`` or ``"last"``.
    """

    checkpoints: Literal["all", "last"] = "all"

    needs: ClassVar[frozenset[Need]] = frozenset({"model", "task", "data"})
    source: ClassVar[str] = "class with the largest output on the test data"
    summary: ClassVar[str] = "predicted classes of the test examples"
    heading: ClassVar[str] = "What it predicts"
    place: ClassVar[int] = 132

    def __post_init__(self) -> None:
        check_choice("checkpoints of Predictions", self.checkpoints, ("all", "last"))

    def select(self, layers: LayerMap) -> LayerMap:
        """All layers; they are not told apart."""
        return layers

    def measure(self, context: Trajectory, layers: LayerMap) -> xr.Dataset:
        """Predict at the chosen checkpoints."""
        del layers
        model, run = unwrap(context.model), context.run
        steps = list(context.steps)[0 if self.checkpoints == "all" else -1 :]
        rows, labels = [], torch.empty(0)
        for step in steps:
            weights = dict(run.checkpoint(step, device_of(model)))
            row, labels = predicted_classes(model, weights, context.data, context.task)
            rows.append(row)
        predicted = torch.stack(rows)
        information = [mutual_information(row, labels) for row in predicted]
        changed = (predicted[1:] != predicted[:-1]).double().mean(1).tolist()
        about = {"source": self.source}
        return xr.Dataset(
            {
                "predicted": (
                    ("step", "example"),
                    predicted.to(torch.int32).numpy(),
                    about | {"long_name": "predicted class", "units": ""},
                ),
                "label": (
                    "example",
                    labels.to(torch.int32).numpy(),
                    about | {"long_name": "class", "units": ""},
                ),
                "information": (
                    "step",
                    information,
                    about | {"long_name": "information of predictions on labels", "units": "bits"},
                ),
                "changed": (
                    "step",
                    [np.nan, *changed],
                    about | {"long_name": "predictions that changed", "units": "1"},
                ),
            },
            coords=step_coordinates(steps, run.steps_per_epoch),
        )

    def figures(self, dataset: xr.Dataset) -> list[Figure]:
        """Information and changed predictions over time, where there are several checkpoints."""
        if dataset.sizes["step"] < 2:
            return []
        texts = {
            "information": (
                "Information of predictions on labels",
                "Mutual information of the predicted and the right class on the test data.",
            ),
            "changed": (
                "Predictions that change",
                "Share of test examples predicted otherwise than at the checkpoint before.",
            ),
        }
        found: list[Figure] = []
        for name, (title, caption) in texts.items():
            values, x = over_time(dataset[name])
            key = f"{self.slug}-{name}"
            found.append(Lines(values, key, title, caption, x=x, hue=None))
        return found


def predicted_classes(
    model: nn.Module, weights: Weights, data: Iterable[Any], task: Task
) -> tuple[Tensor, Tensor]:
    """Predicted and right class of every example that counts, on the processor.

    Args:
        model: The model, left as found.
        weights: Parameters and buffers that it holds.
        data: Batches ``(inputs, labels)``.
        task: How the model runs on them.

    Raises:
        LayerscopeError: Batches are no such pairs, outputs are no logits (examples, classes), or
            there are no examples.
    """
    predicted, right = [], []
    with isolated(model, weights=weights), torch.no_grad():
        for batch in data:
            outputs = task.forward(model, batch)
            entries = list(batch) if isinstance(batch, tuple | list) else []
            labels = entries[1] if len(entries) > 1 else None
            if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.ndim != 1:
                raise LayerscopeError("the data have no class for every example.", CLASSIFIERS)
            if not isinstance(outputs, Tensor) or outputs.shape[:-1] != labels.shape:
                raise LayerscopeError("the outputs are no logits of classes.", CLASSIFIERS)
            counted = labels != IGNORED
            predicted.append(outputs.argmax(1)[counted].cpu())
            right.append(labels[counted].long().cpu())
    if not sum(map(len, right)):
        raise LayerscopeError("there are no data to predict.", "Pass at least one batch.")
    return torch.cat(predicted), torch.cat(right)
