"""What strengthens or weakens the bias: Fig. 8a-d, 12 to 16 and 20, each a sweep over a setting."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from layerscope.config import SGD, Adagrad, Adam, OptimizerConfig, RMSprop
from layerscope.recipes.layer_convergence_bias.connected import connected, connected_reduced
from layerscope.recipes.layer_convergence_bias.settings import (
    LENGTHS,
    PAPER,
    RESIDUAL,
    early,
    reduced,
    sine,
)
from layerscope.recipes.layer_convergence_bias.sweeping import (
    biased,
    end_loss,
    gone,
    mean_rate,
    sweep,
    weaker,
)

if TYPE_CHECKING:
    import xarray as xr

    from layerscope.studies.claims import Claim, Verdict
    from layerscope.studies.study import Scale, Study

NORMALISED_RATE = 0.005
"""Learning rate of Fig. 16: of those tried, the largest at which normalised networks train."""


def fig8a(scale: Scale) -> Study:
    """Simpler targets: the fewer fast components, the weaker the bias.

    Fig. 8 (a-d): the residual network fits the sum of the 4, 3, 2 and 1 slowest sines; deeper
    blocks converge faster the simpler the target, and the bias does not strictly hold any more.
    """
    from layerscope.recipes.layer_convergence_bias import deciding
    from layerscope.studies.claims import Claim, above

    variants = {f"components{k}": (f"{k} of 4", sine(scale, components=k)) for k in (4, 3, 2, 1)}
    statistic = "C(last block), 1 component less 4"

    def faster(data: xr.DataTree) -> Verdict:
        simple, full = (
            deciding.first_and_last(deciding.rates(data, v))[1]
            for v in ("components1", "components4")
        )
        return above(simple - full, statistic)

    return sweep(
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
            weaker(
                "components4",
                ["components1"],
                "The bias is weaker, or reversed, on one sine than on four.",
                "Fig. 8 (a-d), Section 5",
            ),
        ),
        source=f"{PAPER} Fig. 8 (a-d)",
    )


def fig12(scale: Scale) -> Study:
    """More residual blocks: the bias is there at every depth that trains.

    Fig. 12: networks of 4 blocks and more; the numbers of blocks are not stated and read here as
    4, 5, 6 and 8. With 10 blocks four of five runs diverged (LOG.md).
    """
    variants = {
        f"blocks{n}": (str(n), sine(scale, replace(RESIDUAL, blocks=n))) for n in (4, 5, 6, 8)
    }
    return sweep(
        scale,
        "fig12",
        "blocks",
        "Is the bias there at every depth?",
        "Residual networks of 4 to 8 blocks fit a sum of four sines.",
        variants,
        (
            biased(
                list(variants),
                "The first block converges faster than the last, with 4 to 8 blocks.",
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
    return sweep(
        scale,
        "fig13",
        "learning rate",
        "Is the bias weaker at smaller learning rates?",
        "A residual network fits a sum of four sines at four learning rates.",
        variants,
        (
            biased(["lr0.1"], "At 0.1 the first block converges faster.", "Fig. 13"),
            weaker(
                "lr0.1",
                ["lr0.01"],
                "The bias is weaker, or reversed, at 0.01 than at 0.1.",
                "Fig. 13, Appendix A.3",
            ),
        ),
    )


def fig14(scale: Scale) -> Study:
    """Stronger weight decay: all blocks converge more slowly and alike.

    Fig. 14; the coefficients are not stated and read here as 0, 1e-4, 1e-3 and 1e-2.
    """
    from layerscope.studies.claims import Claim, above

    decays = (0.0, 1e-4, 1e-3, 1e-2)
    variants = {
        f"wd{value:g}": (f"{value:g}", sine(scale, optimizer=SGD(0.1, weight_decay=value)))
        for value in decays
    }
    statistic = "mean C of blocks, without decay less with 0.01"

    def slower(data: xr.DataTree) -> Verdict:
        return above(mean_rate(data, "wd0") - mean_rate(data, "wd0.01"), statistic)

    return sweep(
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
            weaker(
                "wd0",
                ["wd0.01"],
                "The bias is weaker, or reversed, with weight decay 0.01 than without.",
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
    return sweep(
        scale,
        "fig15",
        "optimiser",
        "Do adaptive optimisers show the bias?",
        "A residual network fits a sum of four sines with four optimisers.",
        variants,
        (
            biased(["sgd"], "With SGD the first block converges faster.", "Fig. 15"),
            *(
                weaker(
                    "sgd",
                    [name],
                    f"The bias is weaker, or reversed, with {variants[name][0]} than with SGD.",
                    "Fig. 15, Appendix A.3",
                    name=name,
                )
                for name in adaptive
            ),
            *(gone(name, variants[name][0], "Fig. 15, Appendix A.3") for name in adaptive),
        ),
    )


def fig16(scale: Scale) -> Study:
    """Normalisation: the bias stays with BatchNorm and weakens with LayerNorm and GroupNorm.

    Fig. 16: none, batch, layer and group normalisation (8 groups), here before every activation,
    and all four at learning rate 0.005, times 0.1 after epoch 150: at 0.1 no normalised network
    trains, since its activations have 30 times the squared length. LOG.md lists what was tried, and
    how much the biases depend on the rate.
    """
    from layerscope.studies.claims import Claim, above

    norms = {"none": "none", "batch": "BatchNorm", "layer": "LayerNorm", "group": "GroupNorm(8)"}
    variants = {
        name: (
            label,
            sine(
                scale,
                replace(RESIDUAL, normalisation=name),
                optimizer=SGD(learning_rate=NORMALISED_RATE),
            ),
        )
        for name, label in norms.items()
    }
    quiet = ("layer", "group")

    def faster(more: str, less: str) -> Claim:
        statistic = f"mean C of blocks, {norms[more]} less {norms[less]}"

        def decide(data: xr.DataTree) -> Verdict:
            return above(mean_rate(data, more) - mean_rate(data, less), statistic)

        return Claim(
            f"{more}-faster",
            f"Blocks converge faster with {norms[more]} than with {norms[less]}.",
            f"{PAPER} Fig. 16, Appendix A.3",
            decide,
            (more, less),
        )

    return sweep(
        scale,
        "fig16",
        "normalisation",
        "Which normalisations keep the bias?",
        "A residual network fits a sum of four sines without and with three normalisations, all at "
        f"learning rate {NORMALISED_RATE:g}, since at 0.1 those with one diverge.",
        variants,
        (
            biased(["none"], "Without normalisation the first block converges faster.", "Fig. 16"),
            biased(
                ["batch"],
                "With BatchNorm the first block converges faster.",
                "Fig. 16, Appendix A.3",
                name="batch",
            ),
            faster("batch", "none"),
            *(faster(name, "batch") for name in quiet),
            *(
                weaker(
                    "batch",
                    [name],
                    f"The bias is weaker, or reversed, with {norms[name]} than with BatchNorm.",
                    "Fig. 16, Appendix A.3",
                    name=name,
                )
                for name in quiet
            ),
            *(gone(name, norms[name], "Fig. 16, Appendix A.3", either_way=True) for name in quiet),
        ),
        reduction=f"{reduced(scale)} All at learning rate {NORMALISED_RATE:g} instead of 0.1.",
        aside=f"All networks at learning rate {NORMALISED_RATE:g}.",
    )


def fig20(scale: Scale) -> Study:
    """One block of four layers among blocks of one: it converges slowest, and belongs at the end.

    Fig. 20: branches of (4, 1, 1, 1), (1, 4, 1, 1), (1, 1, 4, 1) and (1, 1, 1, 4) linear layers;
    the shallower the big block, the larger the loss. Here an activation follows every linear layer
    of a branch, since between the layers of a block of one there would be none.
    """
    from layerscope.recipes.layer_convergence_bias import deciding
    from layerscope.studies.claims import Claim, above, all_of

    shapes = {f"big{i + 1}": tuple(4 if j == i else 1 for j in range(4)) for i in range(4)}
    variants = {
        name: (
            ", ".join(map(str, depths)),
            sine(scale, replace(RESIDUAL, branch="after", depths=depths)),
        )
        for name, depths in shapes.items()
    }

    def slowest(data: xr.DataTree) -> Verdict:
        import numpy as np

        parts = {}
        for i, name in enumerate(shapes):
            rate = deciding.blocks(deciding.rates(data, name))
            big, *others = np.roll(rate["layer"].values, -i)
            parts[name] = deciding.exceeds_each(rate, big, others, "C", sign=-1)
        return all_of(parts)

    def worse(data: xr.DataTree) -> Verdict:
        return above(deciding.log2(end_loss(data, "big1") / end_loss(data, "big4")), statistic)

    statistic = "log2 of the loss, big block first over last"
    return sweep(
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


def domain(scale: Scale) -> Study:
    """The domain of the target: does the bias depend on it?

    Beyond the paper, which fits its target on [-2, 2]: the sigmoid network of Fig. 1a fits it on
    [-a, a] for a of 1, 2, 3, 4 and 2 pi. More of the target's periods lie in a wider domain, which
    the same network finds harder to fit. Measured (5 seeds, 300 epochs): the bias is there for a of
    2 and 3 and reversed for 1, 4 and 2 pi.
    """
    from layerscope.recipes.layer_convergence_bias import deciding
    from layerscope.studies.claims import Claim, above, all_of

    halves = {"1": 1.0, "2": 2.0, "3": 3.0, "4": 4.0, "2π": 2 * math.pi}
    variants = {
        f"half{half:.3g}": (f"[-{name}, {name}]", connected(scale, -half, half))
        for name, half in halves.items()
    }
    narrow, *_, wide = variants
    until = min(50, LENGTHS[scale][0] // 2)

    def falling(data: xr.DataTree) -> Verdict:
        bias = {v: deciding.relative_bias(deciding.rates(data, v)) for v in variants}
        return all_of(
            {
                f"{variants[a][0]} less {variants[b][0]}": above(
                    bias[a] - bias[b],
                    f"relative bias on {variants[a][0]} less that on {variants[b][0]}",
                )
                for a, b in itertools.pairwise(variants)
            }
        )

    return sweep(
        scale,
        "domain",
        "domain",
        "Does the bias depend on the domain?",
        "A sigmoid network 1-32-32-32-1 fits a sum of four sines on domains of five widths; its "
        "blocks are its three hidden layers.",
        variants,
        (
            biased(["half2"], "On [-2, 2] the first layer converges faster.", "Fig. 1a"),
            Claim(
                "width",
                "The wider the domain, the smaller the relative bias, from each to the next.",
                "beyond the paper: a boundary of Observation 2.1",
                falling,
            ),
            Claim(
                "reversed",
                "On [-2π, 2π] the last hidden layer converges faster than the first.",
                "beyond the paper: a boundary of Observation 2.1",
                lambda data: above(
                    -deciding.bias(deciding.rates(data, wide)), "C(last layer) - C(first layer)"
                ),
                (wide,),
            ),
            biased(
                [narrow],
                "On [-1, 1] the first layer converges faster than the last hidden one.",
                "Fig. 1a, on a narrower domain (beyond the paper)",
                name="narrow",
            ),
        ),
        source=f"beyond {PAPER} Fig. 1a",
        intervals=((0, until), (0, early(scale))),
        reduction=f"{connected_reduced(scale)} Beyond the paper: domains other than [-2, 2].",
    )
