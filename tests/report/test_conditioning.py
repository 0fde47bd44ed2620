"""Sentences on signals over depth, on the curvature of layers, and on weights that dominate."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
import xarray as xr
from tests.cases import FCN
from tests.report.test_linearity import entering
from tests.training_loop import train

from layerscope.probes import (
    Conditioning,
    ConditioningError,
    Preactivations,
    SignalMagnitude,
    WeightDomination,
)
from layerscope.report.conditioning import MANY, conditioning_findings
from layerscope.report.curvature import MEASURED, NEAR, STEEP
from layerscope.report.factors import factor
from layerscope.report.linearity import REVIVE, linearity_findings
from layerscope.report.publish import write_report
from layerscope.report.run_page import run_page
from layerscope.report.signals import KEPT, SPAN
from layerscope.runs.store import Run
from layerscope.schedule import every

NAMES = tuple("abcdefghi")
INFINITY, NAN = math.inf, math.nan


def over_matrices(kinds=(), steps=3, **variables):
    """Variables over steps, matrices and, where they are stacked, seeds.

    Args:
        kinds: Kinds of rows that are not linear, by their index.
        steps: How many moments.
        variables: Values over (layer), (step, layer) or (seed, step, layer).
    """
    arrays = {name: np.asarray(values, float) for name, values in variables.items()}
    n = max(values.shape[-1] for values in arrays.values())
    found = {}
    for name, values in arrays.items():
        shape = (*values.shape[:-2], steps, n)
        found[name] = ("seed", "step", "layer")[-len(shape) :], np.broadcast_to(values, shape)
    kind = [dict(kinds).get(i, "linear") for i in range(n)]
    coords = {"layer": list(NAMES[:n]), "kind": ("layer", kind), "step": 10 * np.arange(steps)}
    return xr.Dataset(found, coords | {"epoch": ("step", np.arange(steps) * 1.0)})


def findings(name, dataset):
    return conditioning_findings({name: dataset})


def said(name, dataset):
    return [finding.text for finding in findings(name, dataset)]


def per_seed(*sites):
    """Layers with a value for each seed, as (seed, step, layer)."""
    return np.array(sites, float).T[:, None]


def signals(values=(1, 1, 1), gradient=(1, 1, 1), **options):
    return over_matrices(input=values, gradient=gradient, **options)


def test_thresholds_are_those_of_the_sentences_below():
    assert (SPAN, KEPT, STEEP, MANY, NEAR) == (1e3, 10, 100, 0.5, 2)


def test_nothing_is_said_of_what_was_not_measured():
    assert conditioning_findings({}) == ()
    nothing = [NAN, NAN, NAN]
    for name, dataset in (
        ("signal_magnitude", signals(nothing, nothing)),
        ("conditioning", curvature(nothing, largest=nothing, kappa_50_input=nothing)),
        ("weight_domination", over_matrices(dominated=nothing)),
        ("conditioning_error", over_matrices(largest_ratio=nothing, overlap=nothing)),
        ("preactivations", entering(nothing, nothing)),
    ):
        assert said(name, dataset) == []


def test_a_signal_that_vanishes_is_told_at_the_start_and_at_the_end():
    (found,) = findings("signal_magnitude", signals([[2, 1, 1e-4], [1, 1, 1], [3, 1, 1]]))
    assert found.text == (
        "At epoch 0 the signal vanishes over depth: what enters c is 20,000 times smaller than "
        "what enters a; at epoch 2 it is 3 times smaller. To try: He initialisation, or a "
        "normalisation after each layer."
    )
    assert (found.tone, found.layer) == ("warning", "c")
    assert "threshold: a factor of 1,000" in found.evidence
    assert "Theorems 4.1 and 4.2" in found.evidence
    assert found.evidence.endswith("One run: how far another one would differ is not known.")


def test_what_explodes_only_at_the_end_begins_with_the_end():
    (text,) = said("signal_magnitude", signals([[1, 1, 2], [1, 1, 5], [1, 1, 1e4]]))
    assert text.startswith(
        "At epoch 2 the signal explodes over depth: what enters c is 10,000 times larger than what "
        "enters a; at epoch 0 it is 2 times larger."
    )


@pytest.mark.parametrize(("ratio", "verb"), [(2e3, "vanishes"), (5e-4, "explodes")])
def test_gradients_come_from_the_last_layer(ratio, verb):
    (found,) = findings("signal_magnitude", signals(gradient=[1, 1, ratio], steps=1))
    assert found.text.startswith(
        f"At epoch 0 the gradient {verb} over depth: the gradient at what leaves a is 2,000 times "
        f"{'smaller' if ratio > 1 else 'larger'} than the gradient at what leaves c. To try"
    )
    assert found.layer == "a"


def test_signals_and_gradients_are_told_apart():
    dataset = signals([1, 1, 1e-4], [1, 1, 1e4])
    first, second = said("signal_magnitude", dataset)
    assert "the signal vanishes" in first
    assert "the gradient vanishes" in second


def test_signals_that_keep_their_size_are_good():
    (found,) = findings("signal_magnitude", signals([1, 2, 0.5], [[1, 1, 3]] * 2 + [[1, 1, 9]]))
    assert found.text == (
        "At epoch 0 and epoch 2 signals and gradients keep their size within a factor of 9 over "
        "all 3 matrices."
    )
    assert found.tone == "good"
    for least, told in ((1e-4, "10,000"), (0.1, "10")):
        (between,) = findings("signal_magnitude", signals([1, least, 0.5]))
        assert between.tone == "plain"
        assert between.text.endswith(
            f"differ up to {told}-fold between any two of 3 matrices, and less than 1,000-fold "
            "between the first and the last."
        )


def test_signals_are_judged_in_every_run():
    both = per_seed([1, 1, 1], [1, 1, 1], [1e-4, 1e-5, 1e-6])
    (text,) = said("signal_magnitude", signals(both, np.ones((3, 1, 3)), steps=1))
    margin = 4.303 / 3**0.5
    low, high = 1e5 * 10**-margin, 1e5 * 10**margin
    assert text.startswith("At epoch 0 the signal vanishes over depth in each of 3 runs: what")
    found = re.search(r"is 100,000 \[([\d,]+), ([\d,]+)\] times smaller", text)
    assert [float(n.replace(",", "")) for n in found.groups()] == pytest.approx([low, high], 0.01)
    some = per_seed([1, 1, 1], [1, 1, 1], [1e-4, 1, 1])
    (text,) = said("signal_magnitude", signals(some, np.ones((3, 1, 3)), steps=1))
    assert "vanishes over depth in 1 of 3 runs: what enters c is 21.5 [" in text
    mixed = per_seed([1, 1, 1], [1, 1, 1], [1e-4, 1e5, 1e5])
    (text,) = said("signal_magnitude", signals(mixed, np.ones((3, 1, 3)), steps=1))
    assert "explodes over depth in 2 of 3 runs: what enters c is 100 [" in text


def test_signals_of_zero_are_infinitely_far():
    (text,) = said("signal_magnitude", signals([1, 1, 0], steps=1))
    assert "what enters c is \N{INFINITY} times smaller than" in text
    (text,) = said("signal_magnitude", signals([0, 1, 1], steps=1))
    assert "what enters c is \N{INFINITY} times larger than" in text
    (text,) = said("signal_magnitude", signals([1, 0, 1], steps=1))
    assert "up to \N{INFINITY}-fold" in text
    assert said("signal_magnitude", signals([0, 0, 0])) == []
    vanished = signals([[1, 1, 1e-4], [0, 0, 0]], steps=2)
    assert all("epoch 1" not in text for text in said("signal_magnitude", vanished))


def test_embeddings_and_matrices_without_a_value_are_no_ends():
    values = [1e-9, 1, 2, NAN]
    dataset = signals(values, [1, 1, 1, NAN], kinds={0: "embedding"})
    (text,) = said("signal_magnitude", dataset)
    assert "within a factor of 2 over all 2 matrices" in text
    one_side = signals([1, 2, 900], [1, 1, NAN])
    (text,) = said("signal_magnitude", one_side)
    assert "within a factor of 2 over all 2 matrices" in text
    alone = signals([1, 1], [1, 1], kinds={0: "embedding"})
    assert said("signal_magnitude", alone) == []


def curvature(largest_input, largest=(1.0,), **options):
    return over_matrices(largest_input=largest_input, largest=largest, **options)


def test_an_ill_conditioned_last_layer_is_a_warning():
    first = [[1, 2, 3, 500], [1, 2, 3, 500], [1, 2, 3, 1]]
    warned, _ = findings("conditioning", curvature(first))
    assert warned.text == (
        "At epoch 0 the last layer, d, is ill-conditioned: the largest eigenvalue of the second "
        "moment of what enters it is 250 times as large as the median of the 3 other matrices; at "
        "epoch 2 it is 0.5 times as large. To try: a batch normalisation right before it, where "
        f"there is none; {MEASURED}."
    )
    assert (warned.tone, warned.layer) == ("warning", "d")
    assert "Section 5.1" in warned.evidence


@pytest.mark.parametrize("values", [[1, 2, 99], [500, 2, 1], [1, 500], [0, 0, 0]])
def test_a_last_layer_like_the_others_is_none(values):
    assert not any("ill-conditioned" in t for t in said("conditioning", curvature(values)))


def test_the_last_layer_is_the_last_with_a_value_and_runs_are_counted():
    values = per_seed([1, 1, 1], [1, 1, 1], [200, 300, 50], [NAN, NAN, NAN])
    texts = said("conditioning", curvature(values, steps=1))
    warned = next(text for text in texts if "ill-conditioned" in text)
    assert "the last layer, c, is ill-conditioned in 2 of 3 runs: " in warned
    assert "is 144 [" in warned
    scales = curvature([1, 1, 1, 900], kinds={3: "scale"})
    assert not any("ill-conditioned" in text for text in said("conditioning", scales))


def test_the_steepest_layer_is_named():
    dataset = curvature([1, 1, 1, 1], largest=[1, 8, 4, 9e9], kinds={3: "scale"})
    (found,) = findings("conditioning", dataset)
    assert found.text == (
        "The largest curvature at epoch 2 is that of b, 2 times the median of all 3 matrices: of "
        "these it is the first to limit the learning rate."
    )
    assert (found.tone, found.layer) == ("plain", "b")
    assert said("conditioning", curvature([1, 1, 1], largest=[0, 0, 0])) == []
    assert said("conditioning", curvature([1, 1], largest=[2, NAN])) == []
    (far,) = said("conditioning", curvature([1, 1, 1], largest=[0, 0, 2]))
    assert "that of c, \N{INFINITY} times" in far


def test_runs_need_not_agree_on_the_steepest_layer():
    largest = per_seed([1, 1, 1], [9, 9, 0.5], [1, 1, 1])
    (found,) = findings("conditioning", curvature(np.ones((3, 1, 3)), largest=largest))
    assert "is that of b in 2 of 3 runs, 3.43 [" in found.text
    assert found.evidence.endswith("Geometric mean and 95% interval over 3 runs.")


def test_inputs_whose_second_moment_is_mostly_empty_are_listed():
    kappa = [[1, INFINITY, INFINITY], [INFINITY, 1, INFINITY]]
    dataset = curvature([1, 1, 1], kappa_50_input=kappa, steps=2)
    _, found = findings("conditioning", dataset)
    assert found.text == (
        "At epoch 1 more than half of the eigenvalues of the second moment of what enters are 0 "
        "for 2 of 3 matrices (a and c): their inputs are dead or redundant, or the batch is too "
        "small to tell."
    )
    assert "One run:" in found.evidence
    many = curvature([1] * 9, kappa_50_input=[INFINITY] * 8 + [NAN], steps=1)
    (_, text) = said("conditioning", many)
    assert "for 8 of 8 matrices (a, b, c ...): their" in text
    runs = per_seed([1, INFINITY], [INFINITY, INFINITY], [2, 3])
    dataset = curvature(np.ones((2, 1, 3)), kappa_50_input=runs)
    _, text = said("conditioning", dataset)
    assert "are 0 in each of 2 runs for 1 of 3 matrices (b): its inputs" in text
    assert len(said("conditioning", curvature([1, 1, 1], kappa_50_input=[1, 2, 3]))) == 1
    assert len(said("conditioning", curvature([1, 1, 1]))) == 1


def dominated(values, threshold=1e-3, **options):
    dataset = over_matrices(dominated=values, **options)
    dataset.attrs["settings"] = json.dumps({"mode": "train", "threshold": threshold})
    return dataset


def test_weights_that_dominate_at_the_end_only_may_be_those_of_a_good_training():
    values = [[0, 0, 1], [0, 0, 0], [0, 0, 0], [0, 1, 1]]
    (found,) = findings("weight_domination", dominated(values, steps=4))
    assert found.text == (
        "At epoch 3 weights dominate the gradients of 2 of 3 layers (b and c). Of all layers it "
        "was 33% at epoch 0 and 0% at epoch 2: small gradients also end a good training, and these "
        "may be such."
    )
    assert found.tone == "plain"
    assert "below 0.001; suspicious where 50% of layers" in found.evidence
    assert "Definition 1" in found.evidence


@pytest.mark.parametrize("early", [[[1, 1], [0, 0]], [[0, 0], [0, 1]]])
def test_many_dominated_layers_early_are_suspicious(early):
    (found,) = findings("weight_domination", dominated([*early, [0, 1]]))
    assert found.tone == "warning"
    assert "so many so early are suspicious" in found.text
    assert "To try: a lower learning rate at first" in found.text


def test_without_dominated_layers_at_the_end_nothing_is_said():
    assert said("weight_domination", dominated([[1, 1], [1, 1], [0, 0]])) == []
    runs = per_seed([1, 0], [0, 1])
    assert said("weight_domination", dominated(runs)) == []


def test_one_moment_says_nothing_of_the_history():
    (text,) = said("weight_domination", dominated([1, 1, NAN], steps=1))
    assert text == (
        "At epoch 0 weights dominate the gradients of 2 of 2 layers (a and b). Small gradients "
        "also end a good training; this is the only measured moment."
    )
    dataset = dominated(per_seed([1, 1], [1, 0]), steps=1).assign_attrs(settings="{}")
    (found,) = findings("weight_domination", dataset)
    assert "of 1 of 2 layers (a) in each of 2 runs. " in found.text
    assert "of the weights, threshold; suspicious" in found.evidence


def test_dying_neurons_are_a_warning_that_is_not_given_twice():
    dataset = entering([0.2, 0.9, 0.0], [0.1, 0.0, 0.7])
    (found,) = findings("preactivations", dataset)
    assert found.text == (
        "At epoch 2 at least 10% of the nodes of activation 0 (a) are dying neurons, off for every "
        f"sample. {REVIVE}"
    )
    assert (found.tone, "most in a: 10%" in found.evidence) == ("warning", True)
    *_, dead = linearity_findings({"preactivations": dataset})
    assert "activation 2 (c) pass nothing on" in dead.text
    assert said("preactivations", entering([0.0] * 3, [0.09, 0.0, NAN])) == []


def test_only_rectifiers_have_dying_neurons_and_runs_must_agree():
    dataset = entering([0.0] * 3, [0.3] * 3)
    dataset = dataset.assign_coords(kind=("layer", ["LeakyReLU", "ReLU, gate", "ReLU, linear"]))
    (text,) = said("preactivations", dataset)
    assert "of activation 1 (b) are dying" in text
    off = per_seed([0.2, 0.4], [0.0, 0.4])
    (text,) = said("preactivations", entering(0 * off, off, (0.0, 1.0)))
    assert "of activation 0 (a) are dying neurons, off for every sample in each of 2 runs." in text


def test_how_far_the_product_can_be_trusted():
    ratio, overlap = [0.5, 2.0, 0.1, NAN], [0.9, NAN, 0.7, 0.8]
    dataset = over_matrices(largest_ratio=ratio, overlap=overlap)
    (found,) = findings("conditioning_error", dataset)
    assert found.text == (
        "At epoch 2 the largest eigenvalue of the Kronecker product is within a factor of 2 of "
        "that of the exact block for 2 of 3 layers; the smallest overlap of both is 0.70 (c). At "
        "worst they are a factor of 10 apart (c): differences between layers in how steep they "
        "are say little where they are smaller than that."
    )
    assert found.tone == "plain"
    without = over_matrices(largest_ratio=[0.0, 1.0], overlap=[NAN, NAN])
    (text,) = said("conditioning_error", without)
    assert "for 1 of 2 layers. At worst they are a factor of \N{INFINITY} apart (a)" in text


def test_the_product_is_near_where_it_is_in_every_run():
    ratio, overlap = per_seed([1, 1, 1], [1, 3, 1]), per_seed([0.9, 0.9, 1], [0.8, 0.9, 0.7])
    (text,) = said("conditioning_error", over_matrices(largest_ratio=ratio, overlap=overlap))
    assert "for 1 of 2 layers in each of 3 runs; the smallest overlap of both is 0.80 [" in text
    assert "At worst they are a factor of 1.44 [" in text


def test_moments_at_which_a_run_was_not_measured_are_left_out():
    values = np.ones((2, 3, 3))
    values[0, 2], values[1, 2] = NAN, 1e6
    (text,) = said("signal_magnitude", signals(values, np.ones((2, 1, 3))))
    assert text.startswith("At epoch 0 and epoch 1 signals")


def test_warnings_come_first_and_there_are_eight_at_most():
    far = [1, 1, 1e-4]
    measured = {
        "conditioning_error": over_matrices(largest_ratio=[1, 1, 1], overlap=[1, 1, 1]),
        "conditioning": curvature([1, 1, 500], kappa_50_input=[INFINITY] * 3),
        "preactivations": entering([0.0] * 3, [0.2] * 3),
        "weight_domination": dominated([1, 1, 1]),
        "signal_magnitude": signals(far, far[::-1]),
    }
    found = conditioning_findings(measured)
    assert [finding.tone for finding in found] == ["warning"] * 5 + ["plain"] * 3
    assert all(("To try" in finding.text) == (finding.tone == "warning") for finding in found)
    assert "the signal vanishes" in found[0].text
    quiet = conditioning_findings(measured | {"signal_magnitude": signals()})
    assert (len(quiet), quiet[-1].tone) == (7, "good")


def test_factors_have_the_interval_of_their_logarithms():
    assert factor(np.array([23456.0])) == "23,500"
    assert factor(np.array([1.0, 100.0, 10.0])) == "10 [0.0328, 3,050]"
    assert factor(np.array([NAN, 4.0])) == "4"
    assert factor(np.array([0.0, 4.0])) == "0"
    assert factor(np.array([0.0, INFINITY])) == "\N{INFINITY}"


@pytest.mark.parametrize("seeds", [1, 2])
def test_what_a_small_network_measures_is_on_its_page(tmp_path, seeds):
    probes = [
        Conditioning(),
        ConditioningError(),
        SignalMagnitude(),
        WeightDomination(threshold=1e3),
        Preactivations(),
    ]
    schedules = {"measure": every(1), "checkpoints": every(1), "task": FCN.task}
    for seed in range(seeds):
        given = {"model": FCN.model(seed), "batch": FCN.batch(0), "probes": probes}
        train(FCN, 3, path=tmp_path / str(seed), **given, **schedules)
    runs = [Run.open(tmp_path / str(seed)) for seed in range(seeds)]
    texts = [finding.text for finding in run_page(runs).findings]
    for words in (
        "signals and gradients differ up to",
        "The largest curvature at step 3 is that of output",
        "weights dominate the gradients of 3 of 3 layers (layer1, layer2 and output)",
        "At step 3 the largest eigenvalue of the Kronecker product is within a factor of 2",
    ):
        assert sum(words in text for text in texts) == 1
    assert any("of 2 runs" in text for text in texts) == (seeds == 2)
    page = write_report(runs, tmp_path / "r.html").read_text()
    assert "weights dominate the gradients" in page
