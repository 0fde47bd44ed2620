"""Claims on networks that learn images decide rightly on made data whose answer is known."""

import numpy as np
import pytest
import xarray as xr
from tests.recipes.made import decided, noisy, performance, tree, verdicts

from layerscope.recipes.layer_convergence_bias import paper

RECIPES = paper.recipes
STAGES = ["stage1", "stage2", "stage3", "stage4"]
CONVOLUTIONS = ["conv1", "conv5", "conv9", "conv13", "fc1"]
ENCODERS = [*(f"encoders.{i}" for i in range(12)), "patch_embedding"]
SIGNS = pytest.mark.parametrize(("sign", "outcome"), [(1, "holds"), (-1, "fails")])


def layers_of(variant):
    if variant.startswith("vgg19"):
        return CONVOLUTIONS
    return ENCODERS if variant in ("sgd", "adam") else STAGES


def layered(variable, values, variant, *dims):
    """One variable over ``dims`` and the layers of a variant."""
    coords = {"layer": layers_of(variant), "seed": range(5)}
    return xr.Dataset({variable: noisy(values, *dims, "layer")}, coords=coords)


def between(first, last, n):
    """Evenly from the first layer to the last."""
    return list(np.linspace(first, last, n))


def rates(variant, *intervals):
    """Rates over intervals, each given by those of the first and the last layer."""
    n = len(layers_of(variant))
    values = [between(first, last, n) for first, last in intervals]
    return {"convergence": layered("rate", values, variant, "interval")}


@SIGNS
def test_claims_of_fig2(sign, outcome):
    study = RECIPES["fig2"]("small")

    def made(variant):
        away = (-0.01, -0.1) if sign > 0 else (0.1, 0.01)
        intervals = [(0.3, 0.1), (0.1, 0.2), away, (0.2, 0.1), (0.1, 0.15)]
        if sign < 0:
            intervals[0], intervals[1] = (0.1, 0.3), (0.2, 0.1)
            intervals[3] = (0.1, 0.2)
        return rates(variant, *intervals)

    assert set(decided(study, made).values()) == {outcome}


def test_the_first_epoch_is_told_apart():
    study = RECIPES["fig2"]("small")
    made = lambda variant: rates(variant, (0.3, 0.1), (0.1, 0.2), (-0.1, -0.1), (0.1, 0.2), (0, 0))  # noqa: E731
    found = decided(study, made)
    assert (found["faster"], found["lasting"]) == ("holds", "fails")


@SIGNS
def test_claims_of_fig5(sign, outcome):
    study = RECIPES["fig5"]("small")

    def made(variant):
        ends = (1.0, 3.0) if sign > 0 else (3.0, 1.0)
        values = between(*ends, len(layers_of(variant)))
        parts = [layered(name, values, variant) for name in ("increase", "relative_curvature")]
        return {"loss_landscape": xr.merge(parts)}

    assert set(decided(study, made).values()) == {outcome}


@pytest.mark.parametrize("name", ["fig18", "fig19"])
@SIGNS
def test_claims_of_fig18_and_fig19(name, sign, outcome):
    study = RECIPES[name]("small")

    def made(variant):
        dataset = layered("increase", between(1.0, 3.0, len(layers_of(variant))), variant)
        if sign < 0:  # every other seed has the opposite order
            values = dataset["increase"].values.copy()
            values[::2] = values[::2, ::-1]
            dataset["increase"] = (dataset["increase"].dims, values)
        return {"loss_landscape": dataset}

    assert set(decided(study, made).values()) == {outcome}


@SIGNS
def test_claims_of_fig7(sign, outcome):
    study = RECIPES["fig7"]("small")

    def made(variant):
        n = len(layers_of(variant))
        grown = between(1.0, 2.0, n) if sign > 0 else between(2.0, 1.0, n)
        dataset = layered("response", [[9.0] * n, [1.0] * n, grown], variant, "step")
        return {"response_frequency": dataset.assign_coords(epoch=("step", [0.0, 1.0, 2.0]))}

    assert set(decided(study, made).values()) == {outcome}


@SIGNS
def test_claims_of_fig8e_and_fig17(sign, outcome):
    study = RECIPES["fig8e"]("small")
    simple, hard = (0.1, 0.2) if sign > 0 else (0.2, 0.1)
    made = lambda v: rates(v, (0.3, hard if v.endswith("simple") else simple))  # noqa: E731
    assert set(decided(study, made).values()) == {outcome}
    study = RECIPES["fig17"]("small")
    made = lambda v: rates(v, (hard, simple), (hard, simple))  # noqa: E731
    assert set(decided(study, made).values()) == {outcome}


@SIGNS
def test_claims_of_fig9(sign, outcome):
    """The best epoch counts, not the last."""
    study = RECIPES["fig9"]("small")
    best = {"wider": 50 - sign, "vanilla": 50.0, "narrower": 50 + sign}
    made = lambda v: {"performance": performance([80.0, best[v], 60.0])}  # noqa: E731
    assert set(decided(study, made).values()) == {outcome}


@SIGNS
def test_claims_of_fig10(sign, outcome):
    study = RECIPES["fig10"]("small")

    def made(variant):
        transfer = (variant == "transfer") == (sign > 0)
        rise = layered("increase", [1.0 if transfer else 3.0] * 4, variant)
        ends = (0.1, 0.3) if transfer else (0.3, 0.1)
        found = rates(variant, ends, ends)
        return {
            **found,
            "loss_landscape": rise,
            "performance": performance(40.0 if transfer else 60.0),
        }

    assert set(decided(study, made).values()) == {outcome}


@SIGNS
def test_claims_of_fig21(sign, outcome):
    study = RECIPES["fig21"]("small")

    def made(variant):
        values = between(0.3, 0.1, 12) if sign > 0 else between(0.1, 0.3, 12)
        embedding = 0.2 if sign > 0 else 0.4
        return {"convergence": layered("rate", [[*values, embedding]], variant, "interval")}

    assert set(decided(study, made).values()) == {outcome}


def test_one_pretrained_network_serves_all_seeds():
    study = RECIPES["fig10"]("small")
    starts = {config.start.run.hash for _, _, config in study.runs() if config.start}
    assert len(starts) == 1
    assert study.variants["transfer"].start.run.data.name != study.variants["scratch"].data.name


def variation(before, after, errors=None, shape=None):
    """Weight change of every epoch, the first one large; test errors by variant."""
    study = RECIPES["fig11"]("small")
    epochs = np.arange(1.0, 25.0)
    values = np.where(epochs <= study.variants["resnet50"].milestones[0], before, after)
    values = (values if shape is None else values * shape(epochs))[:, None] * np.ones(3)
    values[0] = 9.0
    coords = {"layer": list("abc"), "seed": range(5), "epoch": ("step", epochs)}
    change = xr.Dataset({"change": noisy(values, "step", "layer")}, coords=coords)
    found = {"resnet50": 50.0, "vgg19": 50.0, **(errors or {})}
    return study, lambda v: {"weight_change": change, "performance": performance(found[v])}


@pytest.mark.parametrize(("before", "after", "outcome"), [(2, 1, "holds"), (1, 2, "fails")])
def test_variation_is_compared_without_the_first_epoch(before, after, outcome):
    found = decided(*variation(before, after))
    assert {found["resnet50"], found["vgg19"]} == {outcome}
    assert {found["resnet50-steady"], found["vgg19-steady"]} == {"holds"}


def test_variation_that_falls_while_the_rate_is_constant():
    found = decided(*variation(2, 1, shape=lambda epochs: 2.0**-epochs))
    assert {found["resnet50-steady"], found["vgg19-steady"]} == {"fails"}


def test_networks_that_have_not_learnt_decide_nothing():
    study, made = variation(2, 1, {"resnet50": 99.4, "vgg19": 99.4})
    found = verdicts(study, made)
    assert {v.outcome for v in found.values()} == {"inconclusive"}
    said = {name: "resnet50 (99.4% error)" in v.note for name, v in found.items()}
    assert said == {name: name.startswith("resnet50") for name in found}
    figures = study.figures(tree(study, made))
    assert [f.key for f in figures][-1] == "test-error"
    assert "Guessing gives 90%;" in figures[-1].caption


def test_a_network_that_has_not_learnt_does_not_speak_for_another():
    found = decided(*variation(2, 1, {"vgg19": 99.0}))
    assert (found["resnet50"], found["vgg19"]) == ("holds", "inconclusive")
