"""What a training costs in operations, and what freezing layers saves of it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from layerscope.figures.figure import Bars, Figure, Lines
from layerscope.networks.curvature import gradients
from layerscope.networks.isolation import differentiable, isolated, leaves
from layerscope.networks.layers import LayerMap
from layerscope.networks.names import every_tensor, unwrap
from layerscope.networks.task import Task
from layerscope.probes.base import (
    Need,
    Trajectory,
    TrajectoryProbe,
    layer_coordinates,
    over_time,
    step_coordinates,
)
from layerscope.runs.manifest import frozen_after


@dataclass(frozen=True)
class TrainingCost(TrajectoryProbe):
    """Operations of a training step, and the share that layers frozen on the way have saved.

    Floating-point operations of matrix products, convolutions and attention on the fixed batch, as
    `torch.utils.flop_counter` counts them; what works entry by entry is not counted.

    * ``backward``: those of the backward pass of the step after each checkpoint, in which frozen
      layers have no gradient; the pass ends where nothing before it trains.
    * ``forward``: those of the forward pass.
    * ``frozen_after``: when each layer stopped training, in epochs (or steps); NaN where never.
    * ``backward_saved``, ``saved``: share of all steps' backward operations, and of all
      operations, that training every layer to the end would have cost in addition.

    Layers that were never trained save nothing here.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"model", "task", "batch"})
    source: ClassVar[str] = "floating-point operations, torch.utils.flop_counter"
    summary: ClassVar[str] = "operations of training, and what frozen layers save"
    heading: ClassVar[str] = "What training costs"
    place: ClassVar[int] = 140

    def select(self, layers: LayerMap) -> LayerMap:
        """All layers."""
        return layers

    def measure(self, context: Trajectory, layers: LayerMap) -> xr.Dataset:
        """Count, with the layers that train at each time."""
        run, model = context.run, unwrap(context.model)
        frozen = frozen_after(run.manifest)

        def counted(step: int) -> tuple[int, int]:
            """Forward and backward operations of the step after so many."""
            training = {
                name
                for layer in run.layers
                if layer.trained and frozen.get(layer.name, step + 1) > step
                for name in layer.parameters
            }
            return operations(model, context.task, context.batch, training)

        changes = sorted({0, *frozen.values()})
        costs = {step: counted(step) for step in changes}
        lengths = np.diff([*changes, max(run.steps[-1], changes[-1])])
        forward, whole = costs[0]
        backward = int(sum(n * costs[s][1] for s, n in zip(changes, lengths, strict=True)))
        total = int(lengths.sum())
        per, unit = (run.steps_per_epoch, "epochs") if run.steps_per_epoch else (1, "steps")
        whens = [frozen.get(name, np.nan) / per for name in layers.names]
        after = [costs[max(c for c in changes if c <= step)][1] for step in context.steps]

        def share(saved: int, of: int) -> float:
            return saved / of if of else 0.0

        lost = whole * total - backward
        variables: dict[str, Any] = {
            "forward": ((), float(forward), self._about("forward operations", "operations")),
            "backward": ("step", np.array(after, float), self._about(BACKWARD, "operations")),
            "frozen_after": ("layer", whens, self._about("trained until", unit)),
            "backward_saved": (
                (),
                share(lost, whole * total),
                self._about("share of backward operations saved"),
            ),
            "saved": (
                (),
                share(lost, (whole + forward) * total),
                self._about("share of operations saved"),
            ),
        }
        coordinates = layer_coordinates(layers)
        return xr.Dataset(
            variables, coordinates | step_coordinates(context.steps, run.steps_per_epoch)
        )

    def _about(self, name: str, units: str = "1") -> dict[str, str]:
        return {"long_name": name, "units": units, "source": self.source}

    def figures(self, dataset: xr.Dataset) -> list[Figure]:
        """Operations over time and, where layers were frozen, when."""
        values, x = over_time(dataset["backward"])
        found: list[Figure] = [
            Lines(
                values,
                key=self.slug,
                title="Operations of the backward pass",
                caption="Of one step on the fixed batch, with the layers that train then.",
                x=x,
                hue=None,
            )
        ]
        if dataset["frozen_after"].notnull().any():
            caption = "How long each layer trained; no bar where to the end."
            found.append(
                Bars(
                    dataset["frozen_after"],
                    key=f"{self.slug}-frozen-after",
                    title="When layers were frozen",
                    caption=caption,
                )
            )
        return found


BACKWARD = "operations of the backward pass"


def operations(
    model: nn.Module, task: Task, batch: Any, training: Collection[str]
) -> tuple[int, int]:
    """Floating-point operations of a forward and a backward pass in train mode.

    Args:
        model: The module, left as found.
        task: What the batch means.
        batch: A batch.
        training: Names of the parameters that train; the others have no gradient.
    """
    with isolated(model, training=True), torch.enable_grad():
        for tensor in every_tensor(model).values():
            if differentiable(tensor):
                tensor.requires_grad_(False)
        wanted = leaves(model, sorted(training))
        with _Counter() as forward:
            loss = task.loss(task.forward(model, batch), batch)
        with _Counter() as backward:
            gradients(loss, wanted)
    return forward.total, backward.total


class _Counter(TorchDispatchMode):
    """Counts floating-point operations by torch's own formulas, without its hooks on modules."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result
