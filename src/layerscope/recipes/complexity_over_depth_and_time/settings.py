"""The networks of the paper and their partly linear counterparts, and what smaller scales reduce.

From Section 2 and Appendix A: ImageNet at 224 pixels, He-uniform initialisation, SGD with momentum
0.9, learning rate 0.1, divided by 10 where the validation loss stops falling, batch 256, five runs,
no further regularisation; accuracy every 1,000 batches up to batch 40,000.

Left open by the paper and read here so: BaseNet18 is ResNet-18 of version 1 without shortcuts
(`layerscope.models.resnet`); training ends at batch 40,000, eight epochs, and a plateau is two
epochs without a lower test loss; weights are also kept at steps evenly spaced on a logarithmic
scale, since the paper wishes it had looked before batch 1,000.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from layerscope.config import SGD, DataConfig, Digits, Images, Plateau, ResNet, RunConfig
from layerscope.data.sizes import training_examples
from layerscope.errors import LayerscopeError
from layerscope.probes import (
    LinearisationCost,
    LinearShare,
    Performance,
    Preactivations,
    Predictions,
)
from layerscope.studies.paper import Paper
from layerscope.studies.plan import Plan, Runs, Scale, Variant

paper = Paper("complexity_over_depth_and_time", "Complexity over depth and time")
SEEDS = (0, 1, 2, 3, 4)
TIMES = {"paper": 40, "small": 20, "smoke": 6}
"""Evenly spaced times at which networks are compared, beside the start."""
FIRST = (3, 5, 7, 9, 11, 13, 15)
"""Numbers of first layers that are linear in the counterparts of BaseNet18."""
SITES = 17
"""Activations of BaseNet18."""
POSITIVE = (0, 2, 3, 6, *range(8, 13), 15, 18, 20, 21, 22, 24, 27, 30, 33, 36, 39)
"""Activations of ResNet-50 whose mean preactivation is positive at the end, in the paper's runs."""
RESNET50: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "full": ("fully nonlinear", ()),
    "first20": ("first 20 linear", ("first:20",)),
    "positive": ("positive means linear", tuple(map(str, POSITIVE))),
    "last20": ("last 20 linear", ("last:20",)),
    "first40": ("first 40 linear", ("first:40",)),
}
ACCURACY = Performance(checkpoints="all")
MEANS = Preactivations()
SHARES = LinearShare()
COSTS = LinearisationCost(of="first", checkpoints="all")
PREDICTIONS = Predictions()


def basenet_name(first: int) -> str:
    """Name of the variant of which so many first layers are linear."""
    return {0: "full", SITES: "linear"}.get(first, f"first{first}")


def basenet_label(first: int) -> str:
    """What figures call it."""
    return {0: "fully nonlinear", SITES: "fully linear"}.get(first, f"first {first} linear")


def images(scale: Scale) -> DataConfig:
    """The data set: ImageNet, or 10,000 images of CIFAR-10 at 16x16 pixels."""
    if scale == "smoke":
        return Digits(image_size=16)
    if scale == "small":
        return Images("cifar10", image_size=16, limit=10_000, test_limit=2000)
    return Images("imagenet")


def config(scale: Scale, depth: int = 18, linear: tuple[str, ...] = ()) -> RunConfig:
    """How one network is trained."""
    width = {"paper": 1.0, "small": 1 / 8 if depth == 18 else 1 / 16, "smoke": 1 / 16}[scale]
    on_paper = scale == "paper"
    network = ResNet(
        18 if depth == 18 else 50,
        version=1,
        width=width,
        stem="imagenet" if on_paper else "cifar",
        initialisation="he_uniform",
        residual=depth != 18,
    )
    found = RunConfig(
        model=network,
        data=images(scale),
        optimizer=SGD(0.1 if on_paper else 0.03, momentum=0.9),
        epochs={"paper": 8, "small": 10, "smoke": 2}[scale],
        batch_size=256 if on_paper else 64,
        augmentation="none" if scale == "smoke" else "crop_flip",
        schedule="plateau" if on_paper else "step",
        probe_batch=64 if scale == "smoke" else 512,
        linear=linear,
    )
    found = replace(found, plateau=Plateau(patience=2)) if on_paper else found
    return timed(found, TIMES[scale])


def spacing(config: RunConfig, times: int) -> int:
    """Steps between the evenly spaced times of a run.

    Raises:
        LayerscopeError: The number of training examples is not known.
    """
    if (examples := training_examples(config.data)) is None:
        raise LayerscopeError(
            "the number of training examples is not known.",
            "Give one, e.g. --data.limit 10000.",
        )
    return max(1, -(-examples // config.batch_size) * config.epochs // times)


def timed(config: RunConfig, times: int) -> RunConfig:
    """With checkpoints evenly spaced over the run, and a few more at its start."""
    return replace(config, checkpoints=f"every({spacing(config, times)}) | log_spaced(3)")


def every(run: Variant, scale: Scale) -> int:
    """Steps between the evenly spaced times of a variant."""
    return spacing(run.config, TIMES[scale])


def plan(scale: Scale, variants: Mapping[str, tuple[str, RunConfig]]) -> Plan:
    """Runs of these networks."""
    seeds = SEEDS[:2] if scale == "smoke" else SEEDS
    return Plan(
        variants,
        seeds,
        reduced,
        lambda c: timed(c, TIMES[scale]),
        may_diverge=True,
        shows_errors=True,
    )


def basenets(*first: int) -> Callable[[Scale], Plan]:
    """BaseNet18 and counterparts of which so many first layers are linear."""

    def planned(scale: Scale) -> Plan:
        chosen = first if scale != "smoke" else [k for k in first if k in (0, 3, 9, SITES)]
        variants = {
            basenet_name(k): (
                basenet_label(k),
                config(scale, linear=(f"first:{k}",) if 0 < k < SITES else ("all",) * (k > 0)),
            )
            for k in chosen
        }
        return plan(scale, variants)

    return planned


ALL = basenets(0, *FIRST, SITES)
"""The nine networks of Figs. 1, 2, 6 and 7."""


def resnets(scale: Scale) -> Plan:
    """ResNet-50 and its four partly linear counterparts."""
    return plan(
        scale, {name: (label, config(scale, 50, how)) for name, (label, how) in RESNET50.items()}
    )


def partly(runs: Runs) -> dict[int, Variant]:
    """The partly linear BaseNets of a study, by how many first layers are linear."""
    by_name = {basenet_name(k): k for k in (*range(1, SITES), SITES)}
    return {by_name[name]: run for name, run in runs.items() if name in by_name}


def reduced(runs: Runs) -> str:
    """What a scale changes of the paper's settings, for captions."""
    config = runs.first.config
    if runs.scale == "paper":
        return (
            "The paper's settings; read here so: eight epochs, a plateau is two epochs without a "
            "lower test loss."
        )
    if runs.scale == "smoke":
        return f"A smoke test of {config.epochs} epochs on the embedded digits; not an experiment."
    network = config.model
    width = f"channels / {round(1 / network.width)}, " if isinstance(network, ResNet) else ""
    steps = spacing(config, TIMES["small"])
    return (
        f"Reduced: {width}{runs.trained_on_images()}, no drop of the learning rate; times {steps} "
        "steps apart."
    )
