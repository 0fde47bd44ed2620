"""Vision transformers: Fig. 9 and 21."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerscope.config import SGD
from layerscope.recipes.layer_convergence_bias.building import (
    curves,
    difference,
    make_claim,
    make_study,
    on_images,
)
from layerscope.recipes.layer_convergence_bias.networks import (
    reduced,
    vit,
)
from layerscope.recipes.layer_convergence_bias.settings import suffix

if TYPE_CHECKING:
    import xarray as xr

    from layerscope.claims import Claim
    from layerscope.figures.figure import Figure
    from layerscope.study import Scale, Study

ARRANGEMENTS = {
    "wider": ("deeper encoders wider", (2,) * 6 + (4,) * 3 + (8,) * 3),
    "vanilla": ("vanilla", (4,) * 12),
    "narrower": ("deeper encoders narrower", (8,) * 3 + (4,) * 3 + (2,) * 6),
}


@on_images
def fig9(scale: Scale) -> Study:
    """ViTs of equal size are better with the wider encoders at the end.

    Fig. 9: accuracies of 80.75, 78.88 and 75.75% with deeper encoders wider, equal and narrower.
    At ``small`` on CIFAR-10, width 64.
    """
    from layerscope.figures.figure import Bars
    from layerscope.recipes.layer_convergence_bias import deciding

    variants = {name: vit(scale, widths) for name, (_, widths) in ARRANGEMENTS.items()}

    def figures(data: xr.DataTree) -> list[Figure]:
        import xarray as xr

        labels = [label for label, _ in ARRANGEMENTS.values()]
        index = xr.DataArray(labels, dims="arrangement", name="arrangement")
        values = xr.concat([deciding.error(data, name) for name in ARRANGEMENTS], index)
        values = values.reset_coords(drop=True).assign_attrs(long_name="test error", units="%")
        return [
            Bars(
                values,
                key="error",
                title="Test error by arrangement" + suffix(scale),
                caption="Error on the test images at the end of training; mean and 95% interval "
                "over seeds.",
                x="arrangement",
            )
        ]

    def better(name: str, more: str, less: str) -> Claim:
        return make_claim(
            name,
            f"{ARRANGEMENTS[more][0].capitalize()} has a smaller test error than "
            f"{ARRANGEMENTS[less][0]}.",
            "Fig. 9, Section 6.1",
            lambda data: deciding.error(data, less) - deciding.error(data, more),
            f"test error, {less} less {more}, points",
        )

    return make_study(
        scale,
        "fig9",
        "Should deeper encoders be wider?",
        "Vision transformers of 12 encoders with feed-forward parts of different widths.",
        _vit_reduced(scale),
        variants,
        (),
        (better("wider", "wider", "vanilla"), better("narrower", "vanilla", "narrower")),
        figures,
    )


VIT_READING = (
    "8 heads, patches of 16 pixels, images cropped and flipped, learning rate 0.1 and momentum 0.9 "
    "where SGD is used"
)


def _vit_reduced(scale: Scale) -> str:
    text = "CIFAR-10 in place of ImageNet"
    size = "width 64 instead of 256, 4 heads instead of 8, patches of 4 pixels instead of 16"
    return reduced(scale, text, vit(scale, (4,)), size, VIT_READING)


@on_images
def fig21(scale: Scale) -> Study:
    """ViT trained with SGD shows the bias, with Adam only roughly.

    Fig. 21: with Adam encoder 12 converges slowest, but the patch embedding is not the fastest.
    The learning rate of SGD is not stated and read here as 0.1 with momentum 0.9.
    """
    from layerscope.probes import Convergence
    from layerscope.recipes.layer_convergence_bias import deciding

    widths = ARRANGEMENTS["vanilla"][1]
    sgd = SGD(learning_rate=0.1, momentum=0.9, weight_decay=1e-4)
    variants = {"sgd": vit(scale, widths, sgd), "adam": vit(scale, widths)}
    until = max(1, variants["sgd"].epochs // 5)
    encoders = [f"encoders.{i}" for i in range(12)]

    def slowest(data: xr.DataTree) -> xr.DataArray:
        rate = deciding.rates(data, "adam").sel(layer=encoders)
        return rate.isel(layer=slice(0, -1)).min("layer") - rate.isel(layer=-1, drop=True)

    return make_study(
        scale,
        "fig21",
        "Do vision transformers show the bias?",
        "A vision transformer of 12 encoders with two optimisers.",
        _vit_reduced(scale),
        variants,
        (Convergence(intervals=((0, until),)),),
        (
            make_claim(
                "sgd",
                f"With SGD the first encoder converges faster than the last over {until} epochs.",
                "Fig. 21, Appendix A.7",
                difference("convergence", "rate", "sgd", encoders[0], encoders[-1], 0),
                "C(encoder 1) - C(encoder 12)",
            ),
            make_claim(
                "adam",
                "With Adam the last encoder converges slowest.",
                "Fig. 21, Appendix A.7",
                slowest,
                "smallest C of the other encoders less C(encoder 12)",
            ),
        ),
        lambda data: curves(data, {"sgd": "ViT, SGD", "adam": "ViT, Adam"}, scale),
    )
