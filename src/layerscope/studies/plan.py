"""The runs of a figure: planned for a scale, then as they are made once settings are replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from layerscope.config import DataConfig, Images, RunConfig
from layerscope.config.paths import set_paths
from layerscope.data.sizes import training_examples
from layerscope.errors import LayerscopeError, unknown
from layerscope.figures.figure import Reference
from layerscope.probes import Probe
from layerscope.probes.expression import parse as parse_probe
from layerscope.schedule import parse
from layerscope.studies.quantity import PerStep, Quantity, measured

Scale = Literal["paper", "small", "smoke"]
SCALES: tuple[Scale, ...] = ("paper", "small", "smoke")


@dataclass(frozen=True)
class Plan:
    """The runs of a figure at one scale, before any setting is replaced.

    Attributes:
        variants: What figures call a variant, and its configuration, by its name in the data.
        seeds: Seeds of every variant.
        reduction: From the runs that are made to what the scale changes of the paper's settings.
        timed: What follows from a run's length: the configuration with milestones, warm-up and
            checkpoints of its own epochs. Applied again where settings are replaced.
        may_diverge: Whether the study still says something without some of the variants.
        shows_errors: Whether a figure shows how well the networks have learnt.
    """

    variants: Mapping[str, tuple[str, RunConfig]]
    seeds: tuple[int, ...]
    reduction: Callable[[Runs], str]
    timed: Callable[[RunConfig], RunConfig] = lambda config: config
    may_diverge: bool = False
    shows_errors: bool = False

    def resolved(
        self,
        scale: Scale,
        changes: Mapping[str, Any] | None = None,
        seeds: tuple[int, ...] | None = None,
    ) -> Runs:
        """The runs that are made.

        Args:
            scale: The scale that the plan is for.
            changes: Other values for settings of every variant, by dotted name.
            seeds: Seeds in place of the plan's own.

        Raises:
            LayerscopeError: A variant has no such setting.
        """
        changes = dict(changes or {})

        def made(config: RunConfig) -> RunConfig:
            if not changes:
                return config
            return set_paths(self.timed(set_paths(config, changes)), changes)

        variants = {
            name: Variant(name, label, made(config))
            for name, (label, config) in self.variants.items()
        }
        return Runs(variants, scale, seeds or self.seeds, changes)


@dataclass(frozen=True)
class Variant:
    """One variant of a study: its runs differ in the seed alone.

    Attributes:
        name: Its name in the data.
        label: What figures call it.
        config: How its runs are trained.
    """

    name: str
    label: str
    config: RunConfig

    @property
    def epochs(self) -> int:
        """Length of its runs."""
        return self.config.epochs

    @property
    def data(self) -> DataConfig:
        """Its data set."""
        return self.config.data

    def of(self, probe: Probe, variable: str) -> Quantity:
        """What a probe measures on its runs."""
        return measured(probe, variable, self.name)

    def per_step(self, probe: Probe, variable: str) -> Quantity:
        """What a probe measures at every step of its runs, as means over those of an epoch.

        Raises:
            LayerscopeError: Its runs do not measure it live.
        """
        if probe not in map(parse_probe, self.config.live):
            raise LayerscopeError(
                f"runs of {self.name} do not measure {probe.expression} at every step.",
                f"Name it: live=({probe.expression!r},).",
            )
        return measured(PerStep(probe), variable, self.name)

    def share(self, epoch: int, of: int, least: int = 1) -> int:
        """The epoch that is as far into this run as one of the paper's into the paper's.

        Args:
            epoch: The paper's epoch.
            of: Length of the paper's run in epochs.
            least: The smallest that is given, within the run.
        """
        return min(self.epochs, max(least, self.epochs * epoch // of))

    @property
    def steps_per_epoch(self) -> int | None:
        """Optimiser steps of an epoch; None where the number of examples is not known."""
        examples = training_examples(self.data)
        return None if examples is None else -(-examples // self.config.batch_size)

    @cached_property
    def kept(self) -> tuple[int, ...]:
        """Epochs at whose end a checkpoint is kept, ascending, without the start.

        Where the number of training examples is not known, steps named one by one are none.
        """
        per_epoch = self.steps_per_epoch or 10**9  # so that no step named one by one ends an epoch
        schedule = parse(self.config.checkpoints).bind(per_epoch)
        epochs = range(1, self.epochs + 1)
        return tuple(e for e in epochs if e == self.epochs or schedule(e * per_epoch))

    def until(self, epoch: float) -> int:
        """The last epoch up to a given one at whose end a checkpoint is kept (else the first)."""
        return max((e for e in self.kept if e <= epoch), default=self.kept[0])

    @property
    def drops(self) -> tuple[int, ...]:
        """Epochs at whose end the learning rate falls while the run lasts.

        Raises:
            LayerscopeError: It falls at plateaus, which every run finds by itself.
        """
        if self.config.schedule == "plateau":
            raise LayerscopeError(
                f"when the learning rate of the runs of {self.name} falls follows from plateaus "
                "of their test losses.",
                "Ask the runs: layerscope.runs.manifest.rate_drops(run.manifest).",
            )
        return tuple(m for m in self.config.milestones if 0 < m < self.epochs)

    @property
    def drop(self) -> int:
        """The first of them; the run's length where the learning rate never falls."""
        return self.drops[0] if self.drops else self.epochs

    def marks(self) -> tuple[Reference, ...]:
        """A line for figures over epochs wherever the learning rate falls for every seed alike.

        None where it falls at plateaus.
        """
        if self.config.schedule == "plateau":
            return ()
        label = f"learning rate / {1 / self.config.decay:g}"
        return tuple(Reference(value=float(m), label=label, axis="x") for m in self.drops)


@dataclass(frozen=True)
class Runs(Mapping[str, Variant]):
    """The runs that are made for a figure, by variant.

    Attributes:
        variants: Every variant by name.
        scale: ``"paper"``, ``"small"`` or ``"smoke"``.
        seeds: Seeds of every variant.
        changes: Settings that were replaced, by dotted name.
    """

    variants: Mapping[str, Variant]
    scale: Scale
    seeds: tuple[int, ...]
    changes: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Variant:
        if name not in self.variants:
            raise unknown("variant", name, self.variants)
        return self.variants[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.variants)

    def __len__(self) -> int:
        return len(self.variants)

    @property
    def first(self) -> Variant:
        """The first variant, whose length and sizes captions quote."""
        return next(iter(self.variants.values()))

    def only(self, *names: str) -> Runs:
        """Some of the variants."""
        return replace(self, variants={name: self[name] for name in names})

    @property
    def configs(self) -> dict[str, RunConfig]:
        """The configuration of every variant."""
        return {name: variant.config for name, variant in self.variants.items()}

    def trained_on_images(self, rates: str = "") -> str:
        """Length, sizes and learning rate of the first variant's runs in words, for captions.

        Args:
            rates: Other learning rates of the study.
        """
        config, data = self.first.config, self.first.data
        if not isinstance(data, Images):
            return f"{_counted(config.epochs, 'epoch')} on the embedded digits"
        steps = config.epochs * (training_examples(data) or 0) / config.batch_size
        side = f" of {data.image_size}x{data.image_size} pixels" if data.image_size else ""
        warm_up = (
            f"{config.warmup / steps:.0%} of the steps warm up, " if config.warmup and steps else ""
        )
        return (
            f"{_counted(config.epochs, 'epoch')} on {_number(data.limit)} images{side}, tested on "
            f"{_number(data.test_limit)}, batch {config.batch_size}, learning rate "
            f"{config.optimizer.learning_rate:g}{rates}, {warm_up}"
            f"{'no ' if config.augmentation == 'none' else ''}augmentation, "
            f"{_counted(len(self.seeds), 'seed')}"
        )

    def of(self, probe: Probe, variable: str) -> dict[str, Quantity]:
        """What a probe measures on each variant."""
        return {name: variant.of(probe, variable) for name, variant in self.variants.items()}

    def labelled(self, quantities: Mapping[str, Quantity]) -> dict[str, Quantity]:
        """Quantities by what figures call their variants."""
        return {self[name].label: quantity for name, quantity in quantities.items()}


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _number(limit: int | None) -> str:
    return "all" if limit is None else f"{limit:,}"
