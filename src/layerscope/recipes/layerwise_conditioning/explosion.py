"""Gradients of a very deep network with batch normalisation explode once: Fig. A11."""

from __future__ import annotations

import numpy as np

from layerscope.config import FCN, SGD, Digits, Images, RunConfig
from layerscope.probes import WeightDomination
from layerscope.recipes.layerwise_conditioning.connected import decades, hidden
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
    config = RunConfig(
        model=FCN(layers - 1, width, normalisation="batch", bias=False),
        data=Digits() if scale == "smoke" else Images("mnist", limit=STEPS * batch),
        optimizer=SGD(RATE),
        epochs=1,
        batch_size=batch,
        checkpoints="every(1)",
        probe_batch=batch,
    )
    return Plan({"deep": (f"BN, {layers} layers", config)}, seeds(scale), reduced)


def reduced(runs: Runs) -> str:
    """What was left open by the paper, and what a smoke test is."""
    if runs.scale == "smoke":
        return "A smoke test of 12 layers on the embedded digits; not an experiment."
    steps = (
        f"{STEPS} steps of SGD, learning rate {RATE:g}, batches of "
        f"{runs.first.config.batch_size}, random initialisation, no biases."
    )
    if runs.scale == "paper":
        return f"The paper's settings; read here so: {steps}"
    return f"Reduced: {runs.first.label.removeprefix('BN, ')} of 128 units; {steps}"


@paper.recipe(
    "Fig. A11 (a)",
    deep,
    "Can gradients explode with batch normalisation?",
    "Largest eigenvalue of each layer's curvature in the first iterations of an MLP of 100 layers.",
)
def figA11(runs: Runs) -> Items:  # noqa: N802
    """100 layers with BN: gradients explode at the start, and are feeble after one step."""
    run = runs.first
    sizes = decades(hidden(run.of(CONDITION, "largest")))
    start = sizes.isel(step=0)
    early, late = _third(start, 0), _third(start, 2)
    yield claim(
        "explodes",
        "At the start the largest eigenvalue of the lower third of the hidden layers is more than "
        "ten times that of the upper third. [Fig. A11 (a), Appendix C.2]",
        early - late,
        "decades, lower third less upper third",
        TENFOLD,
        regardless=True,
    )
    after = _third(sizes.isel(step=slice(1, None)).mean("step"), 0)
    yield claim(
        "feeble-after",
        "After the first step it is less than a tenth of that at the start, in the lower third. "
        "[Fig. A11 (a), Appendix C.2]",
        early - after,
        "decades, start less mean over the steps after the first",
        TENFOLD,
        regardless=True,
    )
    ratio = decades(hidden(run.of(DOMINATION, "ratio")))
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
            _by_step(hidden(run.of(probe, variable))),
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
