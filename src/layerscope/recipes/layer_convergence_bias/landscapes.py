"""The loss around layers of ResNet-50 and VGG-19: Fig. 5, 18 and 19."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from layerscope.recipes.layer_convergence_bias.building import make_claim, make_study, on_images
from layerscope.recipes.layer_convergence_bias.networks import (
    DEEP,
    FAMILIES,
    NAMES,
    SHALLOW,
    SHOWN,
    Family,
    landscape_probe,
    networks,
    networks_reduced,
)
from layerscope.recipes.layer_convergence_bias.settings import suffix

if TYPE_CHECKING:
    import xarray as xr

    from layerscope.figures.figure import Figure
    from layerscope.studies.study import Scale, Study

NUMBERS = {
    "increase": ("rise of the loss", "Mean rise at half a layer's length."),
    "relative_curvature": (
        "curvature relative to length",
        "Largest eigenvalue of the layer's Hessian times its squared length.",
    ),
    "curvature": ("curvature", "Largest eigenvalue of the layer's Hessian."),
}
DECIDING = {
    "increase": "the loss rises more in random directions",
    "relative_curvature": "its sharpest direction curves more, relative to its length",
}
INNER = {
    "resnet50": ("stages", ("stage1", "stage2", "stage3", "stage4")),
    "vgg19": ("convolutions", ("conv",)),
}
"""What is compared between seeds: stem and classifiers differ from the rest in every network."""
SURFACE = (
    "Loss on a batch of training images while one layer moves along two random directions, filter "
    "by filter as long as its weights; contours at equal ratios."
)


def _found(data: xr.DataTree, family: str) -> xr.Dataset:
    from layerscope.recipes.layer_convergence_bias import deciding

    return deciding.node(data, family, "loss_landscape")


def _bars(data: xr.DataTree, family: str, scale: Scale, names: tuple[str, ...]) -> list[Figure]:
    from layerscope.figures.figure import Bars

    return [
        Bars(
            _found(data, family)[name],
            key=f"{name}-{family}",
            title=f"{NAMES[family]}: {NUMBERS[name][0]}{suffix(scale)}",
            caption=f"{NUMBERS[name][1]} Mean and 95% interval over seeds.",
        )
        for name in names
    ]


@on_images
def fig5(scale: Scale) -> Study:
    """ResNet-50 and VGG-19: shallower layers lie in flatter minima.

    Fig. 5: landscapes of shallow and deep layers. The paper judges pictures; here two numbers
    decide: the mean rise of the loss at half a layer's length, and the largest eigenvalue of its
    Hessian times its squared length, since layers differ in size and normalisation makes the scale
    of their weights arbitrary. They need not agree: the second tends to grow with the number of
    parameters. The eigenvalue itself is shown.
    """
    from layerscope.recipes.layer_convergence_bias import deciding

    def contrast(family: Family, name: str) -> Callable[[xr.DataTree], xr.DataArray]:
        def effect(data: xr.DataTree) -> xr.DataArray:
            values = _found(data, family)[name]
            deep, shallow = (
                values.sel(layer=n, drop=True) for n in (DEEP[family], SHALLOW[family])
            )
            return deciding.contrast(deep, shallow)

        return effect

    def figures(data: xr.DataTree) -> list[Figure]:
        from layerscope.figures.figure import Surface

        made: list[Figure] = []
        for family in FAMILIES:
            loss = _found(data, family)["loss"].isel(seed=0, drop=True)
            made.append(
                Surface(
                    deciding.present(loss, SHOWN[family]),
                    key=f"landscape-{family}",
                    title=f"{NAMES[family]}: loss around layers{suffix(scale)}",
                    caption=f"{SURFACE} The network of the first seed.",
                    x="beta1",
                    y="beta2",
                    panel="layer",
                    log=True,
                )
            )
            made += _bars(data, family, scale, tuple(NUMBERS))
        return made

    return make_study(
        scale,
        "fig5",
        "Is the loss around deeper layers more rugged?",
        "The trained network's loss while one layer is moved at random.",
        networks_reduced(scale),
        networks(scale),
        (landscape_probe(scale),),
        [
            make_claim(
                f"{family}-{name}",
                f"{NAMES[family]}: {DEEP[family]} lies in a sharper minimum than "
                f"{SHALLOW[family]}: {DECIDING[name]}.",
                "Fig. 5, Section 4",
                contrast(family, name),
                f"({DEEP[family]} - {SHALLOW[family]}) / their sum",
                variants=[family],
            )
            for family in FAMILIES
            for name in DECIDING
        ],
        figures,
    )


@on_images
def _repeats(scale: Scale, figure: str, family: Family) -> Study:
    """Landscapes of one network over seeds."""
    from layerscope.recipes.layer_convergence_bias import deciding

    def repeated(data: xr.DataTree) -> xr.DataArray:
        rise = _found(data, family)["increase"]
        inner = [n for n in rise["layer"].values if str(n).startswith(INNER[family][1])]
        return deciding.shared(deciding.log2(rise.sel(layer=inner)))

    def figures(data: xr.DataTree) -> list[Figure]:
        from layerscope.figures.figure import Surface

        loss = _found(data, family)["loss"]
        loss = loss.assign_coords(seed=[f"seed {seed}" for seed in loss["seed"].values])
        surfaces: list[Figure] = [
            Surface(
                loss.sel(layer=layer, drop=True),
                key=f"landscape-{layer}",
                title=f"{NAMES[family]}: loss around {layer}{suffix(scale)}",
                caption=f"{SURFACE} One network for each seed.",
                x="beta1",
                y="beta2",
                spread=None,
                panel="seed",
                log=True,
            )
            for layer in (SHALLOW[family], DEEP[family])
        ]
        return surfaces + _bars(data, family, scale, ("increase",))

    return make_study(
        scale,
        figure,
        "Do landscapes repeat over seeds?",
        "The loss of trained networks of several seeds while one layer is moved at random.",
        networks_reduced(scale),
        networks(scale, (family,)),
        (landscape_probe(scale),),
        [
            make_claim(
                "repeats",
                f"{NAMES[family]}: the rise of the loss around layers repeats over seeds: more "
                f"than half of the differences between the {INNER[family][0]} of a network, in its "
                "logarithm, are those that the networks of the other seeds show.",
                "Appendix A.5",
                repeated,
                "share of the variance between layers",
                0.5,
            )
        ],
        figures,
    )


def fig18(scale: Scale) -> Study:
    """ResNet-50: landscapes of layers repeat over seeds.

    Fig. 18, Appendix A.5: pictures of several seeds look alike. Here the rise of the loss decides:
    how much of what distinguishes the layers of one network distinguishes them in the others.
    """
    return _repeats(scale, "fig18", "resnet50")


def fig19(scale: Scale) -> Study:
    """VGG-19: landscapes of layers repeat over seeds; see fig18."""
    return _repeats(scale, "fig19", "vgg19")
