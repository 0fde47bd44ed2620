"""The loss around layers of ResNet-50 and VGG-19: Fig. 5, 18 and 19."""

from __future__ import annotations

from functools import partial

from layerscope.recipes.layer_convergence_bias.networks import (
    DEEP,
    SHALLOW,
    SHOWN,
    landscape_probe,
    networks,
)
from layerscope.recipes.layer_convergence_bias.settings import paper
from layerscope.studies.paper import Items, claim
from layerscope.studies.plan import Runs, Variant
from layerscope.studies.plots import OVER_SEEDS, Plot, bars, surface
from layerscope.studies.quantity import Quantity
from layerscope.studies.statistics import contrast, log2, shared

NUMBERS = {
    "increase": ("rise of the loss", "Mean rise at half a layer's length."),
    "relative_curvature": (
        "curvature relative to length",
        "Largest eigenvalue of the layer's Hessian times its squared length.",
    ),
    "curvature": ("curvature", "Largest eigenvalue of the layer's Hessian."),
}
DECIDING = {
    "increase": "the loss rises more in random directions",
    "relative_curvature": "its sharpest direction curves more, relative to its length",
}
INNER = {
    "resnet50": ("stages", ("stage1", "stage2", "stage3", "stage4")),
    "vgg19": ("convolutions", ("conv",)),
}
"""What is compared between seeds: stem and classifiers differ from the rest in every network."""
SURFACE = (
    "Loss on a batch of training images while one layer moves along two random directions, "
    "filter by filter as long as its weights; contours at equal ratios."
)
REPEAT = "Do landscapes repeat over seeds?"
SEVERAL = "The loss of trained networks of several seeds while one layer is moved at random."


def _bars(run: Variant, name: str, values: Quantity) -> Plot:
    heading, caption = NUMBERS[name]
    caption = f"{caption} {OVER_SEEDS.capitalize()}"
    return bars(values, f"{name}-{run.name}", f"{run.label}: {heading}", caption)


def _surface(values: Quantity, key: str, title: str, seeds: str, **settings: str | None) -> Plot:
    caption = f"{SURFACE} {seeds}"
    return surface(values, key, title, caption, x="beta1", y="beta2", log=True, **settings)


@paper.recipe(
    "Fig. 5",
    networks,
    "Is the loss around deeper layers more rugged?",
    "The trained network's loss while one layer is moved at random.",
)
def fig5(runs: Runs) -> Items:
    """ResNet-50 and VGG-19: shallower layers lie in flatter minima.

    Fig. 5: landscapes of shallow and deep layers. The paper judges pictures; here two numbers
    decide: the mean rise of the loss at half a layer's length, and the largest eigenvalue of its
    Hessian times its squared length, since layers differ in size and normalisation makes the scale
    of their weights arbitrary. They need not agree: the second tends to grow with the number of
    parameters. The eigenvalue itself is shown.
    """
    probe = landscape_probe(runs.scale)
    for family, run in runs.items():
        deep, shallow = DEEP[family], SHALLOW[family]
        for name, text in DECIDING.items():
            found = run.of(probe, name)
            yield claim(
                f"{family}-{name}",
                f"{run.label}: {deep} lies in a sharper minimum than {shallow}: {text}. [Fig. 5, "
                "Section 4]",
                contrast(found[deep], found[shallow]),
                f"({deep} - {shallow}) / their sum",
            )
    for family, run in runs.items():
        loss = run.of(probe, "loss").isel(seed=0)[list(SHOWN[family])]
        title = f"{run.label}: loss around layers"
        seeds = "The network of the first seed."
        yield _surface(loss, f"landscape-{family}", title, seeds, panel="layer")
        for number in NUMBERS:
            yield _bars(run, number, run.of(probe, number))


@paper.recipe("Fig. 18", partial(networks, families=("resnet50",)), REPEAT, SEVERAL)
def fig18(runs: Runs) -> Items:
    """ResNet-50: landscapes of layers repeat over seeds.

    Fig. 18, Appendix A.5: pictures of several seeds look alike. Here the rise of the loss decides:
    how much of what distinguishes the layers of one network distinguishes them in the others.
    """
    return _repeats(runs)


@paper.recipe("Fig. 19", partial(networks, families=("vgg19",)), REPEAT, SEVERAL)
def fig19(runs: Runs) -> Items:
    """VGG-19: landscapes of layers repeat over seeds; see fig18."""
    return _repeats(runs)


def _repeats(runs: Runs) -> Items:
    run, probe = runs.first, landscape_probe(runs.scale)
    rise, (kind, beginnings) = run.of(probe, "increase"), INNER[run.name]
    inner = rise.layers(lambda name: name.startswith(beginnings))
    loss = run.of(probe, "loss").map(
        lambda v: v.assign_coords(seed=[f"seed {seed}" for seed in v["seed"].values])
    )
    yield claim(
        "repeats",
        f"{run.label}: the rise of the loss around layers repeats over seeds: more than half of "
        f"the differences between the {kind} of a network, in its logarithm, are those that the "
        "networks of the other seeds show. [Appendix A.5]",
        shared(log2(inner)),
        "share of the variance between layers",
        0.5,
    )
    for layer in (SHALLOW[run.name], DEEP[run.name]):
        title = f"{run.label}: loss around {layer}"
        seeds = "One network for each seed."
        yield _surface(loss[layer], f"landscape-{layer}", title, seeds, panel="seed", spread=None)
    yield _bars(run, "increase", rise)
