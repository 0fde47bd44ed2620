"""The regression with a small sigmoid network: Fig. 1a."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from layerscope.config import FCN, SGD, RunConfig, Sine
from layerscope.recipes.layer_convergence_bias.residual import decay
from layerscope.recipes.layer_convergence_bias.settings import (
    BATCH,
    LENGTHS,
    PAPER,
    REDUCED,
    suffix,
)

if TYPE_CHECKING:
    import xarray as xr

    from layerscope.figures.figure import Figure
    from layerscope.studies.claims import Verdict
    from layerscope.studies.study import Scale, Study

LAYERS = ["layer1", "layer2", "layer3"]
REPORTED = {"layer1": 0.012, "layer2": 0.009, "layer3": 0.006}
DOMAINS = {"narrow": (-2.0, 2.0), "wide": (-2 * math.pi, 2 * math.pi)}
DOMAIN_TITLES = {"narrow": "[-2, 2]", "wide": "[-2π, 2π]"}


def connected(scale: Scale, low: float, high: float) -> RunConfig:
    """The regression with a sigmoid network 1-32-32-32-1, on a domain."""
    epochs, n_train = LENGTHS[scale]
    return RunConfig(
        model=FCN(depth=3, width=32, activation="sigmoid"),
        data=Sine(low=low, high=high, n_train=n_train, n_test=n_train),
        optimizer=SGD(learning_rate=0.1),
        milestones=(epochs // 2,),
        epochs=epochs,
        batch_size=BATCH,
    )


def connected_reduced(scale: Scale) -> str:
    """What a scale changes of the paper's settings, for captions."""
    return f"{REDUCED[scale]}."


def fig1a(scale: Scale) -> Study:
    """Sine regression, FCN 1-32-32-32-1: larger gradients in deeper layers, slower convergence.

    Fig. 1a: absolute mean gradient of layers and their distance to the final weights while a
    sigmoid network fits sin x + sin(3x)/3 + sin(10x)/10 + sin(30x)/30 (MSE, SGD 0.1, 0.01 from
    epoch 150 of 300, batch 128, PyTorch's initialisation).

    Left open by the paper and read here so: x is drawn uniformly, 5000 for training and 5000 for
    testing, the same for every seed; gradients are those of the mean loss on one fixed batch of
    512 training examples; a layer's distance covers weight and bias; the final weights are those
    of epoch 300. Beyond the paper, the same network fits the target on [-2π, 2π], where the order
    of layers was seen to reverse.

    At ``small`` there are 2000 training examples instead of 5000; ``smoke`` is no experiment.
    """
    from layerscope.probes import Convergence, GradientMagnitude
    from layerscope.recipes.layer_convergence_bias import deciding
    from layerscope.studies.claims import Claim
    from layerscope.studies.study import Study

    until = min(50, LENGTHS[scale][0] // 2)
    variants = {name: connected(scale, low, high) for name, (low, high) in DOMAINS.items()}
    return Study(
        name="layer_convergence_bias.fig1a",
        title="Do shallower layers converge faster, although their gradients are smaller?",
        source=f"{PAPER} Fig. 1a",
        summary="A sigmoid network 1-32-32-32-1 fits a sum of four sines. For every layer: the "
        "mean absolute gradient, and how much of its distance to the final weights remains.",
        reduction=connected_reduced(scale),
        scale=scale,
        variants=variants,
        seeds=(0, 1, 2, 3, 4),
        probes=(Convergence(intervals=((0, until),)), GradientMagnitude()),
        claims=(
            Claim(
                "order",
                f"On [-2, 2], shallower layers converge faster over the first {until} epochs: "
                "C(layer 1) > C(hidden 1) > C(hidden 2).",
                f"{PAPER} Fig. 1a, Observation 2.1",
                lambda data: deciding.ordered(deciding.rates(data, "narrow"), "C", LAYERS),
            ),
            Claim(
                "gradient",
                "On [-2, 2], hidden layer 2 has the larger gradient, yet hidden layer 1 "
                f"converges faster over the first {until} epochs.",
                f"{PAPER} Section 3.1",
                lambda data: _larger_yet_slower(data, until),
            ),
            Claim(
                "reversal",
                "On [-2π, 2π] the order reverses: C(hidden 2) > C(hidden 1) > C(layer 1).",
                "beyond the paper: a boundary of Observation 2.1",
                lambda data: deciding.ordered(deciding.rates(data, "wide"), "C", LAYERS[::-1]),
            ),
        ),
        figures=lambda data: _fig1a_figures(data, scale, until),
    )


def _larger_yet_slower(data: xr.DataTree, until: float) -> Verdict:
    import numpy as np

    from layerscope.recipes.layer_convergence_bias import deciding
    from layerscope.studies.claims import above, all_of

    gradients = deciding.node(data, "narrow", "gradient_magnitude")["gradient_magnitude"]
    early = gradients.where(gradients["epoch"] <= until, drop=True)
    ratio = np.log2(early.sel(layer="layer3") / early.sel(layer="layer2")).mean("step")
    rate = deciding.rates(data, "narrow")
    return all_of(
        {
            "gradient ratio": above(ratio, "log2 of gradient ratio, hidden 2 over hidden 1"),
            "convergence": above(
                rate.sel(layer="layer2") - rate.sel(layer="layer3"),
                "C(Hidden layer 1) - C(Hidden layer 2)",
            ),
        }
    )


def _fig1a_figures(data: xr.DataTree, scale: Scale, until: int) -> list[Figure]:
    import xarray as xr

    from layerscope.figures.figure import Bars, Lines, Table
    from layerscope.recipes.layer_convergence_bias import deciding

    def both(probe: str, variable: str) -> xr.DataArray:
        parts = [deciding.node(data, name, probe)[variable].sel(layer=LAYERS) for name in DOMAINS]
        return deciding.along("domain", DOMAIN_TITLES.values(), map(deciding.labelled, parts))

    end = suffix(scale)
    rates = both("convergence", "rate").isel(interval=0)
    measured = xr.Dataset(
        {
            "reported": ("layer", list(REPORTED.values()), {"units": "1 / epoch"}),
            "narrow": rates.sel(domain="[-2, 2]", drop=True),
            "wide": rates.sel(domain="[-2π, 2π]", drop=True),
        }
    )
    measured["reported"].attrs["long_name"] = "reported, [-2, 2]"
    measured["narrow"].attrs["long_name"] = "measured, [-2, 2]"
    measured["wide"].attrs["long_name"] = "measured, [-2π, 2π]"
    half_way = decay(data, "narrow")
    return [
        Lines(
            both("convergence", "curve").swap_dims(step="epoch"),
            key="convergence",
            title="Convergence of layers" + end,
            caption="Distance to the final weights over the distance at initialisation; mean and "
            "95% interval over seeds. A layer that falls earlier converges faster.",
            x="epoch",
            panel="domain",
            references=(half_way,),
        ),
        Lines(
            both("gradient_magnitude", "gradient_magnitude").swap_dims(step="epoch"),
            key="gradients",
            title="Gradient magnitude" + end,
            caption="Mean absolute gradient of the loss on one fixed batch; geometric mean and 95% "
            "interval over seeds.",
            x="epoch",
            panel="domain",
            log_y=True,
            references=(half_way,),
        ),
        Bars(
            rates,
            key="rates",
            title=f"Convergence rate over the first {until} epochs" + end,
            caption="C(0, t) of Definition 2.1: share of the way to the final weights covered per "
            "epoch; mean and 95% interval over seeds.",
            hue="domain",
        ),
        Table(
            measured,
            key="reported-and-measured",
            title=f"C(0, {until}), reported and measured" + end,
            caption="Reported values are read off the paper's text (Section 3.1), for 50 epochs.",
        ),
    ]
