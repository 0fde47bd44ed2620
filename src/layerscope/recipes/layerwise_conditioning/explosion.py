"""Gradients of very deep networks with batch normalisation explode once: Fig. A11."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from layerscope.config import FCN, SGD, DataConfig, Digits, Images, RunConfig
from layerscope.models.cifar_resnet import CifarResNet
from layerscope.probes import WeightDomination
from layerscope.recipes.layerwise_conditioning.connected import decades, hidden
from layerscope.recipes.layerwise_conditioning.convolutional import convolutions
from layerscope.recipes.layerwise_conditioning.deep import SMALL_SIDE, SMALL_WIDTH
from layerscope.recipes.layerwise_conditioning.settings import CONDITION, paper, seeds
from layerscope.studies.paper import Items, claim
from layerscope.studies.plan import Plan, Runs, Scale
from layerscope.studies.plots import OVER_SEEDS, lines
from layerscope.studies.quantity import Quantity

STEPS = 8
RATE = 0.1
DOMINATION = WeightDomination()
TENFOLD = 1.0
"""A decade."""


def deep(scale: Scale) -> Plan:
    """The MLP of 100 layers, for its first iterations."""
    layers, width, batch = {
        "paper": (100, 256, 1024),
        "small": (50, 128, 512),
        "smoke": (12, 16, 64),
    }[scale]
    model = FCN(layers - 1, width, normalisation="batch", bias=False)
    data = Digits() if scale == "smoke" else Images("mnist", limit=STEPS * batch)
    return _first_steps(scale, f"BN, {layers} layers", model, data, batch)


def convolutional(scale: Scale) -> Plan:
    """The VGG-style network of 110 layers, for its first iterations."""
    depth, width = {"paper": (110, 1.0), "small": (110, SMALL_WIDTH), "smoke": (14, 0.25)}[scale]
    batch = 64 if scale == "smoke" else 128
    side = SMALL_SIDE if scale == "small" else None
    data = Images("cifar10", limit=STEPS * batch, image_size=side)
    return _first_steps(
        scale,
        f"BN, {depth} layers",
        CifarResNet(depth, "plain", width=width),
        Digits() if scale == "smoke" else data,
        batch,
    )


def _first_steps(
    scale: Scale, label: str, model: FCN | CifarResNet, data: DataConfig, batch: int
) -> Plan:
    config = RunConfig(
        model=model,
        data=data,
        optimizer=SGD(RATE),
        epochs=1,
        batch_size=batch,
        checkpoints="every(1)",
        probe_batch=batch,
    )
    return Plan({"deep": (label, config)}, seeds(scale), reduced)


def reduced(runs: Runs) -> str:
    """What was left open by the paper, and what a smoke test is."""
    layers, model = runs.first.label.removeprefix("BN, "), runs.first.config.model
    if runs.scale == "smoke":
        return f"A smoke test of {layers} on the embedded digits; not an experiment."
    steps = (
        f"{STEPS} steps of SGD, learning rate {RATE:g}, batches of {runs.first.config.batch_size}"
    )
    if isinstance(model, FCN):
        steps, width = f"{steps}, random initialisation, no biases.", "of 128 units"
    else:
        steps, width = (
            f"{steps}, convolutions initialised by fan out.",
            f"of half the channels, images of {SMALL_SIDE}x{SMALL_SIDE}",
        )
    if runs.scale == "paper":
        return f"The paper's settings; read here so: {steps}"
    return f"Reduced: {layers} {width}; {steps}"


@paper.recipe(
    "Fig. A11 (a)",
    deep,
    "Can gradients explode with batch normalisation?",
    "Largest eigenvalue of each layer's curvature in the first iterations of an MLP of 100 layers.",
)
def figA11(runs: Runs) -> Items:  # noqa: N802
    """100 layers with BN: gradients explode at the start, and are feeble after one step."""
    yield from explosion(runs, hidden, "hidden layers", "Fig. A11 (a)")


@paper.recipe(
    "Fig. A11 (b)",
    convolutional,
    "Do gradients of convolutions explode with batch normalisation, too?",
    "Largest eigenvalue of each layer's curvature in the first iterations of a VGG-style network.",
)
def figA11b(runs: Runs) -> Items:  # noqa: N802
    """110 VGG-style layers with BN: gradients explode at the start, and are feeble after."""
    yield from explosion(runs, convolutions, "convolutions but the first", "Fig. A11 (b)")


def explosion(runs: Runs, chosen: Callable[[Quantity], Quantity], words: str, figure: str) -> Items:
    """Whether the curvature explodes at the start, and not after it.

    Args:
        runs: One network.
        chosen: Selects the layers that are compared.
        words: These layers.
        figure: Where it is claimed.
    """
    run = runs.first
    sizes = decades(chosen(run.of(CONDITION, "largest")))
    start = sizes.isel(step=0)
    early, late = _third(start, 0), _third(start, 2)
    yield claim(
        "explodes",
        f"At the start the largest eigenvalue of the lower third of the {words} is more than ten "
        f"times that of the upper third. [{figure}, Appendix C.2]",
        early - late,
        "decades, lower third less upper third",
        TENFOLD,
        regardless=True,
    )
    after = _third(sizes.isel(step=slice(1, None)).mean("step"), 0)
    yield claim(
        "feeble-after",
        "After the first step it is less than a tenth of that at the start, in the lower third. "
        f"[{figure}, Appendix C.2]",
        early - after,
        "decades, start less mean over the steps after the first",
        TENFOLD,
        regardless=True,
    )
    ratio = decades(chosen(run.of(DOMINATION, "ratio")))
    yield claim(
        "dominated-after",
        "Weights of the lower third come to dominate their gradients: the ratio of largest "
        "singular values falls more than tenfold with the first step. [Appendix C.2]",
        _third(ratio.isel(step=0), 0) - _third(ratio.isel(step=1), 0),
        "decades, before less after the first step",
        TENFOLD,
        regardless=True,
    )
    for name, probe, variable, words in (
        ("largest", CONDITION, "largest", "Largest eigenvalue of each layer's curvature"),
        ("ratio", DOMINATION, "ratio", "Gradients over weights, largest singular values"),
    ):
        yield lines(
            _by_step(chosen(run.of(probe, variable))),
            name,
            words,
            f"{words}, over depth, a line for each of the first iterations; {OVER_SEEDS}",
            x="depth",
            hue="iteration",
            log_y=True,
        )


def _third(values: Quantity, which: int) -> Quantity:
    """Mean over a third of the layers by depth."""
    return values.map(
        lambda a: a.isel(layer=np.array_split(np.arange(a.sizes["layer"]), 3)[which]).mean("layer")
    )


def _by_step(values: Quantity) -> Quantity:
    """Values over depth, and iterations as labels."""
    return values.map(
        lambda a: (
            a.reset_coords(drop=True)
            .assign_coords(
                layer=np.arange(2, 2 + a.sizes["layer"]), step=[f"{s}" for s in a["step"].values]
            )
            .rename(layer="depth", step="iteration")
        )
    )
