"""Which layers can be reset: robustness to re-initialisation and re-randomisation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from layerscope.errors import LayerscopeError, unknown
from layerscope.figures.figure import Figure
from layerscope.functional.norms import layer_distances
from layerscope.functional.robustness import FROZEN, LABELS, degradation, labels
from layerscope.networks.discovery import Layer
from layerscope.networks.drawing import fresh_weights
from layerscope.networks.isolation import device_of, mixed_seed
from layerscope.networks.layers import LayerMap
from layerscope.networks.names import Weights
from layerscope.networks.recalibration import normalisations, recalibrated
from layerscope.networks.variants import Evaluation, evaluate_variants
from layerscope.probes.base import Need, Trajectory, TrajectoryProbe, layer_coordinates
from layerscope.probes.resets import RANDOM, Rule, marked, robustness_heatmap


@dataclass(frozen=True)
class Reinitialisation(TrajectoryProbe):
    r"""Test error when layers of the trained model are set back, everything else kept.

    Re-initialisation at checkpoint tau sets :math:`\theta_l \leftarrow \theta_l^\tau`;
    re-randomisation draws :math:`\theta_l` anew from the layer's own initialiser. A layer is
    everything the unit owns: weight, bias, normalisation and its running statistics.

    * ``error`` (layer, checkpoint): percent of wrong predictions on the test data, for
      ``checkpoint`` = ``"random"`` (mean over draws) and each chosen checkpoint.
    * ``loss``: mean test loss, likewise.
    * ``degradation``: ``error`` less the trained model's, in percentage points, and
      ``degradation_error``: its paired standard error over test examples, for ``"random"`` of the
      mean over these draws; ``draw_deviation`` is the deviation of the error over draws.
    * ``rms_distance``, ``max_distance`` (layer, checkpoint): normalised L2 and largest distance of
      the trained parameters from those put in their place (for ``"random"`` the mean over draws).
    * ``label`` (layer): ambient, between or critical, by re-initialisation to the earliest
      chosen checkpoint and the two thresholds below; frozen where it is not trained and equal at
      all of them, so that setting it back says nothing.
    * ``model_error`` (checkpoint): error of the whole model at each checkpoint; NaN for random.
    * ``base_error``: error of the trained model.
    * ``member`` (layer), with joint resets: whether the layer is in the marked group. The layers
      of a group are reset together and have equal rows, as have those of the rest.

    Source: Zhang, Bengio and Singer, "Are All Layers Created Equal?", Sections 2 and 5, Fig. 1.

    Attributes:
        checkpoints: ``"all"``, ``"log"`` (the first, then ever wider apart, the last) or a tuple
            of steps.
        draws: Draws for re-randomisation; 0 leaves it out.
        joint: ``"alone"`` resets one layer at a time. Otherwise which layers form the group that
            is reset together: ``"ambient"`` (by the labels of the layers alone),
            ``"all_but_first"`` of each stage, ``"two_of_three"``, ``"every_other"``, or patterns.
        batch_norm: ``"swap"`` sets normalisation statistics back with the layer, ``"keep"``
            leaves the trained ones, ``"recalibrate"`` computes them anew for every variant, the
            trained model included, on the run's fixed batch in train mode.
        ambient_below: A layer is ambient where the upper 95% bound of its degradation is below,
            in percentage points.
        critical_above: Critical where the lower bound is above.
        seed: Seed of the draws, mixed with that of the run: every run has draws of its own.
        budget_mb: Megabytes that activations may take.
    """

    checkpoints: Literal["all", "log"] | tuple[int, ...] = "log"
    draws: int = 5
    joint: Rule | tuple[str, ...] = "alone"
    batch_norm: Literal["swap", "keep", "recalibrate"] = "swap"
    ambient_below: float = 2.0
    critical_above: float = 20.0
    seed: int = 0
    budget_mb: int = 1024

    def __post_init__(self) -> None:
        for name, value, known in (
            ("checkpoints", self.checkpoints, ("all", "log")),
            ("joint", self.joint, get_args(Rule)),
            ("batch_norm", self.batch_norm, ("swap", "keep", "recalibrate")),
        ):
            if isinstance(value, str) and value not in known:
                raise unknown(name, value, known)
        if not self.checkpoints or not self.joint:
            empty = "checkpoints" if not self.checkpoints else "joint"
            raise LayerscopeError(f"{empty} is empty.", "Name at least one.")
        if self.draws < 0 or self.budget_mb < 1:
            raise LayerscopeError(
                f"draws is {self.draws} and budget_mb {self.budget_mb}.",
                "draws must be 0 or more, budget_mb at least 1.",
            )
        if self.ambient_below > self.critical_above:
            raise LayerscopeError(
                f"ambient_below is {self.ambient_below:g}, above critical_above, "
                f"{self.critical_above:g}: a layer could be both.",
                "Choose ambient_below <= critical_above.",
            )

    @property
    def _base(self) -> str:
        return "trained model" + ", recalibrated" * (self.batch_norm == "recalibrate")

    @property
    def needed(self) -> frozenset[Need]:
        """Model, task and data; the fixed batch too where statistics are recalibrated."""
        if self.batch_norm != "recalibrate":
            return self.needs
        return frozenset({"batch", *self.needs})

    needs: ClassVar[frozenset[Need]] = frozenset({"model", "task", "data"})
    revision: ClassVar[int] = 2  # with frozen layers
    source: ClassVar[str] = "Are all layers created equal?, Section 2"
    summary: ClassVar[str] = "test error after resetting layers, one at a time or jointly"
    heading: ClassVar[str] = "Which layers can be reset"
    place: ClassVar[int] = 50

    def select(self, layers: LayerMap) -> LayerMap:
        """All layers."""
        return layers

    def measure(self, context: Trajectory, layers: LayerMap) -> xr.Dataset:
        """Reset every layer, or group, to every chosen checkpoint and to fresh draws, and test."""
        self._check(context)
        steps = self._steps(context)
        device = device_of(context.model)
        at = {
            step: dict(context.run.checkpoint(step, device)) for step in {*steps, context.steps[-1]}
        }
        final = at[context.steps[-1]]
        fresh = self._draws(context, layers)
        chosen = self._marked(context, layers)
        groups, group_of = _groups(layers, chosen)
        sources = [at[step] for step in steps]
        resets = [self._reset(weights, group) for group in groups for weights in sources]
        draws = [self._reset(weights, group) for group in groups for weights in fresh]
        variants: list[Weights] = [{}, *resets, *draws, *sources]
        base: Weights = final
        if self.batch_norm == "recalibrate":
            base, variants = recalibrated(
                context.model, final, variants, context.batch, context.task
            )
        found = evaluate_variants(
            context.model,
            variants,
            context.data,
            context.task,
            weights=base,
            budget=self.budget_mb * 2**20,
        )
        dataset = self._dataset(found, layers, group_of, steps)
        dataset = dataset.assign(self._distances(layers, final, sources, fresh))
        still = (dataset["max_distance"][:, bool(fresh) :] == 0).all("checkpoint")
        frozen = still & [not layer.trained for layer in layers]
        dataset["label"].values = np.where(frozen, FROZEN, dataset["label"])
        if chosen is not None:
            dataset["member"] = ("layer", list(chosen), self._attributes("in the group", ""))
        dataset.attrs["steps_per_epoch"] = context.run.steps_per_epoch or 0
        return dataset

    def _check(self, context: Trajectory) -> None:
        if context.task.correct is None:
            raise LayerscopeError(
                "robustness is counted in wrong predictions, which this task does not have.",
                "Use a task with correct=..., e.g. Task.classification().",
            )
        if self.batch_norm != "swap" and not normalisations(context.model):
            raise LayerscopeError(
                f'batch_norm is "{self.batch_norm}", but {type(context.model).__name__} has no '
                "BatchNorm with running statistics.",
                'Leave it at "swap".',
            )

    def _steps(self, context: Trajectory) -> list[int]:
        known = list(context.steps)
        if isinstance(self.checkpoints, tuple):
            for step in self.checkpoints:
                if step not in known:
                    raise LayerscopeError(
                        f"{context.run.path} has no checkpoint at step {step}.",
                        f"It has {known[:8]}{' ...' if len(known) > 8 else ''}.",
                    )
            return sorted(set(self.checkpoints))
        if self.checkpoints == "all":
            return known
        n = len(known)
        chosen = {0, n - 1, *(2**k for k in range(n.bit_length()) if 2**k < n)}
        return [known[i] for i in sorted(chosen)]

    def _reset(self, weights: Weights, group: Iterable[Layer]) -> Weights:
        names = [name for layer in group for name in layer.parameters]
        if self.batch_norm != "keep":
            names += [name for layer in group for name in layer.buffers]
        return {name: weights[name] for name in names}

    def _draws(self, context: Trajectory, layers: LayerMap) -> list[dict[str, Tensor]]:
        """Fresh weights of all layers; one construction per draw."""
        owners = [name for layer in layers for name in layer.modules]
        run_seed = context.run.manifest["seed"] or 0
        return [
            fresh_weights(
                context.model, owners, mixed_seed(run_seed, self.seed, i), context.factory
            )
            for i in range(self.draws)
        ]

    def _marked(self, context: Trajectory, layers: LayerMap) -> tuple[bool, ...] | None:
        """Which layers form the group that is reset together; None where each is alone."""
        if self.joint == "alone":
            return None
        if self.joint == "ambient":
            alone = replace(self, joint="alone", draws=0).measure(context, layers)
            return tuple(bool(label == "ambient") for label in alone["label"].values)
        return marked(self.joint, layers)

    def _dataset(
        self, found: Evaluation, layers: LayerMap, group_of: Sequence[int], steps: list[int]
    ) -> xr.Dataset:
        n, k, r = len(set(group_of)), len(steps), self.draws
        correct, losses = found.right.cpu().double(), found.losses.cpu()
        error = 100 * found.errors.cpu()
        rows = torch.tensor(group_of)

        def drawn(values: Tensor) -> Tensor:
            """Values of all draws (group, draw, ...)."""
            return values[1 + n * k : 1 + n * (k + r)].unflatten(0, (n, r))

        mean_correct = drawn(correct).mean(1) if r else correct[:0]
        rise, rise_error = (
            100 * v for v in degradation(correct[0], torch.cat([correct, mean_correct]))
        )
        random_error = rise_error[len(correct) :]

        def table(values: Tensor, random: Tensor | None = None) -> np.ndarray:
            """Re-randomised (the mean over draws where not given) before the checkpoints."""
            found = values[1 : 1 + n * k].unflatten(0, (n, k))
            if r:
                column = drawn(values).mean(1) if random is None else random
                found = torch.cat([column[:, None], found], 1)
            return found[rows].numpy()

        earliest = slice(1, 1 + n * k, k)
        kinds = labels(
            rise[earliest], rise_error[earliest], self.ambient_below, self.critical_above
        )[rows]
        both, points = ("layer", "checkpoint"), "percentage points"
        whole = [np.nan] * bool(r) + error[-k:].tolist()
        missing = torch.full((n,), torch.nan)
        spread = (drawn(error).std(1, correction=1) if r > 1 else missing)[rows]
        variables = {
            "error": (both, table(error), "test error", "%"),
            "loss": (both, table(losses.mean(1)), "test loss", "loss"),
            "degradation": (both, table(rise), "rise of the test error", points),
            "degradation_error": (
                both,
                table(rise_error, random_error),
                "its standard error",
                points,
            ),
            "label": ("layer", [LABELS[int(i)] for i in kinds], "kind of layer", ""),
            "model_error": ("checkpoint", whole, "test error of the whole model", "%"),
            "base_error": ((), float(error[0]), f"test error of the {self._base}", "%"),
            "draw_deviation": ("layer", spread.numpy(), "deviation over draws", points),
        }
        columns = [RANDOM] * bool(r) + [str(step) for step in steps]
        return xr.Dataset(
            {
                name: (dims, values, self._attributes(long_name, units))
                for name, (dims, values, long_name, units) in variables.items()
            },
            coords=layer_coordinates(layers) | {"checkpoint": columns},
            attrs={"n_examples": losses.shape[1]},
        )

    def _distances(
        self,
        layers: LayerMap,
        final: Weights,
        sources: Sequence[Weights],
        fresh: Sequence[Weights],
    ) -> dict[str, Any]:
        """Both distances of the trained parameters from those of every column."""
        trained = layers.values(final)
        owner, n = layers.owner.to(trained[0].device), len(layers)
        size = torch.tensor([layer.n_parameters for layer in layers]).double().sqrt()
        variables = {}
        for name, p, scale, title in (
            ("rms_distance", 2.0, size, "normalised L2 distance"),
            ("max_distance", math.inf, torch.ones(n), "largest distance"),
        ):
            columns = [
                layer_distances(trained, layers.values(weights), owner, n, p).cpu() / scale
                for weights in (*fresh, *sources)
            ]
            if fresh:
                columns[: len(fresh)] = [torch.stack(columns[: len(fresh)]).mean(0)]
            values = torch.stack(columns, 1).numpy()
            attributes = self._attributes(title, "weight")
            variables[name] = (("layer", "checkpoint"), values, attributes)
        return variables

    def _attributes(self, name: str, units: str) -> dict[str, Any]:
        return {"long_name": name, "units": units, "source": self.source}

    def figures(self, dataset: xr.Dataset) -> list[Figure]:
        """Test error over layers and what they were reset to, the whole model last."""
        return [robustness_heatmap(dataset, key=self.slug)]


def _groups(layers: LayerMap, chosen: Sequence[bool] | None) -> tuple[list[list[Layer]], list[int]]:
    """The sets of layers that are reset together, and for each layer the index of its set."""
    if chosen is None:
        return [[layer] for layer in layers], list(range(len(layers)))
    if not any(chosen):
        raise LayerscopeError(
            "no layer belongs to the group that is to be reset together.",
            "Choose another rule for joint, or name the layers.",
        )
    if all(chosen):
        return [list(layers)], [0] * len(layers)
    inside = [layer for layer, yes in zip(layers, chosen, strict=True) if yes]
    outside = [layer for layer, yes in zip(layers, chosen, strict=True) if not yes]
    return [inside, outside], [0 if yes else 1 for yes in chosen]
