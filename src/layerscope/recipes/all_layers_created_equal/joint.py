"""Several blocks at once: Fig. 6, 9 and 10, and Table 1 on frozen and removed blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from layerscope.recipes.all_layers_created_equal.deep import FEWER, RESNETS, resets
from layerscope.recipes.all_layers_created_equal.settings import (
    PAPER,
    SEEDS,
    Deep,
    reduced,
    resnet,
    suffix,
)
from layerscope.recipes.all_layers_created_equal.tables import beside_reported

if TYPE_CHECKING:
    import xarray as xr

    from layerscope.figures.figure import Figure
    from layerscope.probes import Reinitialisation
    from layerscope.studies.claims import Claim
    from layerscope.studies.study import Scale, Study

REPORTED: Mapping[Deep, Mapping[int, tuple[float, ...]]] = {
    "cifar10": {
        50: (8.40, 9.77, 11.74, 9.23, 1.38),
        101: (8.53, 8.87, 9.21, 9.23, 0.50),
        152: (8.54, 8.74, 9.17, 9.23, 0.39),
    },
    "imagenet": {
        50: (34.74, 38.54, 44.36, 41.50, 5.36),
        101: (32.78, 33.84, 36.03, 41.50, 2.10),
        152: (31.74, 32.42, 35.75, 41.50, 1.55),
    },
}
"""Table 1, in %: error of the full model, mean over resets of one block, frozen, removed; and the
deviation over the blocks that are reset."""
WAYS = ("full model", "one block reset", "frozen", "removed")
COLUMNS = (*WAYS, "deviation over blocks")


def fig6(scale: Scale) -> Study:
    """ResNet-152 on CIFAR-10: all ambient blocks at once cannot be reset, every other one can.

    Fig. 6: (a) all but the first blocks of the stages are reset together, (b) every other block.
    """
    return _groupings("fig6", scale, (152,) if scale != "smoke" else (18,))


def fig9(scale: Scale) -> Study:
    """ResNets on CIFAR-10: blocks that are robust alone are not robust together.

    Fig. 9: all but the first blocks of the stages, reset together. At ``small`` ResNet-18, 34, 50.
    """
    return _groupings("fig9", scale, RESNETS[scale], every_other=False)


def fig10(scale: Scale) -> Study:
    """ResNets on CIFAR-10: other groupings of blocks lose less.

    Fig. 10: (a) the later blocks of stages 1 and 4, (b) every other block. The text speaks of
    ResNet-50; ResNet-152 is beside it at ``paper``.
    """
    depths = {"paper": (50, 152), "small": (50,), "smoke": (18,)}[scale]
    return _groupings("fig10", scale, depths, outer=True)


def _groupings(
    name: str,
    scale: Scale,
    depths: tuple[Any, ...],
    every_other: bool = True,
    outer: bool = False,
) -> Study:
    from layerscope.probes import Reinitialisation
    from layerscope.probes.resets import robustness_heatmap
    from layerscope.recipes.all_layers_created_equal import deciding
    from layerscope.studies.study import Study

    alone = Reinitialisation(checkpoints=(0,), draws=0)
    probes: dict[str, Reinitialisation] = {
        "all but the first blocks": resets(scale, joint="all_but_first")
    }
    if outer:
        probes["later blocks of stages 1 and 4"] = resets(
            scale, joint=("stage1.resblk[!1]", "stage4.resblk[!1]")
        )
    if every_other:
        probes["every other block"] = resets(scale, joint="every_other")
    names = {f"resnet{depth}": f"ResNet-{depth}" for depth in depths}
    together = probes["all but the first blocks"]
    claims: list[Claim] = [deciding.joint_is_worse_than_alone(alone, together, names)]
    if every_other:
        claims.append(deciding.grouping_helps(together, probes["every other block"], names))

    def figures(data: xr.DataTree) -> list[Figure]:
        return [
            robustness_heatmap(
                deciding.found(data, key, probe),
                f"{key}-{group.replace(' ', '-')}",
                f"{called}, reset together: {group}{suffix(scale)}",
            )
            for key, called in names.items()
            for group, probe in probes.items()
        ]

    return Study(
        name=f"all_layers_created_equal.{name}",
        title="Can blocks that are robust alone be reset together?",
        source=f"{PAPER} {name.replace('fig', 'Fig. ')}",
        summary="Groups of residual blocks are reset together (those with a star, and the rest); "
        "blocks of a group have equal columns.",
        reduction=reduced(scale, "cifar10") + (FEWER[scale] if 152 not in depths else ""),
        scale=scale,
        variants={f"resnet{depth}": resnet(scale, depth) for depth in depths},
        seeds=SEEDS[scale],
        probes=(alone, *probes.values()),
        claims=tuple(claims),
        figures=figures,
    )


def later_blocks(depth: int) -> tuple[str, ...]:
    """All residual blocks but the first of each stage."""
    from layerscope.models.resnet import STAGES

    return tuple(
        f"stage{stage}.resblk{block}"
        for stage, length in enumerate(STAGES[depth], 1)
        for block in range(2, length + 1)
    )


def table1(scale: Scale) -> Study:
    """ResNets trained with all later blocks frozen at initialisation, or without them.

    Table 1: test error of the full model, the mean over resets of one block, and of networks whose
    later blocks are frozen or removed before training. At ``small`` ResNet-50 on CIFAR-10 alone;
    at ``paper`` ResNet-50, 101 and 152 on CIFAR-10 and ImageNet.
    """
    import xarray as xr

    from layerscope.figures.figure import Bars
    from layerscope.probes import Reinitialisation
    from layerscope.recipes.all_layers_created_equal import deciding
    from layerscope.studies.claims import Claim, Verdict, above, all_of
    from layerscope.studies.study import Study

    sets: tuple[Deep, ...] = ("cifar10", "imagenet") if scale == "paper" else ("cifar10",)
    depths: tuple[Any, ...] = {"paper": (50, 101, 152), "small": (50,), "smoke": (18,)}[scale]
    titles = {"cifar10": "CIFAR-10", "imagenet": "ImageNet"}
    probe = Reinitialisation(checkpoints=(0,), draws=0)
    cases: dict[str, tuple[Deep, Any]] = {
        f"{data}-resnet{depth}": (data, depth) for data in sets for depth in depths
    }

    def errors(data: xr.DataTree, case: str) -> dict[str, xr.DataArray]:
        return {
            "full model": deciding.trained_error(data, f"{case}-full", probe),
            "one block reset": deciding.later_mean(data, f"{case}-full", probe),
            "frozen": deciding.trained_error(data, f"{case}-frozen", probe),
            "removed": deciding.trained_error(data, f"{case}-removed", probe),
            "deviation over blocks": deciding.later_deviation(data, f"{case}-full", probe),
        }

    def differ(
        data: xr.DataTree, more: str, less: str, chosen: Sequence[str], at_least: float = 0.0
    ) -> Verdict:
        parts = {}
        for case in chosen:
            found = errors(data, case)
            parts[case] = above(
                found[more] - found[less], f"{case}: {more} less {less}, points", at_least
            )
        return all_of(parts)

    def of(dataset: Deep, *chosen: int) -> list[str]:
        return [c for c, (d, n) in cases.items() if d == dataset and (n in chosen or not chosen)]

    deepest = of("imagenet", 101, 152)
    more_on_imagenet = (
        (
            Claim(
                "removed-imagenet",
                "ImageNet, ResNet-101 and 152: leaving the later blocks out gives a higher error "
                "than freezing them.",
                f"{PAPER} Table 1, Section 5",
                lambda data: differ(data, "removed", "frozen", deepest),
            ),
        )
        if deepest
        else ()
    )

    def table(data: xr.DataTree) -> xr.DataArray:
        rows = []
        for case in cases:
            found = errors(data, case)
            ways = xr.DataArray(list(COLUMNS), dims="way", name="way")
            rows.append(xr.concat([found[w] for w in COLUMNS], ways, coords="minimal"))
        labels = [f"{titles[d]} ResNet-{depth}" for d, depth in cases.values()]
        values = xr.concat(rows, xr.DataArray(labels, dims="network", name="network"))
        return values.reset_coords(drop=True).assign_attrs(long_name="test error", units="%")

    def figures(data: xr.DataTree) -> list[Figure]:
        values = table(data)
        reported = {
            way: [REPORTED[d].get(n, (float("nan"),) * 5)[index] for d, n in cases.values()]
            for index, way in enumerate(COLUMNS)
        }
        return [
            Bars(
                values.sel(way=list(WAYS)),
                key="error",
                title=f"Test error of networks with later blocks changed{suffix(scale)}",
                caption="Full model; mean over resets of one later block after training; later "
                "blocks frozen at initialisation or left out before training. Mean and 95% "
                "interval over seeds.",
                x="network",
                hue="way",
            ),
            beside_reported(
                values,
                "way",
                reported,
                scale,
                "Reported: Table 1 of the paper, at its own scale; the first block of each stage "
                "is never changed.",
            ),
        ]

    return Study(
        name="all_layers_created_equal.table1",
        title="Must the blocks that can be reset be trained, or be there at all?",
        source=f"{PAPER} Table 1",
        summary="All residual blocks but the first of each stage are frozen at initialisation or "
        "left out, and the rest is trained.",
        reduction=reduced(scale, "cifar10"),
        scale=scale,
        variants={
            f"{case}-{way}": config
            for case, (data, depth) in cases.items()
            for way, config in (
                ("full", resnet(scale, depth, data=data)),
                ("frozen", resnet(scale, depth, data=data, frozen=later_blocks(depth))),
                ("removed", resnet(scale, depth, data=data, removed=later_blocks(depth))),
            )
        },
        seeds=SEEDS[scale],
        probes=(probe,),
        claims=(
            Claim(
                "frozen",
                "Training with the later blocks frozen gives a higher error than resetting one of "
                "them after training.",
                f"{PAPER} Table 1, Section 5",
                lambda data: differ(data, "frozen", "one block reset", list(cases)),
            ),
            Claim(
                "removed",
                "CIFAR-10: leaving the later blocks out costs no more than 2 points over freezing "
                "them.",
                f"{PAPER} Table 1, Section 5",
                lambda data: differ(data, "frozen", "removed", of("cifar10"), -2.0),
            ),
            *more_on_imagenet,
        ),
        figures=figures,
    )
