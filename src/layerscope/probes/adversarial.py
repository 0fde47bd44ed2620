"""What random resets of residual blocks do to clean accuracy and to an adversary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import xarray as xr
from torch import nn

from layerscope.figures.figure import Bars, Figure
from layerscope.figures.table import Column, Table
from layerscope.networks.attacks import (
    FGSM,
    PGD,
    UNBOUNDED,
    Attack,
    Pixels,
    correct_under_attack,
    pieces,
)
from layerscope.networks.isolation import copied, mixed_seed
from layerscope.networks.layers import LayerMap
from layerscope.networks.stochastic import block_stages, stochastic
from layerscope.probes.base import Need, Trajectory, TrajectoryProbe, layer_coordinates

NAMES = {"clean": "clean", "fgsm": "FGSM", "pgd": "PGD"}


@dataclass(frozen=True)
class AdversarialAccuracy(TrajectoryProbe):
    r"""Accuracy of the trained model as a stochastic classifier, clean and under attack.

    At every call the classifier resets one residual block, to one of its ``draws`` pre-drawn
    initialisations, in each of some random stages (`layerscope.networks.stochastic`).

    * ``accuracy`` (stages_reset, attack, repeat): percent of right predictions; ``attack`` is
      ``"clean"`` (all the data), ``"fgsm"`` or ``"pgd"`` (the first examples). Repeats differ in
      the draws, in what each call chooses, and in the random start of PGD.
    * ``stage`` (layer): the stage in which the block may be reset, empty for what stays.

    Attacks act on pixels from 0 to 1 where the data are images, known by ``data.split``: uint8,
    with ``mean`` and ``std`` per channel. Other inputs are attacked as they are, without bounds,
    and ``epsilon`` and ``step_size`` are in their unit.

    Source: Zhang, Bengio and Singer, "Are All Layers Created Equal?", Section 6 and Table 2, which
    gives neither epsilon nor steps; the defaults are those usual for CIFAR-10.

    Attributes:
        active: Numbers of stages to reset a block of; 0 is the trained model. ``"doubling"`` is
            0, 1, 2, 4 and so on, as far as there are stages.
        draws: Pre-drawn weights for each block.
        repeats: Repeats.
        n_examples: Examples to attack.
        batch_size: Examples that one call takes, and that share what it chooses.
        epsilon: Largest change of a pixel.
        steps: Steps of PGD.
        step_size: Change of a pixel in one step of PGD.
        random_start: Whether PGD begins at a random point.
        seed: Seed of draws and choices, mixed with that of the run.
    """

    active: tuple[int, ...] | Literal["doubling"] = "doubling"
    draws: int = 4
    repeats: int = 5
    n_examples: int = 1000
    batch_size: int = 100
    epsilon: float = 8 / 255
    steps: int = 20
    step_size: float = 2 / 255
    random_start: bool = True
    seed: int = 0

    needs: ClassVar[frozenset[Need]] = frozenset({"model", "task", "data"})
    source: ClassVar[str] = "Are all layers created equal?, Section 6 and Table 2"
    summary: ClassVar[str] = "accuracy under attack when residual blocks are reset at random"
    heading: ClassVar[str] = "Random resets against an adversary"
    place: ClassVar[int] = 70

    def select(self, layers: LayerMap) -> LayerMap:
        """All layers; those that are not residual blocks with an identity skip are never reset."""
        return layers

    def measure(self, context: Trajectory, layers: LayerMap) -> xr.Dataset:
        """Attack the trained model and its stochastic variants, repeatedly."""
        model = context.run.load(copied(context.model), context.steps[-1])
        stages = _stages(model, layers)
        counts = self._counts(len(set(stages) - {""}))
        shape = len(counts), len(NAMES), self.repeats
        accuracy, n = np.empty(shape), dict.fromkeys(NAMES, 0)
        for repeat in range(self.repeats):
            seed = mixed_seed(context.run.manifest["seed"] or 0, self.seed, repeat)
            for i, active in enumerate(counts):
                classifier: nn.Module = model
                if active:
                    classifier = stochastic(
                        model, layers, active, self.draws, seed, context.factory
                    )
                for j, (name, attack) in enumerate(self._attacks.items()):
                    right = self._correct(classifier, attack, context, seed)
                    accuracy[i, j, repeat], n[name] = 100 * right.double().mean(), len(right)
        return self._dataset(accuracy, n, counts, stages, layers, context)

    def _counts(self, n_stages: int) -> list[int]:
        if self.active == "doubling":
            most = max(n_stages, 1)  # without any stage the classifier says what is missing
            return [0, *(2**k for k in range(most.bit_length()))]
        return list(self.active)

    @property
    def _attacks(self) -> Mapping[str, Attack | None]:
        pgd = PGD(self.epsilon, self.steps, self.step_size, self.random_start)
        return {"clean": None, "fgsm": FGSM(self.epsilon), "pgd": pgd}

    def _correct(
        self, classifier: nn.Module, attack: Attack | None, context: Trajectory, seed: int
    ) -> torch.Tensor:
        limit = {} if attack is None else {"most": self.n_examples}
        data = pieces(context.data, self.batch_size, **limit)
        return correct_under_attack(
            classifier, data, context.task, attack, _pixels(context.data), seed
        )

    def _dataset(
        self,
        accuracy: np.ndarray,
        n: Mapping[str, int],
        counts: list[int],
        stages: list[str],
        layers: LayerMap,
        context: Trajectory,
    ) -> xr.Dataset:
        bounded = _pixels(context.data).bounds != UNBOUNDED
        dims = ("stages_reset", "attack", "repeat")
        shared = {"source": self.source}
        return xr.Dataset(
            {
                "accuracy": (dims, accuracy, {"long_name": "accuracy", "units": "%"} | shared),
                "stage": ("layer", stages, {"long_name": "stage", "units": ""} | shared),
            },
            coords=layer_coordinates(layers)
            | {
                "stages_reset": ("stages_reset", counts, {"long_name": "stages reset"}),
                "attack": list(NAMES),
                "repeat": list(range(self.repeats)),
            },
            attrs={
                "n_clean": n["clean"],
                "n_attacked": n["fgsm"],
                "scale": "pixels from 0 to 1" if bounded else "inputs as the model takes them",
            },
        )

    def figures(self, dataset: xr.Dataset) -> list[Figure]:
        """Accuracy by configuration and attack, as bars and as a table like Table 2."""
        values = dataset["accuracy"]
        spread = "repeat"
        if "seed" in values.dims:
            values, spread = values.mean("repeat", keep_attrs=True), "seed"
        counts = [int(s) for s in values["stages_reset"].values]
        values = values.assign_coords(stages_reset=[str(s) if s else "none" for s in counts])
        values["stages_reset"].attrs = {"long_name": "stages reset at each call"}
        caption = self._caption(dataset, spread)
        named = values.assign_coords(attack=list(NAMES.values()))
        title = "Accuracy under attack"
        return [
            Bars(
                named,
                key=self.slug,
                title=title,
                caption=caption,
                x="stages_reset",
                hue="attack",
                spread=spread,
            ),
            Table(
                values.to_dataset("attack").rename(stages_reset="stages reset"),
                key=f"{self.slug}-table",
                title=title,
                caption=caption,
                columns=tuple(Column(k, v, unit="%", format=".2f") for k, v in NAMES.items()),
                rows="stages reset",
                spread=spread,
            ),
        ]

    def _caption(self, dataset: xr.Dataset, spread: str) -> str:
        known = {name: dataset.attrs.get(name, "?") for name in ("n_clean", "n_attacked", "scale")}
        start = "from a random point" if self.random_start else "from the example"
        over = f"{self.repeats} repeats" if spread == "repeat" else "seeds"
        return (
            f"At each call one residual block is reset to one of {self.draws} random draws in so "
            f"many random stages. FGSM and PGD ({self.steps} steps of {_fraction(self.step_size)} "
            f"{start}) change {known['scale']} by at most {_fraction(self.epsilon)} each. "
            f"{known['n_clean']} examples clean, {known['n_attacked']} attacked; mean and 95% "
            f"interval over {over}."
        )


def _stages(model: nn.Module, layers: LayerMap) -> list[str]:
    """For every layer its stage, empty for what is not reset."""
    stages = block_stages(model, layers)
    found = {block.name: stage for stage, blocks in stages.items() for block in blocks}
    return [found.get(name, "") for name in layers.names]


def _pixels(data: Any) -> Pixels:
    split = getattr(data, "split", None)  # of layerscope.data.loader.InOrder
    inputs = getattr(split, "inputs", None)
    if split is None or inputs is None or inputs.dtype != torch.uint8:
        return Pixels(bounds=UNBOUNDED)
    return Pixels(split.mean, split.std)


def _fraction(value: float) -> str:
    """In 255ths where that is a whole number."""
    levels = 255 * value
    return f"{levels:.0f}/255" if abs(levels - round(levels)) < 1e-9 else f"{value:g}"
