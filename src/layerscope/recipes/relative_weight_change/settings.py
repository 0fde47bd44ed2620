"""The twelve studies of the paper, its groups of layers, and what the smaller scales reduce.

From Section 3.2, Table 1 and the authors' experiments: SGD with momentum 0.9 and a constant
learning rate, batch 128, 150 epochs (figures on MNIST and Fashion-MNIST end at epoch 20, and so do
their runs here), five seeds. A layer is a convolution or linear layer without its bias; its change
over an epoch is Eq. 1.

Left open by the paper and read here so: PyTorch's initialisation; CIFAR is padded, cropped and
flipped, MNIST and Fashion-MNIST are resized to 32x32; ResNet-18 is of version 1 with a 3x3 stem;
VGG-19 has batch normalisation and one linear layer; AlexNet is that of `layerscope.models.alexnet`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import xarray as xr

from layerscope.config import SGD, VGG, DataConfig, Digits, Images, ModelConfig, ResNet, RunConfig
from layerscope.errors import LayerscopeError
from layerscope.models.alexnet import AlexNet
from layerscope.probes import WeightChange
from layerscope.studies.paper import Paper
from layerscope.studies.plan import Plan, Runs, Scale, Variant
from layerscope.studies.quantity import Quantity
from layerscope.studies.statistics import log2

paper = Paper("relative_weight_change", "Relative weight change")
SEEDS = (0, 42, 123, 1000, 1234)
Network = Literal["resnet18", "vgg19", "alexnet"]
Data = Literal["cifar10", "cifar100", "mnist", "fashion_mnist"]
NETWORKS: Mapping[Network, str] = {
    "resnet18": "ResNet-18",
    "vgg19": "VGG-19",
    "alexnet": "AlexNet",
}
DATA: Mapping[Data, str] = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
}


def _convolutions(first: int, last: int) -> str:
    return ",".join(f"conv{i}.conv" for i in range(first, last + 1))


GROUPS: Mapping[Network, tuple[str, ...]] = {
    "resnet18": tuple(f"block {i}=stage{i}.*" for i in (1, 2, 3, 4)),
    "vgg19": (
        f"early={_convolutions(1, 4)}",
        f"middle={_convolutions(5, 11)}",
        f"late={_convolutions(12, 16)}",
    ),
    "alexnet": (
        f"early={_convolutions(1, 1)}",
        f"middle={_convolutions(2, 3)}",
        f"late={_convolutions(4, 5)}",
    ),
}
"""The paper's groups; the first convolution of ResNet-18 and linear layers belong to none."""


@dataclass(frozen=True)
class Row:
    """One of the twelve studies: its settings (Table 1) and the test accuracy (Section 4) in %."""

    learning_rate: float
    weight_decay: float
    accuracy: float


TWELVE: Mapping[tuple[Network, Data], Row] = {
    ("resnet18", "cifar10"): Row(0.1, 1e-4, 91.0),
    ("resnet18", "cifar100"): Row(0.1, 1e-4, 64.0),
    ("resnet18", "mnist"): Row(0.1, 1e-4, 99.0),
    ("resnet18", "fashion_mnist"): Row(0.1, 1e-4, 92.0),
    ("vgg19", "cifar10"): Row(0.05, 5e-4, 90.5),
    ("vgg19", "cifar100"): Row(0.05, 5e-4, 63.6),
    ("vgg19", "mnist"): Row(0.05, 5e-4, 98.5),
    ("vgg19", "fashion_mnist"): Row(0.05, 5e-4, 91.6),
    ("alexnet", "cifar10"): Row(0.001, 1e-4, 81.0),
    ("alexnet", "cifar100"): Row(0.01, 1e-4, 53.0),
    ("alexnet", "mnist"): Row(0.1, 1e-4, 98.5),
    ("alexnet", "fashion_mnist"): Row(0.1, 1e-4, 89.5),
}
RWC = WeightChange()
"""Eq. 1: ratio of L1 norms, matrices and filters only."""
ANGLE = WeightChange(reduction="angle")
MEASURES: Mapping[str, WeightChange] = {
    "ratio of L1 norms (Eq. 1)": RWC,
    "ratio of L2 norms": WeightChange(p=2.0),
    "mean of quotients": WeightChange(reduction="elementwise"),
    "median of quotients": WeightChange(reduction="median"),
    "angle": ANGLE,
}
READING = (
    "PyTorch's initialisation, ResNet-18 of version 1 with a 3x3 stem, a linear classifier on "
    "VGG-19, MNIST and Fashion-MNIST resized to 32x32"
)


def model(scale: Scale, network: Network) -> ModelConfig:
    """A network, narrow at the smaller scales."""
    width = {"paper": 1.0, "small": 1 / 8, "smoke": 1 / 16}[scale]
    if network == "resnet18":
        return ResNet(18, version=1, width=width, initialisation="torch")
    if network == "vgg19":
        return VGG(19, batch_norm=True, width=width, initialisation="torch", classifier="linear")
    return AlexNet(width)


def images(scale: Scale, network: Network, name: Data) -> DataConfig:
    """A data set at 32x32 pixels; at ``small`` a subset, of 16x16 for ResNet-18."""
    if scale == "smoke":
        return Digits(image_size=32)
    if scale == "small":
        size = 16 if network == "resnet18" else 32
        return Images(name, image_size=size, limit=10_000, test_limit=2000)
    return Images(name, image_size=None if name.startswith("cifar") else 32)


def study(scale: Scale, network: Network, name: Data) -> RunConfig:
    """One of the twelve; what changes at every step is measured live."""
    row = TWELVE[network, name]
    long = scale == "paper" and name.startswith("cifar")
    slow = scale == "small" and (network, name) in SLOW
    rate = 0.03 if slow else row.learning_rate
    return RunConfig(
        model=model(scale, network),
        data=images(scale, network, name),
        optimizer=SGD(rate, momentum=0.9, weight_decay=row.weight_decay),
        epochs=150 if long else 2 if scale == "smoke" else 20,
        batch_size=32 if slow else 128,
        augmentation="crop_flip" if name.startswith("cifar") and scale != "smoke" else "none",
        unit="module",
        groups=GROUPS[network],
        probe_batch=32 if scale == "smoke" else 128,
        live=(RWC.expression, ANGLE.expression),
    )


SLOW: tuple[tuple[Network, Data], ...] = (("alexnet", "cifar10"), ("alexnet", "cifar100"))
"""Studies that at their own learning rate and batch learn nothing in the 1,580 steps of `small`."""


def studies(*keys: tuple[Network, Data]) -> Callable[[Scale], Plan]:
    """Several of the twelve, each a variant ``<network>-<data>``."""

    def planned(scale: Scale) -> Plan:
        variants = {
            f"{network}-{name}": (
                f"{NETWORKS[network]} on {DATA[name]}",
                study(scale, network, name),
            )
            for network, name in keys
        }
        return Plan(variants, seeds(scale), reduced, shows_errors=True)

    return planned


def seeds(scale: Scale) -> tuple[int, ...]:
    """The paper's seeds; two of them at ``smoke``."""
    return SEEDS[:2] if scale == "smoke" else SEEDS


def reduced(runs: Runs) -> str:
    """What a scale changes of the paper's settings, for captions."""
    if runs.scale == "paper":
        return f"The paper's settings; not stated there and read here so: {READING}."
    config = runs.first.config
    length = f"{config.epochs} epoch{'s' * (config.epochs != 1)}"
    if runs.scale == "smoke":
        return f"A smoke test of {length} on the embedded digits; not an experiment."
    assert isinstance(config.data, Images)
    settings: dict[str, list[str]] = {}
    for run in runs.values():
        settings.setdefault(_settings(run), []).append(run.label)
    each = "; ".join(f"{', '.join(labels)}: {text}" for text, labels in settings.items())
    return (
        f"Reduced: channels / 8, {length} on {config.data.limit:,} images, tested on "
        f"{config.data.test_limit:,}, {len(runs.seeds)} seeds. {each}. {READING}."
    )


def _settings(run: Variant) -> str:
    """In what networks differ at `small`, in words."""
    config = run.config
    assert isinstance(config.data, Images)
    side = config.data.image_size
    augmented = "no " if config.augmentation == "none" else ""
    text = (
        f"{side}x{side} pixels, batch {config.batch_size}, learning rate "
        f"{config.optimizer.learning_rate:g}, {augmented}augmentation"
    )
    name = next((key for key in SLOW if run.name == "-".join(key)), None)
    if name is None or config.optimizer.learning_rate == TWELVE[name].learning_rate:
        return text
    return f"{text} (the paper's batch 128 and {TWELVE[name].learning_rate:g} learn nothing here)"


def typical(values: Quantity) -> Quantity:
    """log2 of values over epochs, mean over those from the second on."""
    return log2(values).when(lambda epoch: epoch >= 2).mean("step")


def by_layer(run: Variant, probe: WeightChange = RWC) -> Quantity:
    """The typical change of every layer over an epoch."""
    return typical(run.of(probe, "change"))


def last_over_first(values: Quantity) -> Quantity:
    """The last third of the layers that belong to a group less the first third, (seed).

    The first convolution, which sees the images, is left out; 1x1 shortcuts count.
    """

    def effect(array: xr.DataArray) -> xr.DataArray:
        inner = ~array["layer"].isin(("conv1.conv",)).values
        grouped = array.isel(layer=(array["group"].values != "") & inner)
        third = max(1, round(grouped.sizes["layer"] / 3))
        last, first = grouped.isel(layer=slice(-third, None)), grouped.isel(layer=slice(third))
        return last.mean("layer") - first.mean("layer")

    return values.map(effect)


def settings_of(run: Variant) -> tuple[float, float, float]:
    """Learning rate, weight decay and momentum of a variant."""
    optimizer = run.config.optimizer
    assert isinstance(optimizer, SGD)
    return optimizer.learning_rate, optimizer.weight_decay, optimizer.momentum


def steps_of(run: Variant) -> int:
    """Steps of an epoch.

    Raises:
        LayerscopeError: They are not known.
    """
    if (steps := run.steps_per_epoch) is None:
        raise LayerscopeError(
            f"the number of training examples of {run.label} is not known.",
            "Give one, e.g. --data.limit 10000.",
        )
    return steps


def level(run: Variant, group: str, probe: WeightChange = RWC) -> Quantity:
    """The same, mean over the layers of a group."""
    return by_layer(run, probe).group(group)
