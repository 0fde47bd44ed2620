"""What strengthens or weakens the bias: Fig. 8a-d, 12 to 16 and 20, each a sweep over a setting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from layerscope.config import SGD, Adagrad, Adam, OptimizerConfig, RMSprop
from layerscope.recipes.layer_convergence_bias.bias import Sweep, summary
from layerscope.recipes.layer_convergence_bias.settings import (
    RESIDUAL,
    inner_layers,
    names,
    paper,
    plan,
    sine,
)
from layerscope.studies.comparisons import each, extreme
from layerscope.studies.paper import Items, Statement, claim
from layerscope.studies.plan import Plan, Runs, Scale
from layerscope.studies.statistics import log2

NORMALISED_RATE = 0.005
"""Learning rate of Fig. 16: of those tried, the largest at which normalised networks train."""
NORMS = {"none": "none", "batch": "BatchNorm", "layer": "LayerNorm", "group": "GroupNorm(8)"}
FITS = "A residual network fits a sum of four sines"


def components(scale: Scale) -> Plan:
    """Targets of the 4, 3, 2 and 1 slowest sines."""
    return plan({f"components{k}": (f"{k} of 4", sine(scale, components=k)) for k in (4, 3, 2, 1)})


@paper.recipe(
    "Fig. 8 (a-d)",
    components,
    "Do deeper blocks converge faster on simpler targets?",
    summary("A residual network fits sums of one to four sines."),
)
def fig8a(runs: Runs) -> Items:
    """Simpler targets: the fewer fast components, the weaker the bias.

    Fig. 8 (a-d): the residual network fits the sum of the 4, 3, 2 and 1 slowest sines; deeper
    blocks converge faster the simpler the target, and the bias does not strictly hold any more.
    """
    sweep = Sweep(runs, "components of the target")
    simple, full = (sweep.rate(v).isel(layer=-1) for v in ("components1", "components4"))
    yield claim(
        "deeper-faster",
        "On one sine the last block converges faster than on all four. [Fig. 8 (a-d), Section 5]",
        simple - full,
        "C(last block), 1 component less 4",
    )
    text = "on one sine than on four. [Fig. 8 (a-d), Section 5]"
    yield sweep.weaker(text, "components4", "components1")
    yield from sweep.plots()


def depths(scale: Scale) -> Plan:
    """Networks of 4 blocks and more."""
    numbers = (4, 5, 6, 8)
    return plan({f"blocks{n}": (str(n), sine(scale, replace(RESIDUAL, blocks=n))) for n in numbers})


@paper.recipe(
    "Fig. 12",
    depths,
    "Is the bias there at every depth?",
    summary("Residual networks of 4 to 8 blocks fit a sum of four sines."),
)
def fig12(runs: Runs) -> Items:
    """More residual blocks: the bias is there at every depth that trains.

    Fig. 12: networks of 4 blocks and more; the numbers of blocks are not stated and read here as
    4, 5, 6 and 8. With 10 blocks four of five runs diverged (LOG.md).
    """
    sweep = Sweep(runs, "blocks")
    text = "The first block converges faster than the last, with 4 to 8 blocks."
    yield sweep.biased(f"{text} [Fig. 12, Appendix A.3]", *runs)
    yield from sweep.plots()


def learning_rates(scale: Scale) -> Plan:
    """Four learning rates."""
    rates = (0.1, 0.05, 0.02, 0.01)
    return plan({f"lr{r:g}": (f"{r:g}", sine(scale, optimizer=SGD(r))) for r in rates})


@paper.recipe(
    "Fig. 13",
    learning_rates,
    "Is the bias weaker at smaller learning rates?",
    summary(f"{FITS} at four learning rates."),
)
def fig13(runs: Runs) -> Items:
    """Smaller learning rates: the bias becomes weaker.

    Fig. 13; the learning rates are not stated and read here as 0.1, 0.05, 0.02 and 0.01, each
    times 0.1 after epoch 150.
    """
    sweep = Sweep(runs, "learning rate")
    yield sweep.biased("At 0.1 the first block converges faster. [Fig. 13]", "lr0.1")
    yield sweep.weaker("at 0.01 than at 0.1. [Fig. 13, Appendix A.3]", "lr0.1", "lr0.01")
    yield from sweep.plots()


def weight_decays(scale: Scale) -> Plan:
    """Four strengths of weight decay."""
    values = (0.0, 1e-4, 1e-3, 1e-2)
    return plan(
        {f"wd{v:g}": (f"{v:g}", sine(scale, optimizer=SGD(0.1, weight_decay=v))) for v in values}
    )


@paper.recipe(
    "Fig. 14",
    weight_decays,
    "Is the bias weaker with stronger weight decay?",
    summary(f"{FITS} with four strengths of weight decay."),
)
def fig14(runs: Runs) -> Items:
    """Stronger weight decay: all blocks converge more slowly and alike.

    Fig. 14; the coefficients are not stated and read here as 0, 1e-4, 1e-3 and 1e-2.
    """
    sweep, place = Sweep(runs, "weight decay"), "[Fig. 14, Appendix A.3]"
    yield claim(
        "slower",
        f"Blocks converge more slowly with weight decay 0.01 than without. {place}",
        sweep.mean("wd0") - sweep.mean("wd0.01"),
        "mean C of blocks, without decay less with 0.01",
    )
    yield sweep.weaker(f"with weight decay 0.01 than without. {place}", "wd0", "wd0.01")
    yield from sweep.plots()


def optimisers(scale: Scale) -> Plan:
    """SGD and three adaptive optimisers."""
    chosen: Mapping[str, tuple[str, OptimizerConfig]] = {
        "sgd": ("SGD", SGD(learning_rate=0.1)),
        "adagrad": ("Adagrad", Adagrad(learning_rate=0.01)),
        "rmsprop": ("RMSprop", RMSprop(learning_rate=0.001)),
        "adam": ("Adam", Adam(learning_rate=0.001)),
    }
    return plan({name: (label, sine(scale, optimizer=o)) for name, (label, o) in chosen.items()})


@paper.recipe(
    "Fig. 15",
    optimisers,
    "Do adaptive optimisers show the bias?",
    summary(f"{FITS} with four optimisers."),
)
def fig15(runs: Runs) -> Items:
    """Adaptive optimisers: a weaker bias, or none.

    Fig. 15: SGD against Adagrad, RMSprop and Adam; their learning rates are not stated and read
    here as 0.01 (Adagrad) and 0.001, PyTorch's other defaults, times 0.1 after epoch 150.
    """
    sweep, place = Sweep(runs, "optimiser"), "Fig. 15, Appendix A.3"
    adaptive = [run for name, run in runs.items() if name != "sgd"]
    yield sweep.biased("With SGD the first block converges faster. [Fig. 15]", "sgd")
    for run in adaptive:
        yield sweep.weaker(f"with {run.label} than with SGD. [{place}]", "sgd", run.name, run.name)
    for run in adaptive:
        yield sweep.gone(run.name, place)
    yield from sweep.plots()


def normalisations(scale: Scale) -> Plan:
    """No normalisation and three kinds."""
    optimizer = SGD(learning_rate=NORMALISED_RATE)
    variants = {
        name: (label, sine(scale, replace(RESIDUAL, normalisation=name), optimizer))
        for name, label in NORMS.items()
    }
    return plan(variants, more=f" All at learning rate {NORMALISED_RATE:g} instead of 0.1.")


@paper.recipe(
    "Fig. 16",
    normalisations,
    "Which normalisations keep the bias?",
    summary(
        f"{FITS} without and with three normalisations, all at learning rate {NORMALISED_RATE:g}, "
        "since at 0.1 those with one diverge."
    ),
)
def fig16(runs: Runs) -> Items:
    """Normalisation: the bias stays with BatchNorm and weakens with LayerNorm and GroupNorm.

    Fig. 16: none, batch, layer and group normalisation (8 groups), here before every activation,
    and all four at learning rate 0.005, times 0.1 after epoch 150: at 0.1 no normalised network
    trains, since its activations have 30 times the squared length. LOG.md lists what was tried, and
    how much the biases depend on the rate.
    """
    sweep, place = Sweep(runs, "normalisation"), "Fig. 16, Appendix A.3"
    quiet = ("layer", "group")

    def faster(more: str, less: str) -> Statement:
        return claim(
            f"{more}-faster",
            f"Blocks converge faster with {NORMS[more]} than with {NORMS[less]}. [{place}]",
            sweep.mean(more) - sweep.mean(less),
            f"mean C of blocks, {NORMS[more]} less {NORMS[less]}",
        )

    text = "the first block converges faster."
    yield sweep.biased(f"Without normalisation {text} [Fig. 16]", "none")
    yield sweep.biased(f"With BatchNorm {text} [{place}]", "batch", name="batch")
    yield faster("batch", "none")
    for name in quiet:
        yield faster(name, "batch")
    for name in quiet:
        text = f"with {NORMS[name]} than with BatchNorm. [{place}]"
        yield sweep.weaker(text, "batch", name, name)
    for name in quiet:
        yield sweep.gone(name, place, either_way=True)
    chosen = runs.first.config.optimizer.learning_rate
    yield from sweep.plots(aside=f"All networks at learning rate {chosen:g}.")


def shapes(scale: Scale) -> Plan:
    """One block of four layers among blocks of one."""
    models = [
        replace(RESIDUAL, branch="after", depths=tuple(4 if j == i else 1 for j in range(4)))
        for i in range(4)
    ]
    return plan(
        {
            f"big{i}": (", ".join(map(str, model.depths)), sine(scale, model))
            for i, model in enumerate(models, 1)
        }
    )


@paper.recipe(
    "Fig. 20",
    shapes,
    "Where does a large block belong?",
    summary(
        "Residual networks with one block of four layers and three of one fit a sum of four sines."
    ),
)
def fig20(runs: Runs) -> Items:
    """One block of four layers among blocks of one: it converges slowest, and belongs at the end.

    Fig. 20: branches of (4, 1, 1, 1), (1, 4, 1, 1), (1, 1, 4, 1) and (1, 1, 1, 4) linear layers;
    the shallower the big block, the larger the loss. Here an activation follows every linear layer
    of a branch, since between the layers of a block of one there would be none.
    """
    sweep, slowest = Sweep(runs, "layers of the blocks"), {}
    for i, (name, run) in enumerate(runs.items()):
        big, *others = (*inner_layers(run)[i:], *inner_layers(run)[:i])
        called = names(run).__getitem__
        slowest[name] = extreme(sweep.rate(name), big, others, "C", smallest=True, titles=called)
    yield claim(
        "slowest",
        "Wherever it stands, the block of four layers converges slowest. [Fig. 20, Appendix A.6]",
        each(slowest),
    )
    yield claim(
        "worse",
        "The test loss is larger with the block of four layers first than last. [Fig. 20, "
        "Appendix A.6]",
        log2(sweep.loss("big1") / sweep.loss("big4")),
        "log2 of the loss, big block first over last",
    )
    yield from sweep.plots()
