"""Fully connected networks: Fig. 1, 2 and 8, and the bound of Section 4."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from layerscope.recipes.all_layers_created_equal.settings import (
    PAPER,
    fcn,
    reduced,
    suffix,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import xarray as xr

    from layerscope.figures.figure import Figure
    from layerscope.studies.study import Scale, Study

WIDTHS: Mapping[Scale, tuple[int, ...]] = {
    "paper": (32, 64, 128, 256, 512, 1024),
    "small": (32, 64, 128, 256),
    "smoke": (8, 16),
}
DEPTHS = (3, 5)


def fig1(scale: Scale) -> Study:
    """FCN 3x256 on MNIST: resetting layer 1 destroys the network, resetting others hardly matters.

    Fig. 1: (a) test error when one layer is re-randomised or re-initialised to each checkpoint,
    (b, c) both distances of the trained weights from those put in their place. See `settings` for
    what the paper leaves open. The checkpoints shown are 0, 1, 2, 4, 8, ... and the last.

    At ``small`` 12 epochs instead of 100, the schedule in proportion.
    """
    from layerscope.probes import Reinitialisation
    from layerscope.probes.resets import distance_heatmaps, robustness_heatmap
    from layerscope.recipes.all_layers_created_equal import deciding
    from layerscope.studies.study import Study

    probe, variant = Reinitialisation(), "fcn3x256"

    def figures(data: xr.DataTree) -> list[Figure]:
        dataset = deciding.found(data, variant, probe)
        end = suffix(scale)
        return [
            robustness_heatmap(dataset, "robustness", f"Test error after resetting one layer{end}"),
            *distance_heatmaps(dataset, "distance"),
            degradation_bars(dataset),
        ]

    return Study(
        name="all_layers_created_equal.fig1",
        title="Which layers of FCN 3x256 can be reset after training on MNIST?",
        source=f"{PAPER} Fig. 1",
        summary="Each layer of the trained network is set back to an earlier time or drawn anew, "
        "the others stay as trained; no retraining.",
        reduction=reduced(scale, "mnist"),
        scale=scale,
        variants={variant: fcn(scale, 3, 256)},
        seeds=(0, 1, 2, 3, 4),
        probes=(probe,),
        claims=(
            deciding.first_layer_is_critical(probe, variant),
            deciding.random_layers_destroy(probe, variant),
            deciding.distance_does_not_rank(probe, variant),
        ),
        figures=figures,
    )


def degradation_bars(dataset: xr.Dataset) -> Figure:
    """What resetting each layer to its initial weights costs, over seeds."""
    from layerscope.figures.figure import Bars, Reference

    return Bars(
        dataset["degradation"].sel(checkpoint="0").reset_coords(drop=True),
        key="degradation",
        title="Cost of resetting a layer to its initial weights",
        caption="Rise of the test error in percentage points; mean and 95% interval over seeds. "
        "A layer is labelled ambient where its 95% bound over test examples lies below 2 points, "
        "critical where it lies above 20.",
        references=(Reference(2.0, "ambient below"), Reference(20.0, "critical above")),
    )


def fig2(scale: Scale) -> Study:
    """FCNs of growing width: the wider the network, the less it costs to reset layers above one.

    Fig. 2: mean rise of the test error over all layers but the first, each reset to its initial
    weights alone, for depths 3 and 5, on MNIST (a) and CIFAR-10 (b).

    At ``paper`` the MNIST networks (a) are trained as in the paper; those on CIFAR-10 (b) are
    trained as at ``small``, which the figure says, and `fig2b` trains them in full. At ``small``
    there are widths to 256, 12 epochs, and 10,000 images of CIFAR-10 without augmentation.
    """
    inner: Scale = "small" if scale == "paper" else scale
    note = (
        f"MNIST: the paper's settings. CIFAR-10: {reduced('small', 'cifar10 fcn')}"
        if scale == "paper"
        else f"{reduced(scale, 'mnist')} CIFAR-10: {reduced(scale, 'cifar10 fcn')}"
    )
    return _widths("fig2", scale, {"mnist": scale, "cifar10": inner}, note)


def fig2b(scale: Scale) -> Study:
    """FCNs of growing width on CIFAR-10 alone, at any scale: see fig2."""
    return _widths("fig2b", scale, {"cifar10": scale}, reduced(scale, "cifar10 fcn"))


TITLES = {"mnist": "MNIST", "cifar10": "CIFAR-10"}
Data = Literal["mnist", "cifar10"]


def _widths(name: str, scale: Scale, parts: Mapping[Data, Scale], note: str) -> Study:
    import xarray as xr

    from layerscope.figures.figure import Lines
    from layerscope.probes import Reinitialisation
    from layerscope.recipes.all_layers_created_equal import deciding
    from layerscope.studies.study import Study

    probe = Reinitialisation(checkpoints=(0,), draws=0)

    def key(data: str, depth: int, width: int) -> str:
        return f"{data}-fcn{depth}x{width}"

    def figures(data: xr.DataTree) -> list[Figure]:
        drawn: list[Figure] = []
        for part, at in parts.items():
            widths = WIDTHS[at]
            rows = [
                xr.concat(
                    [deciding.upper_mean(data, key(part, depth, w), probe) for w in widths],
                    xr.DataArray(list(widths), dims="width", attrs={"long_name": "width"}),
                    coords="minimal",
                )
                for depth in DEPTHS
            ]
            names = xr.DataArray([f"depth {d}" for d in DEPTHS], dims="depth")
            values = xr.concat(rows, names.rename("depth"), coords="minimal")
            values.attrs = {"long_name": "mean rise of the test error", "units": "points"}
            drawn.append(
                Lines(
                    values.reset_coords(drop=True),
                    key=f"width-{part}",
                    title=f"Cost of resetting a layer above the first, {TITLES[part]}{suffix(at)}",
                    caption="Mean over these layers, each reset to its initial weights alone; mean "
                    "and 95% interval over seeds." + (f" {note}" if at != scale else ""),
                    x="width",
                    hue="depth",
                    log_x=True,
                    markers=True,
                )
            )
        return drawn

    return Study(
        name=f"all_layers_created_equal.{name}",
        title="Are wider networks easier to reset?",
        source=f"{PAPER} Fig. 2",
        summary="The mean cost of resetting a layer above the first, in networks of growing width.",
        reduction=note,
        scale=scale,
        variants={
            key(part, depth, width): fcn(at, depth, width, part)
            for part, at in parts.items()
            for depth in DEPTHS
            for width in WIDTHS[at]
        },
        seeds=(0, 1, 2, 3, 4),
        probes=(probe,),
        claims=tuple(
            deciding.width_helps(
                probe,
                f"{TITLES[part]} depth {depth}",
                {w: key(part, depth, w) for w in WIDTHS[at]},
            )
            for part, at in parts.items()
            for depth in DEPTHS
        ),
        figures=figures,
    )


def fig8(scale: Scale) -> Study:
    """FCN 5x256 on MNIST: layers that can be reset alone cannot all be reset together.

    Fig. 8: joint robustness with three groupings: all layers above the first; two of three; every
    other. The groups count from layer 2, since layer 1 is critical alone: {2..6}, {2, 3, 5, 6},
    {2, 4, 6}, where layer 6 is the classifier.
    """
    from layerscope.probes import Reinitialisation
    from layerscope.probes.resets import Rule, robustness_heatmap
    from layerscope.recipes.all_layers_created_equal import deciding
    from layerscope.studies.study import Study

    variant, alone = "fcn5x256", Reinitialisation()
    rules: dict[str, Rule] = {
        "all above the first": "all_but_first",
        "two of three": "two_of_three",
        "every other": "every_other",
    }
    joint = {name: Reinitialisation(joint=rule) for name, rule in rules.items()}

    def figures(data: xr.DataTree) -> list[Figure]:
        shown = {f"Reset together: {name}": probe for name, probe in joint.items()}
        shown["Reset one at a time"] = alone
        return [
            robustness_heatmap(
                deciding.found(data, variant, probe),
                f"joint-{probe.joint}".replace("_", "-"),
                f"{title}{suffix(scale)}",
            )
            for title, probe in shown.items()
        ]

    return Study(
        name="all_layers_created_equal.fig8",
        title="Can layers that are robust alone be reset together?",
        source=f"{PAPER} Fig. 8",
        summary="Groups of layers of FCN 5x256 are reset together; layers of a group have equal "
        "rows.",
        reduction=reduced(scale, "mnist"),
        scale=scale,
        variants={variant: fcn(scale, 5, 256)},
        seeds=(0, 1, 2, 3, 4),
        probes=(alone, *joint.values()),
        claims=(
            deciding.joint_is_not_robust(
                alone, joint["all above the first"], joint["every other"], variant
            ),
        ),
        figures=figures,
    )


def bound(scale: Scale) -> Study:
    """FCN 3x256 on MNIST: the parameter-counting bound with and without resettable layers.

    Section 4: the risk of the network with a share rho of its parameters reset is at most the
    empirical risk plus epsilon, what resetting costs on the training data, plus B((1 - rho) m, n).
    The guesses, made before seeing data, are the three groupings of Fig. 8 and resetting nothing;
    the union bound pays for choosing among them. The paper computes no numbers, and calls such
    bounds vacuous: with more parameters than examples the gap is the largest the formula can give,
    about 1.18, with or without resets, so that both claims are decided by the sizes alone.
    """
    from layerscope.probes import GeneralisationBound
    from layerscope.recipes.all_layers_created_equal import deciding
    from layerscope.studies.claims import Claim, above
    from layerscope.studies.study import Study

    probe, variant = GeneralisationBound(), "fcn3x256"

    def margin(data: xr.DataTree) -> xr.DataArray:
        dataset = deciding.found(data, variant, probe)
        guesses = [str(g) for g in dataset["guess"].values if str(g) != "nothing"]
        return dataset["plain"] - dataset["bound"].sel(guess=guesses).min("guess")

    def figures(data: xr.DataTree) -> list[Figure]:
        return probe.figures(deciding.found(data, variant, probe))

    return Study(
        name="all_layers_created_equal.bound",
        title="Does knowing which layers can be reset improve a generalisation bound?",
        source=f"{PAPER} Section 4",
        summary="A bound that counts parameters, for the trained network and for the network with "
        "layers reset. Where the VC dimension exceeds twice the number of examples, the gap is the "
        "formula's largest, whatever is reset.",
        reduction=reduced(scale, "mnist"),
        scale=scale,
        variants={variant: fcn(scale, 3, 256)},
        seeds=(0, 1, 2, 3, 4),
        probes=(probe,),
        claims=(
            Claim(
                "smaller",
                "The best guess of resettable layers gives a smaller bound than counting all "
                "parameters, the union bound included.",
                f"{PAPER} Section 4",
                lambda data: above(margin(data), "bound without resets less the smallest"),
            ),
            Claim(
                "vacuous",
                "The smallest bound is above 1, so that it says nothing.",
                f"{PAPER} Section 4",
                lambda data: above(
                    deciding.found(data, variant, probe)["bound"].min("guess"),
                    "smallest bound",
                    1.0,
                ),
            ),
        ),
        figures=figures,
    )
