"""What fully describes a run: frozen dataclasses, a stable hash, and nothing that needs torch.

Every field is a setting that a recipe or the command line may replace. ``RunConfig`` contains all
that decides the trained weights and which of them are kept; it does not contain what is measured
(probes) or where it executes (device, threads, folders), so that one run on disk serves every
figure that can be drawn from it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from layerscope.errors import LayerscopeError, unknown

Activation = Literal["relu", "sigmoid", "tanh", "gelu", "silu", "identity"]
Stem = Literal["cifar", "imagenet"]
Initialisation = Literal["torch", "he", "glorot"]
Normalisation = Literal["none", "batch", "layer", "group"]
Unit = Literal["family", "tensor", "module", "block", "stage"]


@dataclass(frozen=True)
class FCN:
    """A fully connected network.

    Attributes:
        depth: Number of hidden layers.
        width: Units per hidden layer.
        activation: Activation after every hidden layer.
    """

    depth: int = 3
    width: int = 256
    activation: Activation = "relu"


@dataclass(frozen=True)
class ResidualFCN:
    """A residual FCN: linear input, residual blocks of linear layers, linear output.

    Attributes:
        blocks: Number of residual blocks.
        width: Units everywhere inside.
        activation: Activation inside the branches.
        depths: Linear layers in the branch of each block where not two, e.g. ``(4, 1, 1, 1)``.
        branch: Where the activations of a branch stand: ``"between"`` its linear layers,
            ``"before"`` each of them or ``"after"`` each of them.
        normalisation: Normalise before every activation of a branch.
        groups: Groups of ``"group"`` normalisation.
        initialisation: How weights are drawn.
        input_scale: Multiplies the initial weights and biases of the input layer.
        branch_scale: Multiplies those of the last linear layer of every branch.
    """

    blocks: int = 4
    width: int = 128
    activation: Activation = "relu"
    depths: tuple[int, ...] = ()
    branch: Literal["between", "before", "after"] = "between"
    normalisation: Normalisation = "none"
    groups: int = 8
    initialisation: Initialisation = "torch"
    input_scale: float = 1.0
    branch_scale: float = 1.0


@dataclass(frozen=True)
class VGG:
    """A VGG network: convolutions in five groups, fully connected layers, a linear classifier.

    Attributes:
        depth: Layers with weights that the name counts: 11, 13, 16 or 19.
        batch_norm: Normalise after every convolution.
        width: Multiplies every number of channels and units.
        stem: ``"cifar"`` for small images, ``"imagenet"`` for 224 pixels.
        initialisation: How weights are drawn.
    """

    depth: Literal[11, 13, 16, 19] = 16
    batch_norm: bool = False
    width: float = 1.0
    stem: Stem = "cifar"
    initialisation: Initialisation = "he"


@dataclass(frozen=True)
class ResNet:
    """A residual network of version 1 or 2.

    Attributes:
        depth: 18 or 34 (basic blocks), 50, 101 or 152 (bottleneck blocks).
        version: 1 activates after the addition, 2 before the convolutions.
        batch_norm: Normalise.
        width: Multiplies every number of channels.
        stem: ``"cifar"`` for small images, ``"imagenet"`` for 224 pixels.
        stages: Blocks in each stage where not the depth's own, e.g. ``(4, 4)``.
        downsampling: ``"block"``: the first block of a stage has a projection as its shortcut;
            ``"layer"``: a layer of its own stands between stages, and every block has an identity.
        initialisation: How weights are drawn.
    """

    depth: Literal[18, 34, 50, 101, 152] = 18
    version: Literal[1, 2] = 2
    batch_norm: bool = True
    width: float = 1.0
    stem: Stem = "cifar"
    stages: tuple[int, ...] = ()
    downsampling: Literal["block", "layer"] = "block"
    initialisation: Initialisation = "he"


@dataclass(frozen=True)
class ViT:
    """A vision transformer: patches, encoder blocks, a linear classifier.

    Attributes:
        patch_size: Side of a square patch in pixels.
        width: Length of a token's vector.
        heads: Attention heads of every encoder block.
        expansions: For every encoder block the width of its feed-forward part over ``width``.
        dropout: Share of activations dropped in training.
    """

    patch_size: int = 4
    width: int = 256
    heads: int = 8
    expansions: tuple[int, ...] = (4,) * 12
    dropout: float = 0.0


@dataclass(frozen=True)
class CustomModel:
    """A model of one's own, built by ``package.module:function(**arguments)``.

    Attributes:
        factory: Where the function is, importable from the working folder.
        arguments: Its keyword arguments as a JSON object.
    """

    factory: str = ""
    arguments: str = "{}"


ModelConfig = FCN | ResidualFCN | VGG | ResNet | ViT | CustomModel
MODELS: Mapping[str, type[ModelConfig]] = {
    "fcn": FCN,
    "residual_fcn": ResidualFCN,
    "vgg": VGG,
    "resnet": ResNet,
    "vit": ViT,
    "custom": CustomModel,
}


@dataclass(frozen=True)
class Digits:
    """The 1,797 8x8 handwritten digits embedded in scikit-learn; needs no download.

    Attributes:
        test_fraction: Share of the digits that is for testing.
        split_seed: Seed of the split.
        image_size: Enlarge to squares of this side, a multiple of 8, by repeating pixels.
    """

    test_fraction: float = 0.2
    split_seed: int = 0
    image_size: int = 8


@dataclass(frozen=True)
class Sine:
    """Regression on the sum of ``sin(k x) / k``, k the first ``components`` of 1, 3, 10, 30."""

    components: int = 4
    low: float = -2.0
    high: float = 2.0
    n_train: int = 5000
    n_test: int = 5000
    sampling_seed: int = 0


@dataclass(frozen=True)
class Images:
    """An image classification set: a name of the table, any hub name, or a local folder.

    Attributes:
        name: Which set.
        limit: Keep a random subset of so many training examples.
        test_limit: Keep a random subset of so many test examples.
        image_size: Resize to squares of this side.
        normalise: Subtract the mean and divide by the deviation of all training pixels, per
            ``"channel"`` or ``"global"`` over all channels together.
        subset_seed: Seed of the subsets and of the choice of classes.
        classes: Keep the images of so many classes, drawn at random and numbered anew.
    """

    name: str = "mnist"
    limit: int | None = None
    test_limit: int | None = None
    image_size: int | None = None
    normalise: Literal["channel", "global"] = "channel"
    subset_seed: int = 0
    classes: int | None = None


DataConfig = Digits | Sine | Images


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with optional momentum."""

    learning_rate: float = 0.1
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Adam:
    """Adam."""

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.0


@dataclass(frozen=True)
class AdamW:
    """Adam with weight decay apart from the gradient."""

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.01


@dataclass(frozen=True)
class Adagrad:
    """Adagrad."""

    learning_rate: float = 0.01
    weight_decay: float = 0.0


@dataclass(frozen=True)
class RMSprop:
    """RMSprop."""

    learning_rate: float = 0.01
    smoothing: float = 0.99
    momentum: float = 0.0
    weight_decay: float = 0.0


OptimizerConfig = SGD | Adam | AdamW | Adagrad | RMSprop
OPTIMIZERS: Mapping[str, type[OptimizerConfig]] = {
    "sgd": SGD,
    "adam": Adam,
    "adamw": AdamW,
    "adagrad": Adagrad,
    "rmsprop": RMSprop,
}


@dataclass(frozen=True)
class Start:
    """Weights to begin with: a checkpoint of another run. Give ``run`` or ``path``.

    Attributes:
        run: Configuration of that run; it is trained first where it is not there yet.
        path: Folder of any recorded run.
        step: Which checkpoint; the last by default.
        fresh: Patterns of tensors that keep their own initialisation, e.g. those of a classifier
            for other classes. Every other tensor must be there with its shape.
    """

    run: RunConfig | None = None
    path: str = ""
    step: int | None = None
    fresh: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides one run: model, data, optimiser, length, seed, checkpoints.

    Attributes:
        model: The architecture and its sizes.
        data: The data set and its subset.
        optimizer: The optimiser and its initial learning rate.
        milestones: Epochs at whose end the learning rate is multiplied by ``decay``.
        decay: Factor applied at every milestone.
        schedule: ``"step"`` follows the milestones; ``"cosine"`` falls to zero at the end like
            half a cosine.
        warmup: Steps over which the learning rate first rises linearly.
        epochs: Passes over the training set.
        batch_size: Examples per step; the last batch of an epoch may be smaller.
        seed: Seeds initialisation, order of examples and dropout.
        augmentation: ``"crop_flip"`` pads training images with 4 black pixels, crops them at
            random to their size and flips half of them horizontally.
        start: Weights to begin with, for fine-tuning; by default the model's initialisation.
        frozen: Patterns of modules whose parameters keep their initial values.
        removed: Patterns of residual blocks that are left out.
        unit: What makes a layer; ``"family"`` is the model family's own choice: a residual block,
            a convolution with its normalisation, else a module.
        precision: Arithmetic of the forward and backward pass.
        checkpoints: Schedule of kept weights, e.g. ``"epochs(1)"`` or ``"log_spaced(10)"``.
        probe_batch: Examples in the fixed batch on which gradients and activations are measured.
    """

    model: ModelConfig = field(default_factory=FCN)
    data: DataConfig = field(default_factory=Digits)
    optimizer: OptimizerConfig = field(default_factory=SGD)
    milestones: tuple[int, ...] = ()
    decay: float = 0.1
    schedule: Literal["step", "cosine"] = "step"
    warmup: int = 0
    epochs: int = 10
    batch_size: int = 128
    seed: int = 0
    augmentation: Literal["none", "crop_flip"] = "none"
    start: Start | None = None
    frozen: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    unit: Unit = "family"
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    checkpoints: str = "epochs(1)"
    probe_batch: int = 512

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "probe_batch"):
            if getattr(self, name) < 1:
                raise LayerscopeError(
                    f"{name} is {getattr(self, name)}.", f"{name} must be at least 1."
                )

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits that name this configuration, equal on every machine.

        Fields at their defaults do not count, so that a setting added later leaves it alone.
        """
        text = json.dumps(_canonical(_changed(self)), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


_TYPES = {
    cls.__name__: cls
    for cls in (*MODELS.values(), Digits, Sine, Images, *OPTIMIZERS.values(), Start, RunConfig)
}


def to_dict(config: Any) -> Any:
    """Plain JSON values for a configuration, each dataclass tagged with its ``type``."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        values = {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
        return {"type": type(config).__name__, **values}
    if isinstance(config, list | tuple):
        return [to_dict(value) for value in config]
    if isinstance(config, Mapping):
        return {str(key): to_dict(value) for key, value in config.items()}
    return config


def _changed(config: Any) -> Any:
    """What `to_dict` gives, without the fields that have their default values."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        default = type(config)()
        values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
        given = {k: v for k, v in values.items() if to_dict(v) != to_dict(getattr(default, k))}
        changed = {k: _changed(v) for k, v in given.items()}
        return {"type": type(config).__name__, **changed}
    return to_dict(config)


def _canonical(values: Any) -> Any:
    """The same plain values with 1.0 written as 1, since configurations that compare equal are."""
    if isinstance(values, dict):
        return {key: _canonical(value) for key, value in values.items()}
    if isinstance(values, list):
        return [_canonical(value) for value in values]
    return int(values) if isinstance(values, float) and values.is_integer() else values


def from_dict(values: Any) -> Any:
    """The configuration that ``to_dict`` wrote.

    Raises:
        LayerscopeError: A type or field is not known to this version, or a value has another type
            than its field.
    """
    if isinstance(values, Mapping) and "type" in values:
        cls = _TYPES.get(str(values["type"]))
        if cls is None:
            raise unknown("configuration type", str(values["type"]), _TYPES)
        hints = _hints(cls)
        made = {name: from_dict(value) for name, value in values.items() if name != "type"}
        for name, value in made.items():
            if name not in hints:
                raise unknown(f"field of {cls.__name__}", name, hints)
            if not _fits(value, hints[name]):
                raise LayerscopeError(
                    f"{name} of {cls.__name__} is {value!r}.", f"It is a {_named(hints[name])}."
                )
        return cls(**made)
    if isinstance(values, list):
        return tuple(from_dict(value) for value in values)
    if isinstance(values, Mapping):
        return {key: from_dict(value) for key, value in values.items()}
    return values


@lru_cache
def _hints(cls: type) -> dict[str, Any]:
    """Type of every field."""
    return get_type_hints(cls)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value has a field's type; builders say which choices there are."""
    kinds, origin = get_args(hint), get_origin(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, kind) for kind in kinds)
    if origin is Literal:
        return type(value) in {type(choice) for choice in kinds}
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(part, kinds[0]) for part in value)
    if hint in (int, float):
        return type(value) is int or (hint is float and type(value) is float)
    return isinstance(value, hint)


def _named(hint: Any) -> str:
    return getattr(hint, "__name__", "") if not get_args(hint) else str(hint)
