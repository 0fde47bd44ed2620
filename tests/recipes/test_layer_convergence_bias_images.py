"""Claims on networks that learn images decide rightly on made data whose answer is known."""

import numpy as np
import pytest
import xarray as xr
from tests.recipes.made import decided, noisy, tree, verdicts

from layerscope.config import Digits, Images, RunConfig, Sine
from layerscope.errors import LayerscopeError
from layerscope.recipes.layer_convergence_bias import RECIPES
from layerscope.recipes.layer_convergence_bias.deciding import chance, largest_elsewhere, shared

STAGES = ["stage1", "stage2", "stage3", "stage4"]
CONVOLUTIONS = ["conv1", "conv5", "conv9", "conv13", "fc1"]
ENCODERS = [*(f"encoders.{i}" for i in range(12)), "patch_embedding"]
SIGNS = pytest.mark.parametrize(("sign", "outcome"), [(1, "holds"), (-1, "fails")])


def layers_of(variant):
    if variant.startswith("vgg19"):
        return CONVOLUTIONS
    return ENCODERS if variant in ("sgd", "adam") else STAGES


def steps(values):
    """Test errors after epochs 0, 1, and so on."""
    coords = {"seed": range(5), "epoch": ("step", np.arange(len(values), dtype=float))}
    return xr.Dataset({"error": noisy(values, "step")}, coords=coords)


def nodes_of(study, made, error=50.0):
    """Measurements of every variant: ``made(variant)`` gives a data set by probe."""
    nodes = {}
    for variant in study.variants:
        found = {"performance": steps([error]), **made(variant)}
        keys = {p: next((k.key for k in study.probes if k.key.startswith(p)), p) for p in found}
        nodes |= {f"{variant}/{keys[probe]}": dataset for probe, dataset in found.items()}
    return nodes


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

    assert set(decided(study, nodes_of(study, made)).values()) == {outcome}


def test_the_first_epoch_is_told_apart():
    study = RECIPES["fig2"]("small")
    made = lambda variant: rates(variant, (0.3, 0.1), (0.1, 0.2), (-0.1, -0.1), (0.1, 0.2), (0, 0))  # noqa: E731
    found = decided(study, nodes_of(study, made))
    assert (found["faster"], found["lasting"]) == ("holds", "fails")


@SIGNS
def test_claims_of_fig5(sign, outcome):
    study = RECIPES["fig5"]("small")

    def made(variant):
        ends = (1.0, 3.0) if sign > 0 else (3.0, 1.0)
        values = between(*ends, len(layers_of(variant)))
        parts = [layered(name, values, variant) for name in ("increase", "relative_curvature")]
        return {"loss_landscape": xr.merge(parts)}

    assert set(decided(study, nodes_of(study, made)).values()) == {outcome}


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

    assert set(decided(study, nodes_of(study, made)).values()) == {outcome}


@SIGNS
def test_claims_of_fig7(sign, outcome):
    study = RECIPES["fig7"]("small")

    def made(variant):
        n = len(layers_of(variant))
        grown = between(1.0, 2.0, n) if sign > 0 else between(2.0, 1.0, n)
        dataset = layered("response", [[9.0] * n, [1.0] * n, grown], variant, "step")
        return {"response_frequency": dataset.assign_coords(epoch=("step", [0.0, 1.0, 2.0]))}

    assert set(decided(study, nodes_of(study, made)).values()) == {outcome}


@SIGNS
def test_claims_of_fig8e_and_fig17(sign, outcome):
    study = RECIPES["fig8e"]("small")
    simple, hard = (0.1, 0.2) if sign > 0 else (0.2, 0.1)
    made = lambda v: rates(v, (0.3, hard if v.endswith("simple") else simple))  # noqa: E731
    assert set(decided(study, nodes_of(study, made)).values()) == {outcome}
    study = RECIPES["fig17"]("small")
    made = lambda v: rates(v, (hard, simple), (hard, simple))  # noqa: E731
    assert set(decided(study, nodes_of(study, made)).values()) == {outcome}


@SIGNS
def test_claims_of_fig9(sign, outcome):
    """The best epoch counts, not the last."""
    study = RECIPES["fig9"]("small")
    best = {"wider": 50 - sign, "vanilla": 50.0, "narrower": 50 + sign}
    made = lambda v: {"performance": steps([80.0, best[v], 60.0])}  # noqa: E731
    assert set(decided(study, nodes_of(study, made)).values()) == {outcome}


@SIGNS
def test_claims_of_fig10(sign, outcome):
    study = RECIPES["fig10"]("small")

    def made(variant):
        transfer = (variant == "transfer") == (sign > 0)
        rise = layered("increase", [1.0 if transfer else 3.0] * 4, variant)
        ends = (0.1, 0.3) if transfer else (0.3, 0.1)
        found = rates(variant, ends, ends)
        return {**found, "loss_landscape": rise, "performance": steps([40.0 if transfer else 60])}

    assert set(decided(study, nodes_of(study, made)).values()) == {outcome}


@SIGNS
def test_claims_of_fig21(sign, outcome):
    study = RECIPES["fig21"]("small")

    def made(variant):
        values = between(0.3, 0.1, 12) if sign > 0 else between(0.1, 0.3, 12)
        embedding = 0.2 if sign > 0 else 0.4
        return {"convergence": layered("rate", [[*values, embedding]], variant, "interval")}

    assert set(decided(study, nodes_of(study, made)).values()) == {outcome}


def test_one_pretrained_network_serves_all_seeds():
    study = RECIPES["fig10"]("small")
    starts = {config.start.run.hash for _, _, config in study.runs() if config.start}
    assert len(starts) == 1
    assert study.variants["transfer"].start.run.data.name != study.variants["scratch"].data.name


def variation(before, after, error):
    """Weight change of every epoch, the first one large, and a test error."""
    study = RECIPES["fig11"]("small")
    epochs = np.arange(1.0, 25.0)
    drop = study.variants["resnet50"].milestones[0]
    values = np.where(epochs <= drop, before, after)[:, None] * np.ones(3)
    values[0] = 9.0
    coords = {"layer": list("abc"), "seed": range(5), "epoch": ("step", epochs)}
    change = xr.Dataset({"change": noisy(values, "step", "layer")}, coords=coords)
    performance = xr.Dataset(
        {"error": noisy([error], "step")}, coords={"seed": range(5), "step": [10]}
    )
    probe = next(p.key for p in study.probes if p.key.startswith("weight_change"))
    nodes = {}
    for variant in study.variants:
        nodes |= {f"{variant}/{probe}": change, f"{variant}/performance": performance}
    return study, nodes


@pytest.mark.parametrize(("before", "after", "outcome"), [(2, 1, "holds"), (1, 2, "fails")])
def test_variation_is_compared_without_the_first_epoch(before, after, outcome):
    found = decided(*variation(before, after, 50.0))
    assert {found["resnet50"], found["vgg19"]} == {outcome}
    assert {found["resnet50-steady"], found["vgg19-steady"]} == {"holds"}


def test_variation_that_falls_while_the_rate_is_constant():
    study, nodes = variation(2, 1, 50.0)
    for key in nodes:
        if "weight_change" in key:
            falling = 2.0 ** -nodes[key]["epoch"]
            nodes[key]["change"] = nodes[key]["change"] * falling
    found = decided(study, nodes)
    assert {found["resnet50-steady"], found["vgg19-steady"]} == {"fails"}


def test_the_largest_of_equal_layers_is_no_larger():
    """The layer is chosen by the other seeds, so that noise alone gives it nothing."""
    values = np.random.default_rng(0).normal(size=(400, 5, 12))
    found = [largest_elsewhere(xr.DataArray(v, dims=("seed", "layer"))).mean() for v in values]
    assert abs(float(np.mean(found))) < 0.05
    assert float(np.mean(values.max(2))) > 1


def test_networks_that_have_not_learnt_decide_nothing():
    study, nodes = variation(2, 1, 99.4)
    found = verdicts(study, nodes)
    assert {v.outcome for v in found} == {"inconclusive"}
    assert ["resnet50 (99.4% error)" in v.note for v in found] == [True, False, True, False]
    figures = study.figures(tree(study, nodes))
    assert [f.key for f in figures][-1] == "test-error"
    assert "Guessing gives 90%;" in figures[-1].caption


def test_a_network_that_has_not_learnt_does_not_speak_for_another():
    study, nodes = variation(2, 1, 50.0)
    nodes["vgg19/performance"] = nodes["vgg19/performance"] * 0 + 99.0
    found = decided(study, nodes)
    assert (found["resnet50"], found["vgg19"]) == ("holds", "inconclusive")


GUESSING = {
    "digits": (Digits(), 90.0),
    "a row of the table": (Images("tiny_imagenet"), 99.5),
    "chosen classes": (Images("tiny_imagenet", classes=20), 95.0),
}


@pytest.mark.parametrize(("data", "error"), GUESSING.values(), ids=GUESSING)
def test_the_error_of_guessing(data, error):
    assert chance(RunConfig(data=data)) == pytest.approx(error)


@pytest.mark.parametrize("data", [Sine(), Images("my/own")])
def test_guessing_needs_known_classes(data):
    with pytest.raises(LayerscopeError):
        chance(RunConfig(data=data))


def test_shared_differences_of_layers():
    """All alike: 1; other seeds tell nothing: 0; they mislead: negative."""
    layers = np.array([0.0, 1.0, 2.0])

    def found(*rows):
        return shared(xr.DataArray(np.array(rows), dims=("seed", "layer"))).values

    assert found(layers, layers, layers) == pytest.approx([1, 1, 1])
    assert found(layers, [1.0] * 3)[0] == pytest.approx(0)
    assert found(layers, layers[::-1])[0] == pytest.approx(-3)
    assert found(np.array([0.0, np.nan, 2.0]), layers) == pytest.approx([1, 1])
