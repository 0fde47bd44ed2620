"""One residual network on the sine regression, looked at in four ways: Fig. 1b, 3, 4 and 6."""

from __future__ import annotations

import xarray as xr

from layerscope.probes import (
    BlockContributions,
    Convergence,
    GradientMagnitude,
    GradientPredictiveness,
    LossLandscape,
    PathAndProgress,
)
from layerscope.recipes.layer_convergence_bias.settings import (
    early,
    inner_layers,
    names,
    paper,
    plan,
    sine,
    titled,
)
from layerscope.studies.comparisons import each, exceeds, falls
from layerscope.studies.curves import bias, opening, progress, rate
from layerscope.studies.paper import Items, claim
from layerscope.studies.plan import Plan, Runs, Scale
from layerscope.studies.plots import OVER_SEEDS, bars, described, lines, reported, surface, table
from layerscope.studies.statistics import contrast, log2

RANGES = (2.3, 0.7, 0.5, 0.06)
"""Ranges of the four blocks' functions that Section 5 reports."""
TWO_PAPERS = "beyond the papers: reconciles relative weight change with layer convergence"
FITS = "A residual network of four blocks fits a sum of four sines"


def residual(scale: Scale) -> Plan:
    """The residual network of four blocks."""
    return plan({"residual": ("residual network", sine(scale))}, may_diverge=False)


@paper.recipe(
    "Fig. 1b",
    residual,
    "Do shallower residual blocks converge faster?",
    f"{FITS}. For every block: the mean absolute gradient, and how much of its distance to the "
    "final weights remains.",
)
def fig1b(runs: Runs) -> Items:
    """Sine regression, residual FCN of four blocks: shallower blocks converge faster.

    Fig. 1b: absolute mean gradient of the blocks and their distance to the final weights, C(0, 5)
    of block 1 about twice that of block 4. See `settings` for what the paper leaves open; gradients
    are those of the mean loss on one fixed batch of 512 training examples.

    At ``small`` there are 2000 training examples instead of 5000; ``smoke`` is no experiment.
    """
    run, until = runs.first, early(runs.first)
    probe, gradients = Convergence(intervals=((0, until),)), GradientMagnitude()
    C, inner, titles = rate(run, probe), inner_layers(run), names(run)  # noqa: N806 - the paper's name
    first, last = inner[0], inner[-1]
    found = run.of(gradients, "gradient_magnitude").when(lambda epoch: epoch <= until)
    yield claim(
        "faster",
        f"Block 1 converges faster than block 4 over {opening(until)}. [Fig. 1b, Section 3.1]",
        bias(C, inner),
        "C(Res-Block 1) - C(Res-Block 4)",
    )
    yield claim(
        "twice",
        "Block 1 converges at least 1.5 times as fast as block 4 (reported: about twice). "
        "[Section 3.1]",
        C[first] - 1.5 * C[last],
        "C(Res-Block 1) - 1.5 C(Res-Block 4)",
    )
    yield claim(
        "order",
        "Each block converges faster than the next. [Fig. 1b, Observation 2.1]",
        falls(C, f"C(0, {until})", inner, titles.__getitem__),
    )
    yield claim(
        "gradient",
        "Block 4 has the larger gradients. [Fig. 1b]",
        log2(found[last] / found[first]).mean("step"),
        "log2 of gradient ratio, block 4 over block 1",
    )
    yield from progress(
        "block",
        until,
        titled(run, probe, "curve"),
        titled(run, gradients, "gradient_magnitude"),
        C.named(titles),
        references=run.marks(),
    )


@paper.recipe(
    "Fig. 3",
    residual,
    "Are the gradients of shallower blocks more predictive?",
    f"{FITS}. How much does the direction of a block's gradient depend on the batch, and on the "
    "updates of the other blocks?",
)
def fig3(runs: Runs) -> Items:
    """Gradients of block 1 are more predictive than those of block 4.

    Fig. 3: cosine of a block's gradient with the one on other data (a), and with the one after all
    other blocks have been updated (b), at learning rates 0.1 and then 0.01. Batches are of 128
    examples, four of them, all pairs averaged; the update is one step of gradient descent at the
    run's learning rate.
    """
    run, probe = runs.first, GradientPredictiveness()
    inner = inner_layers(run)
    drop, every = run.drop, run.epochs / 30  # the evenly spaced ones; the first epochs have more
    cosines = {what: run.of(probe, what) for what in ("data", "parameters")}
    late = cosines["parameters"].when(lambda epoch: epoch >= drop).mean("step")

    def large(epoch: xr.DataArray) -> xr.DataArray:
        return (epoch >= every) & (epoch < drop)

    for what, cosine in cosines.items():
        yield claim(
            what,
            f"At the larger learning rate, block 1 is more predictive than block 4 w.r.t. {what}. "
            "[Fig. 3, Section 4]",
            bias(cosine.when(large).mean("step"), inner),
            f"cosine w.r.t. {what}: block 1 less block 4",
        )
    yield claim(
        "settled",
        "At the smaller learning rate the predictiveness w.r.t. parameters of all blocks is "
        "close to 1: above 0.9. [Appendix A.3]",
        late[inner].min("layer"),
        "smallest cosine of a block at the smaller learning rate",
        0.9,
    )
    titles = {"data": "other data", "parameters": "an update of the other layers"}
    for what, title in titles.items():
        yield lines(
            titled(run, probe, what),
            what,
            f"Gradient predictiveness under {title}",
            f"Cosine between a block's gradient and the one it has under {title}: 1 is a "
            f"direction that does not change. {OVER_SEEDS.capitalize()}",
            x="epoch",
            references=run.marks(),
        )


@paper.recipe(
    "Fig. 4",
    residual,
    "Is the loss around deeper blocks more rugged?",
    f"{FITS}. The trained network's loss while one block is moved at random, the others fixed.",
)
def fig4(runs: Runs) -> Items:
    """The loss around deeper blocks is more rugged.

    Fig. 4: loss of the trained network while one block moves along two random directions as long
    as its weights. The paper judges pictures; here two numbers decide: the mean rise of the loss
    at half the block's length over ten directions, and the largest eigenvalue of the Hessian.
    """
    run, probe = runs.first, LossLandscape(points=5 if runs.scale == "smoke" else 21)
    first, last = inner_layers(run)[0], inner_layers(run)[-1]
    sharper = {
        "increase": "rise of the loss at half the block's length",
        "curvature": "largest eigenvalue of its Hessian",
    }
    shown = {
        "increase": ("Rise of the loss", "At half the block's length."),
        "curvature": ("Largest eigenvalue of the Hessian", "Of one block alone."),
    }
    for name, text in sharper.items():
        yield claim(
            name,
            f"Block 4 lies in a sharper minimum than block 1: {text}. [Fig. 4, Section 4]",
            contrast(run.of(probe, name)[last], run.of(probe, name)[first]),
            f"(block 4 - block 1) / their sum: {text}",
        )
    yield surface(
        titled(run, probe, "loss"),
        "landscape",
        "Loss around each block",
        "Mean squared error while one block moves along two random directions, each as long as "
        "the block's weights; mean over seeds, contours at equal ratios.",
        x="beta1",
        y="beta2",
        panel="layer",
        log=True,
    )
    for name, (title, caption) in shown.items():
        caption = f"{caption} {OVER_SEEDS.capitalize()}"
        yield bars(titled(run, probe, name), name, title, caption)


@paper.recipe(
    "Fig. 6",
    residual,
    "Do deeper blocks fit the faster components?",
    f"{FITS}; without an activation after the additions its output is a sum of one function per "
    "block.",
)
def fig6(runs: Runs) -> Items:
    """Deeper blocks fit the faster and smaller components of the target.

    Fig. 6: what each block adds to the output of the trained network; the ranges reported are 2.3,
    0.7, 0.5 and 0.06. The paper judges the complexity of curves by eye; here the mean frequency of
    what a block adds decides.
    """
    run, probe = runs.first, BlockContributions()
    inner, title = inner_layers(run), names(run).__getitem__
    titles = {layer: title(layer) for layer in inner}
    ranges, frequencies = run.of(probe, "range"), run.of(probe, "frequency")
    curves = run.of(probe, "contribution").isel(output=0, seed=0).named(titles)
    yield claim(
        "smaller",
        "Each block adds a function of smaller range than the block before. [Fig. 6, Section 5]",
        falls(ranges, "range", inner, title),
    )
    yield claim(
        "faster",
        "Each block adds a function of higher frequency than the block before. [Fig. 6, Section 5]",
        falls(-frequencies, "frequency, negative", inner, title),
    )
    yield lines(
        described(curves, "contribution to the output", "1"),
        "contributions",
        "What each block adds to the output",
        "Contribution of every block of the network of the first seed over the input; they add "
        "up to the network's output.",
        x="x",
    )
    yield bars(
        frequencies.named(titles),
        "frequency",
        "Mean frequency of contributions",
        f"Frequency of what a block adds, weighted by power, its slope subtracted; {OVER_SEEDS}",
    )
    yield table(
        {
            "reported": reported(RANGES, "reported range", "1"),
            "measured": described(ranges.named(titles), "measured range", "1"),
        },
        "ranges",
        "Ranges of contributions, reported and measured",
        "Largest less smallest value of what a block adds; reported values are those of Section 5.",
    )


@paper.recipe(
    "beyond Definition 2.1",
    residual,
    "Do layers that change more also converge more slowly?",
    f"{FITS}. For every block: how far its weights have walked, and how much nearer they have "
    "come to where they end.",
)
def path_and_progress(runs: Runs) -> Items:
    """Path walked against progress made by each block: why two papers only seem to disagree.

    Beyond the paper: one says that later layers change more, the other that shallower layers
    converge faster. The first adds up how far the weights move, the second measures how much nearer
    they come to where they end. Both are drawn from one run, with their ratio, the directness.
    """
    run, until, probe = runs.first, early(runs.first), PathAndProgress()
    C = rate(run, Convergence(intervals=((0, until),)))  # noqa: N806 - the paper's name
    inner = inner_layers(run)
    path, directness = (run.of(probe, name).at_end() for name in ("path", "directness"))
    both = {
        "changes more": exceeds(-bias(path, inner), "path: block 4 less block 1"),
        "converges more slowly": exceeds(bias(C, inner), "C(block 1) - C(block 4)"),
    }
    captions = {
        "path": "Length of the way walked, summed over checkpoints: what relative weight change "
        "adds up.",
        "progress": "How much nearer to its final weights a block is than at the start: what the "
        "convergence rate measures.",
        "directness": "Progress over path: 1 is a straight line to the final weights.",
    }
    yield claim(
        "both",
        f"Block 4 walks further than block 1 and converges more slowly over {opening(until)}: "
        f"the two papers' observations, in one run. [{TWO_PAPERS}]",
        each(both),
    )
    yield claim(
        "direct",
        f"Block 1 walks to its final weights more directly than block 4. [{TWO_PAPERS}]",
        bias(directness, inner),
        "directness: block 1 less block 4",
    )
    for name, caption in captions.items():
        caption = f"{caption} {OVER_SEEDS.capitalize()}"
        values = titled(run, probe, name)
        yield lines(values, name, name.capitalize(), caption, x="epoch")
