"""The whole curvature against that of layers, both exact, of small networks: Figs. 1, A1 to A4.

From Section 3 and Appendix B: an MLP of 8 layers with 24 units each, and of 4 layers with 24 or 36,
"Plain" and with batch normalisation; the spectrum of the full Fisher matrix, or of M, the second
moment of sample gradients, and those of the blocks of layers, while the network trains.

Left open by the paper and read here so: the last layer is the classifier; no biases; initialised at
random, U(-1/sqrt(fan_in), 1/sqrt(fan_in)), which the vanishing gradients of "Plain" suggest; MNIST
resized to 7x7 pixels, so that the full matrix can be written out (4,872 rows for 8 layers of 24);
10,240 training images, of which a fixed batch of 512 in train mode makes the matrices; SGD with
batches of 1024 at a learning rate of 0.1 for 30 epochs, seen at the start and after 10, 20 and 30.

Of both matrices the generalised condition numbers are those that rank allows: at most 9 N for the
Fisher matrix of N examples with 10 classes, at most N for M. So kappa_50 and kappa_80 of the Fisher
matrix, and kappa_5 and kappa_10 of M.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import xarray as xr

from layerscope.config import FCN, SGD, Digits, Images, RunConfig
from layerscope.networks.likelihood import Fisher
from layerscope.probes import FisherSpectrum
from layerscope.probes.at_matrices import kappa, on_logarithmic_axes
from layerscope.recipes.layerwise_conditioning.connected import contrasted, decades
from layerscope.recipes.layerwise_conditioning.settings import paper, seeds
from layerscope.studies.comparisons import in_each_layer
from layerscope.studies.paper import Items, Statement, claim
from layerscope.studies.plan import Plan, Runs, Scale
from layerscope.studies.plots import OVER_SEEDS, Plot, lines
from layerscope.studies.quantity import Quantity, combined, stacked

RATE = 0.1
SAMPLES = {"paper": 512, "small": 512, "smoke": 128}
TENFOLD = 1.0
"""A decade."""
CURVATURES: Mapping[Fisher, tuple[str, tuple[float, float]]] = {
    "exact": ("Fisher matrix", (0.5, 0.8)),
    "empirical": ("M", (0.05, 0.1)),
}
"""What a matrix is called, and the shares of its generalised condition numbers."""
FULL = "full"
KEPT_LAYERS = ("layer3", "layer6")


def networks(layers: int, width: int) -> Callable[[Scale], Plan]:
    """Plain and with batch normalisation."""

    def planned(scale: Scale) -> Plan:
        variants = {
            "plain": ("Plain", config(scale, layers, width, normalised=False)),
            "bn": ("BN", config(scale, layers, width, normalised=True)),
        }
        return Plan(variants, seeds(scale), reduced, timed, shows_errors=True)

    return planned


def config(scale: Scale, layers: int, width: int, *, normalised: bool) -> RunConfig:
    """How one network is trained."""
    smoke = scale == "smoke"
    limit, test_limit = (10_240, None) if scale == "paper" else (4096, 2000)
    images = Images("mnist", limit=limit, test_limit=test_limit, image_size=7)
    return timed(
        RunConfig(
            model=FCN(
                layers - 1,
                6 if smoke else width,
                normalisation="batch" if normalised else "none",
                bias=False,
            ),
            data=Digits() if smoke else images,
            optimizer=SGD(RATE),
            epochs={"paper": 30, "small": 40, "smoke": 2}[scale],
            batch_size=256 if smoke else 1024,
            probe_batch=SAMPLES[scale],
        )
    )


def timed(config: RunConfig) -> RunConfig:
    """With checkpoints at thirds of the run."""
    return replace(config, checkpoints=f"epochs({-(-config.epochs // 3)})")


def reduced(runs: Runs) -> str:
    """What was left open by the paper, and what a scale changes."""
    if runs.scale == "smoke":
        return "A smoke test of networks of 6 units on the embedded digits; not an experiment."
    words = "The paper's settings" if runs.scale == "paper" else "Reduced: fewer images"
    return (
        f"{words}; read here so: {runs.trained_on_images()}, SGD, random initialisation, no "
        f"biases; matrices of {SAMPLES[runs.scale]} training images in train mode."
    )


def probe(runs: Runs, fisher: Fisher, *, whole: bool) -> FisherSpectrum:
    """What measures a matrix of the whole network, or of its layers."""
    _, shares = CURVATURES[fisher]
    return FisherSpectrum(SAMPLES[runs.scale], fisher, shares=shares, whole=whole)


def matrices(runs: Runs, kind: str, fisher: Fisher, variable: str) -> Quantity:
    """A number of the full matrix and of the blocks of all layers, along ``layer``."""
    full, blocks = (
        runs[kind].of(probe(runs, fisher, whole=whole), variable) for whole in (True, False)
    )
    return combined(_joined, full, blocks)


def _joined(full: xr.DataArray, blocks: xr.DataArray) -> xr.DataArray:
    names = [name for name in blocks["layer"].values if not str(name).startswith("norm")]
    kept = {"layer", "seed", "step", "epoch"}
    full, blocks = (a.drop_vars(set(a.coords) - kept) for a in (full, blocks))
    return xr.concat([full.assign_coords(layer=[FULL]), blocks.sel(layer=names)], "layer")


def differences(runs: Runs, fisher: Fisher, variable: str) -> Quantity:
    """BN against plain, above 0 where BN is better: in decades, or the contrast of 1 / kappa."""
    normal, plain = (matrices(runs, kind, fisher, variable) for kind in ("bn", "plain"))
    if variable == "largest":
        return decades(normal) - decades(plain)
    return combined(contrasted, normal, plain)


def agreement(values: xr.DataArray) -> xr.DataArray:
    """Share of layers and moments where a block ranks both networks as the full matrix, (seed).

    Where neither is better, it has not ranked them.
    """
    signs = values.copy(data=np.sign(values.values))
    full, blocks = signs.sel(layer=FULL, drop=True), signs.drop_sel(layer=FULL)
    return ((blocks == full) & (full != 0)).mean(["layer", "step"])


def claims(
    runs: Runs, fisher: Fisher, place: str, shown: Sequence[str] | None = None
) -> Iterator[Statement]:
    """What the full matrix says of both networks, and whether blocks say the same.

    Networks that do not learn are what these are about, so that all are decided.

    Args:
        runs: The runs.
        fisher: Which matrix.
        place: In the paper.
        shown: Layers whose blocks are looked at; all where None.
    """
    name, shares = CURVATURES[fisher]
    which = "of every layer" if shown is None else f"of layers {_listed(shown)}"
    for variable, what in _variables(shares).items():
        id = f"{fisher}-{variable.replace('_', '-')}"
        effect = differences(runs, fisher, variable)
        mean = effect.mean("step")
        blocks = mean.layers(lambda n: n != FULL and (shown is None or n in shown))
        largest = variable == "largest"
        statistic = "decades" if largest else f"contrast of 1 / {variable}"
        better = "larger" if largest else "lower"
        yield claim(
            f"{id}-full",
            f"The {what} of the full {name} is {'more than ten times ' if largest else ''}"
            f"{better} with batch normalisation, over training. [{place}]",
            mean[FULL],
            f"{statistic}, BN against plain",
            TENFOLD if largest else 0.0,
            regardless=True,
        )
        yield claim(
            f"{id}-blocks",
            f"So it is {better} in the block {which}. [{place}]",
            in_each_layer(blocks, f"{statistic}, BN against plain,"),
            regardless=True,
        )
        yield claim(
            f"{id}-agree",
            f"By the {what} blocks of layers rank both networks as the full {name} does, in most "
            f"layers and at most moments. [{place}]",
            effect.map(agreement),
            "share of layers and moments of the same sign",
            0.5,
            regardless=True,
        )


def _variables(shares: Sequence[float]) -> dict[str, str]:
    return {"largest": "largest eigenvalue"} | {kappa(p): kappa(p) for p in shares}


def _listed(layers: Sequence[str]) -> str:
    return " and ".join(name.removeprefix("layer") for name in layers)


def curves(runs: Runs, fisher: Fisher, shown: Sequence[str] | None = None) -> Iterator[Plot]:
    """Every number over training, a panel for each matrix."""
    name, shares = CURVATURES[fisher]
    for variable, what in _variables(shares).items():
        parts = {
            run.label: matrices(runs, kind, fisher, variable)
            .layers(lambda n: shown is None or n in (FULL, *shown))
            .map(_drawn)
            for kind, run in runs.items()
        }
        yield lines(
            stacked("network", parts, long_name=what, units=""),
            f"{fisher}-{variable.replace('_', '-')}",
            f"{what[0].upper()}{what[1:]} of the {name}",
            f"The {what} of the full {name} and of the blocks of layers, without and with batch "
            f"normalisation; not drawn where it is infinite for a seed; geometric {OVER_SEEDS}",
            x="epoch",
            hue="network",
            panel="matrix",
            log_y=True,
        )


def _drawn(values: xr.DataArray) -> xr.DataArray:
    """Matrices as panels; a mean over those seeds alone that are finite would mislead."""
    every = values.where((values < np.inf).all("seed"))
    return on_logarithmic_axes(every).rename(layer="matrix")


def compared(
    runs: Runs, fishers: Sequence[Fisher], place: str, shown: Sequence[str] | None = None
) -> Items:
    """Claims and figures of several matrices."""
    for fisher in fishers:
        yield from claims(runs, fisher, place, shown)
        yield from curves(runs, fisher, shown)


@paper.recipe(
    "Fig. 1",
    networks(8, 24),
    "Do the spectra of layers tell what that of the whole network does?",
    "Largest eigenvalue and generalised condition numbers of the exact full Fisher matrix and of "
    "its blocks of two layers, of an MLP of 8 layers.",
)
def fig1(runs: Runs) -> Items:
    """8 layers: BN has larger gradients and better conditioning, by the full FIM and two layers."""
    yield from compared(runs, ["exact"], "Fig. 1, Section 3", KEPT_LAYERS)


@paper.recipe(
    "Fig. A1",
    networks(8, 24),
    "Do the spectra of all layers?",
    "Fig. 1 with the blocks of all layers.",
)
def figA1(runs: Runs) -> Items:  # noqa: N802
    """8 layers: all blocks of the Fisher matrix."""
    yield from compared(runs, ["exact"], "Fig. A1, Appendix B")


@paper.recipe(
    "Fig. A2",
    networks(8, 24),
    "And those of the second moment of sample gradients?",
    "Fig. A1 with M, whose labels are those of the data.",
)
def figA2(runs: Runs) -> Items:  # noqa: N802
    """8 layers: the second moment of sample gradients instead of the Fisher matrix."""
    yield from compared(runs, ["empirical"], "Fig. A2, Appendix B")


@paper.recipe(
    "Fig. A3",
    networks(4, 24),
    "Is it so with 4 layers?",
    "Both matrices of an MLP of 4 layers with 24 units each.",
)
def figA3(runs: Runs) -> Items:  # noqa: N802
    """4 layers of 24 units: both matrices."""
    yield from compared(runs, ["exact", "empirical"], "Fig. A3, Appendix B")


@paper.recipe(
    "Fig. A4",
    networks(4, 36),
    "Is it so with 4 wider layers?",
    "Both matrices of an MLP of 4 layers with 36 units each.",
)
def figA4(runs: Runs) -> Items:  # noqa: N802
    """4 layers of 36 units: both matrices."""
    yield from compared(runs, ["exact", "empirical"], "Fig. A4, Appendix B")
