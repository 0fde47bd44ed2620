"""Convolutional networks with and without normalisation: Figs. A8 to A10, A14, Table A1."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

from layerscope.config import RunConfig
from layerscope.recipes.layerwise_conditioning.connected import better_conditioned, spectra_of
from layerscope.recipes.layerwise_conditioning.deep import (
    CURVE,
    DEPTHS,
    Network,
    by_thirds,
    config,
    curves,
    imagenet,
    reduced,
    test_error,
    timed,
)
from layerscope.recipes.layerwise_conditioning.settings import CONDITION, paper, seeds
from layerscope.studies.comparisons import in_each
from layerscope.studies.paper import Items, claim
from layerscope.studies.plan import Plan, Runs, Scale, Variant
from layerscope.studies.plots import OVER_SEEDS, beside_reported
from layerscope.studies.quantity import Quantity

PLAIN_RATE = 0.01
"""The networks without normalisation do not converge with 0.1 (Appendix C.1.2)."""
REGIMES: Mapping[str, tuple[str, dict[str, float]]] = {
    "standard": ("", {}),
    "decay": (", weight decay 2e-4", {"decay": 2e-4}),
    "dropout": (", dropout 0.3", {"dropout": 0.3}),
}
IMAGENET: Mapping[tuple[str, int], tuple[float, float, float]] = {
    ("resnet", 18): (29.78, 30.07, 30.62),
    ("last_bn", 18): (29.38, 28.96, 29.32),
    ("resnet", 50): (23.97, 24.37, 23.81),
    ("last_bn", 50): (23.76, 23.49, 23.47),
}
"""Table A1: errors in % as `REGIMES`."""
LABELS = {"resnet": "ResNet", "last_bn": "ResNetLastBN"}


def convolutions(values: Quantity) -> Quantity:
    """Without the first convolution, whose input are pixels, normalisations and the classifier."""
    return values.layers(
        lambda name: name.rpartition(".")[2].startswith("conv") and not name.startswith("stage0")
    )


def conditioned(scale: Scale, network: Network) -> Plan:
    """A network of 20 layers with and without batch normalisation, without weight decay."""
    depth = DEPTHS[scale][0] if scale == "smoke" else 20
    made = partial(config, scale, network, depth, decay=0.0, checkpoints="at(1) | epochs(1)")
    return _pair(scale, made(rate=PLAIN_RATE, normalisation="none"), made(), timed)


def _pair(scale: Scale, plain: RunConfig, normal: RunConfig, again: Any) -> Plan:
    variants = {"plain": ("Plain", plain), "bn": ("BN", normal)}
    return Plan(variants, seeds(scale), reduced, again, may_diverge=True, shows_errors=True)


def _on_imagenet(scale: Scale) -> Plan:
    plain = imagenet(scale, 18, rate=PLAIN_RATE, batch_norm=False, decay=0.0)
    return _pair(scale, plain, imagenet(scale, 18, decay=0.0), by_thirds)


def conditioning(runs: Runs, place: str) -> Items:
    """Whether normalisation improves the conditioning of convolutions."""

    def of(run: Variant, variable: str) -> Quantity:
        return convolutions(run.of(CONDITION, variable))

    yield from better_conditioned(
        partial(of, runs["plain"]),
        partial(of, runs["bn"]),
        "bn",
        "Places of the image as examples",
        "convolution but the first",
        f"{place}, Appendix C.1",
    )
    for run in runs.values():
        yield from spectra_of(partial(of, run), run.name, run.label)


@paper.recipe(
    "Fig. A8",
    partial(conditioned, network="vgg"),
    "Does batch normalisation improve the conditioning of convolutions?",
    "Largest eigenvalues and condition numbers of a VGG-style network of 20 layers.",
)
def figA8(runs: Runs) -> Items:  # noqa: N802
    """Conditioning of a VGG-style network on CIFAR-10 with and without batch normalisation."""
    yield from conditioning(runs, "Fig. A8")


@paper.recipe(
    "Fig. A9",
    partial(conditioned, network="resnet"),
    "And with residual connections?",
    "Largest eigenvalues and condition numbers of a residual network of 20 layers.",
)
def figA9(runs: Runs) -> Items:  # noqa: N802
    """Conditioning of a residual network on CIFAR-10 with and without batch normalisation."""
    yield from conditioning(runs, "Fig. A9")


@paper.recipe(
    "Fig. A10",
    _on_imagenet,
    "And on ImageNet?",
    "Largest eigenvalues and condition numbers of a ResNet-18.",
)
def figA10(runs: Runs) -> Items:  # noqa: N802
    """Conditioning of a ResNet-18 on ImageNet with and without batch normalisation."""
    yield from conditioning(runs, "Fig. A10")


def _depths(scale: Scale) -> tuple[Literal[18, 50], ...]:
    return (18, 50) if scale == "paper" else (18,)


def _name(network: str, depth: int, regime: str) -> str:
    return f"{network}-{depth}-{regime}"


def _networks(*regimes: str) -> Any:
    def planned(scale: Scale) -> Plan:
        variants = {
            _name(network, depth, regime): (
                f"{label}-{depth}{REGIMES[regime][0]}",
                imagenet(
                    scale,
                    depth,
                    last_norm="linear" if network == "last_bn" else "none",
                    **REGIMES[regime][1],
                ),
            )
            for network, label in LABELS.items()
            for depth in _depths(scale)
            for regime in regimes
        }
        return Plan(variants, seeds(scale), reduced, by_thirds, may_diverge=True, shows_errors=True)

    return planned


@paper.recipe(
    "Fig. A14",
    _networks("standard"),
    "Does a last normalisation help on ImageNet?",
    "Training loss of ResNet and ResNetLastBN.",
)
def figA14(runs: Runs) -> Items:  # noqa: N802
    """Training loss of ResNets on ImageNet with and without the last normalisation."""
    losses = {name: run.of(CURVE, "loss").at_end() for name, run in runs.items()}
    yield claim(
        "lower-loss",
        "ResNetLastBN has a lower training loss than ResNet. [Fig. A14, Appendix D.1]",
        in_each(
            {
                f"depth {depth}": losses[_name("resnet", depth, "standard")]
                - losses[_name("last_bn", depth, "standard")]
                for depth in _depths(runs.scale)
            },
            "{}: training loss of the last epoch, ResNet less ResNetLastBN",
        ),
    )
    yield curves(runs.values(), "loss", "ImageNet")


@paper.recipe(
    "Table A1",
    _networks(*REGIMES),
    "And does it gain more where regularisation is stronger?",
    "Errors of ResNet and ResNetLastBN in three trainings.",
)
def tableA1(runs: Runs) -> Items:  # noqa: N802
    """Errors on ImageNet with and without the last normalisation, for three regularisations."""
    gains = {
        (depth, regime): test_error(runs[_name("resnet", depth, regime)])
        - test_error(runs[_name("last_bn", depth, regime)])
        for depth in _depths(runs.scale)
        for regime in REGIMES
    }
    yield claim(
        "better",
        "ResNetLastBN has a lower error than ResNet in every training. [Table A1, Appendix D.1]",
        in_each(
            {f"depth {d}{REGIMES[r][0]}": gain for (d, r), gain in gains.items()},
            "{}: error in points, ResNet less ResNetLastBN",
        ),
    )
    yield claim(
        "more-regularised",
        "It gains more with more weight decay, and with dropout. [Table A1, Appendix D.1]",
        in_each(
            {
                f"depth {d}{REGIMES[r][0]}": gain - gains[d, "standard"]
                for (d, r), gain in gains.items()
                if r != "standard"
            },
            "{}: gain in points, less that of the standard training",
        ),
    )
    numbers = {
        runs[name].label: value
        for (network, depth), values in IMAGENET.items()
        for regime, value in zip(REGIMES, values, strict=True)
        if (name := _name(network, depth, regime)) in runs.variants
    }
    yield beside_reported(
        {"error": {run.label: test_error(run) for run in runs.values()}},
        {"error": numbers},
        f"Error on the validation images; {OVER_SEEDS} Reported: Table A1 of the paper.",
    )
