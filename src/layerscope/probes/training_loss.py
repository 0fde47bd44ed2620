"""The loss that training lowers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import xarray as xr

from layerscope.errors import LayerscopeError, check_choice
from layerscope.figures.figure import Figure, Lines
from layerscope.networks.isolation import device_of, isolated
from layerscope.networks.layers import LayerMap
from layerscope.networks.names import unwrap
from layerscope.probes.base import Need, Trajectory, TrajectoryProbe, over_time, step_coordinates
from layerscope.runs.store import Run


@dataclass(frozen=True)
class TrainingLoss(TrajectoryProbe):
    """Mean loss of the steps of training, as they came, or of one batch at every checkpoint.

    ``loss`` is with ``over="steps"`` what was recorded: the mean over the steps since the value
    before, of every epoch by default, each with the weights it had then. With ``over="batch"`` it
    is that of the run's fixed batch in train mode, with the statistics of this batch where there is
    batch normalisation, and the same dropout every time: comparable from checkpoint to checkpoint,
    also before training.

    Source: training curves, as in Huang, Qin, Liu, Zhu and Shao, "Layer-wise Conditioning Analysis
    in Exploring the Learning Dynamics of DNNs", Figs. 6 (a) and 8.

    Attributes:
        over: ``"steps"`` or ``"batch"``.
    """

    over: Literal["steps", "batch"] = "steps"

    needs: ClassVar[frozenset[Need]] = frozenset()
    source: ClassVar[str] = "mean loss of training"
    summary: ClassVar[str] = "loss of the steps of training, or of one batch in train mode"
    heading: ClassVar[str] = "The loss in training"
    place: ClassVar[int] = 129

    def __post_init__(self) -> None:
        check_choice("over of TrainingLoss", self.over, ("steps", "batch"))

    @property
    def needed(self) -> frozenset[Need]:
        """Nothing beside the run, or model, task and batch."""
        return frozenset({"model", "task", "batch"}) if self.over == "batch" else self.needs

    def select(self, layers: LayerMap) -> LayerMap:
        """All layers; they are not told apart."""
        return layers

    def measure(self, context: Trajectory, layers: LayerMap) -> xr.Dataset:
        """The loss over training.

        Raises:
            LayerscopeError: The run has recorded no loss.
        """
        del layers
        if self.over == "steps":
            steps, losses = _recorded(context.run)
        else:
            steps = list(context.steps)
            losses = [_on_batch(context, step) for step in steps]
        about = {"long_name": "training loss", "units": "loss", "source": self.source}
        return xr.Dataset(
            {"loss": ("step", losses, about)}, step_coordinates(steps, context.run.steps_per_epoch)
        )

    def figures(self, dataset: xr.Dataset) -> list[Figure]:
        """The loss over time."""
        values, x = over_time(dataset["loss"])
        how = {
            "steps": "Mean over the steps since the value before, as recorded.",
            "batch": "On the fixed batch, model in train mode.",
        }
        return [
            Lines(
                values,
                key=self.slug,
                title="Loss in training",
                caption=how[self.over],
                x=x,
                hue=None,
                log_y=True,
            )
        ]


def _recorded(run: Run) -> tuple[list[int], list[float]]:
    """Steps, and the losses recorded at them."""
    if "training" not in run.result_keys or "loss" not in (found := run.results("training")):
        raise LayerscopeError(
            f"{run.path} has recorded no training loss.",
            "Give it to the recorder, recorder.step(loss=loss), or measure "
            'TrainingLoss(over="batch").',
        )
    losses = found["loss"].dropna("step")
    return losses["step"].values.tolist(), losses.values.tolist()


def _on_batch(context: Trajectory, step: int) -> float:
    model = unwrap(context.model)
    weights = dict(context.run.checkpoint(step, device_of(model)))
    with isolated(model, training=True, weights=weights), torch.no_grad():
        outputs = context.task.forward(model, context.batch)
        return float(context.task.loss(outputs, context.batch))
