"""The networks of the paper, how they are trained, and what smaller scales reduce.

From Section 4.1: an MLP of 20 layers with 256 units each and rectifiers on MNIST, "Plain" and with
batch normalisation, initialised at random, U(-1/sqrt(fan_in), 1/sqrt(fan_in)), or as He et al.;
full gradient descent, SGD with batches of 1024, and Adam with the same; of several learning rates
the one with the least training loss.

Left open by the paper and read here so: the 20th layer is the classifier; no layer has a bias (the
authors' published linear layer leaves it out of its output); learning rates are those of `RATES`;
200 steps of gradient descent, 10 epochs of the others; pixels are normalised. What enters and what
comes back is seen in train mode on a fixed batch of training images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

from layerscope.config import FCN, SGD, Adam, DataConfig, Digits, Images, OptimizerConfig, RunConfig
from layerscope.config.models import Initialisation
from layerscope.probes import Conditioning, Performance, Preactivations, SignalMagnitude
from layerscope.studies.paper import Paper
from layerscope.studies.plan import Plan, Runs, Scale

paper = Paper("layerwise_conditioning", "Layer-wise conditioning analysis")
SEEDS = (0, 1, 2, 3, 4)
How = Literal["full", "sgd", "adam"]
RATES: Mapping[How, tuple[float, ...]] = {
    "full": (0.05, 0.1, 0.5, 1.0),
    "sgd": (0.05, 0.1, 0.5, 1.0),
    "adam": (0.0003, 0.001, 0.003),
}
WORDS: Mapping[How, str] = {
    "full": "full gradient descent",
    "sgd": "SGD",
    "adam": "Adam",
}
KINDS: Mapping[str, tuple[str, str, Initialisation]] = {
    "plain-random": ("Plain, random", "none", "torch"),
    "bn-random": ("BN, random", "batch", "torch"),
    "plain-he": ("Plain, He", "none", "he"),
    "bn-he": ("BN, He", "batch", "he"),
}
"""Names, labels, normalisation and initialisation of the four networks."""
CONDITION = Conditioning()
SIGNALS = SignalMagnitude()
NEURONS = Preactivations(mode="train")
LOSS = Performance(on="training")
LAYERS = {"paper": 20, "small": 20, "smoke": 5}


def images(scale: Scale) -> DataConfig:
    """MNIST, a subset of it, or digits."""
    if scale == "smoke":
        return Digits()
    return Images("mnist") if scale == "paper" else Images("mnist", limit=4096, test_limit=2000)


def config(scale: Scale, how: How, kind: str, rate: float) -> RunConfig:
    """How one network is trained."""
    _, normalisation, initialisation = KINDS[kind]
    data = images(scale)
    batch = {"paper": 60_000, "small": 4096, "smoke": 2000}[scale] if how == "full" else 1024
    epochs = {"paper": 200 if how == "full" else 10, "small": 40, "smoke": 3}[scale]
    optimizer: OptimizerConfig = Adam(rate) if how == "adam" else SGD(rate)
    return timed(
        RunConfig(
            model=FCN(
                LAYERS[scale] - 1,
                16 if scale == "smoke" else 256,
                normalisation="batch" if normalisation == "batch" else "none",
                initialisation=initialisation,
                bias=False,
            ),
            data=data,
            optimizer=optimizer,
            epochs=epochs,
            batch_size=batch if scale != "smoke" else min(batch, 512),
            probe_batch=64 if scale == "smoke" else 1024,
        )
    )


def timed(config: RunConfig) -> RunConfig:
    """With checkpoints at ten epochs evenly spaced over the run."""
    return replace(config, checkpoints=f"epochs({max(1, config.epochs // 10)})")


def rates(scale: Scale, how: How) -> tuple[float, ...]:
    """Learning rates that are tried."""
    return RATES[how] if scale == "paper" else RATES[how][1:3]


def seeds(scale: Scale) -> tuple[int, ...]:
    """Those of every study; two of them at ``smoke``."""
    return SEEDS[:2] if scale == "smoke" else SEEDS


def networks(how: How, *kinds: str) -> Callable[[Scale], Plan]:
    """Some of the four networks at every learning rate."""

    def planned(scale: Scale) -> Plan:
        variants = {
            f"{kind}-{rate:g}": (f"{KINDS[kind][0]}, rate {rate:g}", config(scale, how, kind, rate))
            for kind in kinds or KINDS
            for rate in rates(scale, how)
        }
        return Plan(variants, seeds(scale), reduced, timed, may_diverge=True, shows_errors=True)

    return planned


def beginning(scale: Scale) -> Plan:
    """The four networks in the first iterations of full gradient descent, at one learning rate."""
    rate, steps = 0.1, {"paper": 6, "small": 20, "smoke": 3}[scale]
    variants = {
        f"{kind}-{rate:g}": (
            label,
            replace(config(scale, "full", kind, rate), epochs=steps, checkpoints="epochs(1)"),
        )
        for kind, (label, _, _) in KINDS.items()
    }
    return Plan(variants, seeds(scale), reduced, may_diverge=True, shows_errors=True)


def reduced(runs: Runs) -> str:
    """What a scale changes of the paper's settings, for captions."""
    config = runs.first.config
    steps = f"{config.epochs} epochs in batches of {config.batch_size}"
    if runs.scale == "paper":
        return f"The paper's settings; read here so: {steps}, no biases."
    if runs.scale == "smoke":
        return f"A smoke test of {config.epochs} epochs on the embedded digits; not an experiment."
    return f"Reduced: {runs.trained_on_images()}, {steps}; no biases."
