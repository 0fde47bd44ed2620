"""Which layers can be reset: robustness to re-initialisation and re-randomisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from layerscope.discovery import Layer
from layerscope.errors import LayerscopeError
from layerscope.figures.figure import Figure, Heatmap
from layerscope.functional.robustness import LABELS, degradation, labels
from layerscope.layers import LayerMap
from layerscope.probes.base import Need, Trajectory, TrajectoryProbe, layer_coordinates
from layerscope.surgery import fresh_weights
from layerscope.variants import Evaluation, evaluate_variants

Weights = Mapping[str, Tensor]
RANDOM = "random"


@dataclass(frozen=True)
class Reinitialisation(TrajectoryProbe):
    r"""Test error when one layer of the trained model is set back, everything else kept.

    Re-initialisation at checkpoint tau sets :math:`\theta_l \leftarrow \theta_l^\tau`;
    re-randomisation draws :math:`\theta_l` anew from the layer's own initialiser. A layer is
    everything the unit owns: weight, bias, normalisation and its running statistics.

    * ``error`` (layer, checkpoint): percent of wrong predictions on the test data, for
      ``checkpoint`` = ``"random"`` (mean over draws) and each chosen checkpoint.
    * ``loss``: mean test loss, likewise.
    * ``degradation``: ``error`` less the trained model's, in percentage points, and
      ``degradation_error``: its paired standard error over test examples (for ``"random"`` that
      of the first draw; ``draw_deviation`` is the deviation of the error over draws).
    * ``label`` (layer): ambient, between or critical, by re-initialisation to the earliest
      chosen checkpoint and the two thresholds below.
    * ``model_error`` (checkpoint): error of the whole model at each checkpoint; NaN for random.
    * ``base_error``: error of the trained model.

    Source: Zhang, Bengio and Singer, "Are All Layers Created Equal?", Section 2 and Fig. 1.

    Attributes:
        checkpoints: ``"all"``, ``"log"`` (the first, then ever wider apart, the last) or a tuple
            of steps.
        draws: Draws for re-randomisation; 0 leaves it out.
        batch_norm: ``"swap"`` sets normalisation statistics back with the layer, ``"keep"``
            leaves the trained ones.
        ambient_below: A layer is ambient where the upper 95% bound of its degradation is below,
            in percentage points.
        critical_above: Critical where the lower bound is above.
        seed: Seed of the draws.
        budget_mb: Megabytes that activations may take.
    """

    checkpoints: Literal["all", "log"] | tuple[int, ...] = "log"
    draws: int = 5
    batch_norm: Literal["swap", "keep"] = "swap"
    ambient_below: float = 2.0
    critical_above: float = 20.0
    seed: int = 0
    budget_mb: int = 1024

    needs: ClassVar[frozenset[Need]] = frozenset({"model", "task", "data"})
    source: ClassVar[str] = "Are all layers created equal?, Section 2"
    summary: ClassVar[str] = "test error after resetting one layer at a time"

    def select(self, layers: LayerMap) -> LayerMap:
        """All layers."""
        return layers

    def measure(self, context: Trajectory, layers: LayerMap) -> xr.Dataset:
        """Reset every layer to every chosen checkpoint and to fresh draws, and test."""
        assert context.model is not None
        assert context.task is not None
        steps = self._steps(context)
        final = dict(context.run.checkpoint(context.steps[-1]))
        resets = [
            self._reset(context.run.checkpoint(step), layer) for layer in layers for step in steps
        ]
        draws = self._draws(context, layers)
        wholes = [dict(context.run.checkpoint(step)) for step in steps]
        variants: list[Weights] = [{}, *resets, *draws, *wholes]
        found = evaluate_variants(
            context.model,
            variants,
            context.data,
            context.task,
            weights=final,
            budget=self.budget_mb * 2**20,
        )
        return self._dataset(found, layers, steps, context)

    def _steps(self, context: Trajectory) -> list[int]:
        known = list(context.steps)
        if isinstance(self.checkpoints, tuple):
            for step in self.checkpoints:
                if step not in known:
                    raise LayerscopeError(
                        f"{context.run.path} has no checkpoint at step {step}.",
                        f"It has {known[:8]}{' ...' if len(known) > 8 else ''}.",
                    )
            return sorted(self.checkpoints)
        if self.checkpoints == "all":
            return known
        n = len(known)
        chosen = {0, n - 1, *(2**k for k in range(n.bit_length()) if 2**k < n)}
        return [known[i] for i in sorted(chosen)]

    def _reset(self, checkpoint: Weights, layer: Layer) -> Weights:
        names = [*layer.parameters]
        if self.batch_norm == "swap":
            names += layer.buffers
        return {name: checkpoint[name] for name in names}

    def _draws(self, context: Trajectory, layers: LayerMap) -> list[Weights]:
        """Fresh weights, layer by layer and draw by draw; one construction per draw."""
        if self.draws == 0:
            return []
        assert context.model is not None
        owners = [name for layer in layers for name in layer.modules]
        fresh = [
            fresh_weights(context.model, owners, self.seed + draw, context.factory)
            for draw in range(self.draws)
        ]
        return [self._reset(weights, layer) for layer in layers for weights in fresh]

    def _dataset(
        self, found: Evaluation, layers: LayerMap, steps: list[int], context: Trajectory
    ) -> xr.Dataset:
        n, k, r = len(layers), len(steps), self.draws
        if found.correct is None:
            raise LayerscopeError(
                "robustness is counted in wrong predictions, which this task does not have.",
                "Use a task with correct=..., e.g. Task.classification().",
            )
        rise, rise_error = (100 * v for v in degradation(found.correct[0], found.correct))
        error = 100 * found.errors

        def drawn(values: Tensor) -> Tensor:
            return values[1 + n * k : 1 + n * (k + r)].reshape(n, r)

        def table(values: Tensor, first: Tensor | None = None) -> np.ndarray:
            """Re-randomised (the mean over draws where not given) before the checkpoints."""
            known = values[1 : 1 + n * k].reshape(n, k)
            if not r:
                return known.numpy()
            column = drawn(values).mean(1) if first is None else first
            return torch.cat([column[:, None], known], 1).numpy()

        kinds = labels(
            rise[1 : 1 + n * k : k],
            rise_error[1 : 1 + n * k : k],
            self.ambient_below,
            self.critical_above,
        )
        both, points = ("layer", "checkpoint"), "percentage points"
        whole = [np.nan] * bool(r) + error[-k:].tolist()
        first_error = drawn(rise_error)[:, 0] if r else None
        spread = drawn(error).std(1, correction=1) if r > 1 else torch.full((n,), torch.nan)
        variables = {
            "error": (both, table(error), "test error", "%"),
            "loss": (both, table(found.losses.mean(1)), "test loss", "loss"),
            "degradation": (both, table(rise), "rise of the test error", points),
            "degradation_error": (
                both,
                table(rise_error, first_error),
                "its standard error",
                points,
            ),
            "label": ("layer", [LABELS[int(i)] for i in kinds], "kind of layer", ""),
            "model_error": ("checkpoint", whole, "test error of the whole model", "%"),
            "base_error": ((), float(error[0]), "test error of the trained model", "%"),
            "draw_deviation": ("layer", spread.numpy(), "deviation over draws", points),
        }
        columns = [RANDOM] * bool(r) + [str(step) for step in steps]
        return xr.Dataset(
            {
                name: (dims, values, self._attributes(long_name, units))
                for name, (dims, values, long_name, units) in variables.items()
            },
            coords=layer_coordinates(layers) | {"checkpoint": columns},
            attrs={
                "n_examples": found.losses.shape[1],
                "steps_per_epoch": context.run.steps_per_epoch or 0,
            },
        )

    def _attributes(self, name: str, units: str) -> dict[str, Any]:
        return {"long_name": name, "units": units, "source": self.source}

    def figures(self, dataset: xr.Dataset) -> list[Figure]:
        """Test error, layers as rows: re-randomised first, then by checkpoint, whole model last."""
        per = dataset.attrs.get("steps_per_epoch")
        names = [_column(str(c), per) for c in dataset["checkpoint"].values]
        values = dataset["error"].assign_coords(checkpoint=names)
        values["checkpoint"].attrs = {"long_name": "reset to epoch" if per else "reset to step"}
        return [
            Heatmap(
                values,
                key=self.slug,
                title="Test error after resetting one layer",
                caption="Each row resets one layer of the trained model to its weights at an "
                f"earlier time, or to fresh random ones (mean of {self.draws} draws); the rest "
                f"stays as trained. Trained model: {float(dataset['base_error'].mean()):.2f}%.",
                x="checkpoint",
                annotate=values.sizes["checkpoint"] <= 12,
            )
        ]


def _column(checkpoint: str, per_epoch: int | None) -> str:
    if checkpoint == RANDOM or not per_epoch:
        return checkpoint
    return f"{int(checkpoint) / per_epoch:g}"
