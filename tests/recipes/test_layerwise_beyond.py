"""Recipes on theorems, the approximation and other normalisations: claims follow from numbers."""

import numpy as np
import pytest
import xarray as xr
from tests.recipes.made import decided, noisy, performance, tree

from layerscope.probes import WeightScaling
from layerscope.recipes import find

HIDDEN = [f"layer{i}" for i in range(1, 20)]
CONVOLUTIONS = ["stage0.conv", *[f"stage{s}.conv{i}.conv" for s in (1, 2, 3) for i in range(1, 7)]]
SIDES = ("input", "gradient", "weight")


def recipe(name, scale="small"):
    return find(f"layerwise_conditioning.{name}")(scale)


def dataset(values, layers, steps=3):
    """Values over layers, the same at every time, or over times and layers."""
    coords = {
        "seed": range(5),
        "layer": layers,
        "depth": ("layer", range(len(layers))),
        "step": range(steps),
        "epoch": ("step", np.arange(steps) * 1.0),
    }
    made = {
        name: noisy(np.broadcast_to(v, (steps, len(layers))), "step", "layer")
        for name, v in values.items()
    }
    return xr.Dataset(made, coords)


def scaling(deviation):
    """Weights are scaled; ``deviation`` gives that of a variant and side."""

    def made(variant):
        one = dataset({}, HIDDEN, steps=2)
        for side in SIDES:
            off = np.full((2, 19, 3), 1e-12)
            off[1, 7, 2] = deviation.get((variant, side), 1e-12)
            for name, values in (
                ("measured", 1 + off),
                ("predicted", 1 + 0 * off),
                ("deviation", off),
            ):
                one[f"{name}_{side}"] = noisy(values, "step", "layer", "draw")
        keys = (WeightScaling().key, WeightScaling(epsilon=None).key)
        return {"performance": performance(90.0), **dict.fromkeys(keys, one)}

    return made


def test_theorems_are_decided_by_the_worst_layer_and_draw_whatever_is_learnt():
    study = recipe("theorems")
    assert set(decided(study, scaling({})).values()) == {"holds"}
    off = decided(study, scaling({("bn", "gradient"): 1e-5, ("plain", "input"): 1e-7}))
    assert {name for name, found in off.items() if found == "fails"} == {"bn-gradient"}
    assert set(decided(study, scaling({(v, s): 0.1 for v in study.variants for s in SIDES}))) == {
        f"{variant}-{side}" for variant in study.variants for side in SIDES
    }


def test_exact_agreement_counts_as_sixteen_digits():
    study = recipe("theorems")
    data = tree(study, scaling({}))
    for variant in study.variants:
        for side in SIDES:
            data[f"{variant}/{WeightScaling().key}"][f"deviation_{side}"] *= 0
    verdicts = [claim.decide(data) for claim in study.claims]
    assert {v.outcome for v in verdicts} == {"holds"}
    assert {float(v.value) for v in verdicts} == {16.0}


def test_figures_of_the_theorems_show_ratios_and_the_first_draw():
    study = recipe("theorems")
    figures = {f.key: f for f in study.draw(tree(study, scaling({("bn", "weight"): 0.3})))}
    ratios = figures["ratios"].data
    assert list(ratios.data_vars)[:2] == ["plain_input", "plain_gradient"]
    expected = 10 ** (0.3 / 6)
    assert float(ratios["bn_weight"].sel(layer="layer8").mean()) == pytest.approx(
        expected, rel=1e-3
    )
    assert float(ratios["plain_weight"].sel(layer="layer8").mean()) == pytest.approx(1, rel=1e-3)
    assert figures["changes-bn"].data.sizes == {"signal": 3, "seed": 5, "depth": 19}
    assert set(figures["deviations"].data.data_vars) >= {"plain", "bn", "bn_own_epsilon"}


def approximated(ratio=2.0, order=1, kappas=(1e4, 1e2), turned=False, gap=False):
    """Product against exact block: their ratio, whether they rise alike, which network is ahead."""

    def made(variant):
        layers = [*HIDDEN[:8], "output"]
        exact = 10.0 ** -np.arange(9)
        product = exact * np.where(np.arange(9) == 4, ratio, 1.0)
        kappa = kappas[0 if variant == "plain" else 1]
        values = {
            "largest_exact": exact,
            "largest_product": product if order > 0 else product[::-1],
            "largest_ratio": np.where(np.arange(9) == 4, ratio, 1.0),
            "kappa_50_exact": np.full(9, kappa),
            "kappa_50_product": np.full(9, 1 / kappa if turned else kappa),
            "overlap": np.full(9, 0.9),
            "explained": np.full(9, 0.5),
        }
        found = dataset(values, layers)
        if gap:
            found = found.where(found["layer"] != "layer1")
        return {"performance": performance(90.0), "conditioning_error": found}

    return made


def test_approximations_that_are_near_and_keep_the_order():
    study = recipe("approximation")
    assert set(decided(study, approximated()).values()) == {"holds"}
    assert set(decided(study, approximated(gap=True)).values()) == {"holds"}
    assert set(decided(study, approximated(kappas=(np.inf, 1e2))).values()) == {"holds"}


@pytest.mark.parametrize("ratio", [20.0, 1 / 20])
def test_approximations_that_are_far_in_one_layer(ratio):
    found = decided(recipe("approximation"), approximated(ratio=ratio))
    assert {n for n, v in found.items() if v == "fails"} == {n for n in found if "tenfold" in n}


def test_approximations_in_another_order():
    found = decided(recipe("approximation"), approximated(order=-1))
    assert {n for n, v in found.items() if v == "fails"} == {n for n in found if "order" in n}


def test_approximations_that_put_the_other_network_ahead():
    found = decided(recipe("approximation"), approximated(turned=True))
    assert {n for n, v in found.items() if v == "fails"} == {"kappa-ranks"}


def test_figures_of_the_approximation_are_of_matrices_with_a_block():
    study = recipe("approximation")
    figures = {f.key: f for f in study.draw(tree(study, approximated(gap=True)))}
    assert "layer1" not in figures["overlap-bn"].data["layer"].values
    assert "layer1" not in figures["layers-bn"].data["layer"].values
    assert figures["networks"].data.sizes["network"] == 5
    np.testing.assert_allclose(figures["networks"].data["decades"], np.log10(2), rtol=1e-3)


def normalised(slopes=None, kappas=None):
    """Slopes of sizes over depth, and condition numbers, by normalisation."""
    known = {"none": 1e4, "batch": 1e1, "layer": 1e3, "group": 1e3, "instance": 1e3}
    known |= kappas or {}

    def made(variant):
        family, own = variant.split("-")
        layers = [*HIDDEN, "output"] if family == "mlp" else [*CONVOLUTIONS, "final_linear"]
        size = 10.0 ** ((slopes or {}).get(own, 0.0) * np.arange(len(layers)))
        kappa = np.full(len(layers), known[own])
        kappa[[0, -1]] = 1.0 if own == "none" else 1e9  # neither is a hidden layer
        return {
            "performance": performance(20.0),
            "signal_magnitude": dataset({"input": size, "gradient": size}, layers),
            "conditioning": dataset({"kappa_50_input": kappa, "kappa_50_gradient": kappa}, layers),
        }

    return made


def test_normalisations_that_keep_sizes_and_condition_better():
    study = recipe("other_normalisations")
    assert set(decided(study, normalised()).values()) == {"holds"}
    assert set(decided(study, normalised(kappas={"none": np.inf})).values()) == {"holds"}


def test_a_normalisation_whose_sizes_explode():
    found = decided(recipe("other_normalisations"), normalised(slopes={"layer": 0.2}))
    assert {n for n, v in found.items() if v == "fails"} == {
        f"{family}-layer-{side}" for family in ("mlp", "cnn") for side in ("input", "gradient")
    }


def test_a_normalisation_that_is_conditioned_worse_than_none():
    found = decided(recipe("other_normalisations"), normalised(kappas={"group": 1e5}))
    assert {n for n, v in found.items() if v == "fails"} == {
        f"{family}-group-kappa-{side}{when}"
        for family in ("mlp", "cnn")
        for side in ("input", "gradient")
        for when in ("", "-start")
    }


def test_another_normalisation_that_is_best():
    found = decided(recipe("other_normalisations"), normalised(kappas={"layer": 1.5}))
    assert {n for n, v in found.items() if v == "fails"} == {
        f"{family}-batch-lowest-{side}"
        for family in ("mlp", "cnn")
        for side in ("input", "gradient")
    }


def test_figures_of_normalisations_are_over_hidden_layers():
    study = recipe("other_normalisations")
    figures = {f.key: f for f in study.draw(tree(study, normalised(kappas={"none": np.inf})))}
    assert figures["mlp-input"].data.sizes == {"normalisation": 4, "seed": 5, "depth": 18}
    assert figures["cnn-kappa-50-input"].data.sizes["depth"] == 18
    plain = figures["cnn-kappa-50-input"].data.sel(normalisation="Plain")
    assert np.isnan(plain).all()
    np.testing.assert_allclose(
        figures["mlp-typical"].data["input_end"].sel(normalisation="BatchNorm"), 10, rtol=1e-3
    )
