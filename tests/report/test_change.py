"""Sentences on why layers differ in change: by size, by weight decay, or by neither."""

import re

import numpy as np
import pytest
import xarray as xr

from layerscope.config import SGD, Adam, FreezeWhenSettled, RunConfig
from layerscope.functional.equilibrium import equilibrium_angle
from layerscope.report.change import ANGLE, RATIO, change_findings, frozen_findings
from layerscope.report.measurements import STEPS

SIZES = (100, 400, 1600, 6400, 25_600, 102_400)


def changes(levels, sizes=SIZES, seeds=0, trained=None):
    """A change of each layer that is the same at eight moments."""
    values = np.tile(np.asarray(levels, float), (8, 1))
    coords = {
        "layer": [f"layer{i}" for i in range(len(levels))],
        "step": np.arange(1, 9),
        "n_parameters": ("layer", list(sizes)[: len(levels)]),
        "trained": ("layer", trained or [True] * len(levels)),
    }
    found = xr.Dataset({"change": (("step", "layer"), values)}, coords)
    return xr.concat([found] * seeds, "seed") if seeds else found


@pytest.mark.parametrize("seeds", [0, 3])
@pytest.mark.parametrize(
    ("levels", "sizes", "text"),
    [
        (
            (3.2, 1.6, 0.8, 0.4, 0.2, 0.1),
            SIZES,
            "layer0 changes 32 times as much as layer5.*but layer size explains it: 100%",
        ),
        ((0.1, 0.4, 0.8, 0.8, 0.4, 0.1), SIZES, r"layer size does not explain it \(0% of"),
        ((0.1, 0.2, 0.1, 0.2, 0.1, 0.2), (50,) * 6, "all have equally many weights"),
        (
            (0.1, 0.11, 0.1, 0.12, 0.1, 0.1),
            SIZES,
            r"All layers change alike, within a factor of 1\.2\.",
        ),
    ],
)
def test_what_layer_size_explains(levels, sizes, text, seeds):
    (found,) = change_findings({RATIO: changes(levels, sizes, seeds)})
    assert re.search(text, found.text)
    assert "squared correlation" in found.evidence


def test_layers_that_are_not_trained_or_do_not_move_are_left_out():
    levels = (3.2, 1.6, 0.8, 0.4, 0.2, 0.1, 9.0)
    made = changes(levels, (*SIZES, 7), trained=[True] * 6 + [False])
    (found,) = change_findings({RATIO: made})
    assert found.text.startswith("layer0 changes 32 times as much as layer5")
    still = changes((*levels[:5], 0.0))
    assert change_findings({RATIO: still}) == []  # five are too few


RUN = RunConfig(optimizer=SGD(0.1, momentum=0.9, weight_decay=0.005))
BALANCED = equilibrium_angle(0.1, 0.005, 0.9)


@pytest.mark.parametrize(
    ("factors", "text"),
    [
        ((1.0, 1.05, 0.97, 1.02), "All layers turn at a step by 0.0229 rad"),
        ((1.0, 1.05, 0.97, 4.0), "3 of 4 layers turn at a step by 0.0229 rad"),
        ((1.0, 2.0, 5.0, 4.0), "1 of 4 layers turns at a step by 0.0229 rad"),
        ((3.0, 2.0, 5.0, 4.0), "None of 4 layers turns at a step by 0.0229 rad"),
    ],
)
def test_what_equilibrium_explains(factors, text):
    made = {f"{ANGLE}{STEPS}": changes(BALANCED * np.array(factors))}
    (found,) = change_findings(made, RUN)
    assert found.text.startswith(text)


@pytest.mark.parametrize(
    "config",
    [
        None,
        RunConfig(optimizer=SGD(0.1, momentum=0.9)),
        RunConfig(optimizer=SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.005)),
        RunConfig(optimizer=Adam(weight_decay=0.005)),
        RunConfig(optimizer=RUN.optimizer, milestones=(3,)),
        RunConfig(optimizer=RUN.optimizer, schedule="cosine"),
        RunConfig(optimizer=RUN.optimizer, warmup=10),
    ],
)
def test_nothing_is_said_of_equilibrium_where_the_formula_does_not_apply(config):
    assert change_findings({f"{ANGLE}{STEPS}": changes([BALANCED] * 4)}, config) == []


def test_layers_that_were_frozen_are_named_with_their_time():
    def manifest(per_epoch, **frozen):
        return {"steps_per_epoch": per_epoch, "notes": {"frozen": frozen}}

    (found,) = frozen_findings([manifest(10, a=20, b=40)])
    assert found.text.endswith("once they had settled: a after epoch 2, b after epoch 4.")
    (found,) = frozen_findings([manifest(10, a=20), manifest(10, a=40, b=40)])
    assert found.text.endswith("a after epoch 3 (2 of 2 runs), b after epoch 4 (1 of 2 runs).")
    (found,) = frozen_findings([manifest(None, **{f"l{i}": 5 for i in range(9)})])
    assert "l0 after step 5" in found.text
    assert found.text.endswith("and 3 others.")
    assert frozen_findings([{"steps_per_epoch": 1, "notes": {}}]) == []
    how = FreezeWhenSettled(0.1, at_random_times=True)
    (found,) = frozen_findings([manifest(10, a=20)], RunConfig(freeze_when_settled=how))
    assert found.text == "Layers stopped training at random times: a after epoch 2."
