"""Made data that looks like a training run, and report pages built from it."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from layerscope.figures.figure import (
    Bars,
    Column,
    Heatmap,
    Lines,
    Reference,
    Surface,
    Table,
)
from layerscope.report.finding import Finding
from layerscope.report.page import Page, Section
from layerscope.studies.claims import Claim, Verdict

NAMES = ("conv1", "conv2", "fc1", "head")


def training(
    names: tuple[str, ...] = NAMES, epochs: int = 50, seeds: int = 5, seed: int = 0
) -> xr.Dataset:
    """Per-layer curves over epochs and seeds: change, distance, gradient norm."""
    rng = np.random.default_rng(seed)
    depth = np.linspace(0, 1, len(names))[:, None, None]
    epoch = np.arange(epochs)[None, :, None]
    noise = rng.normal(0, 1, (len(names), epochs, seeds))
    offset = rng.normal(0, 1, (len(names), 1, seeds))
    rate = 5 + 18 * depth
    change = (0.02 + 0.25 * np.exp(-epoch / rate)) * np.exp(0.10 * noise + 0.12 * offset)
    distance = (0.35 + 1.1 * depth) * (1 - np.exp(-epoch / rate)) * np.exp(0.05 * offset)
    distance = distance + 0.004 * noise
    gradient = 10 ** (-1.2 - 1.4 * depth - epoch / (2.2 * epochs) + 0.06 * noise + 0.05 * offset)
    dims = ("layer", "epoch", "seed")
    coordinates = {
        "layer": list(names),
        "epoch": np.arange(epochs),
        "seed": np.arange(seeds),
        "group": (
            "layer",
            [("early", "middle", "late")[min(2, int(3 * d))] for d in depth.ravel()],
        ),
    }
    data = xr.Dataset(
        {
            "relative_change": (dims, change, {"long_name": "relative change", "units": "1"}),
            "distance": (dims, distance, {"long_name": "distance from initialisation"}),
            "gradient_norm": (dims, gradient, {"long_name": "gradient norm"}),
        },
        coords=coordinates,
    )
    final = data["distance"].isel(epoch=-1)
    reached = (data["distance"] >= 0.9 * final).argmax("epoch").astype(float)
    data["converged"] = reached.assign_attrs(long_name="converged at", units="epoch")
    data["drop"] = (
        ("layer", "seed"),
        0.7 - 0.62 * depth[:, 0] + 0.02 * rng.normal(size=(len(names), seeds)),
        {"long_name": "accuracy lost when reset", "units": "1"},
    )
    return data


def figures(data: xr.Dataset, prefix: str = "") -> dict[str, Lines | Heatmap | Bars]:
    """The figures of a run over epochs."""
    halfway = (data["distance"] >= 0.5 * data["distance"].isel(epoch=-1)).argmax("epoch")
    halfway = halfway.where(data["layer"] != data["layer"][-1], np.inf)
    return {
        "change": Lines(
            data["relative_change"],
            f"{prefix}change",
            "How fast each layer changes",
            "Relative change of the weights per epoch; mean of the seeds and 95% interval.",
            x="epoch",
            log_y=True,
        ),
        "distance": Lines(
            data["distance"],
            f"{prefix}distance",
            "How far each layer has come",
            "Distance from the initial weights, divided by their norm.",
            x="epoch",
            references=(Reference(1.0, "as far as the initial norm"),),
        ),
        "gradient": Lines(
            data["gradient_norm"],
            f"{prefix}gradient",
            "Gradient norm",
            "One panel for each layer, all on one scale.",
            x="epoch",
            hue=None,
            panel="layer",
            log_y=True,
        ),
        "convergence": Heatmap(
            data["relative_change"],
            f"{prefix}convergence",
            "When each layer settles",
            "Relative change per epoch. The diamond marks 90 % of the final distance.",
            x="epoch",
            overlays=(data["converged"],),
            front=halfway.assign_attrs(long_name="halfway at", units="epoch"),
        ),
        "drop": Bars(
            data["drop"],
            f"{prefix}drop",
            "What a reset costs",
            "Accuracy lost when a trained layer goes back to its initial weights.",
            references=(Reference(0.1, "10 points"),),
        ),
    }


def table(data: xr.Dataset) -> Table:
    """One row for each layer."""
    final = data[["relative_change", "distance"]].isel(epoch=-1, drop=True)
    return Table(
        final.merge(data[["converged", "drop"]]),
        "layers",
        "Every layer",
        "Means of the seeds ± 95% interval. Click a heading to sort, a row to choose its layer.",
        columns=(
            Column("group", header="group", bar=False),
            Column("converged", header="settled at", format=".1f"),
            Column("distance", header="distance travelled"),
            Column("relative_change", header="last change", unit="per epoch"),
            Column("drop", header="cost of a reset", unit="accuracy", format=".2f"),
        ),
    )


def landscape() -> Surface:
    """A bowl for each layer."""
    grid = np.linspace(-1, 1, 31)
    x, y = np.meshgrid(grid, grid)
    heights = np.stack([0.05 + (k + 1) * x**2 + y**2 + 0.4 * x * y for k in range(len(NAMES))])
    data = xr.DataArray(
        heights,
        dims=("layer", "y", "x"),
        coords={"layer": list(NAMES), "x": grid, "y": grid},
        attrs={"long_name": "loss"},
    )
    return Surface(data, "landscape", "Loss around the minimum", panel="layer", log=True)


def decided(name: str, text: str, source: str, verdict: Verdict) -> tuple[Claim, Verdict]:
    """A claim with its verdict."""
    return Claim(name, text, source, lambda _: verdict), verdict


def page(data: xr.Dataset) -> Page:
    """A whole report of one study."""
    made = figures(data)
    names = [str(name) for name in data["layer"].values]
    variants = xr.concat(
        [data["drop"], 0.6 * data["drop"]], xr.Variable("variant", ["SGD", "Adam"])
    )
    compared = Bars(variants, "drop-by-optimiser", "SGD and Adam", hue="variant")
    return Page(
        title="How a small convolutional network learns handwritten digits",
        subtitle="LeNet on the 8 x 8 digits of scikit-learn, trained with SGD.",
        facts=(
            ("Test accuracy", "97.3 % ± 0.4"),
            ("Layers", str(len(names))),
            ("Epochs", "50"),
            ("Seeds", "5"),
            ("Parameters", "61,706"),
        ),
        findings=(
            Finding(
                f"Early layers settle first: {names[0]} needs 12 epochs, {names[-1]} needs 37.",
                "good",
                "90 % of the final distance; Spearman correlation with depth 0.98 [0.91, 1.00], "
                "5 seeds.",
            ),
            Finding(
                "Resetting the last layer costs 8 points of accuracy; it could be trained anew.",
                "plain",
                "0.08 ± 0.03, below the limit of 0.10.",
                names[-1],
            ),
            Finding(
                "The gradient of the last layer is 30 times smaller than that of the first.",
                "warning",
                "Median of the last 10 epochs, 0.0012 against 0.031.",
                names[-1],
            ),
            Finding(
                "No layer stopped learning: every one still changes by more than 1 % per epoch.",
                "plain",
                "Smallest last change 0.021, limit 0.010.",
            ),
        ),
        table=table(data),
        lead=made["change"],
        sections=(
            Section(
                "Change and distance",
                "How far the weights have moved, and when they stop.",
                (made["distance"], made["convergence"], made["gradient"]),
            ),
            Section("Robustness", "What each trained layer is worth.", (made["drop"], compared)),
            Section("Landscape", "", (landscape(),)),
        ),
        verdicts=(
            decided(
                "bottom-up",
                "Layers converge bottom-up: earlier layers reach their final weights first.",
                "Raghu et al. 2017, Section 3",
                Verdict(
                    "holds",
                    "Spearman correlation of depth and convergence epoch",
                    0.98,
                    (0.91, 1.0),
                    5,
                ),
            ),
            decided(
                "robust-late",
                "Late layers can be re-initialised without loss of accuracy.",
                "Zhang et al. 2022, Figure 2",
                Verdict(
                    "fails",
                    "accuracy lost, last layer",
                    0.08,
                    (0.05, 0.11),
                    5,
                    0.01,
                    "The paper uses larger networks.",
                ),
            ),
            decided(
                "critical-first",
                "The first layer is the most critical one.",
                "Zhang et al. 2022, Section 4",
                Verdict("inconclusive", "difference to the second layer", 0.04, (-0.02, 0.10), 5),
            ),
        ),
        provenance={
            "layerscope": "0.1.0",
            "hardware": "2 CPU cores, 41 s",
            "reproduce": "pip install layerscope\nlayerscope reproduce lenet-digits --seeds 5",
        },
        notices=(),
    )


@pytest.fixture(scope="session")
def four_layers() -> Page:
    return page(training())


@pytest.fixture(scope="session")
def sixty_layers() -> Page:
    return page(training(tuple(f"block{i // 6}.conv{i % 6}" for i in range(60))))
