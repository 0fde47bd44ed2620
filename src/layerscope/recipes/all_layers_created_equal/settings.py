"""The networks and trainings of the paper, and what the smaller scales reduce.

From Appendix A: SGD with momentum 0.9, batch 128, 100 epochs, learning rate times 0.2 after epochs
30, 60 and 90; no weight decay and no batch normalisation unless said; CIFAR-10 padded by 4, cropped
and flipped; inputs normalised by the mean and deviation of all training pixels; ResNets of
version 2, with a 3x3 stem on CIFAR-10.

Left open by the paper and read here so: the initial learning rate is 0.01; weight decay, where
used, is 5e-4; FCNs have PyTorch's initialisation, VGGs He's and ResNets Glorot's (of the three only
Glorot's and PyTorch's keep a ResNet-152 without normalisation finite); the fully connected layers
of a VGG have 512 units on CIFAR-10.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from layerscope.config import (
    FCN,
    SGD,
    VGG,
    DataConfig,
    Digits,
    Images,
    ModelConfig,
    ResNet,
    RunConfig,
)
from layerscope.studies.paper import Paper
from layerscope.studies.plan import Plan, Runs, Scale

paper = Paper("all_layers_created_equal", "Are all layers created equal?")
FIVE = (0, 1, 2, 3, 4)
"""Seeds of the fully connected networks, at every scale."""
SEEDS: Mapping[Scale, tuple[int, ...]] = {"paper": FIVE, "small": (0, 1, 2), "smoke": (0, 1)}
WEIGHT_DECAY = 5e-4
TRAININGS = {"plain": "", "wd": "+wd", "bn": "+bn", "wd_bn": "+wd+bn"}
"""Key of each training of Appendix C and how the paper writes it."""

Deep = Literal["cifar10", "imagenet"]
SETS: Mapping[Deep, str] = {"cifar10": "CIFAR-10", "imagenet": "ImageNet"}
SMALL_EPOCHS = 8
SMALL_WIDTH = 1 / 8
READINGS = {
    "mnist": "learning rate 0.01, PyTorch's initialisation",
    "cifar10 fcn": "learning rate 0.01, PyTorch's initialisation",
    "cifar10": "learning rate 0.01, initialisation after He (VGG) or Glorot (ResNet), fully "
    "connected layers of 512 units",
    "imagenet": "learning rate 0.01, Glorot's initialisation, crops padded by 4 pixels and flips",
}


def reduced(runs: Runs, what: str) -> str:
    """What a scale changes of the paper's settings, for captions.

    Args:
        runs: The runs that are made.
        what: A key of `READINGS`.
    """
    if runs.scale == "paper":
        return f"The paper's settings; not stated there and read here so: {READINGS[what]}."
    if runs.scale == "smoke":
        return f"A smoke test: a tiny network, {runs.trained_on_images()}; no experiment."
    if what == "mnist":
        return f"Reduced: {runs.first.epochs} epochs instead of 100."
    if what == "cifar10 fcn":
        return f"Reduced: CIFAR-10, {runs.trained_on_images()}."
    data = {"cifar10": "CIFAR-10", "imagenet": "Tiny ImageNet in place of ImageNet"}[what]
    return (
        f"Reduced: {data}, channels / 8, {runs.trained_on_images()}; 3 draws for re-randomisation."
    )


def plan(
    seeds: tuple[int, ...],
    what: str | Callable[[Runs], str],
    variants: Mapping[str, tuple[str, RunConfig]],
) -> Plan:
    """Runs of this paper, whose milestones are shares of their length.

    Args:
        seeds: Seeds of every variant.
        what: What captions say: a key of `READINGS`, or a function of the runs that are made.
        variants: Label and configuration.
    """
    return Plan(variants, seeds, what if callable(what) else partial(reduced, what=what), timed)


def with_decay(runs: Runs, what: str = "cifar10") -> str:
    """What the scale changes, and the weight decay that is read into the paper."""
    return f"Weight decay is 5e-4 (not stated in the paper). {reduced(runs, what)}"


def timed(config: RunConfig) -> RunConfig:
    """With the milestones of the run's own length; where only both ends are kept, of its end."""
    kept = config.checkpoints
    return replace(
        config,
        milestones=tuple(max(1, round(share * config.epochs)) for share in (0.3, 0.6, 0.9)),
        checkpoints=kept if kept == EVERY_EPOCH else f"epochs({config.epochs})",
    )


EVERY_EPOCH = "epochs(1)"


def _training(
    model: ModelConfig,
    data: DataConfig,
    epochs: int,
    learning_rate: float = 0.01,
    batch_size: int = 128,
    weight_decay: float = 0.0,
    checkpoints: str = EVERY_EPOCH,
    augmented: bool = False,
    **changed: Any,
) -> RunConfig:
    return timed(
        RunConfig(
            model=model,
            data=data,
            optimizer=SGD(learning_rate, momentum=0.9, weight_decay=weight_decay),
            decay=0.2,
            epochs=epochs,
            batch_size=batch_size,
            checkpoints=checkpoints,
            augmentation="crop_flip" if augmented else "none",
            **changed,
        )
    )


def fcn(
    scale: Scale, depth: int, width: int, data: Literal["mnist", "cifar10"] = "mnist"
) -> RunConfig:
    """FCN depth x width; every epoch is kept of the narrower ones, both ends of the wider."""
    if scale == "smoke":
        return _training(FCN(depth, min(width, 32)), Digits(), 2)
    model, epochs = FCN(depth, width), 100 if scale == "paper" else 12
    kept = EVERY_EPOCH if width <= 256 else f"epochs({epochs})"
    if data == "mnist":
        return _training(model, Images("mnist"), epochs, checkpoints=kept)
    limit = 10_000 if scale == "small" else None
    images = Images("cifar10", limit=limit, normalise="global")
    return _training(model, images, epochs, checkpoints=kept, augmented=scale == "paper")


def vgg(scale: Scale, depth: Literal[11, 13, 16, 19], training: str = "plain") -> RunConfig:
    """VGG-depth on CIFAR-10, trained as `TRAININGS` says."""
    decay = WEIGHT_DECAY if "wd" in training else 0.0
    norm = "bn" in training
    if scale == "smoke":
        return _training(VGG(depth, norm, 1 / 16), Digits(image_size=32), 2, weight_decay=decay)
    width = 1.0 if scale == "paper" else SMALL_WIDTH
    return _deep(scale, VGG(depth, norm, width), "cifar10", None, decay)


def resnet(
    scale: Scale,
    depth: Literal[18, 34, 50, 101, 152],
    training: str = "plain",
    data: Deep = "cifar10",
    stages: tuple[int, ...] = (),
    **changed: Any,
) -> RunConfig:
    """ResNet-depth of version 2, trained as `TRAININGS` says.

    With ``stages`` it is the variant of Section 6, with downsampling layers of its own. Other
    settings of the run, e.g. ``frozen``, may be given.
    """
    model = ResNet(
        depth,
        batch_norm="bn" in training,
        width={"paper": 1.0, "small": SMALL_WIDTH, "smoke": 1 / 16}[scale],
        stem="imagenet" if data == "imagenet" and scale == "paper" else "cifar",
        stages=stages,
        downsampling="layer" if stages else "block",
        initialisation="glorot",
    )
    decay = WEIGHT_DECAY if "wd" in training else 0.0
    if scale == "smoke":
        return _training(model, Digits(), 2, weight_decay=decay, **changed)
    return _deep(scale, model, data, 16, decay, **changed)


def _deep(
    scale: Scale,
    model: VGG | ResNet,
    data: Deep,
    size: int | None,
    weight_decay: float,
    **changed: Any,
) -> RunConfig:
    if scale == "paper":
        images = Images(data, normalise="global")
        large = isinstance(model, ResNet) and model.depth > 50 and data == "imagenet"
        return _training(
            model,
            images,
            100,
            batch_size=64 if large else 128,
            weight_decay=weight_decay,
            augmented=True,
            **changed,
        )
    images = Images(
        "tiny_imagenet" if data == "imagenet" else data,
        limit=5000,
        test_limit=1000,
        image_size=size,
        normalise="global",
    )
    return _training(
        model,
        images,
        SMALL_EPOCHS,
        learning_rate=0.03,
        batch_size=64,
        weight_decay=weight_decay,
        **changed,
    )
