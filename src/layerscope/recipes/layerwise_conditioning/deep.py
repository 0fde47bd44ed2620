"""Residual networks of the paper's Section 5, how they are trained, and what is measured.

From Section 5 and Appendix D: ResNets of depth 56, 110, 230 and 1202 for small images, trained as
"Deep residual learning for image recognition" has it, with Nesterov momentum; ResNetLastBN has one
more batch normalisation before the last linear layer, PreResNet activates before the convolutions,
PreResNetv1 is that without the extra normalisation at its end. On ImageNet ResNet-18 and -50 for
100 epochs, with the learning rate falling after epochs 30, 60 and 90.

Left open by the paper and read here so: what enters and comes back is seen in train mode on a
fixed batch of 128 training images; gamma of the last normalisation begins at 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from layerscope.config import SGD, DataConfig, Digits, Images, ResNet, RunConfig
from layerscope.models.cifar_resnet import CifarResNet
from layerscope.probes import Performance, TrainingLoss
from layerscope.probes.conditioning import Conditioning
from layerscope.probes.weight_domination import WeightDomination
from layerscope.recipes.layerwise_conditioning.settings import seeds
from layerscope.studies.guards import scored
from layerscope.studies.plan import Plan, Runs, Scale, Variant
from layerscope.studies.plots import OVER_SEEDS, Plot, lines
from layerscope.studies.quantity import Quantity, stacked

HEAD = "final_linear"
CURVATURE = Conditioning(layers=(HEAD,))
DOMINATION = WeightDomination(layers=(HEAD,))
CURVE, BATCH, TEST = TrainingLoss(), TrainingLoss(over="batch"), Performance()
FIRST = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Early steps whose weights are kept."""
DEPTHS: Mapping[Scale, tuple[int, ...]] = {
    "paper": (56, 110, 230, 1202),
    "small": (20, 56, 110),
    "smoke": (8, 14),
}
Network = Literal["resnet", "last_bn", "preresnet", "preresnet_v1", "vgg", "vgg_last_bn"]
NETWORKS: Mapping[Network, tuple[str, dict[str, Any]]] = {
    "resnet": ("ResNet", {}),
    "preresnet": ("PreResNet", {"kind": "preresnet"}),
    "preresnet_v1": ("PreResNetv1", {"kind": "preresnet_v1"}),
    "last_bn": ("ResNetLastBN", {"last_norm": "linear"}),
    "vgg": ("VGG", {"kind": "plain"}),
    "vgg_last_bn": ("VGGLastBN", {"kind": "plain", "last_norm": "linear"}),
}
"""Labels, and what differs from a ResNet."""
Data = Literal["cifar10", "cifar100"]
SMALL_LIMIT, SMALL_EPOCHS, SMALL_SIDE, SMALL_WIDTH = 4096, 8, 12, 0.5


def images(scale: Scale, name: str) -> DataConfig:
    """A data set, a subset of it in few pixels, or digits."""
    if scale == "smoke":
        return Digits()
    if scale == "paper":
        return Images(name)
    return Images(name, limit=SMALL_LIMIT, test_limit=2000, image_size=SMALL_SIDE)


def config(
    scale: Scale,
    network: Network,
    depth: int,
    data: Data = "cifar10",
    *,
    rate: float = 0.1,
    decay: float = 1e-4,
    checkpoints: str = "",
    **changed: Any,
) -> RunConfig:
    """How one network is trained; settings of the model may be given."""
    width = {"paper": 1.0, "small": SMALL_WIDTH, "smoke": 0.25}[scale]
    model = CifarResNet(depth, width=width, **{**NETWORKS[network][1], **changed})
    return timed(
        RunConfig(
            model=model,
            data=images(scale, data),
            optimizer=SGD(rate, momentum=0.9, nesterov=True, weight_decay=decay),
            epochs={"paper": 160, "small": SMALL_EPOCHS, "smoke": 2}[scale],
            batch_size=128,
            augmentation="reflect_crop_flip" if scale == "paper" else "none",
            checkpoints=checkpoints or f"at({', '.join(map(str, FIRST))}) | epochs(1)",
            probe_batch=128,
        )
    )


def timed(config: RunConfig) -> RunConfig:
    """With the learning rate falling after half and three quarters of the run."""
    epochs = config.epochs
    milestones = (max(1, epochs // 2), max(1, 3 * epochs // 4))
    kept = config.checkpoints
    if "| epochs(" in kept:
        kept = f"{kept.split(' | ')[0]} | epochs({max(1, epochs // 16)})"
    return replace(config, milestones=milestones, checkpoints=kept)


def name(network: str, depth: int) -> str:
    """The variant of a network."""
    return f"{network}-{depth}"


def depths(runs: Runs, network: Network) -> dict[int, Variant]:
    """The variants of a network by depth, ascending."""
    found = {int(n.rsplit("-", 1)[1]): n for n in runs if n.rsplit("-", 1)[0] == network}
    return {depth: runs[found[depth]] for depth in sorted(found)}


def deepest(runs: Runs, network: Network) -> Variant:
    """The variant of a network with the most layers."""
    return list(depths(runs, network).values())[-1]


def planned(
    networks: Sequence[Network],
    data: Data = "cifar10",
    only: Callable[[Scale], Sequence[int]] = lambda scale: DEPTHS[scale],
    **settings: Any,
) -> Callable[[Scale], Plan]:
    """Several networks of several depths."""

    def plan(scale: Scale) -> Plan:
        variants = {
            name(network, depth): (
                f"{NETWORKS[network][0]}-{depth}",
                config(scale, network, depth, data, **settings),
            )
            for network in networks
            for depth in only(scale)
        }
        return Plan(variants, seeds(scale), reduced, timed, may_diverge=True, shows_errors=True)

    return plan


def largest(scale: Scale) -> tuple[int, ...]:
    """The greatest depth alone."""
    return DEPTHS[scale][-1:]


def reduced(runs: Runs) -> str:
    """What a scale changes of the paper's settings, for captions."""
    if runs.scale == "smoke":
        return "A smoke test of tiny networks on the embedded digits; not an experiment."
    if runs.scale == "paper":
        return (
            "The paper's settings; read here so: one fixed batch of 128 training images in train "
            "mode, gamma of the last normalisation begins at 1."
        )
    first = runs.first.config
    width = f"channels x {SMALL_WIDTH:g}, " if isinstance(first.model, CifarResNet) else ""
    return f"Reduced: {width}{runs.trained_on_images()}."


def imagenet(
    scale: Scale,
    depth: Literal[18, 50],
    *,
    rate: float = 0.1,
    decay: float = 1e-4,
    **settings: Any,
) -> RunConfig:
    """A ResNet of version 1 on ImageNet, a subset of Tiny ImageNet, or digits."""
    model = ResNet(
        depth,
        version=1,
        width={"paper": 1.0, "small": 1 / 8, "smoke": 1 / 16}[scale],
        stem="imagenet" if scale == "paper" else "cifar",
        initialisation="fan_out",
        **settings,
    )
    data = Images("imagenet") if scale == "paper" else Digits()
    if scale == "small":
        data = Images("tiny_imagenet", limit=5000, test_limit=1000, image_size=16, classes=20)
    epochs = {"paper": 100, "small": 10, "smoke": 2}[scale]
    return by_thirds(
        RunConfig(
            model=model,
            data=data,
            optimizer=SGD(rate, momentum=0.9, nesterov=True, weight_decay=decay),
            epochs=epochs,
            batch_size=256 if scale == "paper" else 128,
            augmentation="reflect_crop_flip" if scale == "paper" else "none",
            probe_batch=128,
        )
    )


def by_thirds(config: RunConfig) -> RunConfig:
    """With the learning rate falling after 30%, 60% and 90% of the run."""
    milestones = tuple(max(1, round(share * config.epochs)) for share in (0.3, 0.6, 0.9))
    every = max(1, config.epochs // 10)
    return replace(config, milestones=milestones, checkpoints=f"epochs({every})")


def test_error(run: Variant) -> Quantity:
    """Test error at the end in %."""
    return scored(TEST, run.name)


def curves(chosen: Iterable[Variant], key: str, title: str) -> Plot:
    """Training loss of every epoch."""
    found = list(chosen)
    parts = {run.label: run.of(CURVE, "loss").over_epochs() for run in found}
    return lines(
        stacked("network", parts, long_name="training loss", units=""),
        key,
        f"{title}: training loss",
        f"Mean over the steps of each epoch; {OVER_SEEDS}",
        x="epoch",
        hue="network",
        log_y=True,
        references=found[0].marks(),
    )
