"""Does the last layer's input tell early which trainings end badly? Beyond the paper.

The paper finds that what enters the last linear layer decides how training begins (Section 5). Here
forty trainings, of four depths, two initialisations and five learning rates, are sorted by the
largest eigenvalue of its second moment after 50 steps, and by the loss at that moment, which costs
nothing to know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import xarray as xr

from layerscope.config import FCN, SGD, Digits, Images, RunConfig
from layerscope.config.models import Initialisation
from layerscope.probes import Performance, TrainingLoss
from layerscope.probes.conditioning import Conditioning
from layerscope.recipes.layerwise_conditioning.connected import decades
from layerscope.recipes.layerwise_conditioning.settings import paper, seeds
from layerscope.studies.guards import guessing, scored
from layerscope.studies.paper import Items, claim
from layerscope.studies.plan import Plan, Runs, Scale
from layerscope.studies.plots import OVER_SEEDS, Plot, bars, table
from layerscope.studies.quantity import Quantity, combined, stacked

FIRST = 50
"""Steps that are looked at."""
HEAD = "output"
CURVATURE = Conditioning(layers=(HEAD,))
BATCH, TEST = TrainingLoss(over="batch"), Performance()
DEPTHS: Mapping[Scale, tuple[int, ...]] = {
    "paper": (4, 8, 16, 32),
    "small": (4, 8, 16, 32),
    "smoke": (2, 6),
}
STARTS: Mapping[Initialisation, str] = {"torch": "random", "he": "He"}
RATES = (0.003, 0.01, 0.03, 0.1, 0.2)
BAD = 0.5
"""Share of the error of guessing above which a training has ended badly."""


def forty(scale: Scale) -> Plan:
    """Fully connected networks of several depths, initialisations and learning rates."""
    images = {
        "paper": Images("mnist"),
        "small": Images("mnist", limit=2048, test_limit=2000),
        "smoke": Digits(),
    }[scale]
    rates = RATES[::4] if scale == "smoke" else RATES
    variants = {
        f"{depth}-{start}-{rate:g}": (
            f"{depth} layers, {words}, rate {rate:g}",
            RunConfig(
                model=FCN(depth, 16 if scale == "smoke" else 64, initialisation=start),
                data=images,
                optimizer=SGD(rate),
                epochs={"paper": 5, "small": 10, "smoke": 5}[scale],
                batch_size=128,
                checkpoints=f"at({FIRST})",
                probe_batch=64 if scale == "smoke" else 512,
            ),
        )
        for depth in DEPTHS[scale]
        for start, words in STARTS.items()
        for rate in rates
    }
    return Plan(variants, seeds(scale), reduced, may_diverge=True)


def reduced(runs: Runs) -> str:
    """What a scale changes, for captions."""
    if runs.scale == "smoke":
        return "A smoke test of eight networks on the embedded digits; not an experiment."
    config = runs.first.config
    start = "Reduced" if runs.scale == "small" else "Not one of the paper's settings"
    return (
        f"{start}: {len(runs)} fully connected networks of 64 units on MNIST, {config.epochs} "
        f"epochs in batches of {config.batch_size}."
    )


@paper.recipe(
    "beyond Section 5",
    forty,
    "Does what enters the last layer tell early which trainings end badly?",
    "Area under the ROC curve of what is known after 50 steps, for trainings that end badly.",
)
def early_warning(runs: Runs) -> Items:
    """Largest eigenvalue of what enters the last layer as a warning, against the loss itself."""
    end = stacked("run", {name: scored(TEST, name) for name in runs})
    guess = guessing(runs.first.data)
    assert guess is not None
    bad = end.map(lambda error: (error > BAD * guess.value).where(error.notnull()))
    size = decades(_after(runs, CURVATURE, "largest_input"))
    warnings = {
        "far": size.map(lambda a: abs(a - a.median("run"))),
        "large": size,
        "small": -size,
        "loss": _after(runs, BATCH, "loss"),
    }
    areas = {name: replace(combined(area, w, bad), variants=()) for name, w in warnings.items()}
    place = "beyond the paper: after Section 5"
    yield claim(
        "far-tells",
        f"How far the largest eigenvalue of what enters the last layer is from usual after {FIRST} "
        f"steps tells which trainings end badly better than chance. [{place}]",
        areas["far"],
        "area under the ROC curve of |log10 of the eigenvalue less its median over runs|",
        0.5,
        regardless=True,
    )
    yield claim(
        "small-tells",
        f"A small eigenvalue after {FIRST} steps, a signal that has vanished, tells it better than "
        f"chance. [{place}]",
        areas["small"],
        "area under the ROC curve of minus log10 of the eigenvalue",
        0.5,
        regardless=True,
    )
    for name in ("far", "small"):
        yield claim(
            f"{name}-better-than-loss",
            f"{'Its distance from usual' if name == 'far' else 'A small one'} tells it better than "
            f"the loss at that moment. [{place}]",
            areas[name] - areas["loss"],
            "area under the ROC curve, eigenvalue less loss",
            regardless=True,
        )
    yield _areas(areas)
    yield bars(
        stacked(
            "run",
            {run.label: scored(TEST, name) for name, run in runs.items()},
            long_name="test error",
            units="%",
        ),
        "ends",
        "How trainings end",
        f"Test error at the end; runs that diverged are left out. {OVER_SEEDS}",
        x="run",
    )


def _after(runs: Runs, probe: Conditioning | TrainingLoss, variable: str) -> Quantity:
    """A number of every run after the first steps, (seed, run)."""

    def at(values: xr.DataArray) -> xr.DataArray:
        return values.sel(step=FIRST, drop=True).squeeze(drop=True)

    return stacked("run", {n: run.of(probe, variable).map(at) for n, run in runs.items()})


def area(warning: xr.DataArray, bad: xr.DataArray) -> xr.DataArray:
    """Chance that a run that ends badly has a larger warning than one that does not, (seed).

    The area under the ROC curve; equal warnings count one half. Runs that have no value are left
    out, and a seed of which all or no runs end badly has none.
    """

    def one(values: np.ndarray, outcome: np.ndarray) -> float:
        known = np.isfinite(values) & ~np.isnan(outcome)
        high, low = values[known & (outcome == 1)], values[known & (outcome == 0)]
        if not high.size or not low.size:
            return np.nan
        difference = high[:, None] - low[None]
        return float((difference > 0).mean() + (difference == 0).mean() / 2)

    return xr.apply_ufunc(one, warning, bad, input_core_dims=[["run"]] * 2, vectorize=True)


def _areas(areas: Mapping[str, Quantity]) -> Plot:
    words = {
        "far": "eigenvalue far from usual",
        "large": "eigenvalue large",
        "small": "eigenvalue small",
        "loss": "loss large",
    }
    return table(
        {
            "area": stacked(
                "warning",
                {words[name]: value for name, value in areas.items()},
                long_name="area under the ROC curve",
                units="1",
            )
        },
        "areas",
        f"What is known after {FIRST} steps",
        f"Area under the ROC curve for trainings whose test error ends above {BAD:.0%} of that of "
        f"guessing; 1/2 is chance. Runs that diverged are left out. {OVER_SEEDS}",
        rows="warning",
    )
