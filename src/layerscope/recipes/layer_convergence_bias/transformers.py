"""Vision transformers: Fig. 9 and 21."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from layerscope.config import SGD
from layerscope.recipes.layer_convergence_bias.building import (
    curves,
    make_claim,
    make_study,
    on_images,
)
from layerscope.recipes.layer_convergence_bias.networks import (
    reduced,
    vit,
)
from layerscope.recipes.layer_convergence_bias.settings import PAPER, suffix

if TYPE_CHECKING:
    import xarray as xr

    from layerscope.figures.figure import Figure
    from layerscope.studies.claims import Claim, Verdict
    from layerscope.studies.study import Scale, Study

ARRANGEMENTS = {
    "wider": ("deeper encoders wider", (2,) * 6 + (4,) * 3 + (8,) * 3),
    "vanilla": ("vanilla", (4,) * 12),
    "narrower": ("deeper encoders narrower", (8,) * 3 + (4,) * 3 + (2,) * 6),
}


@on_images
def fig9(scale: Scale) -> Study:
    """ViTs of equal size are better with the wider encoders at the end.

    Fig. 9: best accuracies of 80.75, 78.88 and 75.75% with deeper encoders wider, equal and
    narrower. Best means over epochs, in the paper as here. At ``small`` on CIFAR-10, width 48.
    """
    from layerscope.figures.figure import Bars, Lines
    from layerscope.probes import Performance
    from layerscope.recipes.layer_convergence_bias import deciding

    variants = {name: vit(scale, widths) for name, (_, widths) in ARRANGEMENTS.items()}

    def joined(values: Callable[[str], xr.DataArray]) -> xr.DataArray:
        labels = [label for label, _ in ARRANGEMENTS.values()]
        return deciding.along("arrangement", labels, [values(name) for name in ARRANGEMENTS])

    def figures(data: xr.DataTree) -> list[Figure]:
        best = joined(lambda name: deciding.errors(data, name).min("step"))
        best = best.assign_attrs(long_name="smallest test error", units="%")
        return [
            Bars(
                best,
                key="error",
                title="Best test error by arrangement" + suffix(scale),
                caption="Smallest error on the test images after any epoch; mean and 95% interval "
                "over seeds.",
                x="arrangement",
            ),
            Lines(
                joined(lambda name: deciding.errors(data, name)).swap_dims(step="epoch"),
                key="error-over-time",
                title="Test error over training" + suffix(scale),
                caption="Error on the test images; mean and 95% interval over seeds.",
                x="epoch",
                hue="arrangement",
            ),
        ]

    def better(more: str, less: str) -> Claim:
        def effect(data: xr.DataTree) -> xr.DataArray:
            large, small = (deciding.errors(data, name).min("step") for name in (less, more))
            return large - small

        return make_claim(
            f"{more}-{less}",
            f"{ARRANGEMENTS[more][0].capitalize()} has a smaller best test error than "
            f"{ARRANGEMENTS[less][0]}.",
            "Fig. 9, Section 6.1",
            effect,
            f"best test error, {less} less {more}, points",
            variants=[more, less],
        )

    return make_study(
        scale,
        "fig9",
        "Should deeper encoders be wider?",
        "Vision transformers of 12 encoders with feed-forward parts of different widths.",
        _vit_reduced(scale),
        variants,
        (Performance(checkpoints="all"),),
        (better("wider", "vanilla"), better("vanilla", "narrower"), better("wider", "narrower")),
        figures,
    )


VIT_READING = (
    "8 heads, patches of 16 pixels, images cropped and flipped, learning rate 0.1 and momentum 0.9 "
    "where SGD is used"
)


def _vit_reduced(scale: Scale, rates: str = "") -> str:
    text = "CIFAR-10 in place of ImageNet"
    size = "width 48 instead of 256, 4 heads instead of 8, patches of 4 pixels instead of 16"
    return reduced(scale, text, vit(scale, (4,)), size, VIT_READING, rates)


@on_images
def fig21(scale: Scale) -> Study:
    """ViT trained with SGD shows the bias, with Adam only roughly.

    Fig. 21: with Adam encoder 12 converges slowest, but the patch embedding is not the fastest.
    That the bias holds with SGD is decided by the first and the last four encoders.
    The learning rate of SGD is not stated and read here as 0.1 with momentum 0.9.
    """
    from layerscope.probes import Convergence
    from layerscope.recipes.layer_convergence_bias import deciding
    from layerscope.studies.claims import Claim

    widths = ARRANGEMENTS["vanilla"][1]
    sgd = SGD(learning_rate=0.1, momentum=0.9, weight_decay=1e-4)
    variants = {"sgd": vit(scale, widths, sgd), "adam": vit(scale, widths)}
    until = max(1, variants["sgd"].epochs // 5)
    encoders = [f"encoders.{i}" for i in range(12)]

    def thirds(data: xr.DataTree) -> xr.DataArray:
        rate = deciding.rates(data, "sgd").sel(layer=encoders)
        return rate.isel(layer=slice(4)).mean("layer") - rate.isel(layer=slice(-4, None)).mean(
            "layer"
        )

    def slowest(data: xr.DataTree) -> Verdict:
        rate = deciding.rates(data, "adam")
        return deciding.exceeds_each(rate, encoders[-1], encoders[:-1], "C", sign=-1)

    def behind(data: xr.DataTree) -> xr.DataArray:
        rate = deciding.rates(data, "adam")
        fastest = deciding.largest_elsewhere(rate.sel(layer=encoders))
        return fastest - rate.sel(layer="patch_embedding", drop=True)

    return make_study(
        scale,
        "fig21",
        "Do vision transformers show the bias?",
        "A vision transformer of 12 encoders with two optimisers.",
        _vit_reduced(scale, " (with SGD 0.1, momentum 0.9)"),
        variants,
        (Convergence(intervals=((0, until),)),),
        (
            make_claim(
                "sgd",
                "With SGD the first four encoders converge faster than the last four over "
                f"{until} epochs.",
                "Fig. 21, Appendix A.7",
                thirds,
                "mean C of encoders 1 to 4 less that of 9 to 12",
                variants=["sgd"],
            ),
            Claim(
                "adam",
                "With Adam the last encoder converges more slowly than every other one.",
                f"{PAPER} Fig. 21, Appendix A.7",
                slowest,
                ("adam",),
            ),
            make_claim(
                "embedding",
                "With Adam the patch embedding is not the fastest.",
                "Fig. 21, Appendix A.7",
                behind,
                "C of the encoder that is fastest with the other seeds less C(patch embedding)",
                variants=["adam"],
            ),
        ),
        lambda data: curves(data, {"sgd": "ViT, SGD", "adam": "ViT, Adam"}, scale),
    )
