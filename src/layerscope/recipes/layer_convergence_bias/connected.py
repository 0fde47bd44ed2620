"""The regression with a small sigmoid network: Fig. 1a, and on other domains."""

from __future__ import annotations

import itertools
import math

from layerscope.config import FCN
from layerscope.probes import Convergence, GradientMagnitude, Probe
from layerscope.recipes.layer_convergence_bias.bias import Sweep, summary
from layerscope.recipes.layer_convergence_bias.settings import (
    early,
    names,
    paper,
    plan,
    sine,
    titled,
)
from layerscope.studies.comparisons import each, exceeds, falls
from layerscope.studies.curves import Interval, opening, progress, rate
from layerscope.studies.paper import Items, claim
from layerscope.studies.plan import Plan, Runs, Scale, Variant
from layerscope.studies.plots import described, reported, table
from layerscope.studies.quantity import Quantity, stacked
from layerscope.studies.statistics import log2

SIGMOID = FCN(depth=3, width=32, activation="sigmoid")
REPORTED = {"layer1": 0.012, "layer2": 0.009, "layer3": 0.006}
LAYERS = list(REPORTED)
BEYOND = "beyond the paper: a boundary of Observation 2.1"


def two_domains(scale: Scale) -> Plan:
    """The sigmoid network 1-32-32-32-1 on the paper's domain and on a wider one."""
    domains = {"narrow": ("[-2, 2]", 2.0), "wide": ("[-2π, 2π]", 2 * math.pi)}
    variants = {
        name: (label, sine(scale, SIGMOID, low=-half, high=half))
        for name, (label, half) in domains.items()
    }
    return plan(variants, reading="", may_diverge=False)


def five_domains(scale: Scale) -> Plan:
    """The same network on domains of five widths."""
    halves = {"1": 1.0, "2": 2.0, "3": 3.0, "4": 4.0, "2π": 2 * math.pi}
    variants = {
        f"half{half:.3g}": (f"[-{name}, {name}]", sine(scale, SIGMOID, low=-half, high=half))
        for name, half in halves.items()
    }
    return plan(variants, reading="", more=" Beyond the paper: domains other than [-2, 2].")


def half_way(run: Variant) -> int:
    """End of the interval of which rates are given: epoch 50, or half of a shorter run."""
    return run.until(min(50, max(1, run.epochs // 2)))


@paper.recipe(
    "Fig. 1a",
    two_domains,
    "Do shallower layers converge faster, although their gradients are smaller?",
    "A sigmoid network 1-32-32-32-1 fits a sum of four sines. For every layer: the mean absolute "
    "gradient, and how much of its distance to the final weights remains.",
)
def fig1a(runs: Runs) -> Items:
    """Sine regression, FCN 1-32-32-32-1: larger gradients in deeper layers, slower convergence.

    Fig. 1a: absolute mean gradient of layers and their distance to the final weights while a
    sigmoid network fits sin x + sin(3x)/3 + sin(10x)/10 + sin(30x)/30 (MSE, SGD 0.1, 0.01 from
    epoch 150 of 300, batch 128, PyTorch's initialisation).

    Left open by the paper and read here so: x is drawn uniformly, 5000 for training and 5000 for
    testing, the same for every seed; gradients are those of the mean loss on one fixed batch of
    512 training examples; a layer's distance covers weight and bias; the final weights are those
    of epoch 300. Beyond the paper, the same network fits the target on [-2π, 2π], where the order
    of layers was seen to reverse.

    At ``small`` there are 2000 training examples instead of 5000; ``smoke`` is no experiment.
    """
    until = half_way(runs.first)
    probe, gradients = Convergence(intervals=((0, until),)), GradientMagnitude()
    narrow, wide = runs["narrow"], runs["wide"]
    C = rate(narrow, probe)  # noqa: N806 - as the paper calls it
    early = narrow.of(gradients, "gradient_magnitude").when(lambda epoch: epoch <= until)
    ratio = log2(early["layer3"] / early["layer2"]).mean("step")
    yield claim(
        "order",
        f"On [-2, 2], shallower layers converge faster over {opening(until)}: C(layer 1) > "
        "C(hidden 1) > C(hidden 2). [Fig. 1a, Observation 2.1]",
        falls(C, "C", LAYERS, names(narrow).__getitem__),
    )
    both = {
        "gradient ratio": exceeds(ratio, "log2 of gradient ratio, hidden 2 over hidden 1"),
        "convergence": exceeds(C["layer2"] - C["layer3"], "C(Hidden layer 1) - C(Hidden layer 2)"),
    }
    yield claim(
        "gradient",
        "On [-2, 2], hidden layer 2 has the larger gradient, yet hidden layer 1 converges faster "
        f"over {opening(until)}. [Section 3.1]",
        each(both),
    )
    yield claim(
        "reversal",
        f"On [-2π, 2π] the order reverses: C(hidden 2) > C(hidden 1) > C(layer 1). [{BEYOND}]",
        falls(rate(wide, probe), "C", LAYERS[::-1], names(wide).__getitem__),
    )
    rates = {name: rate(run, probe).named(names(run)) for name, run in runs.items()}
    yield from progress(
        "layer",
        until,
        _by_domain(runs, probe, "curve"),
        _by_domain(runs, gradients, "gradient_magnitude"),
        stacked("domain", runs.labelled(rates)),
        hue="domain",
        panel="domain",
        references=narrow.marks(),
    )
    per, labels = "1 / epoch", {name: f"measured, {run.label}" for name, run in runs.items()}
    yield table(
        {
            "reported": reported(REPORTED.values(), "reported, [-2, 2]", per),
            **{name: described(rates[name], label, per) for name, label in labels.items()},
        },
        "reported-and-measured",
        f"C(0, {until}), reported and measured",
        "Reported values are read off the paper's text (Section 3.1), for 50 epochs.",
    )


def _by_domain(runs: Runs, probe: Probe, variable: str) -> Quantity:
    """A variable of all layers but the output, on both domains."""
    parts = {name: titled(run, probe, variable) for name, run in runs.items()}
    return stacked("domain", runs.labelled(parts))


def _intervals(runs: Runs) -> tuple[Interval, ...]:
    """Epochs over which rates are given on five domains."""
    return (0, half_way(runs.first)), (0, early(runs.first))


@paper.recipe(
    "beyond Fig. 1a",
    five_domains,
    "Does the bias depend on the domain?",
    summary(
        "A sigmoid network 1-32-32-32-1 fits a sum of four sines on domains of five widths; its "
        "blocks are its three hidden layers.",
        _intervals,
    ),
)
def domain(runs: Runs) -> Items:
    """The domain of the target: does the bias depend on it?

    Beyond the paper, which fits its target on [-2, 2]: the sigmoid network of Fig. 1a fits it on
    [-a, a] for a of 1, 2, 3, 4 and 2 pi. More of the target's periods lie in a wider domain, which
    the same network finds harder to fit. Measured (5 seeds, 300 epochs): the bias is there for a of
    2 and 3 and reversed for 1, 4 and 2 pi.
    """
    sweep = Sweep(runs, "domain", _intervals(runs))
    narrow, *_, wide = runs
    relative = {run.label: sweep.relative(name) for name, run in runs.items()}
    falling = {
        f"{a} less {b}": exceeds(
            relative[a] - relative[b], f"relative bias on {a} less that on {b}"
        )
        for a, b in itertools.pairwise(relative)
    }
    yield sweep.biased("On [-2, 2] the first layer converges faster. [Fig. 1a]", "half2")
    yield claim(
        "width",
        f"The wider the domain, the smaller the relative bias, from each to the next. [{BEYOND}]",
        each(falling),
    )
    yield claim(
        "reversed",
        f"On [-2π, 2π] the last hidden layer converges faster than the first. [{BEYOND}]",
        -sweep.bias(wide),
        "C(last layer) - C(first layer)",
    )
    yield sweep.biased(
        "On [-1, 1] the first layer converges faster than the last hidden one. [Fig. 1a, on a "
        "narrower domain (beyond the paper)]",
        narrow,
        name="narrow",
    )
    yield from sweep.plots()
