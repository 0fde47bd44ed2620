"""Weight decay and batch normalisation, distances, lines: Fig. 11 to 18 and Table 3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from layerscope.recipes.all_layers_created_equal.deep import resets, robustness_study
from layerscope.recipes.all_layers_created_equal.settings import (
    PAPER,
    SEEDS,
    TRAININGS,
    Deep,
    reduced,
    resnet,
    suffix,
    vgg,
)
from layerscope.recipes.all_layers_created_equal.tables import beside_reported

if TYPE_CHECKING:
    import xarray as xr

    from layerscope.figures.figure import Figure
    from layerscope.studies.study import Scale, Study

REPORTED: Mapping[str, tuple[float | None, ...]] = {
    "ResNet-18": (10.4, 7.5, 6.9, 5.5),
    "ResNet-34": (10.2, 6.9, 6.6, 5.1),
    "ResNet-50": (8.4, 9.9, 7.6, 5.0),
    "ResNet-101": (8.5, 9.8, 6.9, 5.3),
    "ResNet-152": (8.5, 9.7, 7.3, 4.7),
    "VGG-11": (11.8, 10.7, 9.4, 8.2),
    "VGG-13": (10.3, 8.8, 8.4, 6.7),
    "VGG-16": (11.0, 11.4, 8.5, 6.7),
    "VGG-19": (12.1, None, 8.6, 6.9),
}
"""Table 3, CIFAR-10: error in % plain, +wd, +bn, +wd+bn."""
REPORTED_IMAGENET: Mapping[str, tuple[float | None, ...]] = {
    "ResNet-18": (41.1, 33.1, 33.5, 31.5),
    "ResNet-34": (39.9, 30.6, 30.1, 27.2),
    "ResNet-50": (34.8, 31.8, 28.2, 25.0),
    "ResNet-101": (32.9, 29.9, 26.9, 22.9),
    "ResNet-152": (31.9, 29.1, 27.6, 22.6),
}
DEPTHS: Mapping[Scale, tuple[tuple[str, Any], ...]] = {
    "paper": (
        *(("ResNet", depth) for depth in (18, 34, 50, 101, 152)),
        *(("VGG", depth) for depth in (11, 13, 16, 19)),
    ),
    "small": (("ResNet", 18), ("VGG", 11)),
    "smoke": (("ResNet", 18),),
}


def fig11(scale: Scale) -> Study:
    """VGG-16 on CIFAR-10 with weight decay and batch normalisation: the pattern stays.

    Fig. 11 shows weight decay; batch normalisation is added here.
    """
    from layerscope.recipes.all_layers_created_equal import deciding

    probe = resets(scale)
    names = {f"vgg16-{key}": f"VGG-16{text}" for key, text in TRAININGS.items()}
    return robustness_study(
        "fig11",
        scale,
        "Do weight decay and batch normalisation change which layers of VGG-16 can be reset?",
        "Each layer of the trained network is reset, in four trainings.",
        _note(scale),
        {f"vgg16-{key}": vgg(scale, 16, key) for key in TRAININGS},
        names,
        [deciding.bottom_is_critical(probe, names)],
        probe,
    )


def fig12(scale: Scale) -> Study:
    """ResNet-50 on CIFAR-10 with weight decay and batch normalisation: the pattern stays.

    Fig. 12; with both, resetting to checkpoint 1 is said to cost more than to checkpoint 0. At
    ``small`` only the plain network and the one with both.
    """
    return _residual("fig12", scale, "cifar10")


def fig13(scale: Scale) -> Study:
    """ResNet-50 on ImageNet with weight decay and batch normalisation.

    Fig. 13. At ``small`` Tiny ImageNet stands in, plain and with both.
    """
    return _residual("fig13", scale, "imagenet")


def _note(scale: Scale, what: str = "cifar10") -> str:
    return f"Weight decay is 5e-4 (not stated in the paper). {reduced(scale, what)}"


def _residual(name: str, scale: Scale, data: Deep) -> Study:
    from layerscope.recipes.all_layers_created_equal import deciding

    probe, depth = resets(scale), 18 if scale == "smoke" else 50
    keys = ("plain", "wd_bn") if scale == "small" else tuple(TRAININGS)
    names = {f"resnet{depth}-{key}": f"ResNet-{depth}{TRAININGS[key]}" for key in keys}
    both = f"resnet{depth}-wd_bn"
    return robustness_study(
        name,
        scale,
        "Do weight decay and batch normalisation change which blocks can be reset?",
        f"Each residual block of the trained network is reset, in {len(keys)} trainings.",
        _note(scale, data),
        {f"resnet{depth}-{key}": resnet(scale, depth, key, data) for key in keys},
        names,
        [
            deciding.first_blocks_are_critical(probe, names),
            deciding.first_epoch_is_worse(probe, both, names[both]),
        ],
        probe,
    )


def fig14(scale: Scale) -> Study:
    """VGG-16 on CIFAR-10: robustness beside both distances from the trained weights.

    Fig. 14: the normalised L2 distance is said to go with robustness.
    """
    from layerscope.recipes.all_layers_created_equal import deciding

    probe, names = resets(scale), {"vgg16-plain": "VGG-16"}
    return robustness_study(
        "fig14",
        scale,
        "Do distances from initialisation tell which layers of VGG-16 can be reset?",
        "Robustness of each layer, and how far its weights moved.",
        reduced(scale, "cifar10"),
        {"vgg16-plain": vgg(scale, 16)},
        names,
        [deciding.distance_ranks(probe, "vgg16-plain", "VGG-16")],
        probe,
        _with_distances(scale),
    )


def fig15(scale: Scale) -> Study:
    """ResNet-50 on CIFAR-10: robustness beside both distances, plain and with both +wd+bn.

    Fig. 15: a weak relation without weight decay and normalisation, which is the claim; with both
    the paper finds none that is clear.
    """
    return _residual_distances("fig15", scale, "cifar10")


def fig16(scale: Scale) -> Study:
    """ResNet-50 on ImageNet: robustness beside both distances, plain and with both +wd+bn.

    Fig. 16. At ``small`` Tiny ImageNet stands in.
    """
    return _residual_distances("fig16", scale, "imagenet")


def _residual_distances(name: str, scale: Scale, data: Deep) -> Study:
    from layerscope.recipes.all_layers_created_equal import deciding

    probe, depth = resets(scale), 18 if scale == "smoke" else 50
    names = {
        f"resnet{depth}-{key}": f"ResNet-{depth}{TRAININGS[key]}" for key in ("plain", "wd_bn")
    }
    return robustness_study(
        name,
        scale,
        "Do distances from initialisation tell which blocks of ResNet-50 can be reset?",
        "Robustness of each block, and how far its weights moved.",
        _note(scale, data),
        {f"resnet{depth}-{key}": resnet(scale, depth, key, data) for key in ("plain", "wd_bn")},
        names,
        [deciding.distance_ranks(probe, f"resnet{depth}-plain", f"ResNet-{depth}")],
        probe,
        _with_distances(scale),
    )


def _with_distances(scale: Scale) -> Any:
    from layerscope.probes.resets import distance_heatmaps, robustness_heatmap

    def draw(dataset: xr.Dataset, key: str, called: str) -> list[Figure]:
        return [
            robustness_heatmap(dataset, f"robustness-{key}", f"{called}{suffix(scale)}"),
            *distance_heatmaps(dataset, f"distance-{key}", called),
        ]

    return draw


def fig17(scale: Scale) -> Study:
    """VGG-16 on CIFAR-10: the robustness of Fig. 14 as lines.

    Fig. 17: one line for each checkpoint over the layers.
    """
    from layerscope.recipes.all_layers_created_equal import deciding

    probe, names = resets(scale), {"vgg16-plain": "VGG-16"}
    return robustness_study(
        "fig17",
        scale,
        "Which layers of VGG-16 can be reset?",
        "The values of Fig. 14 as lines.",
        reduced(scale, "cifar10"),
        {"vgg16-plain": vgg(scale, 16)},
        names,
        [deciding.bottom_is_critical(probe, names)],
        probe,
        _as_lines(scale),
    )


def fig18(scale: Scale) -> Study:
    """ResNet-50 on CIFAR-10 and ImageNet: the robustness of Fig. 15 and 16 as lines.

    Fig. 18. At ``small`` Tiny ImageNet stands in for ImageNet.
    """
    from layerscope.recipes.all_layers_created_equal import deciding

    probe, depth = resets(scale), 18 if scale == "smoke" else 50
    sets: dict[Deep, str] = {"cifar10": "CIFAR-10", "imagenet": "ImageNet"}
    names = {
        f"{data}-{key}": f"ResNet-{depth}{TRAININGS[key]}, {title}"
        for data, title in sets.items()
        for key in ("plain", "wd_bn")
    }
    return robustness_study(
        "fig18",
        scale,
        "Which blocks of ResNet-50 can be reset?",
        "The values of Fig. 15 and 16 as lines.",
        f"{_note(scale)} {_note(scale, 'imagenet')}",
        {
            f"{data}-{key}": resnet(scale, depth, key, data)
            for data in sets
            for key in ("plain", "wd_bn")
        },
        names,
        [deciding.first_blocks_are_critical(probe, names)],
        probe,
        _as_lines(scale),
    )


def _as_lines(scale: Scale) -> Any:
    from layerscope.probes.resets import robustness_lines

    def draw(dataset: xr.Dataset, key: str, called: str) -> list[Figure]:
        return [robustness_lines(dataset, f"lines-{key}", f"{called}{suffix(scale)}")]

    return draw


def table3(scale: Scale) -> Study:
    """Test errors with and without weight decay and batch normalisation.

    Table 3. At ``paper`` all networks on CIFAR-10 and the ResNets on ImageNet; at ``small``
    ResNet-18 and VGG-11 on CIFAR-10.
    """
    import xarray as xr

    from layerscope.figures.figure import Bars
    from layerscope.probes import Reinitialisation
    from layerscope.recipes.all_layers_created_equal import deciding
    from layerscope.studies.claims import Claim, Verdict, above, all_of
    from layerscope.studies.study import Study

    probe = Reinitialisation(checkpoints=(0,), draws=0)
    rows: dict[str, tuple[str, Any, Deep]] = {
        f"{kind}-{depth}": (kind, depth, "cifar10") for kind, depth in DEPTHS[scale]
    }
    if scale == "paper":
        rows |= {
            f"ResNet-{depth} ImageNet": ("ResNet", depth, "imagenet")
            for depth in (18, 34, 50, 101, 152)
        }

    def key(row: str, training: str) -> str:
        return f"{row.lower().replace(' ', '-')}-{training}"

    def reported(row: str) -> tuple[float, ...]:
        network, _, data = row.partition(" ")
        values = (REPORTED_IMAGENET if data else REPORTED)[network]
        return tuple(float("nan") if value is None else value for value in values)

    def values(data: xr.DataTree) -> xr.DataArray:
        trainings = xr.DataArray(
            [text or "plain" for text in TRAININGS.values()], dims="training", name="training"
        )
        made = [
            xr.concat(
                [deciding.trained_error(data, key(row, t), probe) for t in TRAININGS],
                trainings,
                coords="minimal",
            )
            for row in rows
        ]
        found = xr.concat(made, xr.DataArray(list(rows), dims="network", name="network"))
        return found.reset_coords(drop=True).assign_attrs(long_name="test error", units="%")

    def helps(data: xr.DataTree) -> Verdict:
        return all_of(
            {
                row: above(
                    deciding.trained_error(data, key(row, "plain"), probe)
                    - deciding.trained_error(data, key(row, "wd_bn"), probe),
                    f"{row}: error plain less error with both, points",
                )
                for row in rows
            }
        )

    def figures(data: xr.DataTree) -> list[Figure]:
        found = values(data)
        by_training = {
            text or "plain": [reported(row)[index] for row in rows]
            for index, text in enumerate(TRAININGS.values())
        }
        return [
            Bars(
                found,
                key="error",
                title=f"Test error by training{suffix(scale)}",
                caption="Mean and 95% interval over seeds.",
                x="network",
                hue="training",
            ),
            beside_reported(
                found,
                "training",
                by_training,
                scale,
                "Reported: Table 3 of the paper, at its own scale.",
            ),
        ]

    return Study(
        name="all_layers_created_equal.table3",
        title="What do weight decay and batch normalisation gain?",
        source=f"{PAPER} Table 3",
        summary="Test errors of trained networks in four trainings.",
        reduction=_note(scale),
        scale=scale,
        variants={
            key(row, training): (
                vgg(scale, depth, training)
                if kind == "VGG"
                else resnet(scale, depth, training, data)
            )
            for row, (kind, depth, data) in rows.items()
            for training in TRAININGS
        },
        seeds=SEEDS[scale],
        probes=(probe,),
        claims=(
            Claim(
                "both-help",
                "Weight decay with batch normalisation lowers the test error of every network.",
                f"{PAPER} Table 3, Appendix C",
                helps,
            ),
        ),
        figures=figures,
    )
