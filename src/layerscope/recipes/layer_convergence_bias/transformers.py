"""Vision transformers: Fig. 9 and 21."""

from __future__ import annotations

from layerscope.config import SGD
from layerscope.probes import Convergence, Performance
from layerscope.recipes.layer_convergence_bias.networks import plan, reduced, vit
from layerscope.recipes.layer_convergence_bias.settings import paper
from layerscope.studies.comparisons import extreme
from layerscope.studies.curves import curves, rate
from layerscope.studies.paper import Items, claim
from layerscope.studies.plan import Plan, Runs, Scale
from layerscope.studies.plots import OVER_SEEDS, bars, described, lines
from layerscope.studies.quantity import stacked
from layerscope.studies.statistics import largest_elsewhere

ARRANGEMENTS = {
    "wider": ("deeper encoders wider", (2,) * 6 + (4,) * 3 + (8,) * 3),
    "vanilla": ("vanilla", (4,) * 12),
    "narrower": ("deeper encoders narrower", (8,) * 3 + (4,) * 3 + (2,) * 6),
}
READING = (
    "8 heads, patches of 16 pixels, images cropped and flipped, learning rate 0.1 and momentum "
    "0.9 where SGD is used"
)


def _reduced(runs: Runs, rates: str = "") -> str:
    size = "width 48 instead of 256, 4 heads instead of 8, patches of 4 pixels instead of 16"
    return reduced(runs, "CIFAR-10 in place of ImageNet", size, READING, rates)


def arrangements(scale: Scale) -> Plan:
    """ViTs with the wider encoders at the end, nowhere, and at the start."""
    variants = {name: (label, vit(scale, widths)) for name, (label, widths) in ARRANGEMENTS.items()}
    return plan(scale, variants, _reduced)


@paper.recipe(
    "Fig. 9",
    arrangements,
    "Should deeper encoders be wider?",
    "Vision transformers of 12 encoders with feed-forward parts of different widths.",
)
def fig9(runs: Runs) -> Items:
    """ViTs of equal size are better with the wider encoders at the end.

    Fig. 9: best accuracies of 80.75, 78.88 and 75.75% with deeper encoders wider, equal and
    narrower. Best means over epochs, in the paper as here. At ``small`` on CIFAR-10, width 48.
    """
    probe = Performance(checkpoints="all")
    errors = runs.of(probe, "error")
    best = {name: error.min("step") for name, error in errors.items()}

    for more, less in (("wider", "vanilla"), ("vanilla", "narrower"), ("wider", "narrower")):
        yield claim(
            f"{more}-{less}",
            f"{runs[more].label.capitalize()} has a smaller best test error than "
            f"{runs[less].label}. [Fig. 9, Section 6.1]",
            best[less] - best[more],
            f"best test error, {less} less {more}, points",
        )
    yield bars(
        described(stacked("arrangement", runs.labelled(best)), "smallest test error", "%"),
        "error",
        "Best test error by arrangement",
        f"Smallest error on the test images after any epoch; {OVER_SEEDS}",
        x="arrangement",
    )
    yield lines(
        described(stacked("arrangement", runs.labelled(errors)), "test error", "%"),
        "error-over-time",
        "Test error over training",
        f"Error on the test images; {OVER_SEEDS}",
        x="epoch",
        hue="arrangement",
    )


def optimisers(scale: Scale) -> Plan:
    """The ViT of equal encoders with SGD and with Adam."""
    widths = ARRANGEMENTS["vanilla"][1]
    sgd = SGD(learning_rate=0.1, momentum=0.9, weight_decay=1e-4)
    variants = {
        "sgd": ("ViT, SGD", vit(scale, widths, sgd)),
        "adam": ("ViT, Adam", vit(scale, widths)),
    }

    def note(runs: Runs) -> str:
        rate = f"{runs['sgd'].config.optimizer.learning_rate:g}"
        return _reduced(runs.only("adam"), f" (with SGD {rate}, momentum 0.9)")

    return plan(scale, variants, note)


@paper.recipe(
    "Fig. 21",
    optimisers,
    "Do vision transformers show the bias?",
    "A vision transformer of 12 encoders with two optimisers.",
)
def fig21(runs: Runs) -> Items:
    """ViT trained with SGD shows the bias, with Adam only roughly.

    Fig. 21: with Adam encoder 12 converges slowest, but the patch embedding is not the fastest.
    That the bias holds with SGD is decided by the first and the last four encoders.
    The learning rate of SGD is not stated and read here as 0.1 with momentum 0.9.
    """
    until = runs.first.share(1, 5)
    probe = Convergence(intervals=((0, until),))
    encoders = [f"encoders.{i}" for i in range(12)]
    sgd, adam = (rate(runs[name], probe) for name in ("sgd", "adam"))
    yield claim(
        "sgd",
        f"With SGD the first four encoders converge faster than the last four over {until} "
        "epochs. [Fig. 21, Appendix A.7]",
        sgd[encoders[:4]].mean("layer") - sgd[encoders[-4:]].mean("layer"),
        "mean C of encoders 1 to 4 less that of 9 to 12",
    )
    yield claim(
        "adam",
        "With Adam the last encoder converges more slowly than every other one. [Fig. 21, "
        "Appendix A.7]",
        extreme(adam, encoders[-1], encoders[:-1], "C", smallest=True),
    )
    yield claim(
        "embedding",
        "With Adam the patch embedding is not the fastest. [Fig. 21, Appendix A.7]",
        largest_elsewhere(adam[encoders]) - adam["patch_embedding"],
        "C of the encoder that is fastest with the other seeds less C(patch embedding)",
    )
    yield from curves(runs, probe)
