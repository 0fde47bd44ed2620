"""The convolutional networks and transformers of the paper, and what the smaller scales reduce.

From Appendix A.1: ResNet-50 and VGG-19 on ImageNet, SGD, 120 epochs, learning rate 0.1, 0.01 from
epoch 50 and 0.001 from epoch 100, batch 256, weight decay 1e-4. ViTs of 12 encoders and basic width
256, 200 epochs of Adam, 10,000 steps of warm-up to 3e-4 and a cosine, batch 256, weight decay 1e-4.
Other data sets: 100 epochs of SGD, learning rate 0.01 with a cosine, batch 128, weight decay 1e-4.

Left open by the paper and read here so: momentum is 0.9; VGG-19 has batch normalisation, without
which it does not train at 0.1; images are padded, cropped and flipped; an encoder's width is that
of its feed-forward part, which gives all three ViTs the same number of parameters (9.9 million, as
Table 2 says).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

from layerscope.config import (
    SGD,
    VGG,
    Adam,
    DataConfig,
    Digits,
    Images,
    OptimizerConfig,
    ResNet,
    RunConfig,
    ViT,
)
from layerscope.probes import LossLandscape, Performance
from layerscope.studies.plan import Plan, Runs, Scale

Family = Literal["resnet50", "vgg19"]
FAMILIES: tuple[Family, ...] = ("resnet50", "vgg19")
NAMES: Mapping[str, str] = {"resnet50": "ResNet-50", "vgg19": "VGG-19"}
SHALLOW = {"resnet50": "stage1", "vgg19": "conv1"}
DEEP = {"resnet50": "stage4", "vgg19": "conv13"}
"""The layers that the paper compares (of VGG-19 also layer 17, the first fully connected one)."""
SHOWN: Mapping[str, tuple[str, ...]] = {
    "resnet50": ("stage0.conv", "stage1", "stage2", "stage3", "stage4"),
    "vgg19": ("conv1", "conv5", "conv9", "conv13", "fc1"),
}
"""The layers of the paper's figures."""
FIVE = (0, 1, 2, 3, 4)
SEEDS: Mapping[Scale, tuple[int, ...]] = {"paper": FIVE, "small": FIVE, "smoke": (0, 1)}
EPOCHS: Mapping[Scale, int] = {"paper": 120, "small": 24, "smoke": 2}
READING = (
    "momentum 0.9, VGG-19 with batch normalisation, initialisation after He, images cropped and "
    "flipped, on CIFAR a 3x3 stem and fully connected layers of 512 units"
)
NARROW = (
    "channels / 8, a 3x3 stem without pooling, fully connected layers of 64 units without dropout"
)
TEST = Performance()
"""Tests how well networks have learnt."""


def reduced(
    runs: Runs, data: str, size: str = NARROW, reading: str = READING, rates: str = ""
) -> str:
    """What a scale changes of the paper's settings, for captions.

    Args:
        runs: The runs that are made; numbers are those of the first.
        data: What stands in for which data.
        size: How the networks are smaller.
        reading: What the paper does not state and is read so at its own scale.
        rates: Other learning rates of the study.
    """
    if runs.scale == "paper":
        return f"The paper's settings; not stated there and read here so: {reading}."
    if runs.scale == "smoke":
        residual = any(isinstance(config.model, ResNet) for config in runs.configs.values())
        fewer = ", a ResNet of 18 layers" if residual else ""
        return f"A smoke test of {runs.trained_on_images()}{fewer}; not an experiment."
    return f"Reduced: {data}, {size}, {runs.trained_on_images(rates)}."


def plan(
    scale: Scale,
    variants: Mapping[str, tuple[str, RunConfig]],
    reduction: Callable[[Runs], str],
) -> Plan:
    """Runs on images: label and configuration of every variant, and words for captions."""
    fitted = partial(timed, scale=scale)
    return Plan(variants, SEEDS[scale], reduction, fitted, shows_errors=True)


def timed(config: RunConfig, scale: Scale) -> RunConfig:
    """With the milestones of the run's own length, or its warm-up where it is a transformer's."""
    if isinstance(config.model, ViT):
        return replace(config, warmup=config.epochs * WARM_UP[scale])
    if config.schedule == "cosine":
        return config
    drops = {max(1, config.epochs * epoch // 120) for epoch in (50, 100)}
    return replace(config, milestones=tuple(sorted(drops)))


WARM_UP: Mapping[Scale, int] = {"paper": 50, "small": 6, "smoke": 2}
"""Steps of warm-up for every epoch of a run: 10,000 of 200 epochs in the paper."""


def images(scale: Scale, name: str, size: int = 16, **options: int) -> DataConfig:
    """A data set, at the smaller scales a subset of small images.

    Args:
        scale: The scale.
        name: The data set.
        size: Side of the images at ``small``.
        options: Further settings at ``small``; by default 4,000 and 1,000 images.
    """
    if scale == "smoke":
        return Digits(image_size=32 if size == 32 else 8)
    if scale == "paper":
        return Images(name)
    return replace(Images(name, limit=4000, test_limit=1000, image_size=size), **options)


def model(scale: Scale, family: Family, large: bool = True) -> ResNet | VGG:
    """ResNet-50 or VGG-19, narrow at the smaller scales; a smoke test's ResNet has 18 layers."""
    width = {"paper": 1.0, "small": 1 / 8, "smoke": 1 / 16}[scale]
    stem: Literal["cifar", "imagenet"] = "imagenet" if scale == "paper" and large else "cifar"
    if family == "vgg19":
        return VGG(19, batch_norm=True, width=width, stem=stem)
    return ResNet(18 if scale == "smoke" else 50, version=1, width=width, stem=stem)


def size_of(family: Family) -> int:
    """Side of the reduced images: a VGG halves five times and needs 32 pixels."""
    return 32 if family == "vgg19" else 16


def imagenet(scale: Scale, family: Family) -> RunConfig:
    """Training on ImageNet, at ``small`` on CIFAR-10, which narrow networks learn in minutes.

    There the learning rate is smaller by as much as the batch.
    """
    rate = 0.025 if scale == "small" else 0.1
    config = RunConfig(
        model=model(scale, family),
        data=images(scale, "imagenet" if scale == "paper" else "cifar10", size_of(family)),
        optimizer=SGD(learning_rate=rate, momentum=0.9, weight_decay=1e-4),
        epochs=EPOCHS[scale],
        batch_size=256 if scale == "paper" else 64,
        augmentation="crop_flip" if scale == "paper" else "none",
        unit="stage" if family == "resnet50" else "family",
        probe_batch=32 if scale == "smoke" else 128,
    )
    return timed(config, scale)


def networks(scale: Scale, families: Sequence[Family] = FAMILIES) -> Plan:
    """Networks trained on ImageNet or what stands in for it."""
    text = "CIFAR-10 (for VGG-19 at 32x32) in place of ImageNet"
    return plan(
        scale,
        {family: (NAMES[family], imagenet(scale, family)) for family in families},
        lambda runs: reduced(runs, text),
    )


def other(scale: Scale, family: Family, name: str, epochs: int = 10, **options: int) -> RunConfig:
    """Training on another data set: learning rate 0.01 with a cosine.

    Args:
        scale: The scale.
        family: The network.
        name: The data set.
        epochs: Length at ``small``.
        options: For `images`.
    """
    return replace(
        imagenet(scale, family),
        model=model(scale, family, large=name not in ("cifar10", "cifar100")),
        data=images(scale, name, size_of(family), **options),
        optimizer=SGD(learning_rate=0.01, momentum=0.9, weight_decay=1e-4),
        milestones=(),
        schedule="cosine",
        epochs={"paper": 100, "small": epochs, "smoke": 2}[scale],
        batch_size=128 if scale == "paper" else 32,
    )


def vit(
    scale: Scale, expansions: tuple[int, ...], optimizer: OptimizerConfig | None = None
) -> RunConfig:
    """A ViT with a feed-forward width per encoder, on ImageNet or, reduced, CIFAR-10."""
    paper = scale == "paper"
    config = RunConfig(
        model=ViT(
            patch_size=16 if paper else 4,
            width={"paper": 256, "small": 48, "smoke": 16}[scale],
            heads=8 if paper else 4,
            expansions=expansions,
        ),
        data=images(scale, "imagenet" if paper else "cifar10", test_limit=2000),
        optimizer=optimizer or Adam(learning_rate=3e-4, weight_decay=1e-4),
        schedule="cosine",
        epochs={"paper": 200, "small": 10, "smoke": 2}[scale],
        batch_size=256 if paper else 64,
        augmentation="crop_flip" if paper else "none",
        probe_batch=32 if scale == "smoke" else 128,
    )
    return timed(config, scale)


def landscape_probe(scale: Scale, hessian: bool = True) -> LossLandscape:
    """Landscapes of every layer: coarser at the smaller scales."""
    if scale == "smoke":
        return LossLandscape(points=3, draws=2, hessian=hessian)
    return LossLandscape(points=21 if scale == "paper" else 11, hessian=hessian)
