"""What strengthens or weakens the bias: Fig. 8a-d, 12 to 16 and 20, each a sweep over a setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from layerscope.config import SGD, Adagrad, Adam, OptimizerConfig, RMSprop, RunConfig
from layerscope.recipes.layer_convergence_bias.building import make_study
from layerscope.recipes.layer_convergence_bias.residual import decay
from layerscope.recipes.layer_convergence_bias.settings import (
    PAPER,
    RESIDUAL,
    SEEDS,
    early,
    reduced,
    sine,
    suffix,
)

if TYPE_CHECKING:
    import xarray as xr

    from layerscope.claims import Claim, Verdict
    from layerscope.figures.figure import Figure
    from layerscope.study import Scale, Study

EVIDENT = 0.1
"""Relative bias from which on a bias counts as evident; the paper gives no number."""
LATER = 50
"""End of the second interval of which rates are given, in epochs."""


def _intervals(scale: Scale) -> tuple[tuple[float, float], ...]:
    return ((0, early(scale)), (0, 2 if scale == "smoke" else LATER))


def _sweep(
    scale: Scale,
    figure: str,
    setting: str,
    title: str,
    summary: str,
    variants: Mapping[str, tuple[str, RunConfig]],
    claims: Sequence[Claim],
    source: str = "",
) -> Study:
    """A study with one variant per value of a setting; ``variants``: (label, configuration)."""
    from layerscope.probes import Convergence, Performance
    from layerscope.recipes.layer_convergence_bias import deciding

    labels = {name: label for name, (label, _) in variants.items()}
    return make_study(
        scale,
        figure,
        title,
        f"{summary} The bias is C of the first block less C of the last, the relative bias "
        f"(C1 - Cn) / (|C1| + |Cn|). Claims are decided over the first {early(scale)} epochs.",
        reduced(scale),
        {name: config for name, (_, config) in variants.items()},
        (Convergence(intervals=_intervals(scale)), Performance()),
        [
            replace(
                claim,
                decide=deciding.when_trained(
                    claim.variants or labels, claim.decide, len(SEEDS)
                ),
            )
            for claim in claims
        ],
        lambda data: _figures(data, scale, setting, labels),
        source,
        seeds=SEEDS,
        may_diverge=frozenset(variants),
    )


def _figures(
    data: xr.DataTree, scale: Scale, setting: str, labels: Mapping[str, str]
) -> list[Figure]:
    import xarray as xr

    from layerscope.figures.figure import Bars, Lines
    from layerscope.recipes.layer_convergence_bias import deciding

    known = {name: label for name, label in labels.items() if name in data.children}

    def joined(parts: Sequence[xr.DataArray]) -> xr.DataArray:
        index = xr.DataArray(list(known.values()), dims=setting, name=setting)
        return xr.concat(parts, index, coords="minimal", compat="override", join="outer")

    rate = joined(
        [
            xr.concat(
                [deciding.bias(deciding.rates(data, name, i)) for i in (0, 1)],
                xr.DataArray([f"0-{b:g}" for _, b in _intervals(scale)], dims="epochs"),
            ).rename("bias")
            for name in known
        ]
    )
    rate.attrs |= {"long_name": "C(first block) - C(last block)", "units": "1 / epoch"}
    loss = joined([_loss(data, name) for name in known]).reset_coords(drop=True)
    loss.attrs |= {"long_name": "test loss", "units": "squared error"}
    end = suffix(scale)
    curves = [
        Lines(
            deciding.labelled(deciding.node(data, name, "convergence")["curve"]).swap_dims(
                step="epoch"
            ),
            key=f"convergence-{name}",
            title=f"{setting}: {label}{end}",
            caption="Distance to the final weights over the distance at initialisation; mean and "
            "95% interval over seeds.",
            x="epoch",
            references=(decay(data, name),),
        )
        for name, label in known.items()
    ]
    return [
        Bars(
            rate,
            key="bias",
            title=f"Layer convergence bias by {setting}{end}",
            caption="C of the first block less C of the last block; above zero the first block "
            "converges faster. Mean and 95% interval over seeds.",
            x=setting,
            hue="epochs",
        ),
        Bars(
            loss,
            key="loss",
            title=f"Test loss by {setting}{end}",
            caption="Mean squared error on the test examples at the end of training; mean and 95% "
            "interval over seeds.",
            x=setting,
        ),
        *curves,
    ]


def _loss(data: xr.DataTree, variant: str) -> xr.DataArray:
    """Test loss at the end, (seed,)."""
    from layerscope.recipes.layer_convergence_bias import deciding

    return deciding.node(data, variant, "performance")["loss"].isel(step=-1, drop=True)


def _biased(variants: Sequence[str], text: str, source: str, name: str = "bias") -> Claim:
    """The first block converges faster than the last, in each of some variants."""
    from layerscope.claims import Claim, above, all_of
    from layerscope.recipes.layer_convergence_bias import deciding

    statistic = "C(first block) - C(last block)"

    def decide(data: xr.DataTree) -> Verdict:
        return all_of(
            {v: above(deciding.bias(deciding.rates(data, v)), statistic) for v in variants}
        )

    return Claim(name, text, f"{PAPER} {source}", decide, tuple(variants))


def _weaker(
    strong: str, weak: Sequence[str], text: str, source: str, name: str = "weaker"
) -> Claim:
    """The relative bias is smaller in some variants than in another."""
    from layerscope.claims import Claim, above, all_of
    from layerscope.recipes.layer_convergence_bias import deciding

    statistic = "difference of relative biases"

    def decide(data: xr.DataTree) -> Verdict:
        first = deciding.relative_bias(deciding.rates(data, strong))
        return all_of(
            {
                v: above(first - deciding.relative_bias(deciding.rates(data, v)), statistic)
                for v in weak
            }
        )

    return Claim(name, text, f"{PAPER} {source}", decide, (strong, *weak))


def _gone(variant: str, label: str, source: str, either_way: bool = False) -> Claim:
    """The relative bias of a variant is small, or (not ``either_way``) reversed."""
    from layerscope.claims import Claim, above, all_of
    from layerscope.recipes.layer_convergence_bias import deciding

    def decide(data: xr.DataTree) -> Verdict:
        bias = deciding.relative_bias(deciding.rates(data, variant))
        signs = (1, -1) if either_way else (1,)
        return all_of(
            {
                f"bias {'below' if sign > 0 else 'above'} {sign * EVIDENT}": above(
                    EVIDENT - sign * bias,
                    f"{EVIDENT} {'less' if sign > 0 else 'plus'} the relative bias",
                )
                for sign in signs
            }
        )

    text = f"between -{EVIDENT} and {EVIDENT}" if either_way else f"below {EVIDENT}"
    return Claim(
        f"{variant}-none",
        f"With {label} no bias is evident: the relative bias is {text}.",
        f"{PAPER} {source}",
        decide,
        (variant,),
    )


def fig8a(scale: Scale) -> Study:
    """Simpler targets: the fewer fast components, the weaker the bias.

    Fig. 8 (a-d): the residual network fits the sum of the 4, 3, 2 and 1 slowest sines; deeper
    blocks converge faster the simpler the target, and the bias does not strictly hold any more.
    """
    from layerscope.claims import Claim, above
    from layerscope.recipes.layer_convergence_bias import deciding

    variants = {f"components{k}": (f"{k} of 4", sine(scale, components=k)) for k in (4, 3, 2, 1)}
    statistic = "C(last block), 1 component less 4"

    def faster(data: xr.DataTree) -> Verdict:
        simple, full = (
            deciding.first_and_last(deciding.rates(data, v))[1]
            for v in ("components1", "components4")
        )
        return above(simple - full, statistic)

    return _sweep(
        scale,
        "fig8a",
        "components of the target",
        "Do deeper blocks converge faster on simpler targets?",
        "A residual network fits sums of one to four sines.",
        variants,
        (
            Claim(
                "deeper-faster",
                "On one sine the last block converges faster than on all four.",
                f"{PAPER} Fig. 8 (a-d), Section 5",
                faster,
                ("components1", "components4"),
            ),
            _weaker(
                "components4",
                ["components1"],
                "The bias is weaker on one sine than on four.",
                "Fig. 8 (a-d), Section 5",
            ),
        ),
        source=f"{PAPER} Fig. 8 (a-d)",
    )


def fig12(scale: Scale) -> Study:
    """More residual blocks: the bias is there at every depth.

    Fig. 12: networks of 4 blocks and more; the numbers of blocks are not stated and read here as
    4, 6, 8 and 10.
    """
    variants = {
        f"blocks{n}": (str(n), sine(scale, replace(RESIDUAL, blocks=n))) for n in (4, 6, 8, 10)
    }
    return _sweep(
        scale,
        "fig12",
        "blocks",
        "Is the bias there at every depth?",
        "Residual networks of 4 to 10 blocks fit a sum of four sines.",
        variants,
        (
            _biased(
                list(variants),
                "The first block converges faster than the last, at every depth.",
                "Fig. 12, Appendix A.3",
            ),
        ),
    )


def fig13(scale: Scale) -> Study:
    """Smaller learning rates: the bias becomes weaker.

    Fig. 13; the learning rates are not stated and read here as 0.1, 0.05, 0.02 and 0.01, each
    times 0.1 after epoch 150.
    """
    rates = (0.1, 0.05, 0.02, 0.01)
    variants = {
        f"lr{rate:g}": (f"{rate:g}", sine(scale, optimizer=SGD(learning_rate=rate)))
        for rate in rates
    }
    return _sweep(
        scale,
        "fig13",
        "learning rate",
        "Is the bias weaker at smaller learning rates?",
        "A residual network fits a sum of four sines at four learning rates.",
        variants,
        (
            _biased(["lr0.1"], "At 0.1 the first block converges faster.", "Fig. 13"),
            _weaker(
                "lr0.1",
                ["lr0.01"],
                "The bias is weaker at 0.01 than at 0.1.",
                "Fig. 13, Appendix A.3",
            ),
        ),
    )


def fig14(scale: Scale) -> Study:
    """Stronger weight decay: all blocks converge more slowly and alike.

    Fig. 14; the coefficients are not stated and read here as 0, 1e-4, 1e-3 and 1e-2.
    """
    from layerscope.claims import Claim, above
    from layerscope.recipes.layer_convergence_bias import deciding

    decays = (0.0, 1e-4, 1e-3, 1e-2)
    variants = {
        f"wd{value:g}": (f"{value:g}", sine(scale, optimizer=SGD(0.1, weight_decay=value)))
        for value in decays
    }
    statistic = "mean C of blocks, without decay less with 0.01"

    def slower(data: xr.DataTree) -> Verdict:
        without, strong = (
            deciding.blocks(deciding.rates(data, v)).mean("layer") for v in ("wd0", "wd0.01")
        )
        return above(without - strong, statistic)

    return _sweep(
        scale,
        "fig14",
        "weight decay",
        "Is the bias weaker with stronger weight decay?",
        "A residual network fits a sum of four sines with four strengths of weight decay.",
        variants,
        (
            Claim(
                "slower",
                "Blocks converge more slowly with weight decay 0.01 than without.",
                f"{PAPER} Fig. 14, Appendix A.3",
                slower,
                ("wd0", "wd0.01"),
            ),
            _weaker(
                "wd0",
                ["wd0.01"],
                "The bias is weaker with weight decay 0.01 than without.",
                "Fig. 14, Appendix A.3",
            ),
        ),
    )


def fig15(scale: Scale) -> Study:
    """Adaptive optimisers: a weaker bias, or none.

    Fig. 15: SGD against Adagrad, RMSprop and Adam; their learning rates are not stated and read
    here as 0.01 (Adagrad) and 0.001, PyTorch's other defaults, times 0.1 after epoch 150.
    """
    optimizers: Mapping[str, tuple[str, OptimizerConfig]] = {
        "sgd": ("SGD", SGD(learning_rate=0.1)),
        "adagrad": ("Adagrad", Adagrad(learning_rate=0.01)),
        "rmsprop": ("RMSprop", RMSprop(learning_rate=0.001)),
        "adam": ("Adam", Adam(learning_rate=0.001)),
    }
    variants = {
        name: (label, sine(scale, optimizer=optimizer))
        for name, (label, optimizer) in optimizers.items()
    }
    adaptive = [name for name in variants if name != "sgd"]
    return _sweep(
        scale,
        "fig15",
        "optimiser",
        "Do adaptive optimisers show the bias?",
        "A residual network fits a sum of four sines with four optimisers.",
        variants,
        (
            _biased(["sgd"], "With SGD the first block converges faster.", "Fig. 15"),
            *(
                _weaker(
                    "sgd",
                    [name],
                    f"The bias is weaker with {variants[name][0]} than with SGD.",
                    "Fig. 15, Appendix A.3",
                    name=name,
                )
                for name in adaptive
            ),
            *(_gone(name, variants[name][0], "Fig. 15, Appendix A.3") for name in adaptive),
        ),
    )


def fig16(scale: Scale) -> Study:
    """Normalisation: the bias stays with BatchNorm and weakens with LayerNorm and GroupNorm.

    Fig. 16: none, batch, layer and group normalisation (8 groups), here before every activation.
    """
    norms = {"none": "none", "batch": "BatchNorm", "layer": "LayerNorm", "group": "GroupNorm(8)"}
    variants = {
        name: (label, sine(scale, replace(RESIDUAL, normalisation=name)))
        for name, label in norms.items()
    }
    return _sweep(
        scale,
        "fig16",
        "normalisation",
        "Which normalisations keep the bias?",
        "A residual network fits a sum of four sines without and with three normalisations.",
        variants,
        (
            _biased(
                ["none", "batch"],
                "Without normalisation and with BatchNorm the first block converges faster.",
                "Fig. 16, Appendix A.3",
            ),
            *(
                _weaker(
                    "none",
                    [name],
                    f"The bias is weaker with {norms[name]} than without normalisation.",
                    "Fig. 16, Appendix A.3",
                    name=name,
                )
                for name in ("layer", "group")
            ),
            *(
                _gone(name, norms[name], "Fig. 16, Appendix A.3", either_way=True)
                for name in ("layer", "group")
            ),
        ),
    )


def fig20(scale: Scale) -> Study:
    """One block of four layers among blocks of one: it converges slowest, and belongs at the end.

    Fig. 20: branches of (4, 1, 1, 1), (1, 4, 1, 1), (1, 1, 4, 1) and (1, 1, 1, 4) linear layers;
    the shallower the big block, the larger the loss. Here an activation follows every linear layer
    of a branch, since between the layers of a block of one there would be none.
    """
    from layerscope.claims import Claim, above, all_of
    from layerscope.recipes.layer_convergence_bias import deciding

    shapes = {f"big{i + 1}": tuple(4 if j == i else 1 for j in range(4)) for i in range(4)}
    variants = {
        name: (
            ", ".join(map(str, depths)),
            sine(scale, replace(RESIDUAL, branch="after", depths=depths)),
        )
        for name, depths in shapes.items()
    }

    def slowest(data: xr.DataTree) -> Verdict:
        parts = {}
        for i, name in enumerate(shapes):
            rate = deciding.blocks(deciding.rates(data, name))
            others = rate.drop_isel(layer=i).min("layer")
            parts[name] = above(
                others - rate.isel(layer=i, drop=True), "smallest C of the other blocks less its C"
            )
        return all_of(parts)

    def worse(data: xr.DataTree) -> Verdict:
        return above(deciding.log2(_loss(data, "big1") / _loss(data, "big4")), statistic)

    statistic = "log2 of the loss, big block first over last"
    return _sweep(
        scale,
        "fig20",
        "layers of the blocks",
        "Where does a large block belong?",
        "Residual networks with one block of four layers and three of one fit a sum of four sines.",
        variants,
        (
            Claim(
                "slowest",
                "Wherever it stands, the block of four layers converges slowest.",
                f"{PAPER} Fig. 20, Appendix A.6",
                slowest,
            ),
            Claim(
                "worse",
                "The test loss is larger with the block of four layers first than last.",
                f"{PAPER} Fig. 20, Appendix A.6",
                worse,
                ("big1", "big4"),
            ),
        ),
    )
