"""Layers whose weights dominate their gradients: Figs. 4 and A12.

Left open by the paper, which says that "certain layers" are in a state of weight domination, and
read here so: the initial weights of these layers are multiplied by 100 in a network with batch
normalisation. By Theorem 4.2 the outputs stay as they are, and the ratio of gradients to weights
falls by 10,000: nothing is changed but how far a step moves these layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from layerscope.config import FCN, SGD, Digits, Images, RunConfig
from layerscope.probes import TrainingLoss
from layerscope.probes.weight_domination import WeightDomination
from layerscope.recipes.layerwise_conditioning import deep
from layerscope.recipes.layerwise_conditioning.connected import decades
from layerscope.recipes.layerwise_conditioning.settings import paper, seeds, timed
from layerscope.studies.comparisons import in_each
from layerscope.studies.paper import Items, claim
from layerscope.studies.plan import Plan, Runs, Scale, Variant
from layerscope.studies.plots import OVER_SEEDS, lines
from layerscope.studies.quantity import Quantity

FACTOR = 100
DOMINATION, BATCH = WeightDomination(), TrainingLoss(over="batch")
CONNECTED: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "none": ("as initialised", ()),
    "first": ("first layer dominated", ("layer1",)),
    "two": ("first two layers dominated", ("layer1", "layer2")),
    "hidden": ("all hidden layers dominated", ("layer1", "layer2", "layer3", "layer4")),
}
CONVOLUTIONS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "none": ("as initialised", ()),
    "first": ("stage 1 dominated", ("stage1",)),
    "two": ("stages 1 and 2 dominated", ("stage1", "stage2")),
    "hidden": ("all convolutions dominated", ("stage0", "stage1", "stage2", "stage3")),
}
"""Which modules are scaled, by variant."""


def _plan(
    scale: Scale, config: RunConfig, scaled: Mapping[str, tuple[str, tuple[str, ...]]]
) -> Plan:
    variants = {
        name: (label, replace(config, scaled=tuple(f"{part}={FACTOR}" for part in parts)))
        for name, (label, parts) in scaled.items()
    }
    again = timed if isinstance(config.model, FCN) else deep.timed
    return Plan(variants, seeds(scale), reduced, again, shows_errors=True)


def connected(scale: Scale) -> Plan:
    """The MLP of five layers with batch normalisation on MNIST."""
    config = RunConfig(
        model=FCN(4, 16 if scale == "smoke" else 256, normalisation="batch", bias=False),
        data=Digits() if scale == "smoke" else Images("mnist"),
        optimizer=SGD(0.1),
        epochs={"paper": 10, "small": 3, "smoke": 2}[scale],
        batch_size=1024 if scale != "smoke" else 128,
        probe_batch=1024 if scale != "smoke" else 64,
    )
    return _plan(scale, timed(config), CONNECTED)


def convolutional(scale: Scale) -> Plan:
    """A VGG-style network of 20 layers with batch normalisation on CIFAR-10."""
    depth = deep.DEPTHS[scale][0] if scale == "smoke" else 20
    made = partial(deep.config, scale, "vgg", depth, decay=0.0, checkpoints="at(1) | epochs(1)")
    return _plan(scale, made(), CONVOLUTIONS)


def reduced(runs: Runs) -> str:
    """What a scale changes of the paper's settings, and what was read into it."""
    if not isinstance(runs.first.config.model, FCN):
        return f"{deep.reduced(runs)} {READING}"
    if runs.scale == "smoke":
        return "A smoke test of a tiny network on the embedded digits; not an experiment."
    config = runs.first.config
    steps = f"{config.epochs} epochs in batches of {config.batch_size}"
    start = "The paper's settings; read here so" if runs.scale == "paper" else "Reduced"
    return f"{start}: {steps}, learning rate {config.optimizer.learning_rate:g}. {READING}"


READING = f"Initial weights of dominated layers are multiplied by {FACTOR}."


def domination(runs: Runs, place: str) -> Items:
    """Whether networks with dominated layers still lower the loss, and how well they test."""
    changed = {name: run for name, run in runs.items() if name != "none"}

    def largest(run: Variant) -> Quantity:
        parts = tuple(run.config.factors)
        of_these = run.of(DOMINATION, "ratio").layers(lambda layer: layer.startswith(parts))
        return decades(of_these.max("layer").max("step"))

    yield claim(
        "dominated",
        "The scaled layers stay in a state of weight domination through training. "
        f"[{place}, Definition 1]",
        in_each(
            {run.label: -largest(run) for run in changed.values()},
            "{}: decades, minus the largest ratio of gradient to weights of these layers",
            -math.log10(DOMINATION.threshold),
        ),
        regardless=True,
    )
    yield claim(
        "loss-falls",
        f"The network still lowers the training loss. [{place}, Section 4.1]",
        in_each(
            {
                run.label: run.of(BATCH, "loss").isel(step=0) - run.of(BATCH, "loss").at_end()
                for run in changed.values()
            },
            "{}: loss of the fixed batch, start less end",
        ),
        regardless=True,
    )
    for name, run in changed.items():
        yield claim(
            f"{name}-degrades",
            f"With {run.label.replace(' dominated', '')} in this state it tests worse. [{place}, "
            "Section 4.1]",
            deep.test_error(run) - deep.test_error(runs["none"]),
            "test error in points, dominated less as initialised",
        )
    yield deep.curves(runs.values(), "loss", "Weight domination")
    for run in runs.values():
        yield lines(
            run.of(DOMINATION, "ratio"),
            f"ratio-{run.name}",
            f"Gradients against weights: {run.label}",
            f"Largest singular values, gradient over weights, of every layer; {OVER_SEEDS}",
            x="epoch",
            log_y=True,
        )


@paper.recipe(
    "Fig. 4",
    connected,
    "What do layers cost whose weights dominate their gradients?",
    "An MLP of five layers with batch normalisation, some of whose layers begin with large "
    "weights.",
)
def fig4(runs: Runs) -> Items:
    """Weight domination in an MLP: the loss still falls, accuracy degrades."""
    yield from domination(runs, "Fig. 4")


@paper.recipe(
    "Fig. A12",
    convolutional,
    "And in a convolutional network?",
    "A VGG-style network of 20 layers, some of whose stages begin with large weights.",
)
def figA12(runs: Runs) -> Items:  # noqa: N802
    """Weight domination in a convolutional network."""
    yield from domination(runs, "Fig. A12")
