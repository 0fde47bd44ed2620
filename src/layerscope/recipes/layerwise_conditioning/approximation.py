"""How far the Kronecker product that stands for a layer's curvature can be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import xarray as xr

from layerscope.config import (
    FCN,
    SGD,
    Adam,
    DataConfig,
    Digits,
    Images,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    ViT,
)
from layerscope.models.cifar_resnet import CifarResNet
from layerscope.probes import ConditioningError
from layerscope.recipes.layerwise_conditioning.connected import decades, hidden
from layerscope.recipes.layerwise_conditioning.settings import paper, seeds
from layerscope.studies.paper import Items, claim
from layerscope.studies.plan import Plan, Runs, Scale
from layerscope.studies.plots import OVER_SEEDS, Plot, described, lines, table
from layerscope.studies.quantity import Quantity, combined, stacked
from layerscope.studies.statistics import rank_correlation

ERROR = ConditioningError(samples=64, fisher="exact")
"""All labels in turn: more gradients than a hidden layer of 24 units has parameters, so that half
of its exact eigenvalues can be other than 0."""
TENFOLD = 1.0
"""A decade."""
ALIKE = 0.8
LABELS: Mapping[str, str] = {
    "plain": "MLP 8x24, Plain",
    "bn": "MLP 8x24, BN",
    "fcn": "FCN 3x32",
    "resnet": "ResNet-8",
    "vit": "ViT of 2 blocks",
}


def small_networks(scale: Scale) -> Plan:
    """Five networks whose exact blocks can be computed."""
    variants = {name: (label, config(scale, name)) for name, label in LABELS.items()}
    return Plan(variants, seeds(scale), reduced, timed, shows_errors=True)


def network(scale: Scale, name: str) -> ModelConfig:
    """One of them."""
    smoke = scale == "smoke"
    mlp = FCN(3 if smoke else 7, 8 if smoke else 24, initialisation="he", bias=False)
    return {
        "plain": mlp,
        "bn": replace(mlp, normalisation="batch"),
        "fcn": FCN(3, 8 if smoke else 32),
        "resnet": CifarResNet(8, width=0.25 if smoke else 0.5),
        "vit": ViT(4, 8 if smoke else 16, 2, (2,) if smoke else (2, 2)),
    }[name]


def data(scale: Scale, name: str) -> DataConfig:
    """MNIST for those of vectors, CIFAR-10 for those of images; digits in smoke tests."""
    images = name in ("resnet", "vit")
    if scale == "smoke":
        return Digits(image_size=16) if images else Digits()
    limits = (None, None) if scale == "paper" else (4096, 2000)
    if images:
        return Images("cifar10", *limits, image_size=None if scale == "paper" else 16)
    return Images("mnist", *limits)


def config(scale: Scale, name: str) -> RunConfig:
    """How one of them is trained."""
    optimizer: OptimizerConfig = Adam(0.003) if name == "vit" else SGD(0.1)
    return timed(
        RunConfig(
            model=network(scale, name),
            data=data(scale, name),
            optimizer=optimizer,
            epochs={"paper": 10, "small": 6, "smoke": 2}[scale],
            batch_size=128,
            probe_batch=64,
        )
    )


def timed(config: RunConfig) -> RunConfig:
    """With checkpoints at the start, after half of the epochs and at the end."""
    return replace(config, checkpoints=f"epochs({max(1, config.epochs // 2)})")


def reduced(runs: Runs) -> str:
    """How networks are trained; Section 3 says only that one is an MLP of 8 layers of 24 units."""
    epochs, batch = runs.first.epochs, runs.first.config.batch_size
    if runs.scale == "smoke":
        return f"A smoke test of {epochs} epochs on the embedded digits; not an experiment."
    how = (
        f"{epochs} epochs in batches of {batch}, SGD, learning rate 0.1 (ViT: Adam, 0.003); MLPs "
        "with He initialisation and no biases; residual network and ViT on CIFAR-10"
    )
    if runs.scale == "paper":
        return f"The paper's settings; read here so: {how}."
    return f"Reduced: 4,096 images, those of CIFAR-10 of 16x16 pixels; {how}."


@paper.recipe(
    "beyond Section 3",
    small_networks,
    "Is the approximation of each layer's curvature to be trusted?",
    "The Kronecker product of both second moments against the exact block of the Fisher matrix, "
    f"{ERROR.samples} examples with all labels, over training.",
)
def approximation(runs: Runs) -> Items:
    """Kronecker products against exact blocks: largest eigenvalues, their order, kappa_50."""
    for name, run in runs.items():
        worst = abs_decades(factor(runs, name)).max("layer").max("step")
        yield claim(
            f"{name}-tenfold",
            f"{run.label}: the largest eigenvalue of the product is within a factor of ten of the "
            "exact one in every layer, over training. [beyond the paper, Section 3]",
            -worst,
            "minus decades apart, worst layer and time",
            -TENFOLD,
            regardless=True,
        )
        yield claim(
            f"{name}-order",
            f"{run.label}: it puts the layers in nearly the order of the exact ones, over "
            "training. [beyond the paper, Section 3]",
            order(runs, name).mean("step"),
            "rank correlation over layers, mean over times",
            ALIKE,
            regardless=True,
        )
    yield claim(
        "kappa-ranks",
        "kappa_50 of the product says which of Plain and BN is better conditioned as that of the "
        "exact block does, in nearly every hidden layer, over training. [beyond the paper, "
        "Section 3]",
        agreement(runs),
        "share of hidden layers and times with the same network ahead",
        ALIKE,
        regardless=True,
    )
    yield summary(runs)
    for name in runs:
        yield by_layer(runs, name)
        yield lines(
            measured(runs, name, "overlap"),
            f"overlap-{name}",
            f"{runs[name].label}: how alike product and exact block are",
            "Cosine between both, as vectors of their entries: 1 is the same up to a factor; "
            f"{OVER_SEEDS}",
            x="epoch",
        )


def measured(runs: Runs, name: str, variable: str) -> Quantity:
    """What was measured, of the matrices that have an exact block."""
    return runs[name].of(ERROR, variable).map(lambda a: a.dropna("layer", how="all"))


def factor(runs: Runs, name: str) -> Quantity:
    """Largest eigenvalue of the product over the exact one."""
    return measured(runs, name, "largest_ratio")


def abs_decades(values: Quantity) -> Quantity:
    """How many decades from 1, either way."""
    return decades(values).map(abs)


def order(runs: Runs, name: str) -> Quantity:
    """Rank correlation over layers between both largest eigenvalues."""
    return rank_correlation(
        measured(runs, name, "largest_product"), measured(runs, name, "largest_exact")
    )


def agreement(runs: Runs) -> Quantity:
    """Share of hidden layers and times in which both kappas put the same network ahead, (seed).

    Reciprocals are compared, since a condition number may be infinite; two equal ones agree with
    two equal ones only.
    """
    signs = [
        combined(
            lambda plain, bn: xr.apply_ufunc(np.sign, 1 / bn - 1 / plain),
            *(hidden(runs[name].of(ERROR, f"kappa_50_{which}")) for name in ("plain", "bn")),
        )
        for which in ("exact", "product")
    ]
    return combined(lambda a, b: (a == b).astype(float), *signs).mean("layer").mean("step")


def summary(runs: Runs) -> Plot:
    """A row for each network."""
    columns = {
        "decades": (
            {n: abs_decades(factor(runs, n)).max("layer").max("step") for n in runs},
            "largest eigenvalues apart, worst",
            "decades",
        ),
        "order": ({n: order(runs, n).mean("step") for n in runs}, "order of layers", ""),
        "start": (
            {n: measured(runs, n, "overlap").isel(step=0).mean("layer") for n in runs},
            "overlap, start",
            "",
        ),
        "end": (
            {n: measured(runs, n, "overlap").at_end().mean("layer") for n in runs},
            "overlap, end",
            "",
        ),
    }
    return table(
        {
            key: stacked("network", runs.labelled(parts), long_name=long_name, units=units)
            for key, (parts, long_name, units) in columns.items()
        },
        "networks",
        "How good the approximation is",
        "Distance of the largest eigenvalue of the product from the exact one in the worst layer, "
        "rank correlation of both over layers, and mean overlap over layers, the cosine between "
        f"product and exact block; {OVER_SEEDS}",
        rows="network",
    )


def by_layer(runs: Runs, name: str) -> Plot:
    """A row for each layer of a network."""
    columns = {
        f"{variable}_{when}": described(
            measured(runs, name, variable).isel(step=step), f"{words}, {when}"
        )
        for variable, words in (
            ("largest_ratio", "largest, product over exact"),
            ("overlap", "overlap"),
            ("explained", "explained"),
        )
        for when, step in (("start", 0), ("end", -1))
    }
    return table(
        columns,
        f"layers-{name}",
        f"{runs[name].label}: product against exact block",
        "Largest eigenvalue of the product over the exact one; overlap, the cosine between both; "
        "explained, one less the squared distance over the squared norm of the exact block, below "
        f"0 where the product is worse than none; {OVER_SEEDS}",
    )
