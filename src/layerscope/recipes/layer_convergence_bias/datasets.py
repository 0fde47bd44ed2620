"""ResNet-50 and VGG-19 on other images, and transfer: Fig. 8e-h, 10 and 17."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from layerscope.config import RunConfig, Start
from layerscope.probes import Convergence
from layerscope.recipes.layer_convergence_bias.networks import (
    DEEP,
    FAMILIES,
    NAMES,
    NARROW,
    READING,
    SHALLOW,
    SHOWN,
    TEST,
    Family,
    imagenet,
    images,
    landscape_probe,
    other,
    plan,
    reduced,
)
from layerscope.recipes.layer_convergence_bias.settings import paper
from layerscope.studies.comparisons import extreme
from layerscope.studies.curves import curves, opening, rate
from layerscope.studies.guards import scored
from layerscope.studies.paper import Items, claim
from layerscope.studies.plan import Plan, Runs, Scale
from layerscope.studies.plots import OVER_SEEDS, bars
from layerscope.studies.statistics import contrast

LAST: Mapping[Family, str] = {"resnet50": "stage4", "vgg19": "fc1"}
"""The deepest layers that Fig. 8 shows."""
HARD = ("aircraft", "caltech101", "cub200", "domainnet_painting")
SMALL_HARD: Mapping[str, Mapping[str, int]] = {
    **{name: {"limit": 500} for name in ("mnist", "fashion_mnist", "cifar10")},
    "tiny_imagenet": {"limit": 1000, "classes": 20},
}
"""What stands in for them at small scale."""


def _on_sets(
    scale: Scale,
    families: Sequence[Family],
    sets: Mapping[str, tuple[str, Mapping[str, int]]],
    epochs: int = 10,
) -> dict[str, tuple[str, RunConfig]]:
    """Networks on data sets: label and configuration of ``<family>-<key>``."""
    return {
        f"{family}-{key}": (
            f"{NAMES[family]}, {name}",
            other(scale, family, name, epochs, **options),
        )
        for family in families
        for key, (name, options) in sets.items()
    }


def _shown(runs: Runs) -> dict[str, Sequence[str]]:
    """The layers that figures show of each variant, whose name begins with the network's."""
    return {name: SHOWN[name.partition("-")[0]] for name in runs}


def simple_and_complex(scale: Scale) -> Plan:
    """Two networks on a simpler and a harder set."""
    simple, hard = ("cifar10", "cifar100") if scale == "paper" else ("fashion_mnist", "cifar10")
    text = "Fashion-MNIST (grey) and CIFAR-10 for CIFAR-10 and CIFAR-100 (VGG-19 at 32x32)"
    sets = {"simple": (simple, {}), "complex": (hard, {})}
    return plan(scale, _on_sets(scale, FAMILIES, sets), lambda runs: reduced(runs, text))


@paper.recipe(
    "Fig. 8 (e-h)",
    simple_and_complex,
    "Do the deepest layers converge faster on simpler images?",
    "Two networks on a simpler and a harder set.",
)
def fig8e(runs: Runs) -> Items:
    """On simpler images the deepest layers converge faster.

    Fig. 8 (e-h): CIFAR-10 against CIFAR-100, 100 epochs. At ``small`` Fashion-MNIST against
    CIFAR-10, which narrow networks learn from a few thousand images.
    """
    until = runs.first.share(1, 5)
    probe = Convergence(intervals=((0, until),))
    for family, last in LAST.items():
        simple, hard = (rate(runs[f"{family}-{kind}"], probe) for kind in ("simple", "complex"))
        gain, shallow = simple - hard, SHALLOW[family]
        yield claim(
            family,
            f"{NAMES[family]}: {last} converges faster on the simpler set over {opening(until)}. "
            "[Fig. 8 (e-h), Section 5]",
            gain[last],
            "C, simple less complex set",
        )
        yield claim(
            f"{family}-more",
            f"{NAMES[family]}: {last} gains more from the simpler set than {shallow} does. [Fig. "
            "8 (e-h), Section 5]",
            gain[last] - gain[shallow],
            f"gain of {last} less gain of {shallow}",
        )
    yield from curves(runs, probe, _shown(runs))


def harder(scale: Scale) -> Plan:
    """Networks on sets with few images per class."""
    sets = {name: {} for name in HARD} if scale == "paper" else SMALL_HARD
    text = (
        "MNIST, Fashion-MNIST, CIFAR-10 and 20 classes of Tiny ImageNet (of which twice as many "
        "images) in place of the paper's four sets"
    )
    families = FAMILIES if scale == "paper" else FAMILIES[:1]
    pairs = {name: (name, options) for name, options in sets.items()}
    size = f"ResNet-50 alone, {NARROW}"
    variants = _on_sets(scale, families, pairs, epochs=40)
    return plan(scale, variants, lambda runs: reduced(runs, text, size))


@paper.recipe(
    "Fig. 17",
    harder,
    "Does the bias hold on harder images?",
    "Convergence of layers on four data sets.",
)
def fig17(runs: Runs) -> Items:
    """Harder data sets with few images per class: the bias roughly holds.

    Fig. 17: ResNet-50 and VGG-19 on FGVC Aircraft, Caltech-101, CUB-200 and DomainNet painting,
    30 to 150 images per class, learning rate 0.01. At ``small`` MNIST, Fashion-MNIST, CIFAR-10 and
    20 classes of Tiny ImageNet stand in with about 50 images per class, and ResNet-50 alone. Beyond
    the paper: whether the bias lasts once the first epoch is over (see fig2).
    """
    until = runs.first.share(1, 5, least=2)
    probe = Convergence(intervals=((0, until), (1, until)))

    for name, run in runs.items():
        family = name.partition("-")[0]
        shallow, deep = SHALLOW[family], DEEP[family]
        for begin in (0, 1):
            found = rate(run, probe, (begin, until))
            yield claim(
                f"{name}{'-lasting' if begin else ''}",
                f"{run.label}: {shallow} converges faster than {deep} over epochs {begin} to "
                f"{until}. [Fig. 17, Appendix A.4{', without the first epoch' if begin else ''}]",
                found[shallow] - found[deep],
                f"C({shallow}) - C({deep})",
            )
    yield from curves(runs, probe, _shown(runs))


def transfer(scale: Scale) -> Plan:
    """A network trained from scratch, and the same pre-trained on other images."""
    pretraining = imagenet(scale, "resnet50")
    if scale == "paper":
        scratch = other(scale, "resnet50", "flowers102")
    else:  # as many classes and training images as the paper's Flowers
        few = {"limit": 1088, "classes": 17, "test_limit": 850}
        scratch = other(scale, "resnet50", "tiny_imagenet", 30, **few)
    if scale == "small":
        many = images(scale, "cifar10", limit=20_000)
        pretraining = replace(pretraining, data=many, epochs=16, milestones=(8, 14))
    start = Start(run=pretraining, fresh=("final_linear.*",))
    text = (
        f"pre-trained on 20,000 images of CIFAR-10 ({pretraining.epochs} epochs, batch "
        f"{pretraining.batch_size}, learning rate {pretraining.optimizer.learning_rate:g}; one "
        "network for all seeds), fine-tuned on 17 classes of Tiny ImageNet"
    )
    reading = f"{READING}, Flowers with all its 102 classes, one pre-trained network for all seeds"
    return plan(
        scale,
        {
            "scratch": ("From scratch", scratch),
            "transfer": ("Pre-trained", replace(scratch, start=start)),
        },
        lambda runs: reduced(runs, text, reading=reading),
    )


@paper.recipe(
    "Fig. 10",
    transfer,
    "What does pre-training change?",
    "ResNet-50 from scratch and pre-trained.",
)
def fig10(runs: Runs) -> Items:
    """Transfer: a pre-trained network's deepest stage converges fastest, in a flatter landscape.

    Fig. 10: ResNet-50 on Flowers from scratch and pre-trained on ImageNet. One pre-trained network
    serves all seeds; its classifier is drawn anew. At ``small`` it is pre-trained on 20,000 images
    of CIFAR-10 and fine-tuned on 17 classes of Tiny ImageNet, with as many images as Flowers has.
    """
    scratch, pretrained = runs["scratch"], runs["transfer"]
    until = scratch.share(1, 5, least=2)
    probe = Convergence(intervals=((0, until), (1, until)))
    landscape = landscape_probe(runs.scale, hessian=False)
    early, lasting = (rate(scratch, probe, (begin, until)) for begin in (0, 1))
    rise = {name: values["stage4"] for name, values in runs.of(landscape, "increase").items()}
    stages = [f"stage{i}" for i in (1, 2, 3)]
    yield claim(
        "deepest",
        f"Pre-trained, stage 4 converges faster than all other stages over {opening(until)}. "
        "[Fig. 10, Section 6.2]",
        extreme(rate(pretrained, probe), "stage4", stages, "C"),
    )
    yield claim(
        "scratch",
        f"From scratch, stage 1 converges faster than stage 4 over {opening(until)}. [Fig. 10, "
        "Section 6.2]",
        early["stage1"] - early["stage4"],
        "C(stage 1) - C(stage 4)",
    )
    yield claim(
        "scratch-lasting",
        f"From scratch, stage 1 converges faster than stage 4 also over epochs 1 to {until}. "
        "[Fig. 10, without the first epoch (beyond the paper)]",
        lasting["stage1"] - lasting["stage4"],
        "C(stage 1) - C(stage 4)",
    )
    yield claim(
        "flatter",
        "Stage 4 ends in a flatter landscape pre-trained than from scratch. [Fig. 10, Section 6.2]",
        contrast(rise["scratch"], rise["transfer"]),
        "rise of the loss, (scratch - pre-trained) / their sum",
    )
    yield claim(
        "better",
        "Pre-training lowers the test error: something is transferred. [beyond the paper: what "
        "the other claims rest on]",
        scored(TEST, "scratch") - scored(TEST, "transfer"),
        "test error, scratch less pre-trained, points",
    )
    yield from curves(runs, probe, {name: SHOWN["resnet50"] for name in runs})
    for run in runs.values():
        yield bars(
            run.of(landscape, "increase"),
            f"increase-{run.name}",
            f"{run.label}: rise of the loss",
            f"Mean rise of the loss at half a layer's length; {OVER_SEEDS}",
        )
