"""ResNet-50 and VGG-19 on ImageNet: Fig. 2, 7 and 11."""

from __future__ import annotations

import math

from layerscope.probes import Convergence, ResponseFrequency, WeightChange
from layerscope.recipes.layer_convergence_bias.networks import (
    DEEP,
    SHALLOW,
    SHOWN,
    networks,
)
from layerscope.recipes.layer_convergence_bias.settings import paper
from layerscope.studies.comparisons import in_each, in_each_layer
from layerscope.studies.curves import curves, rate
from layerscope.studies.paper import Items, claim
from layerscope.studies.plan import Runs, Variant
from layerscope.studies.plots import lines
from layerscope.studies.quantity import Quantity
from layerscope.studies.statistics import log2


@paper.recipe(
    "Fig. 2",
    networks,
    "Do shallow layers of convolutional networks converge faster?",
    "How much of its distance to the final weights remains for every stage.",
)
def fig2(runs: Runs) -> Items:
    """ResNet-50 and VGG-19 on ImageNet: shallow layers converge faster until the rate falls.

    Fig. 2: C of stage 1 is about three times that of stage 4 over epochs 0 to 20, half of it over
    50 to 60; of VGG-19 the layers 5, 9, 13 and 17 first move away from where they end. Layer 17 of
    VGG-19 is the first fully connected one. Beyond the paper: whether stage 1 is still faster once
    the first epoch is over, in which weights before a normalisation grow, whatever is to be learnt.

    At ``small`` CIFAR-10, narrow networks and 24 epochs, the schedule and the intervals in
    proportion.
    """
    run = runs["resnet50"]
    first, start = run.share(20, 120, least=2), run.share(5, 120)
    drop = run.drop
    after = min(run.epochs, drop + run.share(10, 120))
    before = max(0, 2 * drop - after)
    probe = Convergence(
        intervals=((0, first), (drop, after), (0, start), (1, first), (before, drop))
    )
    early, lasting = rate(run, probe, (0, first)), rate(run, probe, (1, first))
    late, earlier = rate(run, probe, (drop, after)), rate(run, probe, (before, drop))
    moves = rate(runs["vgg19"], probe, (0, start))
    yield claim(
        "faster",
        f"ResNet-50: stage 1 converges faster than stage 4 over epochs 0 to {first}. [Fig. 2, "
        "Section 3.2]",
        early["stage1"] - early["stage4"],
        "C(stage 1) - C(stage 4)",
    )
    yield claim(
        "twice",
        "ResNet-50: stage 1 converges at least twice as fast as stage 4 over these epochs "
        "(reported: three times). [Fig. 2, Section 3.2]",
        early["stage1"] - 2 * early["stage4"],
        "C(stage 1) - 2 C(stage 4)",
    )
    yield claim(
        "lasting",
        f"ResNet-50: stage 1 converges faster than stage 4 also over epochs 1 to {first}. [Fig. "
        "2, without the first epoch (beyond the paper)]",
        lasting["stage1"] - lasting["stage4"],
        f"C(1, {first}) of stage 1 less that of stage 4",
    )
    yield claim(
        "later",
        f"ResNet-50: stage 4 converges faster than stage 1 over epochs {drop} to {after}, when "
        "the learning rate has fallen. [Fig. 2, Section 3.2]",
        late["stage4"] - late["stage1"],
        "C(stage 4) - C(stage 1)",
    )
    yield claim(
        "accelerates",
        f"ResNet-50: stage 4 converges faster over epochs {drop} to {after}, after the learning "
        f"rate has fallen, than over {before} to {drop}, before. [Fig. 2, Section 3.2]",
        late["stage4"] - earlier["stage4"],
        f"C({drop}, {after}) - C({before}, {drop}) of stage 4",
    )
    away = {layer: -moves[layer] for layer in SHOWN["vgg19"][1:]}
    yield claim(
        "away",
        "VGG-19: layers 5, 9, 13 and 17 first move away from their final weights. [Fig. 2, "
        "Section 3.2]",
        in_each(away, f"-C(0, {start}) of {{}}"),
    )
    yield from curves(runs, probe, SHOWN)


@paper.recipe(
    "Fig. 7",
    networks,
    "Do deeper layers come to answer faster changes?",
    "Response of layers to small changes of random inputs over training.",
)
def fig7(runs: Runs) -> Items:
    """Response frequencies: deep layers become more sensitive as training goes on.

    Fig. 7: change of a layer's output over a small change of a random input. The normaliser is not
    stated; the plain ratio decides, and its growth since early training (epoch 5 of 120), up to
    which the paper finds no difference. At initialisation the running statistics of normalisation
    are not those of the data yet, and nothing can be compared with it.
    """
    probe, early = ResponseFrequency(), runs.first.share(5, 120)

    def growth(run: Variant) -> Quantity:
        values = run.of(probe, "response")
        before = values.when(lambda epoch: epoch >= early).first("step")
        grown = log2(values.at_end() / before)
        return grown[DEEP[run.name]] - grown[SHALLOW[run.name]]

    shown = {
        "response": "response frequency",
        "relative_response": "response relative to the sizes of input and output",
    }
    for family, run in runs.items():
        yield claim(
            family,
            f"{run.label}: from epoch {early} on, the response of {DEEP[family]} grows more than "
            f"that of {SHALLOW[family]}. [Fig. 7, Section 5]",
            growth(run),
            "difference of log2 of growth",
        )
    for family, run in runs.items():
        for name, text in shown.items():
            yield lines(
                run.of(probe, name)[list(SHOWN[family])].isel(step=slice(1, None)),
                f"{name}-{family}",
                f"{run.label}: {text}",
                "Change of a layer's output over a small change of a Gaussian input, model in "
                "eval mode; geometric mean and 95% interval over seeds.",
                x="epoch",
                log_y=True,
            )


@paper.recipe(
    "Fig. 11",
    networks,
    "Does weight variation show which layers converge first?",
    "How much every layer changes in an epoch.",
)
def fig11(runs: Runs) -> Items:
    """Weight variation falls with the learning rate, and hardly before.

    Fig. 11, Appendix A.2: norm of an epoch's change over the norm of the weights. The paper finds
    no apparent decrease while the rate is constant, read here as: by less than a third, on average
    over layers, from the second epoch to the last one before the rate falls.
    """
    probe = WeightChange(p=2.0, minimum_dimensions=1)

    for name, run in runs.items():
        before, after = _around_drop(run, probe)
        yield claim(
            name,
            f"{run.label}: every layer varies less once the learning rate has fallen. [Fig. 11, "
            "Appendix A.2]",
            in_each_layer(
                before.mean("step") - after.mean("step"), "log2 of variation before over after,"
            ),
        )
    for name, run in runs.items():
        before, _ = _around_drop(run, probe)
        yield claim(
            f"{name}-steady",
            f"{run.label}: while the learning rate is constant, variation falls by less than a "
            "third from the second epoch on. [Fig. 11, Appendix A.2]",
            (before.last("step") - before.first("step")).mean("layer"),
            "log2 of variation, last epoch over second, mean over layers",
            math.log2(2 / 3),
        )
    for run in runs.values():
        yield lines(
            run.of(probe, "change"),
            f"variation-{run.name}",
            f"{run.label}: weight variation",
            "Norm of the change over an epoch relative to the norm of the weights; geometric "
            "mean and 95% interval over seeds.",
            x="epoch",
            log_y=True,
        )


def _around_drop(run: Variant, probe: WeightChange) -> tuple[Quantity, Quantity]:
    """Logarithms of the variation before (without the first epoch) and after the rate falls."""
    values, drop = log2(run.of(probe, "change")), run.drop
    before = values.when(lambda epoch: (epoch > 1) & (epoch <= drop))
    return before, values.when(lambda epoch: epoch > drop)
