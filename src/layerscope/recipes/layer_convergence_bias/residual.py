"""One residual network on the sine regression, looked at in four ways: Fig. 1b, 3, 4 and 6."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from layerscope.recipes.layer_convergence_bias.building import make_study
from layerscope.recipes.layer_convergence_bias.settings import (
    LENGTHS,
    PAPER,
    SEEDS,
    early,
    reduced,
    sine,
    suffix,
)

if TYPE_CHECKING:
    import xarray as xr

    from layerscope.figures.figure import Figure
    from layerscope.probes import Probe
    from layerscope.studies.claims import Claim, Verdict
    from layerscope.studies.study import Scale, Study

VARIANT = "residual"
RANGES = (2.3, 0.7, 0.5, 0.06)
"""Ranges of the four blocks' functions that Section 5 reports."""


def _study(
    scale: Scale,
    figure: str,
    title: str,
    summary: str,
    probes: Sequence[Probe],
    claims: Sequence[Claim],
    figures: Callable[[xr.DataTree], list[Figure]],
    source: str = "",
) -> Study:
    return make_study(
        scale,
        figure,
        title,
        summary,
        reduced(scale),
        {VARIANT: sine(scale)},
        probes,
        claims,
        figures,
        source,
        seeds=SEEDS,
    )


def _early(values: xr.DataArray, until: float) -> xr.DataArray:
    return values.where(values["epoch"] <= until, drop=True)


def fig1b(scale: Scale) -> Study:
    """Sine regression, residual FCN of four blocks: shallower blocks converge faster.

    Fig. 1b: absolute mean gradient of the blocks and their distance to the final weights, C(0, 5)
    of block 1 about twice that of block 4. See `settings` for what the paper leaves open; gradients
    are those of the mean loss on one fixed batch of 512 training examples.

    At ``small`` there are 2000 training examples instead of 5000; ``smoke`` is no experiment.
    """
    from layerscope.probes import Convergence, GradientMagnitude
    from layerscope.recipes.layer_convergence_bias import deciding
    from layerscope.studies.claims import Claim, above

    until = early(scale)

    def rate(data: xr.DataTree) -> xr.DataArray:
        return deciding.rates(data, VARIANT)

    def faster(data: xr.DataTree, times: float) -> xr.DataArray:
        first, last = deciding.first_and_last(rate(data))
        return first - times * last

    def gradient(data: xr.DataTree) -> xr.DataArray:
        found = deciding.node(data, VARIANT, "gradient_magnitude")["gradient_magnitude"]
        first, last = deciding.first_and_last(_early(found, until))
        return deciding.log2(last / first).mean("step")

    claims = (
        Claim(
            "faster",
            f"Block 1 converges faster than block 4 over the first {until} epochs.",
            f"{PAPER} Fig. 1b, Section 3.1",
            lambda data: above(deciding.bias(rate(data)), "C(Res-Block 1) - C(Res-Block 4)"),
        ),
        Claim(
            "twice",
            "Block 1 converges at least 1.5 times as fast as block 4 (reported: about twice).",
            f"{PAPER} Section 3.1",
            lambda data: above(faster(data, 1.5), "C(Res-Block 1) - 1.5 C(Res-Block 4)"),
        ),
        Claim(
            "order",
            "Each block converges faster than the next.",
            f"{PAPER} Fig. 1b, Observation 2.1",
            lambda data: deciding.ordered(deciding.blocks(rate(data)), f"C(0, {until})"),
        ),
        Claim(
            "gradient",
            "Block 4 has the larger gradients.",
            f"{PAPER} Fig. 1b",
            lambda data: above(gradient(data), "log2 of gradient ratio, block 4 over block 1"),
        ),
    )
    return _study(
        scale,
        "fig1b",
        "Do shallower residual blocks converge faster?",
        "A residual network of four blocks fits a sum of four sines. For every block: the mean "
        "absolute gradient, and how much of its distance to the final weights remains.",
        (Convergence(intervals=((0, until),)), GradientMagnitude()),
        claims,
        lambda data: _fig1b_figures(data, scale, until),
    )


def _fig1b_figures(data: xr.DataTree, scale: Scale, until: int) -> list[Figure]:
    from layerscope.figures.figure import Bars, Lines
    from layerscope.recipes.layer_convergence_bias import deciding

    convergence = deciding.node(data, VARIANT, "convergence")
    gradients = deciding.node(data, VARIANT, "gradient_magnitude")["gradient_magnitude"]
    return [
        Lines(
            deciding.labelled(convergence["curve"]).swap_dims(step="epoch"),
            key="convergence",
            title="Convergence of blocks" + suffix(scale),
            caption="Distance to the final weights over the distance at initialisation; mean and "
            "95% interval over seeds. A block that falls earlier converges faster.",
            x="epoch",
            references=(decay(data, VARIANT),),
        ),
        Lines(
            deciding.labelled(gradients).swap_dims(step="epoch"),
            key="gradients",
            title="Gradient magnitude" + suffix(scale),
            caption="Mean absolute gradient of the loss on one fixed batch; geometric mean and 95% "
            "interval over seeds.",
            x="epoch",
            log_y=True,
            references=(decay(data, VARIANT),),
        ),
        Bars(
            deciding.labelled(deciding.rates(data, VARIANT)),
            key="rates",
            title=f"Convergence rate over the first {until} epochs" + suffix(scale),
            caption="C(0, t) of Definition 2.1: share of the way to the final weights covered per "
            "epoch; mean and 95% interval over seeds.",
        ),
    ]


def decay(data: xr.DataTree, variant: str) -> Any:
    """A line where the learning rate falls: half of the run."""
    from layerscope.figures.figure import Reference
    from layerscope.recipes.layer_convergence_bias import deciding

    half = float(deciding.node(data, variant, "convergence")["epoch"].max()) / 2
    return Reference(value=half, label="learning rate / 10", axis="x")


def fig3(scale: Scale) -> Study:
    """Gradients of block 1 are more predictive than those of block 4.

    Fig. 3: cosine of a block's gradient with the one on other data (a), and with the one after all
    other blocks have been updated (b), at learning rates 0.1 and then 0.01. Batches are of 128
    examples, four of them, all pairs averaged; the update is one step of gradient descent at the
    run's learning rate.
    """
    from layerscope.probes import Convergence, GradientPredictiveness
    from layerscope.recipes.layer_convergence_bias import deciding
    from layerscope.studies.claims import Claim, above

    def cosine(data: xr.DataTree, name: str, late: bool = False) -> xr.DataArray:
        found = deciding.node(data, VARIANT, "gradient_predictiveness")[name]
        half = float(found["epoch"].max()) / 2
        every = LENGTHS[scale][0] / 30  # the evenly spaced ones; the first epochs have more
        before = (found["epoch"] >= every) & (found["epoch"] < half)
        return found.where(found["epoch"] >= half if late else before, drop=True).mean("step")

    def more(name: str, what: str) -> Claim:
        return Claim(
            name,
            f"At the larger learning rate, block 1 is more predictive than block 4 w.r.t. {what}.",
            f"{PAPER} Fig. 3, Section 4",
            lambda data: above(
                deciding.bias(cosine(data, name)), f"cosine w.r.t. {what}: block 1 less block 4"
            ),
        )

    def settled(data: xr.DataTree) -> Any:
        lowest = deciding.blocks(cosine(data, "parameters", late=True)).min("layer")
        return above(lowest, "smallest cosine of a block at the smaller learning rate", 0.9)

    def figures(data: xr.DataTree) -> list[Figure]:
        from layerscope.figures.figure import Lines

        found = deciding.node(data, VARIANT, "gradient_predictiveness")
        titles = {"data": "other data", "parameters": "an update of the other layers"}
        return [
            Lines(
                deciding.labelled(found[name]).swap_dims(step="epoch"),
                key=name,
                title=f"Gradient predictiveness under {title}" + suffix(scale),
                caption="Cosine between a block's gradient and the one it has under "
                f"{title}: 1 is a direction that does not change. Mean and 95% interval over "
                "seeds.",
                x="epoch",
                references=(decay(data, VARIANT),),
            )
            for name, title in titles.items()
        ]

    return _study(
        scale,
        "fig3",
        "Are the gradients of shallower blocks more predictive?",
        "A residual network of four blocks fits a sum of four sines. How much does the direction "
        "of a block's gradient depend on the batch, and on the updates of the other blocks?",
        (GradientPredictiveness(), Convergence()),
        (
            more("data", "data"),
            more("parameters", "parameters"),
            Claim(
                "settled",
                "At the smaller learning rate the predictiveness w.r.t. parameters of all blocks "
                "is close to 1: above 0.9.",
                f"{PAPER} Appendix A.3",
                settled,
            ),
        ),
        figures,
    )


def fig4(scale: Scale) -> Study:
    """The loss around deeper blocks is more rugged.

    Fig. 4: loss of the trained network while one block moves along two random directions as long
    as its weights. The paper judges pictures; here two numbers decide: the mean rise of the loss
    at half the block's length over ten directions, and the largest eigenvalue of the Hessian.
    """
    from layerscope.probes import LossLandscape
    from layerscope.recipes.layer_convergence_bias import deciding
    from layerscope.studies.claims import Claim, above

    probe = LossLandscape(points=5 if scale == "smoke" else 21)

    def contrast(data: xr.DataTree, name: str) -> xr.DataArray:
        first, last = deciding.first_and_last(deciding.node(data, VARIANT, "loss_landscape")[name])
        return deciding.contrast(last, first)

    def sharper(name: str, text: str) -> Claim:
        return Claim(
            name,
            f"Block 4 lies in a sharper minimum than block 1: {text}.",
            f"{PAPER} Fig. 4, Section 4",
            lambda data: above(contrast(data, name), f"(block 4 - block 1) / their sum: {text}"),
        )

    def figures(data: xr.DataTree) -> list[Figure]:
        from layerscope.figures.figure import Bars, Surface

        found = deciding.node(data, VARIANT, "loss_landscape")
        surface = deciding.labelled(found["loss"])
        return [
            Surface(
                surface,
                key="landscape",
                title="Loss around each block" + suffix(scale),
                caption="Mean squared error while one block moves along two random directions, "
                "each as long as the block's weights; mean over seeds, contours at equal ratios.",
                x="beta1",
                y="beta2",
                panel="layer",
                log=True,
            ),
            *(
                Bars(
                    deciding.labelled(found[name]),
                    key=name,
                    title=title + suffix(scale),
                    caption=caption + " Mean and 95% interval over seeds.",
                )
                for name, title, caption in (
                    ("increase", "Rise of the loss", "At half the block's length."),
                    ("curvature", "Largest eigenvalue of the Hessian", "Of one block alone."),
                )
            ),
        ]

    return _study(
        scale,
        "fig4",
        "Is the loss around deeper blocks more rugged?",
        "A residual network of four blocks fits a sum of four sines. The trained network's loss "
        "while one block is moved at random, the others fixed.",
        (probe,),
        (
            sharper("increase", "rise of the loss at half the block's length"),
            sharper("curvature", "largest eigenvalue of its Hessian"),
        ),
        figures,
    )


def fig6(scale: Scale) -> Study:
    """Deeper blocks fit the faster and smaller components of the target.

    Fig. 6: what each block adds to the output of the trained network; the ranges reported are 2.3,
    0.7, 0.5 and 0.06. The paper judges the complexity of curves by eye; here the mean frequency of
    what a block adds decides.
    """
    from layerscope.probes import BlockContributions
    from layerscope.recipes.layer_convergence_bias import deciding
    from layerscope.studies.claims import Claim

    def part(data: xr.DataTree, name: str) -> xr.DataArray:
        return deciding.node(data, VARIANT, "block_contributions")[name]

    def figures(data: xr.DataTree) -> list[Figure]:
        import xarray as xr

        from layerscope.figures.figure import Bars, Lines, Table

        curves = part(data, "contribution").isel(output=0, drop=True)
        curves.attrs |= {"long_name": "contribution to the output", "units": "1"}
        one_seed = curves.isel(seed=0, drop=True)
        table = xr.Dataset(
            {
                "reported": ("layer", list(RANGES), {"long_name": "reported range", "units": "1"}),
                "measured": deciding.labelled(part(data, "range")),
            }
        )
        table["measured"].attrs |= {"long_name": "measured range", "units": "1"}
        return [
            Lines(
                deciding.labelled(one_seed),
                key="contributions",
                title="What each block adds to the output" + suffix(scale),
                caption="Contribution of every block of the network of the first seed over the "
                "input; they add up to the network's output.",
                x="x",
            ),
            Bars(
                deciding.labelled(part(data, "frequency")),
                key="frequency",
                title="Mean frequency of contributions" + suffix(scale),
                caption="Frequency of what a block adds, weighted by power, its slope subtracted; "
                "mean and 95% interval over seeds.",
            ),
            Table(
                table,
                key="ranges",
                title="Ranges of contributions, reported and measured" + suffix(scale),
                caption="Largest less smallest value of what a block adds; reported values are "
                "those of Section 5.",
            ),
        ]

    return _study(
        scale,
        "fig6",
        "Do deeper blocks fit the faster components?",
        "A residual network of four blocks fits a sum of four sines; without an activation after "
        "the additions its output is a sum of one function per block.",
        (BlockContributions(),),
        (
            Claim(
                "smaller",
                "Each block adds a function of smaller range than the block before.",
                f"{PAPER} Fig. 6, Section 5",
                lambda data: deciding.ordered(part(data, "range"), "range"),
            ),
            Claim(
                "faster",
                "Each block adds a function of higher frequency than the block before.",
                f"{PAPER} Fig. 6, Section 5",
                lambda data: deciding.ordered(-part(data, "frequency"), "frequency, negative"),
            ),
        ),
        figures,
    )


def path_and_progress(scale: Scale) -> Study:
    """Path walked against progress made by each block: why two papers only seem to disagree.

    Beyond the paper: one says that later layers change more, the other that shallower layers
    converge faster. The first adds up how far the weights move, the second measures how much nearer
    they come to where they end. Both are drawn from one run, with their ratio, the directness.
    """
    from layerscope.probes import Convergence, PathAndProgress
    from layerscope.recipes.layer_convergence_bias import deciding
    from layerscope.studies.claims import Claim, above, all_of

    until = early(scale)

    def last(data: xr.DataTree, name: str) -> xr.DataArray:
        return deciding.node(data, VARIANT, "path_and_progress")[name].isel(step=-1)

    def both(data: xr.DataTree) -> Verdict:
        return all_of(
            {
                "changes more": above(
                    -deciding.bias(last(data, "path")), "path: block 4 less block 1"
                ),
                "converges more slowly": above(
                    deciding.bias(deciding.rates(data, VARIANT)), "C(block 1) - C(block 4)"
                ),
            }
        )

    def figures(data: xr.DataTree) -> list[Figure]:
        from layerscope.figures.figure import Lines

        found = deciding.node(data, VARIANT, "path_and_progress")
        captions = {
            "path": "Length of the way walked, summed over checkpoints: what relative weight "
            "change adds up.",
            "progress": "How much nearer to its final weights a block is than at the start: what "
            "the convergence rate measures.",
            "directness": "Progress over path: 1 is a straight line to the final weights.",
        }
        return [
            Lines(
                deciding.labelled(found[name]).swap_dims(step="epoch"),
                key=name,
                title=name.capitalize() + suffix(scale),
                caption=f"{caption} Mean and 95% interval over seeds.",
                x="epoch",
            )
            for name, caption in captions.items()
        ]

    return _study(
        scale,
        "path_and_progress",
        "Do layers that change more also converge more slowly?",
        "A residual network of four blocks fits a sum of four sines. For every block: how far its "
        "weights have walked, and how much nearer they have come to where they end.",
        (PathAndProgress(), Convergence(intervals=((0, until),))),
        (
            Claim(
                "both",
                "Block 4 walks further than block 1 and converges more slowly over the first "
                f"{until} epochs: the two papers' observations, in one run.",
                "beyond the papers: reconciles relative weight change with layer convergence",
                both,
            ),
            Claim(
                "direct",
                "Block 1 walks to its final weights more directly than block 4.",
                "beyond the papers: reconciles relative weight change with layer convergence",
                lambda data: above(
                    deciding.bias(last(data, "directness")), "directness: block 1 less block 4"
                ),
            ),
        ),
        figures,
        source=f"beyond {PAPER}, Definition 2.1",
    )
