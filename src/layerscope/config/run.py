"""What fully describes a run, and where it begins."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from layerscope.config.base import LABEL, LATER, Config
from layerscope.config.data import DataConfig, Digits
from layerscope.config.models import FCN, ModelConfig
from layerscope.config.optimisers import SGD, OptimizerConfig
from layerscope.errors import LayerscopeError

Unit = Literal["family", "tensor", "module", "block", "stage"]


@dataclass(frozen=True)
class Start(Config):
    """Weights to begin with: a checkpoint of another run. Give ``run`` or ``path``.

    Attributes:
        run: Configuration of that run; it is trained first where it is not there yet.
        path: Folder of any recorded run.
        step: Which checkpoint; the last by default.
        fresh: Patterns of tensors that keep their own initialisation, e.g. those of a classifier
            for other classes. Every other tensor must be there with its shape.
    """

    run: RunConfig | None = None
    path: str = ""
    step: int | None = None
    fresh: tuple[str, ...] = ()


@dataclass(frozen=True)
class FreezeWhenSettled(Config):
    r"""Stop training a layer once it hardly changes from one epoch to the next.

    A layer has settled at the end of an epoch where its relative change over it,
    :math:`\|w_t - w_{t-1}\|_1 / \|w_{t-1}\|_1` over all its parameters, has been below the
    threshold times its largest change so far for ``patience`` epochs in a row (below the
    threshold itself with ``relative=False``, which also takes a layer that has not begun to move
    for one that has settled). Its parameters then keep their values bit for bit:
    no gradient is computed for them, no momentum and no weight decay moves them, and the backward
    pass ends where nothing before it trains. Statistics of normalisation inside it still follow
    the data in train mode. One layer always goes on. With a constant learning rate weights keep
    moving where they have long stopped going anywhere: choose the threshold with that in mind.

    Freezing layers is what "Investigating Learning in Deep Neural Networks using Layer-Wise Weight
    Change" proposes in Section 5; criterion and patience are this library's.

    Attributes:
        threshold: Change over an epoch below which a layer has settled; 0 freezes nothing.
        relative: The threshold is a share of the largest change that the layer had in an epoch.
        patience: Epochs in a row.
        layers: Patterns of the layers that may be frozen.
        in_order: A layer is frozen only after all before it that may be frozen, which saves most.
        at_random_times: A control: the layers that are frozen without it are frozen at each
            other's times, assigned at random. The run without it is trained first, beside this
            one, where it is not there yet.
    """

    threshold: float = 0.0
    relative: bool = True
    patience: int = 2
    layers: tuple[str, ...] = ("*",)
    in_order: bool = False
    at_random_times: bool = False

    def __post_init__(self) -> None:
        if not (0 <= self.threshold < 1 and self.patience >= 1):
            raise LayerscopeError(
                f"freeze_when_settled has threshold {self.threshold} and patience {self.patience}.",
                "The threshold is at least 0 and below 1, patience at least 1.",
            )


@dataclass(frozen=True)
class Plateau(Config):
    r"""When the test loss has stopped falling, for the schedule ``"plateau"``.

    The test loss is computed at the end of every epoch. An epoch is better where its loss is below
    :math:`1 - \theta` times that of the last better one, with the threshold :math:`\theta`; once
    more than ``patience`` epochs in a row were not, the learning rate falls, and they are counted
    anew. That is `torch.optim.lr_scheduler.ReduceLROnPlateau` for a loss, with a relative
    threshold, no cooldown and no least rate.

    The test loss steers the training here, as in "Exploring the development of complexity over
    depth and time in deep neural networks" (Appendix A: plateaus of the loss on the validation
    set, which is also the test set). The test error of such a run is therefore too good an
    estimate for new data.

    Attributes:
        patience: Epochs in a row that may not be better; the one after them lowers the rate.
        threshold: Share by which the loss must fall for an epoch to be better.
    """

    patience: int = 10
    threshold: float = 1e-4

    def __post_init__(self) -> None:
        if not (self.patience >= 0 and 0 <= self.threshold < 1):
            raise LayerscopeError(
                f"plateau has patience {self.patience} and threshold {self.threshold}.",
                "Patience is at least 0, the threshold at least 0 and below 1.",
            )


@dataclass(frozen=True)
class RunConfig(Config):
    """Everything that decides one run: model, data, optimiser, length, seed, checkpoints.

    Attributes:
        model: The architecture and its sizes.
        data: The data set and its subset.
        optimizer: The optimiser and its initial learning rate.
        milestones: Epochs at whose end the learning rate is multiplied by ``decay``.
        decay: Factor applied at every milestone, or plateau.
        schedule: ``"step"`` follows the milestones; ``"cosine"`` falls to zero at the end like
            half a cosine; ``"plateau"`` falls when the test loss has stopped falling.
        warmup: Steps over which the learning rate first rises linearly.
        epochs: Passes over the training set.
        batch_size: Examples per step; the last batch of an epoch may be smaller. With as many as
            there are to train on, or more, every epoch is one step of full-batch gradient descent.
        seed: Seeds initialisation, order of examples and dropout.
        augmentation: ``"crop_flip"`` pads training images with 4 black pixels, crops them at
            random to their size and flips half of them horizontally; ``"reflect_crop_flip"`` pads
            with their reflection.
        start: Weights to begin with, for fine-tuning; by default the model's initialisation.
        frozen: Patterns of modules whose parameters keep their initial values.
        removed: Patterns of residual blocks that are left out.
        linear: Activation functions that are left out, the identity in their place: ``all``,
            ``first:9``, ``last:20``, positions from 0 or patterns of names;
            ``layerscope list sites`` shows them.
        scaled: Modules whose initial weights, matrices and filters, are multiplied, each as
            ``pattern=factor``, e.g. ``layer1=30``.
        unit: What makes a layer; ``"family"`` is the model family's own choice: a residual block,
            a convolution with its normalisation, else a module.
        groups: Labels of layers, for plots and claims: ``"thirds"`` for early, middle and late, or
            each as ``label=pattern,pattern``, e.g. ``early=layer1,layer2 late=layer3``.
        precision: Arithmetic of the forward and backward pass.
        checkpoints: Schedule of kept weights, e.g. ``"epochs(1)"`` or ``"log_spaced(10)"``.
        probe_batch: Examples in the fixed batch on which gradients and activations are measured.
        live: Probes to measure at every step while the run trains, since checkpoints so dense
            would be too many, e.g. ``weight_change`` or ``weight_change(reduction='angle')``.
        freeze_when_settled: Stop training layers that hardly change any more.
        plateau: When the test loss has stopped falling.
    """

    model: ModelConfig = field(default_factory=FCN)
    data: DataConfig = field(default_factory=Digits)
    optimizer: OptimizerConfig = field(default_factory=SGD)
    milestones: tuple[int, ...] = ()
    decay: float = 0.1
    schedule: Literal["step", "cosine", "plateau"] = "step"
    warmup: int = 0
    epochs: int = 10
    batch_size: int = 128
    seed: int = 0
    augmentation: Literal["none", "crop_flip", "reflect_crop_flip"] = "none"
    start: Start | None = None
    frozen: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    linear: tuple[str, ...] = field(default=(), metadata={LATER: True})
    scaled: tuple[str, ...] = field(default=(), metadata={LATER: True})
    unit: Unit = "family"
    groups: tuple[str, ...] = field(default=(), metadata={LABEL: True})
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    checkpoints: str = "epochs(1)"
    probe_batch: int = 512
    live: tuple[str, ...] = field(default=(), metadata={LABEL: True})
    freeze_when_settled: FreezeWhenSettled = field(
        default_factory=FreezeWhenSettled, metadata={LATER: True}
    )
    plateau: Plateau = field(default_factory=Plateau, metadata={LATER: True})

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "probe_batch"):
            if getattr(self, name) < 1:
                raise LayerscopeError(
                    f"{name} is {getattr(self, name)}.", f"{name} must be at least 1."
                )
        _ = self.layer_groups, self.factors  # refuse what cannot be read

    @property
    def factors(self) -> dict[str, float]:
        """Factors of initial weights by patterns of modules.

        Raises:
            LayerscopeError: One is not written as ``pattern=factor``, is not finite or 0, or a
                pattern comes twice.
        """
        if isinstance(self.scaled, str):
            raise LayerscopeError(
                f"scaled is {self.scaled!r}, one text.", f"Give several: ({self.scaled!r},)."
            )
        found: dict[str, float] = {}
        for text in self.scaled:
            pattern, _, number = text.rpartition("=")
            try:
                factor = float(number)
            except ValueError:
                factor = math.nan
            if not pattern or pattern in found or not math.isfinite(factor) or factor == 0:
                raise LayerscopeError(
                    f"scaled has {text!r}.",
                    "Write every pattern once, with a finite factor that is not 0: layer1=30.",
                )
            found[pattern] = factor
        return found

    @property
    def layer_groups(self) -> dict[str, tuple[str, ...]] | str | None:
        """The groups, for `LayerMap.from_model`: patterns by label, ``"thirds"``, or none.

        Raises:
            LayerscopeError: A group is not written as ``label=pattern,pattern``, or a label
                comes twice.
        """
        if isinstance(self.groups, str):
            raise LayerscopeError(
                f"groups is {self.groups!r}, one text.", f"Give several: ({self.groups!r},)."
            )
        if tuple(self.groups) in ((), ("thirds",)):
            return "thirds" if self.groups else None
        found: dict[str, tuple[str, ...]] = {}
        for text in self.groups:
            label, _, patterns = (part.strip() for part in text.partition("="))
            names = tuple(pattern.strip() for pattern in patterns.split(","))
            if not label or not all(names):
                raise LayerscopeError(
                    f"groups has {text!r}.",
                    "Write thirds alone, or label=pattern,pattern for each group, "
                    "e.g. early=layer1,layer2 late=layer3.",
                )
            if label in found:
                raise LayerscopeError(
                    f"groups has {label!r} twice.", f"Join them: {label}=pattern,pattern."
                )
            found[label] = names
        return found
