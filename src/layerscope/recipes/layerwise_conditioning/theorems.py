"""What scaling the weights of every layer does: Theorems 4.1 and 4.2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import xarray as xr

from layerscope.config import FCN, SGD, RunConfig
from layerscope.probes import WeightScaling
from layerscope.recipes.layerwise_conditioning.connected import decades
from layerscope.recipes.layerwise_conditioning.settings import LAYERS, images, paper, seeds
from layerscope.studies.paper import Items, claim
from layerscope.studies.plan import Plan, Runs, Scale
from layerscope.studies.plots import OVER_SEEDS, Plot, described, lines, table
from layerscope.studies.quantity import Quantity, stacked

SCALING = WeightScaling()
OWN_EPSILON = WeightScaling(epsilon=None)
DIGITS = 6
"""Decimal digits to which measured and predicted have to agree."""
LEAST = 1e-16
"""A deviation below which digits are not counted."""
RATE = 0.05
NETWORKS: Mapping[str, tuple[str, str, bool]] = {
    "plain": ("Plain", "none", False),
    "bn": ("BN", "batch", True),
    "bn-hidden": ("BN but for the output", "batch", False),
}
"""Names, labels, normalisation, and whether the outputs are normalised."""
RULES: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "plain": {
        "input": (
            "What enters a layer changes by the product of the factors before it",
            "Theorem 4.1",
        ),
        "gradient": (
            "The gradient at what leaves it changes by the product of the factors behind it",
            "Theorem 4.1",
        ),
        "weight": (
            "The gradient of its weights changes by the product of all other factors",
            "Theorem 4.1",
        ),
    },
    "bn": {
        "input": ("With BN after every layer, what enters a layer does not change", "Theorem 4.2"),
        "gradient": (
            "With BN after every layer, the gradient at what leaves one is divided by its factor",
            "Theorem 4.2",
        ),
        "weight": (
            "With BN after every layer, the gradient of weights is divided by their factor",
            "Theorem 4.2",
        ),
    },
    "bn-hidden": {
        "input": (
            "With BN after every layer but the last, what enters a layer does not change",
            "beyond the paper, both theorems together",
        ),
        "gradient": (
            "With BN after every layer but the last, the gradient at what leaves a hidden one is "
            "divided by its factor and multiplied by the last one's",
            "beyond the paper, both theorems together",
        ),
        "weight": (
            "With BN after every layer but the last, so is the gradient of weights",
            "beyond the paper, both theorems together",
        ),
    },
}
"""What is said of what enters, of gradients at what leaves, and of those of weights; and where."""
SHORT = {"input": "x", "gradient": "dL/dh", "weight": "dL/dW"}


def scaled(scale: Scale) -> Plan:
    """The MLP of the paper without normalisation, with it everywhere, and but for the outputs."""
    config = RunConfig(
        data=images(scale),
        optimizer=SGD(RATE),
        epochs={"paper": 1, "small": 10, "smoke": 2}[scale],
        batch_size=256 if scale == "smoke" else 1024,
        probe_batch=64 if scale == "smoke" else 1024,
    )
    variants = {
        name: (
            label,
            timed(
                replace(
                    config,
                    model=FCN(
                        LAYERS[scale] - 1,
                        16 if scale == "smoke" else 256,
                        normalisation="batch" if normalisation == "batch" else "none",
                        initialisation="he",
                        bias=False,
                        output_norm=output_norm,
                    ),
                )
            ),
        )
        for name, (label, normalisation, output_norm) in NETWORKS.items()
    }
    return Plan(variants, seeds(scale), reduced, timed)


def timed(config: RunConfig) -> RunConfig:
    """With checkpoints at the start and at the end."""
    return replace(config, checkpoints=f"epochs({config.epochs})")


def reduced(runs: Runs) -> str:
    """How networks are trained, which the theorems leave open."""
    epochs = f"{runs.first.epochs} epoch{'s' * (runs.first.epochs != 1)}"
    if runs.scale == "smoke":
        return f"A smoke test of {epochs} on the embedded digits; not an experiment."
    how = (
        f"MLP of {LAYERS[runs.scale]} layers, He initialisation, no biases, {epochs} of SGD "
        f"in batches of {runs.first.config.batch_size}, learning rate {RATE:g}."
    )
    if runs.scale == "paper":
        return f"The paper's settings; read here so: {how}"
    return f"Reduced: {runs.trained_on_images()}; {how}"


@paper.recipe(
    "Theorems 4.1 and 4.2",
    scaled,
    "What does scaling the weights do?",
    f"Every layer's weights are multiplied by a factor between {10**-SCALING.spread:g} and "
    f"{10**SCALING.spread:g}, {SCALING.draws} times over, before and after training; in float64, "
    "epsilon of normalisations 0, the gradient at the outputs as before scaling.",
)
def theorems(runs: Runs) -> Items:
    """Scaled weights: signals and gradients change as Theorems 4.1 and 4.2 say."""
    for name, rules in RULES.items():
        for side, (text, place) in rules.items():
            yield claim(
                f"{name}-{side}",
                f"{text}, to {DIGITS} digits, in every layer, before and after training. [{place}]",
                digits(runs[name].of(SCALING, f"deviation_{side}")),
                "digits of agreement, least of all layers and draws",
                DIGITS,
                regardless=True,
            )
    yield table(
        {
            f"{name}_{side}": described(ratio(runs, name, side), f"{runs[name].label}, {short}")
            for name in runs
            for side, short in SHORT.items()
        },
        "ratios",
        "Measured over predicted change",
        "Norm of what enters a layer (x), of the gradient at what leaves it (dL/dh) and of that of "
        "its weights (dL/dW): change by scaling all weights over the predicted one; geometric mean "
        f"over draws, before and after training, to nine digits; {OVER_SEEDS}",
    )
    yield deviations(runs)
    yield from changes(runs)


def digits(deviations: Quantity) -> Quantity:
    """Decimal digits of agreement in the worst case, (seed)."""
    worst = deviations.max("layer").max("draw").max("step")
    return -decades(worst.map(lambda a: a.clip(LEAST)))


def ratio(runs: Runs, name: str, side: str) -> Quantity:
    """Measured over predicted change of every layer."""
    measured, predicted = (
        runs[name].of(SCALING, f"{kind}_{side}") for kind in ("measured", "predicted")
    )
    decades_apart = (measured - predicted).mean("draw").mean("step")
    return decades_apart.map(lambda a: (10**a).round(9).reset_coords(drop=True))


def deviations(runs: Runs) -> Plot:
    """Largest deviations of every layer, also with the epsilon that normalisations have."""
    columns: dict[str, Quantity] = {}
    for name in runs:
        for probe, words in ((SCALING, ""), (OWN_EPSILON, ", own epsilon")):
            if probe is SCALING or name != "plain":
                largest = runs[name].of(probe, "deviation_weight").max("draw").max("step")
                largest = largest.map(lambda a: a.reset_coords(drop=True))
                key = f"{name}{words}".replace(", ", "_").replace(" ", "_")
                columns[key] = described(largest, f"{runs[name].label}{words}")
    return table(
        columns,
        "deviations",
        "How far gradients of weights are from the prediction",
        "Relative distance of the gradient of every layer's weights from what is predicted, as "
        "vectors, largest of all draws before and after training; with the epsilon that "
        f"normalisations have, 1e-5, too; {OVER_SEEDS}",
    )


def changes(runs: Runs) -> Items:
    """What the first draw does over depth, at the start."""
    for name in runs:
        parts = {
            words: _over_depth(runs[name].of(SCALING, f"measured_{side}"))
            for side, words in (
                ("input", "what enters"),
                ("gradient", "gradient at what leaves"),
                ("weight", "gradient of the weights"),
            )
        }
        yield lines(
            stacked("signal", parts, long_name="change", units="decades"),
            f"changes-{name}",
            f"{runs[name].label}: what scaling all weights does",
            "Change of norms over depth with the first draw of factors, before training; the "
            f"prediction is the same to {DIGITS} digits where the claims hold. With BN both "
            f"gradients change alike, and one line lies under the other. {OVER_SEEDS}",
            x="depth",
            hue="signal",
            markers=True,
        )


def _over_depth(values: Quantity) -> Quantity:
    """Of the first draw before training, over the places of layers."""

    def placed(array: xr.DataArray) -> xr.DataArray:
        array = array.isel(draw=0, step=0, drop=True).reset_coords(drop=True)
        places = np.arange(1, 1 + array.sizes["layer"])
        return array.assign_coords(layer=places).rename(layer="depth")

    return values.map(placed)
