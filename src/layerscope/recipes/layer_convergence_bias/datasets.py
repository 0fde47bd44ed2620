"""ResNet-50 and VGG-19 on other images, and transfer: Fig. 8e-h, 10 and 17."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from layerscope.config import RunConfig, Start
from layerscope.recipes.layer_convergence_bias.building import (
    curves,
    difference,
    make_claim,
    make_study,
    on_images,
)
from layerscope.recipes.layer_convergence_bias.networks import (
    DEEP,
    FAMILIES,
    NAMES,
    NARROW,
    READING,
    SHALLOW,
    SHOWN,
    Family,
    imagenet,
    images,
    landscape_probe,
    other,
    reduced,
)
from layerscope.recipes.layer_convergence_bias.settings import PAPER, suffix

if TYPE_CHECKING:
    import xarray as xr

    from layerscope.figures.figure import Figure
    from layerscope.studies.claims import Verdict
    from layerscope.studies.study import Scale, Study

BEGINNINGS = (0, 1)
"""Rates are given from the start, and without the first epoch."""


@on_images
def fig8e(scale: Scale) -> Study:
    """On simpler images the deepest layers converge faster.

    Fig. 8 (e-h): CIFAR-10 against CIFAR-100, 100 epochs. At ``small`` Fashion-MNIST against
    CIFAR-10, which narrow networks learn from a few thousand images.
    """
    from layerscope.probes import Convergence
    from layerscope.recipes.layer_convergence_bias import deciding

    simple, hard = ("cifar10", "cifar100") if scale == "paper" else ("fashion_mnist", "cifar10")
    sets = {"simple": simple, "complex": hard}
    variants = {
        f"{family}-{kind}": other(scale, family, name)
        for family in FAMILIES
        for kind, name in sets.items()
    }
    epochs = next(iter(variants.values())).epochs
    until = max(1, epochs // 5)
    last = {"resnet50": "stage4", "vgg19": "fc1"}

    def gain(data: xr.DataTree, family: Family, layer: str) -> xr.DataArray:
        simple, hard = (
            deciding.rates(data, f"{family}-{kind}").sel(layer=layer, drop=True) for kind in sets
        )
        return simple - hard

    def faster(family: Family) -> Callable[[xr.DataTree], xr.DataArray]:
        return lambda data: gain(data, family, last[family])

    def more(family: Family) -> Callable[[xr.DataTree], xr.DataArray]:
        return lambda data: gain(data, family, last[family]) - gain(data, family, SHALLOW[family])

    titles = {
        f"{family}-{kind}": f"{NAMES[family]}, {name}"
        for family in FAMILIES
        for kind, name in sets.items()
    }
    data_text = "Fashion-MNIST (grey) and CIFAR-10 for CIFAR-10 and CIFAR-100 (VGG-19 at 32x32)"
    return make_study(
        scale,
        "fig8e",
        "Do the deepest layers converge faster on simpler images?",
        "Two networks on a simpler and a harder set.",
        reduced(scale, data_text, next(iter(variants.values()))),
        variants,
        (Convergence(intervals=((0, until),)),),
        [
            make_claim(
                name,
                text,
                "Fig. 8 (e-h), Section 5",
                effect,
                statistic,
                variants=[f"{family}-{kind}" for kind in sets],
            )
            for family in FAMILIES
            for name, text, effect, statistic in (
                (
                    family,
                    f"{NAMES[family]}: {last[family]} converges faster on the simpler set over the "
                    f"first {until} epochs.",
                    faster(family),
                    "C, simple less complex set",
                ),
                (
                    f"{family}-more",
                    f"{NAMES[family]}: {last[family]} gains more from the simpler set than "
                    f"{SHALLOW[family]} does.",
                    more(family),
                    f"gain of {last[family]} less gain of {SHALLOW[family]}",
                ),
            )
        ],
        lambda data: curves(data, titles, scale, SHOWN["resnet50"] + SHOWN["vgg19"]),
        source=f"{PAPER} Fig. 8 (e-h)",
    )


@on_images
def fig17(scale: Scale) -> Study:
    """Harder data sets with few images per class: the bias roughly holds.

    Fig. 17: ResNet-50 and VGG-19 on FGVC Aircraft, Caltech-101, CUB-200 and DomainNet painting,
    30 to 150 images per class, learning rate 0.01. At ``small`` MNIST, Fashion-MNIST, CIFAR-10 and
    20 classes of Tiny ImageNet stand in with about 50 images per class, and ResNet-50 alone. Beyond
    the paper: whether the bias lasts once the first epoch is over (see fig2).
    """
    from layerscope.probes import Convergence

    paper = scale == "paper"
    sets: Mapping[str, Mapping[str, int]] = (
        {name: {} for name in ("aircraft", "caltech101", "cub200", "domainnet_painting")}
        if paper
        else {
            **{name: {"limit": 500} for name in ("mnist", "fashion_mnist", "cifar10")},
            "tiny_imagenet": {"limit": 1000, "classes": 20},
        }
    )
    families = FAMILIES if paper else FAMILIES[:1]
    variants = {
        f"{family}-{name}": other(scale, family, name, 40, **options)
        for family in families
        for name, options in sets.items()
    }
    until = max(2, next(iter(variants.values())).epochs // 5)
    titles = {
        f"{family}-{name}": f"{NAMES[family]}, {name}" for family in families for name in sets
    }
    text = (
        "MNIST, Fashion-MNIST, CIFAR-10 and 20 classes of Tiny ImageNet (of which twice as many "
        "images) in place of the paper's four sets"
    )
    return make_study(
        scale,
        "fig17",
        "Does the bias hold on harder images?",
        "Convergence of layers on four data sets.",
        reduced(scale, text, next(iter(variants.values())), f"ResNet-50 alone, {NARROW}"),
        variants,
        (Convergence(intervals=tuple((begin, until) for begin in BEGINNINGS)),),
        [
            make_claim(
                f"{family}-{name}{'-lasting' if begin else ''}",
                f"{NAMES[family]}, {name}: {SHALLOW[family]} converges faster than {DEEP[family]} "
                f"over epochs {begin} to {until}.",
                "Fig. 17, Appendix A.4" + (", without the first epoch" if begin else ""),
                difference(
                    "convergence", "rate", f"{family}-{name}", SHALLOW[family], DEEP[family], i
                ),
                f"C({SHALLOW[family]}) - C({DEEP[family]})",
                variants=[f"{family}-{name}"],
            )
            for family in families
            for name in sets
            for i, begin in enumerate(BEGINNINGS)
        ],
        lambda data: curves(data, titles, scale, SHOWN["resnet50"] + SHOWN["vgg19"]),
    )


def _transfer(scale: Scale) -> tuple[RunConfig, RunConfig]:
    """The network that is pre-trained, and the training from scratch with which it is compared."""
    pretraining = imagenet(scale, "resnet50")
    if scale == "paper":
        return pretraining, other(scale, "resnet50", "flowers102")
    if scale == "small":
        many = images(scale, "cifar10", limit=20_000)
        pretraining = replace(pretraining, data=many, epochs=16, milestones=(8, 14))
    few = other(
        scale, "resnet50", "tiny_imagenet", 30, limit=1088, classes=17, test_limit=850
    )  # as many classes and training images as the paper's Flowers
    return pretraining, few


@on_images
def fig10(scale: Scale) -> Study:
    """Transfer: a pre-trained network's deepest stage converges fastest, in a flatter landscape.

    Fig. 10: ResNet-50 on Flowers from scratch and pre-trained on ImageNet. One pre-trained network
    serves all seeds; its classifier is drawn anew. At ``small`` it is pre-trained on 20,000 images
    of CIFAR-10 and fine-tuned on 17 classes of Tiny ImageNet, with as many images as Flowers has.
    """
    from layerscope.figures.figure import Bars
    from layerscope.probes import Convergence
    from layerscope.recipes.layer_convergence_bias import deciding
    from layerscope.studies.claims import Claim

    pretraining, scratch = _transfer(scale)
    start = Start(run=pretraining, fresh=("final_linear.*",))
    variants = {"scratch": scratch, "transfer": replace(scratch, start=start)}
    until = max(2, scratch.epochs // 5)

    def faster(data: xr.DataTree) -> Verdict:
        rate = deciding.rates(data, "transfer")
        return deciding.exceeds_each(rate, "stage4", ["stage1", "stage2", "stage3"], "C")

    def flatter(data: xr.DataTree) -> xr.DataArray:
        rise = {
            name: deciding.node(data, name, "loss_landscape")["increase"].sel(
                layer="stage4", drop=True
            )
            for name in variants
        }
        return deciding.contrast(rise["scratch"], rise["transfer"])

    def better(data: xr.DataTree) -> xr.DataArray:
        return deciding.error(data, "scratch") - deciding.error(data, "transfer")

    titles = {"scratch": "From scratch", "transfer": "Pre-trained"}

    def figures(data: xr.DataTree) -> list[Figure]:
        return [
            *curves(data, titles, scale, SHOWN["resnet50"]),
            *(
                Bars(
                    deciding.node(data, name, "loss_landscape")["increase"],
                    key=f"increase-{name}",
                    title=f"{title}: rise of the loss{suffix(scale)}",
                    caption="Mean rise of the loss at half a layer's length; mean and 95% interval "
                    "over seeds.",
                )
                for name, title in titles.items()
            ),
        ]

    text = (
        f"pre-trained on 20,000 images of CIFAR-10 ({pretraining.epochs} epochs, batch "
        f"{pretraining.batch_size}, learning rate {pretraining.optimizer.learning_rate:g}; one "
        "network for all seeds), fine-tuned on 17 classes of Tiny ImageNet"
    )
    return make_study(
        scale,
        "fig10",
        "What does pre-training change?",
        "ResNet-50 from scratch and pre-trained.",
        reduced(
            scale,
            text,
            scratch,
            reading=f"{READING}, Flowers with all its 102 classes, one "
            "pre-trained network for all seeds",
        ),
        variants,
        (
            Convergence(intervals=tuple((begin, until) for begin in BEGINNINGS)),
            landscape_probe(scale, hessian=False),
        ),
        (
            Claim(
                "deepest",
                "Pre-trained, stage 4 converges faster than all other stages over the first "
                f"{until} epochs.",
                f"{PAPER} Fig. 10, Section 6.2",
                faster,
                ("transfer",),
            ),
            make_claim(
                "scratch",
                "From scratch, stage 1 converges faster than stage 4 over the first "
                f"{until} epochs.",
                "Fig. 10, Section 6.2",
                difference("convergence", "rate", "scratch", "stage1", "stage4", 0),
                "C(stage 1) - C(stage 4)",
                variants=["scratch"],
            ),
            make_claim(
                "scratch-lasting",
                "From scratch, stage 1 converges faster than stage 4 also over epochs 1 to "
                f"{until}.",
                "Fig. 10, without the first epoch (beyond the paper)",
                difference("convergence", "rate", "scratch", "stage1", "stage4", 1),
                "C(stage 1) - C(stage 4)",
                variants=["scratch"],
            ),
            make_claim(
                "flatter",
                "Stage 4 ends in a flatter landscape pre-trained than from scratch.",
                "Fig. 10, Section 6.2",
                flatter,
                "rise of the loss, (scratch - pre-trained) / their sum",
            ),
            make_claim(
                "better",
                "Pre-training lowers the test error: something is transferred.",
                "beyond the paper: what the other claims rest on",
                better,
                "test error, scratch less pre-trained, points",
            ),
        ),
        figures,
    )
