"""Sentences on where activations act linearly, and on what their nonlinearity is worth."""

from __future__ import annotations

import json
import re

import numpy as np
import xarray as xr

from layerscope.report.linearisation import NOTHING
from layerscope.report.linearity import DEAD, LINEAR, QUIET, REVIVE, linearity_findings
from layerscope.report.sites import Estimates, named, number

NAMES = tuple("abcdefghi")


def over_sites(kinds="", steps=3, epochs=True, **variables):
    """Variables over steps, sites and, where they are stacked, seeds; values of all steps or one.

    Args:
        kinds: What follows the class of each activation, by position: g for gate, l for linear.
        steps: How many moments.
        epochs: Whether they are known.
        variables: Values over (site), (step, site) or (seed, step, site).
    """
    arrays = {name: np.asarray(values, float) for name, values in variables.items()}
    n = max(values.shape[-1] for values in arrays.values())
    found = {}
    for name, values in arrays.items():
        shape = (*values.shape[:-2], steps, n)
        dims = ("seed", "step", "layer")[-len(shape) :]
        found[name] = dims, np.broadcast_to(values, shape)
    ends = {"g": ", gate", "l": ", linear"}
    coords = {
        "layer": list(NAMES[:n]),
        "depth": ("layer", list(range(n))),
        "kind": ("layer", [f"ReLU{ends.get(kind, '')}" for kind in kinds.ljust(n)]),
        "step": 10 * np.arange(steps),
    }
    if epochs:
        coords["epoch"] = "step", np.arange(steps) * 1.0
    return xr.Dataset(found, coords)


def said(name, dataset):
    return [finding.text for finding in linearity_findings({name: dataset})]


def shares(values, **options):
    return said("linear_share", over_sites(linear_share=values, **options))


def test_neighbours_are_named_together():
    dataset = over_sites(x=[0.0] * 9)
    assert named(dataset, np.array([4])) == "Activation 4 (e)"
    sites = np.array([0, 1, 3, 4, 5, 8])
    assert named(dataset, sites) == "Activations 0 and 1 (a and b), 3 to 5 (d to f) and 8 (i)"
    some = named(over_sites(x=[0.0] * 9).isel(layer=slice(None, None, 2)), np.arange(5))
    assert some == "Activations 0 (a), 2 (c), 4 (e), 6 (g) and 1 more"


def test_numbers_have_a_minus_sign_and_zero_has_none():
    assert [number(value, ".1f") for value in (-1.26, -0.04, 0.0, 2.0)] == [
        "\N{MINUS SIGN}1.3",
        "0.0",
        "0.0",
        "2.0",
    ]
    assert number(-0.0004, ".1%") == "0.0%"


def test_sites_that_act_linearly_throughout_are_named_with_the_threshold():
    (first, second) = shares([1.0, 0.99, 0.995, 0.8, 1.0][:4])
    assert first == (
        "Activations 0 to 2 (a to c) act linearly throughout: a straight line explains at least "
        "99% of what leaves them."
    )
    assert second == (
        "At no measured moment does a straight line explain 99% of what leaves activation 3 (d); "
        "at epoch 2 it explains 80.0%."
    )
    (only,) = shares([1.0], steps=1, epochs=False)
    assert only.startswith("Activation 0 (a) acts linearly at step 0: a straight line")
    assert f"{LINEAR:.0%}" == "99%"


def test_where_none_acts_linearly_the_ends_are_named():
    (text,) = shares([0.7, 0.9, 0.98])
    assert text == (
        "At no measured moment does a straight line explain 99% of what leaves any of the 3 "
        "activations; at epoch 2 it explains from 70.0% (a) to 98.0% (c)."
    )


LEFT = [[1.0, 1.0, 1.0, 1.0], [1.0, 0.9, 1.0, 1.0], [1.0, 0.9, 0.9, 0.9]]


def test_the_first_to_leave_the_linear_regime_is_named_with_its_time():
    through, left = shares(LEFT)
    assert through.startswith("Activation 0 (a) acts linearly throughout")
    assert left == (
        "Activation 1 (b) left the linear regime (99%) first, by epoch 1; 2 others followed, the "
        "last by epoch 2: activations 2 and 3 (c and d)."
    )
    (alone,) = shares([[1.0, 1.0], [0.5, 0.5], [0.5, 0.5]], epochs=False)
    assert alone == "Activations 0 and 1 (a and b) left the linear regime (99%) by step 10."


def test_sites_that_are_linear_again_or_now_and_then_are_not_called_linear_throughout():
    left, came = shares([[1.0], [0.5], [1.0]])
    assert left.startswith("Activation 0 (a) left the linear regime")
    assert re.search(r"^Activation 0 \(a\) acts linearly .* at epoch 2, but not at every", came)
    (near,) = shares([[0.5], [1.0], [0.5]])
    assert near.endswith("at some measured moments only.")


def test_what_is_linear_by_construction_is_told_apart_and_gates_are_named():
    first, second, third = shares([1.0, 1.0, 0.5], kinds="lg")
    assert first.startswith("Activation 0 (a) is the identity by construction")
    assert "Activation 1 (b) acts linearly" in second
    assert "Activation 1 (b) is a gate: what is multiplied by it is not linear" in second
    assert "activation 2 (c)" in third


def test_several_runs_must_agree():
    each = np.array([[[1.0, 1.0, 0.5]], [[0.995, 0.5, 0.6]], [[1.0, 1.0, 0.7]]])
    through, never, near = shares(each)
    assert "act" in through
    assert "Activation 0 (a) acts linearly throughout in each of 3 runs" in through
    assert never.startswith("At no measured moment of 3 runs")
    interval = 4.303 * 0.1 / 3**0.5
    low, high = 100 * (0.6 - interval), 100 * (0.6 + interval)
    assert never.endswith(f"at epoch 2 it explains 60.0% [{low:.1f}%, {high:.1f}%].")
    assert near.startswith("Activation 1 (b) acts linearly")
    assert near.endswith("or in some runs, only.")


def test_a_share_has_no_interval_beyond_one():
    each = np.array([[[0.5, 0.98]], [[0.6, 0.9]], [[0.7, 0.98]]])
    (text,) = shares(each)
    assert ", 100.0%] (b)" in text


def test_moments_at_which_a_run_was_not_measured_and_sites_without_values_are_left_out():
    each = np.ones((2, 3, 2))
    each[0, 2], each[1, 2] = np.nan, 0.5
    each[:, :, 1] = np.nan
    (text,) = shares(each)
    assert text.startswith("Activation 0 (a) acts linearly throughout in each of 2 runs")
    assert shares(np.full((2, 3, 2), np.nan)) == []


def test_measurements_of_layers_and_missing_ones_say_nothing():
    of_layers = over_sites(linear_share=[1.0, 1.0])
    of_layers.attrs["settings"] = json.dumps({"of": "layers"})
    assert said("linear_share", of_layers) == []
    assert linearity_findings({}) == []


def entering(on, off, mean=(0.0, 0.0, 0.0), **options):
    on, off = np.asarray(on, float), np.asarray(off, float)
    return over_sites(
        mean=mean,
        deviation=[1.0] * len(mean),
        always_on=on,
        always_off=off,
        mixed=1 - on - off,
        **options,
    )


def test_the_highest_and_lowest_mean_and_nodes_that_never_switch():
    dataset = entering([0.2, 0.0, 0.05], [0.1, 0.02, 0.0], (0.5, -1.0, 2.0))
    means, nodes = said("preactivations", dataset)
    assert means == (
        "At epoch 2 the mean of what enters an activation is highest at c (2.00, with deviation "
        "1.00), and lowest at b (\N{MINUS SIGN}1.00, with deviation 1.00)."
    )
    assert nodes == (
        "At epoch 2 some nodes never switch: 30% of a (20% always on, 10% always off)."
    )
    (_, none) = said("preactivations", entering([0.0] * 3, [0.0] * 3))
    assert none == "At epoch 2 no rectifier has 10% or more nodes that never switch."
    assert f"{QUIET:.0%}" == "10%"


def test_sites_with_the_most_nodes_that_never_switch_are_named():
    on = [0.2, 0.3, 0.4, 0.5, 0.6]
    (_, nodes) = said("preactivations", entering(on, [0.0] * 5, [0.0] * 5))
    assert "60% of e" in nodes
    assert "40% of c" in nodes
    assert nodes.endswith("and 10% or more of 2 other activations.")


def test_dead_nodes_are_a_warning():
    dataset = entering([0.0, 0.0, 0.0], [DEAD, 0.4, 0.7])
    *_, dead = linearity_findings({"preactivations": dataset})
    assert dead.tone == "warning"
    assert dead.text == (
        "At least 50% of the nodes of activations 0 (a) and 2 (c) pass nothing on at epoch 2. "
        f"{REVIVE}"
    )


def test_nodes_of_other_activations_do_not_make_them_linear():
    dataset = entering([1.0] * 3, [0.0] * 3)
    dataset = dataset.assign_coords(kind=("layer", ["GELU", "Sigmoid, gate", "ReLU, linear"]))
    assert [text[:15] for text in said("preactivations", dataset)] == ["At epoch 2 the "]


def test_runs_that_differ_in_their_nodes_are_not_summed_up():
    off = np.array([[[0.0, 0.0]], [[0.6, 0.0]]])
    (only,) = said("preactivations", entering(0 * off, off, (0.0, 1.0)))
    assert only.startswith("At epoch 2 the mean")


def costing(error, base=7.5, loss=0.0, **options):
    loss = np.broadcast_to(loss, np.shape(error))
    made = {"error_increase": error} if error is not None else {}
    dataset = over_sites(loss_increase=loss, **made, steps=1, **options)
    return dataset.assign(base_error=("step", [base]), base_loss=("step", [0.5]))


def costs(*args, **options):
    return said("linearisation_cost", costing(*args, **options))


def test_one_run_is_said_to_be_one():
    worth, gained, nothing = costs([3.0, 0.5, 8.0, -0.5, -0.8, 1.0, 2.0, 2.5])
    assert worth == (
        "In this one run, removing the nonlinearity of c costs 8.0 points of test error, that of a "
        "3.0, that of h 2.5, that of g 2.0 and that of 1 other less (as it is: 7.5%)."
    )
    assert gained == (
        "In this one run, removing the nonlinearity of activation 4 (e) costs less than nothing: "
        "\N{MINUS SIGN}0.8 points of test error."
    )
    assert nothing == (
        "In this one run, removing the nonlinearity of activations 1 (b) and 3 (d), one at a time, "
        "costs nothing (within 0.5 points of test error)."
    )
    assert NOTHING["error_increase"] == 0.5


def per_seed(*sites):
    """Sites with a value for each seed, as (seed, step, site)."""
    return np.array(sites, float).T[:, None]


def test_of_several_runs_costs_is_said_only_where_the_interval_excludes_zero():
    values = per_seed([6, 7, 8], [0, 5, 16], [0.1, 0.0, -0.1], [-3, -4, -5], [0, 0, 0])
    worth, gained, nothing, undecided = costs(values)
    margin = 4.303 / 3**0.5
    assert worth == (
        f"Removing the nonlinearity of a costs 7.0 [{7 - margin:.1f}, {7 + margin:.1f}] points of "
        "test error (as it is: 7.5%)."
    )
    assert "activation 3 (d) costs less than nothing: \N{MINUS SIGN}4.0 [" in gained
    assert "activations 2 (c) and 4 (e), one at a time, costs nothing (within 0.5" in nothing
    assert undecided.startswith(
        "3 runs do not decide what removing the nonlinearity of activation 1 (b) costs: the "
        "interval includes 0. The largest mean is 7.0 [\N{MINUS SIGN}"
    )


def test_two_runs_decide_nothing_even_where_they_agree():
    (text,) = costs(per_seed([2, 2], [0, 0]))
    assert text.startswith("2 runs do not decide what removing")
    assert "that takes 3 at least" in text


def test_sites_that_are_linear_already_or_have_no_value_have_no_cost():
    values = per_seed([0, 0, 0], [6, 7, np.nan], [6, 7, 8])
    (text,) = costs(values, kinds="l")
    assert text.startswith("Removing the nonlinearity of c costs")


def test_without_classes_costs_are_shares_of_the_loss():
    dataset = costing([0.0, 0.0], loss=[0.1, 0.001]).drop_vars(["error_increase", "base_error"])
    worth, nothing = said("linearisation_cost", dataset)
    assert worth == (
        "In this one run, removing the nonlinearity of a costs 20.0 % of the test loss (as it is: "
        "0.5)."
    )
    assert nothing.endswith("activation 1 (b) costs nothing (within 1 % of the test loss).")


def test_extremes_know_of_runs_without_a_value():
    values = over_sites(x=per_seed([1, 2, 3], [1, np.nan, 3]), steps=1)["x"]
    found = Estimates.of(values)
    np.testing.assert_array_equal(found.mean, [[2.0, 2.0]])
    np.testing.assert_array_equal(found.least, [[1.0, np.nan]])
    np.testing.assert_array_equal(found.greatest, [[3.0, np.nan]])
    assert found.runs == 3
    one = Estimates.of(values.isel(seed=[0]))
    assert (one.runs, one.in_each) == (1, "")
