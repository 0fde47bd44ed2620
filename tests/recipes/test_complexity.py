"""Recipes on complexity over depth and time: what they claim follows from the numbers."""

import numpy as np
import pytest
import xarray as xr
from tests.recipes.made import decided, noisy, tree, verdicts

from layerscope.recipes import find
from layerscope.recipes.complexity_over_depth_and_time.quantities import divergence, front
from layerscope.recipes.complexity_over_depth_and_time.settings import (
    FIRST,
    SITES,
    basenet_name,
    config,
    spacing,
)

NUMBERS = {basenet_name(k): k for k in (0, *FIRST, SITES)}
STEPS = np.arange(21) * spacing(config("small"), 20)
NAMES = [f"site{i}" for i in range(SITES)]


def accuracy(until=None, low=30.0):
    """20% at the start, 60% from the third time on; from a time on only ``low``."""
    values = np.full(len(STEPS), 60.0)
    values[:3] = (10.0, 20.0, 40.0)
    if until is not None:
        values[until:] = low
    return values


def performance(values):
    coords = {"seed": range(5), "step": STEPS, "epoch": ("step", STEPS / 157)}
    errors = noisy(100 - np.asarray(values), "step")
    return xr.Dataset({"error": errors, "loss": noisy(np.ones(len(STEPS)), "step")}, coords)


def means(first, kinds="ReLU"):
    """A mean preactivation that is negative from a time on, for every site another."""
    values = np.where(np.arange(len(STEPS))[:, None] >= np.asarray(first), -0.1, 0.1)
    coords = {"seed": range(5), "step": STEPS, "layer": NAMES, "kind": ("layer", [kinds] * SITES)}
    made = {name: noisy(values, "step", "layer") for name in ("mean", "deviation")}
    made |= {name: noisy(abs(values), "step", "layer") for name in ("always_on", "mixed")}
    return xr.Dataset(made, coords)


def times(variant, order=1):
    """When a made network falls behind: the earlier the more is linear, few never; or the later."""
    k = NUMBERS[variant]
    if order > 0:
        return None if k <= 5 else 20 - k
    return k or None


def networks(order=1):
    def made(variant):
        until = times(variant, order)
        return {
            "performance": performance(accuracy(until)),
            "preactivations": means(np.arange(SITES)[::order] + 2),
        }

    return made


def recipe(name):
    return find(f"complexity_over_depth_and_time.{name}")


def test_networks_that_fall_behind_in_order():
    study = recipe("fig1")("small")
    assert decided(study, networks()) == {
        "divergence-order": "holds",
        "few-never": "holds",
        "linear-behind": "holds",
    }
    other = decided(study, networks(order=-1))
    assert other["divergence-order"] == other["few-never"] == "fails"


def test_networks_that_never_diverge_decide_nothing_of_their_order():
    def alike(variant):
        del variant
        return {"performance": performance(accuracy())}

    found = verdicts(recipe("fig1")("small"), alike)
    assert found["divergence-order"].outcome == "inconclusive"
    assert found["few-never"].outcome == "holds"
    assert found["linear-behind"].outcome == "fails"


def test_the_front_stands_at_the_last_linear_layer_and_is_open_where_nothing_diverges():
    study = recipe("fig2")("small")
    data = tree(study, networks())
    runs = recipe("fig2").plan("small").resolved("small")
    found, numbers = divergence(runs, data)
    assert numbers == [*FIRST, SITES]
    assert found.censored.tolist() == [True, True, *[False] * 6]
    apart = STEPS[1]
    expected = np.array([20 - k for k in numbers[2:]]) * apart
    assert (abs(found.time[2:] - expected) <= 2 * apart).all()  # the filter sees two times ahead
    marks = front(runs, data, xr.DataArray(NAMES, dims="layer"))
    assert marks["layer"].values.tolist() == [f"site{k - 1}" for k in numbers]
    assert np.isinf(marks.values[:2]).all()
    figures = study.draw(data)
    fronted = [f for f in figures if getattr(f, "front", None) is not None]
    assert [f.key for f in fronted] == ["means-full", "means-first9", "means-linear"]


@pytest.mark.parametrize(("order", "outcome"), [(-1, "holds"), (1, "fails")])
def test_deep_layers_turn_negative_first_or_last(order, outcome):
    # ``means`` counts sites from the end where the order is -1: the deepest is negative first
    def made(variant):
        return {
            "performance": performance(accuracy(times(variant))),
            "preactivations": means(np.arange(SITES)[::order] + 2),
        }

    assert decided(recipe("fig2")("small"), made)["negative-first"] == outcome
    assert decided(recipe("fig7")("small"), made)["negative-first-3"] == outcome


def predictions(share, seed_of, classes=10, n=400):
    """Predictions that are right for a share of the examples, others at random."""
    labels = np.arange(n) % classes
    rows = []
    for seed in range(5):
        rng = np.random.default_rng(seed_of + seed)
        right = np.arange(n) < share * n
        rows.append(np.where(right, labels, rng.integers(0, classes, n)))
    predicted = np.repeat(np.array(rows)[:, None], len(STEPS), 1)
    coords = {"seed": range(5), "step": STEPS}
    return xr.Dataset(
        {
            "predicted": (("seed", "step", "example"), predicted.astype("int32")),
            "label": (("seed", "example"), np.tile(labels, (5, 1)).astype("int32")),
        },
        coords,
    )


@pytest.mark.parametrize(("sign", "outcome"), [(1, "holds"), (-1, "fails")])
def test_the_more_is_linear_the_less_or_more_is_explained(sign, outcome):
    def made(variant):
        k = NUMBERS[variant]
        share = 0.9 - 0.04 * (k if sign > 0 else SITES - k) if k else 0.9
        return {
            "performance": performance(accuracy()),
            "predictions": predictions(share, 10 * k),
        }

    found = decided(recipe("fig6")("small"), made)
    assert found["order"] == outcome


def test_a_network_like_another_run_explains_as_much_as_one():
    def made(variant):
        k = NUMBERS[variant]
        share = 0.9 if k in (0, 3) else 0.5
        return {"performance": performance(accuracy()), "predictions": predictions(share, 10 * k)}

    found = decided(recipe("fig6")("small"), made)
    assert found["first3-like-another-run"] == "holds"
    assert found["first5-like-another-run"] == "fails"


def levels(**values):
    def made(variant):
        return {
            "performance": performance(np.full(len(STEPS), values[variant])),
            "preactivations": means(np.arange(SITES)),
        }

    return made


def test_resnet_50_as_the_paper_has_it_and_not():
    study = recipe("fig3")("small")
    paper = levels(full=70.0, first20=69.5, positive=70.5, last20=65.0, first40=60.0)
    assert set(decided(study, paper).values()) == {"holds"}
    other = levels(full=70.0, first20=60.0, positive=70.0, last20=68.0, first40=69.0)
    assert decided(study, other) == {
        "first20-like-full": "fails",
        "positive-like-full": "holds",
        "last20-between": "fails",
        "first40-worst": "fails",
    }


def costs(k_of_site):
    coords = {"seed": range(5), "step": STEPS, "layer": NAMES}
    values = np.tile(np.asarray(k_of_site, float), (len(STEPS), 1))
    return xr.Dataset({"error_increase": noisy(values, "step", "layer")}, coords)


def test_a_measure_that_follows_what_networks_lack_tells_it():
    study = recipe("better_metric")("small")
    depth = np.arange(SITES)

    def made(variant):
        values = 60 - 2.0 * NUMBERS[variant] * (np.arange(len(STEPS)) >= 3)
        falling = np.tile(1 - 0.05 * depth, (len(STEPS), 1))
        coords = {"seed": range(5), "step": STEPS, "layer": NAMES}
        shares = {
            "linear_share": noisy(falling, "step", "layer"),
            "affinity": noisy(falling[:, ::-1], "step", "layer"),
        }
        return {
            "performance": performance(values),
            "preactivations": means(np.full(SITES, 30)),
            "linear_share": xr.Dataset(shares, coords),
            "linearisation_cost": costs(depth),
        }

    found = decided(study, made)
    assert found["linear-share"] == "holds"
    assert found["affinity-score"] == "fails"
    assert found["cost-of-linearising"] == "holds"


def test_linear_networks_that_catch_up_or_do_not():
    study = recipe("linear_baseline")("small")

    def made(good):
        def of(variant):
            longer, full = variant.endswith("-longer"), variant.startswith("full")
            level = 60.0 if full else 70.0 if longer and good else 50.0
            return {"performance": performance(np.full(len(STEPS), level))}

        return of

    assert set(decided(study, made(False)).values()) == {"holds"}
    assert set(decided(study, made(True)).values()) == {"fails"}


def test_measurements_that_cost_much_are_made_where_they_are_used():
    study = recipe("better_metric")("small")
    assert [p.key for p in study.probes_on("first3")] == ["performance,checkpoints=all"]
    assert len(study.probes_on("full")) == 4
    means_on = [v for v in study.variants if len(recipe("fig2")("small").probes_on(v)) == 2]
    assert means_on == ["full", "first9", "linear"]
