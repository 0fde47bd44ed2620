"""ResNet-50 and VGG-19 on ImageNet: Fig. 2, 5, 7, 11, 18 and 19."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from layerscope.config import RunConfig
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
    Family,
    imagenet,
    landscape_probe,
    reduced,
)
from layerscope.recipes.layer_convergence_bias.settings import PAPER, suffix

if TYPE_CHECKING:
    import xarray as xr

    from layerscope.claims import Verdict
    from layerscope.figures.figure import Figure
    from layerscope.study import Scale, Study

STAND_INS = "Tiny ImageNet (for VGG-19 CIFAR-10, at 32x32) in place of ImageNet"


def _networks(scale: Scale) -> dict[str, RunConfig]:
    """Both networks, trained on ImageNet or what stands in for it."""
    return {family: imagenet(scale, family) for family in FAMILIES}


def _reduction(scale: Scale) -> str:
    return reduced(scale, STAND_INS, imagenet(scale, "resnet50"))


VGG_SHOWN = ("conv1", "conv5", "conv9", "conv13", "fc1")


@on_images
def fig2(scale: Scale) -> Study:
    """ResNet-50 and VGG-19 on ImageNet: shallow layers converge faster until the rate falls.

    Fig. 2: C of stage 1 is about three times that of stage 4 over epochs 0 to 20, half of it over
    50 to 60; of VGG-19 the layers 5, 9, 13 and 17 first move away from where they end. Layer 17 of
    VGG-19 is the first fully connected one.

    At ``small`` Tiny ImageNet, narrow networks and 24 epochs, the schedule and the intervals in
    proportion.
    """
    from layerscope.claims import Claim, above, all_of
    from layerscope.probes import Convergence
    from layerscope.recipes.layer_convergence_bias import deciding

    epochs = imagenet(scale, "resnet50").epochs
    first, drop = max(1, epochs * 20 // 120), max(1, epochs * 50 // 120)
    start, after = max(1, epochs * 5 // 120), min(epochs, drop + max(1, epochs * 10 // 120))
    intervals = ((0, first), (drop, after), (0, start))

    def twice(data: xr.DataTree) -> xr.DataArray:
        rate = deciding.rates(data, "resnet50")
        shallow, deep = (rate.sel(layer=n, drop=True) for n in ("stage1", "stage4"))
        return shallow - 2 * deep

    def away(data: xr.DataTree) -> Verdict:
        rate = deciding.rates(data, "vgg19", 2)
        return all_of(
            {n: above(-rate.sel(layer=n), f"-C(0, {start}) of {n}") for n in VGG_SHOWN[1:]}
        )

    return make_study(
        scale,
        "fig2",
        "Do shallow layers of convolutional networks converge faster?",
        "How much of its distance to the final weights remains for every stage.",
        _reduction(scale),
        _networks(scale),
        (Convergence(intervals=intervals),),
        (
            make_claim(
                "faster",
                f"ResNet-50: stage 1 converges faster than stage 4 over epochs 0 to {first}.",
                "Fig. 2, Section 3.2",
                difference("convergence", "rate", "resnet50", "stage1", "stage4", 0),
                "C(stage 1) - C(stage 4)",
            ),
            make_claim(
                "twice",
                "ResNet-50: stage 1 converges at least twice as fast as stage 4 over these epochs "
                "(reported: three times).",
                "Fig. 2, Section 3.2",
                twice,
                "C(stage 1) - 2 C(stage 4)",
            ),
            make_claim(
                "later",
                f"ResNet-50: stage 4 converges faster than stage 1 over epochs {drop} to {after}, "
                "when the learning rate has fallen.",
                "Fig. 2, Section 3.2",
                difference("convergence", "rate", "resnet50", "stage4", "stage1", 1),
                "C(stage 4) - C(stage 1)",
            ),
            Claim(
                "away",
                "VGG-19: layers 5, 9, 13 and 17 first move away from their final weights.",
                f"{PAPER} Fig. 2, Section 3.2",
                away,
            ),
        ),
        lambda data: curves(
            data, NAMES, scale, (*VGG_SHOWN, "stage0.conv", *(f"stage{i}" for i in range(1, 5)))
        ),
    )


@on_images
def _landscapes(
    scale: Scale, figure: str, families: Sequence[Family], source: str, repeatable: bool
) -> Study:
    from layerscope.claims import Claim, above
    from layerscope.figures.figure import Bars, Surface
    from layerscope.recipes.layer_convergence_bias import deciding

    probe = landscape_probe(scale)

    def found(data: xr.DataTree, family: str) -> xr.Dataset:
        return deciding.node(data, family, "loss_landscape")

    def contrast(family: Family, name: str) -> Callable[[xr.DataTree], xr.DataArray]:
        def effect(data: xr.DataTree) -> xr.DataArray:
            values = found(data, family)[name]
            deep, shallow = (
                values.sel(layer=n, drop=True) for n in (DEEP[family], SHALLOW[family])
            )
            return deciding.contrast(deep, shallow)

        return effect

    def agreement(family: Family) -> Callable[[xr.DataTree], Verdict]:
        def decide(data: xr.DataTree) -> Verdict:
            from scipy.stats import spearmanr

            rise = found(data, family)["increase"].transpose("seed", "layer").values
            others = [
                rise[[j for j in range(len(rise)) if j != i]].mean(0) for i in range(len(rise))
            ]
            ranks = [float(spearmanr(a, b)[0]) for a, b in zip(rise, others, strict=True)]  # pyright: ignore
            return above(ranks, "rank correlation of a seed's rises with those of the others", 0.5)

        return decide

    sharper = tuple(
        make_claim(
            f"{family}-{name}",
            f"{NAMES[family]}: {DEEP[family]} lies in a sharper minimum than {SHALLOW[family]}: "
            f"{text}.",
            "Fig. 5, Section 4",
            contrast(family, name),
            f"({DEEP[family]} - {SHALLOW[family]}) / their sum",
        )
        for family in families
        for name, text in (("increase", "rise of the loss"), ("curvature", "Hessian"))
    )
    repeats = tuple(
        Claim(
            f"{family}-repeats",
            f"{NAMES[family]}: the landscapes of layers are alike for different seeds: their rises "
            "are ranked alike.",
            f"{PAPER} Appendix A.5",
            agreement(family),
        )
        for family in families
    )

    def figures(data: xr.DataTree) -> list[Figure]:
        made: list[Figure] = []
        for family in families:
            dataset = found(data, family)
            shown = [n for n in dataset["layer"].values if n in (*VGG_SHOWN, "stage1", "stage2")
                     or n in ("stage3", "stage4")]  # fmt: skip
            surface = dataset["loss"].sel(layer=shown)
            title = f"{NAMES[family]}: loss around layers{suffix(scale)}"
            caption = (
                "Loss on a batch of training images while one layer moves along two random "
                "directions, filter by filter as long as its weights; contours at equal ratios."
            )
            if repeatable:
                surface = surface.sel(layer=DEEP[family], drop=True)
                surface = surface.assign_coords(seed=[f"seed {s}" for s in surface["seed"].values])
                title = f"{NAMES[family]}: loss around {DEEP[family]}{suffix(scale)}"
            made += [
                Surface(
                    surface,
                    key=f"landscape-{family}",
                    title=title,
                    caption=caption,
                    x="beta1",
                    y="beta2",
                    spread=None if repeatable else "seed",
                    panel="seed" if repeatable else "layer",
                    log=True,
                ),
                *(
                    Bars(
                        dataset[name],
                        key=f"{name}-{family}",
                        title=f"{NAMES[family]}: {text}{suffix(scale)}",
                        caption="Mean and 95% interval over seeds.",
                    )
                    for name, text in (
                        ("increase", "mean rise of the loss at half a layer's length"),
                        ("curvature", "largest eigenvalue of the Hessian"),
                    )
                ),
            ]
        return made

    return make_study(
        scale,
        figure,
        "Is the loss around deeper layers more rugged?"
        if not repeatable
        else "Do landscapes repeat over seeds?",
        "The trained network's loss while one layer is moved at random.",
        _reduction(scale),
        {family: imagenet(scale, family) for family in families},
        (probe,),
        repeats if repeatable else sharper,
        figures,
        source=source,
    )


def fig5(scale: Scale) -> Study:
    """ResNet-50 and VGG-19: shallower layers lie in flatter minima.

    Fig. 5: landscapes of shallow and deep layers. The paper judges pictures; here the mean rise of
    the loss at half a layer's length and the largest eigenvalue of its Hessian decide.
    """
    return _landscapes(scale, "fig5", FAMILIES, f"{PAPER} Fig. 5", repeatable=False)


def fig18(scale: Scale) -> Study:
    """ResNet-50: landscapes of layers repeat over seeds.

    Fig. 18, Appendix A.5: pictures of several seeds look alike. Here the ranking of layers by the
    rise of the loss decides.
    """
    return _landscapes(scale, "fig18", ("resnet50",), f"{PAPER} Fig. 18", repeatable=True)


def fig19(scale: Scale) -> Study:
    """VGG-19: landscapes of layers repeat over seeds; see fig18."""
    return _landscapes(scale, "fig19", ("vgg19",), f"{PAPER} Fig. 19", repeatable=True)


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

    def figures(data: xr.DataTree) -> list[Figure]:
        return [
            Lines(
                deciding.node(data, family, "response_frequency")[name]
                .isel(step=slice(1, None))
                .swap_dims(step="epoch"),
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
        _reduction(scale),
        _networks(scale),
        (ResponseFrequency(),),
        [
            make_claim(
                family,
                f"{NAMES[family]}: from epoch {early} on, the response of {DEEP[family]} grows "
                f"more than that of {SHALLOW[family]}.",
                "Fig. 7, Section 5",
                growth(family),
                "difference of log2 of growth",
            )
            for family in FAMILIES
        ],
        figures,
    )


@on_images
def fig11(scale: Scale) -> Study:
    """Weight variation falls with the learning rate and shows no convergence before.

    Fig. 11, Appendix A.2: norm of an epoch's change over the norm of the weights.
    """
    from layerscope.figures.figure import Lines
    from layerscope.probes import WeightChange
    from layerscope.recipes.layer_convergence_bias import deciding

    probe = WeightChange(p=2.0, minimum_dimensions=1)
    drop = imagenet(scale, "resnet50").milestones[0]

    def fall(family: Family) -> Callable[[xr.DataTree], xr.DataArray]:
        def effect(data: xr.DataTree) -> xr.DataArray:
            values = deciding.node(data, family, "weight_change")["change"]
            epoch = values["epoch"]  # the first one moves away from the initialisation
            before = values.where((epoch > 1) & (epoch <= drop), drop=True).mean("step")
            after = values.where(epoch > drop, drop=True).mean("step")
            return deciding.log2(before / after).min("layer")

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
        _reduction(scale),
        _networks(scale),
        (probe,),
        [
            make_claim(
                family,
                f"{NAMES[family]}: every layer varies less once the learning rate has fallen.",
                "Fig. 11, Appendix A.2",
                fall(family),
                "smallest log2 of variation before over after",
            )
            for family in FAMILIES
        ],
        figures,
    )
