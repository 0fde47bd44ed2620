"""What other normalisations do to the conditioning of layers, against BN and none: Section 6."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from layerscope.config import FCN, SGD, Digits, Images, ModelConfig, RunConfig
from layerscope.config.models import Normalisation
from layerscope.models.cifar_resnet import ChannelNormalisation, CifarResNet
from layerscope.recipes.layerwise_conditioning.connected import (
    FACTORS,
    FLAT,
    contrasted,
    decades,
    hidden,
    over_training_and_before,
    per_layer,
)
from layerscope.recipes.layerwise_conditioning.settings import (
    CONDITION,
    LAYERS,
    SIGNALS,
    images,
    paper,
    seeds,
)
from layerscope.studies.comparisons import alike
from layerscope.studies.paper import Items, Statement, claim
from layerscope.studies.plan import Plan, Runs, Scale
from layerscope.studies.plots import OVER_SEEDS, Plot, lines, table
from layerscope.studies.quantity import Quantity, combined, stacked

PLACE = "beyond the paper, Section 6"
WORDS = {
    "none": "Plain",
    "batch": "BatchNorm",
    "layer": "LayerNorm",
    "group": "GroupNorm",
    "instance": "InstanceNorm",
}
CHANNEL_GROUPS = {"paper": 8, "small": 4, "smoke": 2}


@dataclass(frozen=True)
class Family:
    """Networks that differ in their normalisation.

    Attributes:
        name: What names of variants begin with.
        label: What figures call it.
        normalisations: Those it comes with, without none.
    """

    name: str
    label: str
    normalisations: tuple[str, ...]

    def variant(self, normalisation: str) -> str:
        """The name of one of them."""
        return f"{self.name}-{normalisation}"

    def inside(self, values: Quantity) -> Quantity:
        """Without the first layer, whose input are pixels, and the classifier."""
        if self.name == "mlp":
            return hidden(values)
        return values.layers(lambda name: name.endswith(".conv") and name != "stage0.conv")


MLP = Family("mlp", "MLP", ("batch", "layer", "group"))
CNN = Family("cnn", "CNN", ("batch", "layer", "group", "instance"))
FAMILIES = (MLP, CNN)


def normalised(scale: Scale) -> Plan:
    """The MLP of Section 4 and the VGG-style network of Appendix C.1.2, each as it comes."""
    variants = {
        family.variant(kind): (f"{family.label}, {WORDS[kind]}", config(scale, family, kind))
        for family in FAMILIES
        for kind in ("none", *family.normalisations)
    }
    return Plan(variants, seeds(scale), reduced, timed, may_diverge=True, shows_errors=True)


def network(scale: Scale, family: Family, kind: str) -> ModelConfig:
    """One of the networks."""
    smoke = scale == "smoke"
    if family is MLP:
        by_name: Mapping[str, Normalisation] = {
            "none": "none",
            "batch": "batch",
            "layer": "layer",
            "group": "group",
        }
        return FCN(
            LAYERS[scale] - 1,
            16 if smoke else 256,
            normalisation=by_name[kind],
            groups=4 if smoke else 8,
            initialisation="he",
            bias=False,
        )
    of_channels: Mapping[str, ChannelNormalisation] = {
        "none": "none",
        "batch": "batch",
        "layer": "layer",
        "group": "group",
        "instance": "instance",
    }
    return CifarResNet(
        8 if smoke else 20,
        "plain",
        of_channels[kind],
        groups=CHANNEL_GROUPS[scale],
        width={"paper": 1.0, "small": 0.5, "smoke": 0.25}[scale],
    )


def config(scale: Scale, family: Family, kind: str) -> RunConfig:
    """How one of them is trained."""
    limits = (None, None) if scale == "paper" else (2048, 2000)
    if family is MLP:
        data = images(scale)
        sizes = {"paper": (10, 1024), "small": (10, 1024), "smoke": (2, 256)}[scale]
    else:
        pixels = None if scale == "paper" else 16
        data = Images("cifar10", *limits, image_size=pixels)
        data = Digits(image_size=16) if scale == "smoke" else data
        sizes = {"paper": (20, 128), "small": (6, 128), "smoke": (2, 256)}[scale]
    epochs, batch = sizes
    return timed(
        RunConfig(
            model=network(scale, family, kind),
            data=data,
            optimizer=SGD(0.1) if family is MLP else SGD(0.01, momentum=0.9),
            epochs=epochs,
            batch_size=batch,
            probe_batch=1024 if family is MLP and scale != "smoke" else 128,
        )
    )


def timed(config: RunConfig) -> RunConfig:
    """With checkpoints at the start, after half of the epochs and at the end."""
    return replace(config, checkpoints=f"epochs({max(1, config.epochs // 2)})")


def reduced(runs: Runs) -> str:
    """What was left open by the paper, and what smaller scales reduce."""
    if runs.scale == "smoke":
        return "A smoke test on the embedded digits; not an experiment."
    mlp, cnn = (runs[family.variant("none")].config for family in FAMILIES)
    how = (
        f"MLP of {LAYERS[runs.scale]} layers on MNIST, He initialisation, no biases, {mlp.epochs} "
        f"epochs in batches of {mlp.batch_size}, learning rate {mlp.optimizer.learning_rate:g}; "
        "the VGG-style network of 20 layers on CIFAR-10, "
        f"{cnn.epochs} epochs in batches of {cnn.batch_size}, learning rate "
        f"{cnn.optimizer.learning_rate:g}, momentum 0.9; group normalisation with 8 groups of "
        f"units or {CHANNEL_GROUPS[runs.scale]} of channels"
    )
    if runs.scale == "paper":
        return f"The paper's settings; read here so: {how}."
    return (
        "Reduced: 4,096 images of MNIST, 2,048 of CIFAR-10 at 16x16 pixels, half the channels; "
        f"{how}."
    )


@paper.recipe(
    "beyond Section 6",
    normalised,
    "What do other normalisations do to the conditioning?",
    "Sizes of signals and condition numbers with normalisation over the batch, over layers, groups "
    "of units or channels, and over the places of each channel, against none.",
)
def other_normalisations(runs: Runs) -> Items:
    """Layer, group and instance normalisation against BN and none: sizes and kappa_50."""
    for family in FAMILIES:
        for kind in family.normalisations:
            yield from keeps_sizes(runs, family, kind)
        for kind in family.normalisations:
            yield from lowers(runs, family, kind)
        yield from lowest(runs, family)
    for family in FAMILIES:
        yield from over_depth(runs, family)
        yield typical(runs, family)


def keeps_sizes(runs: Runs, family: Family, kind: str) -> Iterator[Statement]:
    """Signals neither vanish nor explode with depth before training."""
    for side, words in (("input", "what enters"), ("gradient", "gradients at what leaves")):
        sizes = family.inside(runs[family.variant(kind)].of(SIGNALS, side)).isel(step=0)
        yield claim(
            f"{family.name}-{kind}-{side}",
            f"{family.label} with {WORDS[kind]}: {words} a layer keeps its size over depth, before "
            f"training. [{PLACE}]",
            alike(per_layer(decades(sizes)), "decades per layer", FLAT),
            regardless=True,
        )


def lowers(runs: Runs, family: Family, kind: str) -> Iterator[Statement]:
    """Both factors are better conditioned than without normalisation, in every layer."""
    for factor, matrix in FACTORS.items():
        gain = combined(contrasted, *(kappa(runs, family, one, factor) for one in (kind, "none")))
        yield from over_training_and_before(
            gain,
            f"{family.name}-{kind}-kappa-{factor}",
            f"{family.label} with {WORDS[kind]}: kappa_50 of {matrix} is lower than without "
            "normalisation in every hidden layer",
            f"contrast of 1 / kappa_50 of {matrix}, {WORDS[kind]} against Plain,",
            PLACE,
        )


def lowest(runs: Runs, family: Family) -> Iterator[Statement]:
    """BN is the best conditioned of all in most layers."""
    for factor, matrix in FACTORS.items():
        every = {
            kind: kappa(runs, family, kind, factor) for kind in ("none", *family.normalisations)
        }
        ahead = stacked("normalisation", every).map(
            lambda a: (a.idxmin("normalisation") == "batch").astype(float).mean(["layer", "step"])
        )
        yield claim(
            f"{family.name}-batch-lowest-{factor}",
            f"{family.label}: kappa_50 of {matrix} is lowest of all with BatchNorm in most hidden "
            f"layers and moments. [{PLACE}]",
            ahead,
            "share of hidden layers and moments",
            0.5,
            regardless=True,
        )


def kappa(runs: Runs, family: Family, kind: str, factor: str) -> Quantity:
    """kappa_50 in hidden layers."""
    return family.inside(runs[family.variant(kind)].of(CONDITION, f"kappa_50_{factor}"))


def over_depth(runs: Runs, family: Family) -> Iterator[Plot]:
    """Sizes at the start, and condition numbers at the end, a line for each normalisation."""
    shown = (
        (SIGNALS, "input", 0, "root mean square", "size of what enters each layer, start"),
        (SIGNALS, "gradient", 0, "root mean square", "size of gradients at what leaves, start"),
        (CONDITION, "kappa_50_input", -1, "kappa_50", "kappa_50 of S_x, end of training"),
        (CONDITION, "kappa_50_gradient", -1, "kappa_50", "kappa_50 of S_g, end of training"),
    )
    for probe, variable, step, quantity, words in shown:
        parts = {
            WORDS[kind]: _placed(
                family.inside(runs[family.variant(kind)].of(probe, variable)).isel(step=step)
            )
            for kind in ("none", *family.normalisations)
        }
        yield lines(
            stacked("normalisation", parts, long_name=quantity, units=""),
            f"{family.name}-{variable.replace('_', '-')}",
            f"{family.label}: {words}",
            f"{words[0].upper()}{words[1:]}, hidden layers over depth; infinite ones are not "
            f"drawn; {OVER_SEEDS}",
            x="depth",
            hue="normalisation",
            log_y=True,
        )


def typical(runs: Runs, family: Family) -> Plot:
    """Median condition numbers over layers, a row for each normalisation."""
    columns = {
        f"{factor}_{when}": stacked(
            "normalisation",
            {
                WORDS[kind]: kappa(runs, family, kind, factor)
                .isel(step=step)
                .map(lambda a: a.median("layer"))
                for kind in ("none", *family.normalisations)
            },
            long_name=f"kappa_50 of {matrix}, {when}",
            units="",
        )
        for factor, matrix in FACTORS.items()
        for when, step in (("start", 0), ("end", -1))
    }
    return table(
        columns,
        f"{family.name}-typical",
        f"{family.label}: condition numbers of a typical layer",
        f"Median of kappa_50 over hidden layers; {OVER_SEEDS}",
        rows="normalisation",
    )


def _placed(values: Quantity) -> Quantity:
    """Over the places of layers; the second layer is 2."""

    def placed(array: xr.DataArray) -> xr.DataArray:
        places = np.arange(2, 2 + array.sizes["layer"])
        array = array.reset_coords(drop=True).assign_coords(layer=places).rename(layer="depth")
        return array.where(np.isfinite(array))

    return values.map(placed)
