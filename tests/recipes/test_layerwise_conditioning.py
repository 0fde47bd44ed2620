"""Recipes on layer-wise conditioning: what they claim follows from the numbers."""

import numpy as np
import pytest
import xarray as xr
from tests.recipes.made import decided, noisy, performance, tree

from layerscope.probes import Performance
from layerscope.recipes import find

NAMES = [f"layer{i}" for i in range(1, 20)]
DEPTH = np.arange(19)
TIMES = 3


def recipe(name):
    return find(f"layerwise_conditioning.{name}")


def over_layers(**variables):
    """Values over layers, the same at every time, or over times and layers."""
    coords = {
        "seed": range(5),
        "layer": NAMES,
        "step": range(TIMES),
        "epoch": ("step", np.arange(TIMES) * 1.0),
    }
    made = {
        name: noisy(np.broadcast_to(values, (TIMES, len(NAMES))), "step", "layer")
        for name, values in variables.items()
    }
    return xr.Dataset(made, coords)


def measured(falls=-0.5, plain=1e4, normal=1e2, loss=0.1, shares=None):
    """Measurements of a variant: networks without normalisation fall and are conditioned worse."""

    def made(variant):
        is_plain = variant.startswith("plain")
        slope = falls if variant.startswith("plain-random") else 0.0
        kappa = np.full(19, plain if is_plain else normal)
        kappas = {f"kappa_{p}_{f}": kappa for p in (50, 80) for f in ("input", "gradient")}
        largest = 10.0 ** (slope * DEPTH)
        rate = float(variant.rsplit("-", 1)[1])
        off = np.zeros(19) if shares is None or not is_plain else shares
        return {
            "performance": performance(),
            Performance(on="training").key: performance(loss=loss * (1 + rate)),
            "conditioning": over_layers(largest_input=largest, largest_gradient=largest, **kappas),
            "signal_magnitude": over_layers(
                input=largest * np.array([[1.0], [1.0], [10.0]]), gradient=largest
            ),
            "preactivations": over_layers(always_off=off, always_on=np.zeros(19)),
        }

    return made


def test_signals_that_vanish_without_normalisation():
    assert set(decided(recipe("fig3")("small"), measured()).values()) == {"holds"}
    flat = decided(recipe("fig3")("small"), measured(falls=0.0))
    assert flat["plain-random-falls"] == "fails"
    assert flat["bn-random-flat"] == "holds"
    grows = decided(recipe("figA5")("small"), measured(falls=0.5))
    assert grows["plain-random-falls"] == "fails"


@pytest.mark.parametrize("name", ["fig5", "figA6", "figA7"])
def test_condition_numbers_that_are_lower_with_normalisation_or_are_not(name):
    study = recipe(name)("small")
    assert set(decided(study, measured()).values()) == {"holds"}
    assert set(decided(study, measured(plain=np.inf)).values()) == {"holds"}
    other = decided(study, measured(plain=10.0))
    assert {v for k, v in other.items() if k != "adam-adjusts"} == {"fails"}


def test_neurons_that_never_switch():
    study = recipe("figA13")("small")
    grow = decided(study, measured(shares=DEPTH / 40))
    assert set(grow.values()) == {"holds"}
    fewer = decided(study, measured(shares=DEPTH[::-1] / 40))
    assert fewer["plain-random-grow"] == fewer["plain-he-grow"] == "fails"


@pytest.mark.parametrize("name", ["fig3", "fig5", "figA7"])
def test_what_is_said_of_networks_that_learn_nothing_is_decided_all_the_same(name):
    def made(variant):
        return {**measured()(variant), "performance": performance(90.0)}

    assert set(decided(recipe(name)("small"), made).values()) == {"holds"}


def test_a_learning_rate_at_which_all_runs_diverge_is_not_chosen_and_decides_nothing():
    study = recipe("fig5")("small")
    rates = sorted({float(variant.rsplit("-", 1)[1]) for variant in study.variants})

    def without(rate):
        return lambda v: None if v.endswith(f"-{rate:g}") else measured()(v)

    assert set(decided(study, without(rates[-1])).values()) == {"holds"}
    assert set(decided(study, without(rates[0])).values()) == {"inconclusive"}


def test_the_learning_rate_with_the_least_training_loss_is_drawn_and_all_are_listed():
    study = recipe("fig3")("small")

    def made(variant):
        found = measured()(variant)
        rate = float(variant.rsplit("-", 1)[1])
        return {**found, "signal_magnitude": over_layers(input=rate * np.ones(19), gradient=1.0)}

    figures = {figure.key: figure for figure in study.draw(tree(study, made))}
    least = min(float(variant.rsplit("-", 1)[1]) for variant in study.variants)
    np.testing.assert_allclose(figures["input-bn-he"].data, least, rtol=1e-3)
    rates = figures["rates"].data
    assert rates.sizes["network"] == len(study.variants)


def deep(early, after, names=tuple(f"layer{i}" for i in range(1, 50))):
    """Layers whose lower ones have curvature so many decades above the upper, before and after."""

    def made(variant):
        del variant
        lower = np.linspace(1, 0, len(names))
        values = np.array([10.0 ** (early * lower), *[10.0 ** (after * lower)] * 8])
        coords = {"seed": range(5), "layer": list(names), "step": range(9)}
        one = xr.Dataset({"largest": noisy(values, "step", "layer")}, coords)
        ratio = xr.Dataset({"ratio": noisy(values, "step", "layer")}, coords)
        return {"conditioning": one, "weight_domination": ratio}

    return made


CONVOLUTIONS = (
    "stage0.conv",
    *(f"stage1.conv{i}.{part}" for i in range(1, 49) for part in ("conv", "norm")),
)


@pytest.mark.parametrize(("name", "layers"), [("figA11", ()), ("figA11b", (CONVOLUTIONS,))])
def test_gradients_that_explode_once(name, layers):
    study = recipe(name)("small")
    assert set(decided(study, deep(6, 0, *layers)).values()) == {"holds"}
    assert set(decided(study, deep(0, 0, *layers)).values()) == {"fails"}
    assert decided(study, deep(6, 6, *layers))["feeble-after"] == "fails"
    figures = {figure.key: figure for figure in study.draw(tree(study, deep(6, 0, *layers)))}
    assert figures["largest"].data.sizes == {"seed": 5, "iteration": 9, "depth": 48}
