"""The claims decide rightly on made data whose answer is known; no test says that science holds."""

import numpy as np
import pytest
import xarray as xr

from layerscope.recipes.layer_convergence_bias import LAYERS, fig1a
from layerscope.study import SCALES

RATES = {"falling": [0.012, 0.009, 0.006], "rising": [0.006, 0.009, 0.012], "flat": [0.01] * 3}
GRADIENTS = {"rising": [1.0, 2.0, 4.0], "falling": [4.0, 2.0, 1.0]}


def made(narrow, wide, gradients, seeds=5):
    noise = np.random.default_rng(0).normal(0, 1e-4, (seeds, 1, 3))
    coords = {"layer": LAYERS, "seed": range(seeds), "epoch": ("step", [0.0, 50.0])}
    nodes = {}
    for variant, rates in (("narrow", RATES[narrow]), ("wide", RATES[wide])):
        rate = (("seed", "interval", "layer"), np.asarray(rates) + noise)
        nodes[f"{variant}/convergence"] = xr.Dataset({"rate": rate}, coords=coords)
        values = np.broadcast_to(GRADIENTS[gradients], (seeds, 2, 3)) * (1 + noise)
        nodes[f"{variant}/gradient_magnitude"] = xr.Dataset(
            {"gradient_magnitude": (("seed", "step", "layer"), values)}, coords=coords
        )
    return xr.DataTree.from_dict(nodes)


CASES = {
    "as reported": (("falling", "rising", "rising"), ("holds", "holds", "holds")),
    "opposite": (("rising", "falling", "falling"), ("fails", "fails", "fails")),
    "no difference": (("flat", "flat", "rising"), ("inconclusive",) * 3),
    "one seed": (("falling", "rising", "rising", 1), ("inconclusive",) * 3),
}


@pytest.mark.parametrize(("data", "outcomes"), CASES.values(), ids=CASES)
def test_claims_of_fig1a(data, outcomes):
    study = fig1a("paper")
    assert tuple(claim.decide(made(*data)).outcome for claim in study.claims) == outcomes


@pytest.mark.parametrize("scale", SCALES)
def test_every_scale_makes_a_study(scale):
    study = fig1a(scale)
    assert study.scale == scale
    assert len({config.hash for _, _, config in study.runs()}) == 10


def test_paper_scale_has_the_papers_settings():
    config = fig1a("paper").variants["narrow"]
    assert (config.epochs, config.batch_size, config.milestones) == (300, 128, (150,))
    assert (config.model.depth, config.model.width, config.model.activation) == (3, 32, "sigmoid")
    assert (config.data.n_train, config.data.low, config.data.high) == (5000, -2.0, 2.0)
    assert (config.optimizer.learning_rate, config.optimizer.momentum) == (0.1, 0.0)
