"""Deep convolutional networks, one layer or block at a time: Fig. 3, 4 and 5."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from layerscope.recipes.all_layers_created_equal.settings import (
    PAPER,
    SEEDS,
    Deep,
    reduced,
    resnet,
    suffix,
    vgg,
)

if TYPE_CHECKING:
    import xarray as xr

    from layerscope.config import RunConfig
    from layerscope.figures.figure import Figure
    from layerscope.probes import Reinitialisation
    from layerscope.studies.claims import Claim
    from layerscope.studies.study import Scale, Study

RESNETS: Mapping[Scale, tuple[Any, ...]] = {
    "paper": (18, 34, 50, 101, 152),
    "small": (18, 34, 50),
    "smoke": (18,),
}
FEWER: Mapping[Scale, str] = {"paper": "", "small": " No ResNet-101 and 152.", "smoke": ""}
VGGS: Mapping[Scale, tuple[Any, ...]] = {
    "paper": (11, 13, 16, 19),
    "small": (11, 13, 16, 19),
    "smoke": (11,),
}


def resets(scale: Scale, **settings: Any) -> Reinitialisation:
    """The probe, with fewer draws below the paper's scale."""
    from layerscope.probes import Reinitialisation

    return Reinitialisation(draws=5 if scale == "paper" else 3, **settings)


def robustness_study(
    name: str,
    scale: Scale,
    title: str,
    summary: str,
    reduction: str,
    variants: Mapping[str, RunConfig],
    names: Mapping[str, str],
    claims: Sequence[Claim],
    probe: Reinitialisation,
    draw: Callable[[xr.Dataset, str, str], list[Figure]] | None = None,
) -> Study:
    """A study that resets one layer at a time and shows one heatmap for each variant.

    Args:
        name: The recipe, e.g. ``"fig3"``.
        scale: The scale.
        title: What is asked.
        summary: What is done.
        reduction: What the scale reduces.
        variants: Configuration by key.
        names: What each variant is called, by key.
        claims: What is decided.
        probe: The resets.
        draw: Figures of one variant from its measurement, key and name; heatmaps by default.
    """
    from layerscope.probes.resets import robustness_heatmap
    from layerscope.recipes.all_layers_created_equal.deciding import found
    from layerscope.studies.study import Study

    def heatmap(dataset: xr.Dataset, key: str, called: str) -> list[Figure]:
        return [robustness_heatmap(dataset, f"robustness-{key}", f"{called}{suffix(scale)}")]

    def figures(data: xr.DataTree) -> list[Figure]:
        return [
            figure
            for key, called in names.items()
            for figure in (draw or heatmap)(found(data, key, probe), key, called)
        ]

    return Study(
        name=f"all_layers_created_equal.{name}",
        title=title,
        source=f"{PAPER} {name.replace('fig', 'Fig. ')}",
        summary=summary,
        reduction=reduction,
        scale=scale,
        variants=variants,
        seeds=SEEDS[scale],
        probes=(probe,),
        claims=tuple(claims),
        figures=figures,
    )


def fig3(scale: Scale) -> Study:
    """VGGs on CIFAR-10: layers at the bottom are critical, those at the top can be reset.

    Fig. 3: VGG-11, 13, 16 and 19, without weight decay and batch normalisation.
    """
    from layerscope.recipes.all_layers_created_equal import deciding

    probe = resets(scale)
    names = {f"vgg{depth}": f"VGG-{depth}" for depth in VGGS[scale]}
    return robustness_study(
        "fig3",
        scale,
        "Which layers of a VGG can be reset?",
        "Each layer of the trained network is set back to an earlier time or drawn anew, the "
        "others stay as trained.",
        reduced(scale, "cifar10"),
        {f"vgg{depth}": vgg(scale, depth) for depth in VGGS[scale]},
        names,
        [deciding.bottom_is_critical(probe, names)],
        probe,
    )


def fig4(scale: Scale) -> Study:
    """ResNets on CIFAR-10: critical blocks are spread over the stages, most blocks are ambient.

    Fig. 4: ResNet-18 to 152 by residual block. At ``small`` ResNet-18, 34 and 50.
    """
    return _residual("fig4", scale, "cifar10")


def fig5(scale: Scale) -> Study:
    """ResNets on ImageNet: fewer blocks can be reset where the task is harder.

    Fig. 5: ResNet-18 to 152 by residual block. At ``small`` Tiny ImageNet stands in, with
    ResNet-18, 34 and 50.
    """
    return _residual("fig5", scale, "imagenet")


def _residual(name: str, scale: Scale, data: Deep) -> Study:
    from layerscope.recipes.all_layers_created_equal import deciding

    probe = resets(scale)
    names = {f"resnet{depth}": f"ResNet-{depth}" for depth in RESNETS[scale]}
    return robustness_study(
        name,
        scale,
        "Which residual blocks can be reset?",
        "Each residual block of the trained network is set back to an earlier time or drawn anew, "
        "the others stay as trained.",
        reduced(scale, data) + FEWER[scale],
        {f"resnet{depth}": resnet(scale, depth, data=data) for depth in RESNETS[scale]},
        names,
        [
            deciding.first_blocks_are_critical(probe, names),
            deciding.critical_blocks_spread(probe, names),
            deciding.random_blocks_are_harmless(probe, names),
        ],
        probe,
    )
