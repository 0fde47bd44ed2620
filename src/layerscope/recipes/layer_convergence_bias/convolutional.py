"""ResNet-50 and VGG-19 on ImageNet: Fig. 2, 7 and 11."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

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
    SHALLOW,
    SHOWN,
    Family,
    imagenet,
    networks,
    networks_reduced,
)
from layerscope.recipes.layer_convergence_bias.settings import PAPER, suffix

if TYPE_CHECKING:
    import xarray as xr

    from layerscope.figures.figure import Figure
    from layerscope.studies.claims import Verdict
    from layerscope.studies.study import Scale, Study


@on_images
def fig2(scale: Scale) -> Study:
    """ResNet-50 and VGG-19 on ImageNet: shallow layers converge faster until the rate falls.

    Fig. 2: C of stage 1 is about three times that of stage 4 over epochs 0 to 20, half of it over
    50 to 60; of VGG-19 the layers 5, 9, 13 and 17 first move away from where they end. Layer 17 of
    VGG-19 is the first fully connected one. Beyond the paper: whether stage 1 is still faster once
    the first epoch is over, in which weights before a normalisation grow, whatever is to be learnt.

    At ``small`` CIFAR-10, narrow networks and 24 epochs, the schedule and the intervals in
    proportion.
    """
    from layerscope.probes import Convergence
    from layerscope.recipes.layer_convergence_bias import deciding
    from layerscope.studies.claims import Claim, above, all_of

    epochs = imagenet(scale, "resnet50").epochs
    first, drop = max(2, epochs * 20 // 120), max(1, epochs * 50 // 120)
    start, after = max(1, epochs * 5 // 120), min(epochs, drop + max(1, epochs * 10 // 120))
    before = max(0, 2 * drop - after)
    intervals = ((0, first), (drop, after), (0, start), (1, first), (before, drop))

    def twice(data: xr.DataTree) -> xr.DataArray:
        rate = deciding.rates(data, "resnet50")
        shallow, deep = (rate.sel(layer=n, drop=True) for n in ("stage1", "stage4"))
        return shallow - 2 * deep

    def away(data: xr.DataTree) -> Verdict:
        rate = deciding.rates(data, "vgg19", 2)
        return all_of(
            {n: above(-rate.sel(layer=n), f"-C(0, {start}) of {n}") for n in SHOWN["vgg19"][1:]}
        )

    def faster(interval: int, more: str = "stage1", less: str = "stage4") -> Callable[..., Any]:
        return difference("convergence", "rate", "resnet50", more, less, interval)

    return make_study(
        scale,
        "fig2",
        "Do shallow layers of convolutional networks converge faster?",
        "How much of its distance to the final weights remains for every stage.",
        networks_reduced(scale),
        networks(scale),
        (Convergence(intervals=intervals),),
        (
            make_claim(
                "faster",
                f"ResNet-50: stage 1 converges faster than stage 4 over epochs 0 to {first}.",
                "Fig. 2, Section 3.2",
                faster(0),
                "C(stage 1) - C(stage 4)",
                variants=["resnet50"],
            ),
            make_claim(
                "twice",
                "ResNet-50: stage 1 converges at least twice as fast as stage 4 over these epochs "
                "(reported: three times).",
                "Fig. 2, Section 3.2",
                twice,
                "C(stage 1) - 2 C(stage 4)",
                variants=["resnet50"],
            ),
            make_claim(
                "lasting",
                f"ResNet-50: stage 1 converges faster than stage 4 also over epochs 1 to {first}.",
                "Fig. 2, without the first epoch (beyond the paper)",
                faster(3),
                f"C(1, {first}) of stage 1 less that of stage 4",
                variants=["resnet50"],
            ),
            make_claim(
                "later",
                f"ResNet-50: stage 4 converges faster than stage 1 over epochs {drop} to {after}, "
                "when the learning rate has fallen.",
                "Fig. 2, Section 3.2",
                faster(1, "stage4", "stage1"),
                "C(stage 4) - C(stage 1)",
                variants=["resnet50"],
            ),
            make_claim(
                "accelerates",
                f"ResNet-50: stage 4 converges faster over epochs {drop} to {after}, after the "
                f"learning rate has fallen, than over {before} to {drop}, before.",
                "Fig. 2, Section 3.2",
                lambda data: (
                    deciding.rates(data, "resnet50", 1) - deciding.rates(data, "resnet50", 4)
                ).sel(layer="stage4", drop=True),
                f"C({drop}, {after}) - C({before}, {drop}) of stage 4",
                variants=["resnet50"],
            ),
            Claim(
                "away",
                "VGG-19: layers 5, 9, 13 and 17 first move away from their final weights.",
                f"{PAPER} Fig. 2, Section 3.2",
                away,
                ("vgg19",),
            ),
        ),
        lambda data: curves(data, NAMES, scale, (*SHOWN["vgg19"], *SHOWN["resnet50"])),
    )


@on_images
def fig7(scale: Scale) -> Study:
    """Response frequencies: deep layers become more sensitive as training goes on.

    Fig. 7: change of a layer's output over a small change of a random input. The normaliser is not
    stated; the plain ratio decides, and its growth since early training (epoch 5 of 120), up to
    which the paper finds no difference. At initialisation the running statistics of normalisation
    are not those of the data yet, and nothing can be compared with it.
    """
    from layerscope.figures.figure import Lines
    from layerscope.probes import ResponseFrequency
    from layerscope.recipes.layer_convergence_bias import deciding

    early = max(1, imagenet(scale, "resnet50").epochs * 5 // 120)

    def growth(family: Family) -> Callable[[xr.DataTree], xr.DataArray]:
        def effect(data: xr.DataTree) -> xr.DataArray:
            values = deciding.node(data, family, "response_frequency")["response"]
            before = values.where(values["epoch"] >= early, drop=True).isel(step=0, drop=True)
            change = deciding.log2(values.isel(step=-1, drop=True) / before)
            return change.sel(layer=DEEP[family], drop=True) - change.sel(
                layer=SHALLOW[family], drop=True
            )

        return effect

    def shown(data: xr.DataTree, family: Family, name: str) -> xr.DataArray:
        values = deciding.node(data, family, "response_frequency")[name]
        values = deciding.present(values, SHOWN[family]).isel(step=slice(1, None))
        return values.swap_dims(step="epoch")

    def figures(data: xr.DataTree) -> list[Figure]:
        return [
            Lines(
                shown(data, family, name),
                key=f"{name}-{family}",
                title=f"{NAMES[family]}: {text}{suffix(scale)}",
                caption="Change of a layer's output over a small change of a Gaussian input, "
                "model in eval mode; geometric mean and 95% interval over seeds.",
                x="epoch",
                log_y=True,
            )
            for family in FAMILIES
            for name, text in (
                ("response", "response frequency"),
                ("relative_response", "response relative to the sizes of input and output"),
            )
        ]

    return make_study(
        scale,
        "fig7",
        "Do deeper layers come to answer faster changes?",
        "Response of layers to small changes of random inputs over training.",
        networks_reduced(scale),
        networks(scale),
        (ResponseFrequency(),),
        [
            make_claim(
                family,
                f"{NAMES[family]}: from epoch {early} on, the response of {DEEP[family]} grows "
                f"more than that of {SHALLOW[family]}.",
                "Fig. 7, Section 5",
                growth(family),
                "difference of log2 of growth",
                variants=[family],
            )
            for family in FAMILIES
        ],
        figures,
    )


@on_images
def fig11(scale: Scale) -> Study:
    """Weight variation falls with the learning rate, and hardly before.

    Fig. 11, Appendix A.2: norm of an epoch's change over the norm of the weights. The paper finds
    no apparent decrease while the rate is constant, read here as: by less than a third, on average
    over layers, from the second epoch to the last one before the rate falls.
    """
    from layerscope.figures.figure import Lines
    from layerscope.probes import WeightChange
    from layerscope.recipes.layer_convergence_bias import deciding
    from layerscope.studies.claims import Claim, above, all_of

    probe = WeightChange(p=2.0, minimum_dimensions=1)
    drop = imagenet(scale, "resnet50").milestones[0]

    def parts(data: xr.DataTree, family: Family) -> tuple[xr.DataArray, xr.DataArray]:
        """Logarithms before (without the first epoch) and after the learning rate falls."""
        values = deciding.log2(deciding.node(data, family, "weight_change")["change"])
        epoch = values["epoch"]
        first = values.where((epoch > 1) & (epoch <= drop), drop=True)
        return first, values.where(epoch > drop, drop=True)

    def falls(family: Family) -> Callable[[xr.DataTree], Verdict]:
        def decide(data: xr.DataTree) -> Verdict:
            before, after = parts(data, family)
            fall = before.mean("step") - after.mean("step")
            statistic = "log2 of variation before over after"
            return all_of(
                {
                    str(layer): above(fall.sel(layer=layer, drop=True), f"{statistic}, {layer}")
                    for layer in fall["layer"].values
                }
            )

        return decide

    def steady(family: Family) -> Callable[[xr.DataTree], xr.DataArray]:
        def effect(data: xr.DataTree) -> xr.DataArray:
            before, _ = parts(data, family)
            first, last = (
                before.isel(step=end).mean("step") for end in (slice(1), slice(-1, None))
            )
            return (last - first).mean("layer")

        return effect

    def figures(data: xr.DataTree) -> list[Figure]:
        return [
            Lines(
                deciding.node(data, family, "weight_change")["change"].swap_dims(step="epoch"),
                key=f"variation-{family}",
                title=f"{NAMES[family]}: weight variation{suffix(scale)}",
                caption="Norm of the change over an epoch relative to the norm of the weights; "
                "geometric mean and 95% interval over seeds.",
                x="epoch",
                log_y=True,
            )
            for family in FAMILIES
        ]

    return make_study(
        scale,
        "fig11",
        "Does weight variation show which layers converge first?",
        "How much every layer changes in an epoch.",
        networks_reduced(scale),
        networks(scale),
        (probe,),
        [
            *(
                Claim(
                    family,
                    f"{NAMES[family]}: every layer varies less once the learning rate has fallen.",
                    f"{PAPER} Fig. 11, Appendix A.2",
                    falls(family),
                    (family,),
                )
                for family in FAMILIES
            ),
            *(
                make_claim(
                    f"{family}-steady",
                    f"{NAMES[family]}: while the learning rate is constant, variation falls by "
                    "less than a third from the second epoch on.",
                    "Fig. 11, Appendix A.2",
                    steady(family),
                    "log2 of variation, last epoch over second, mean over layers",
                    math.log2(2 / 3),
                    variants=[family],
                )
                for family in FAMILIES
            ),
        ],
        figures,
    )
