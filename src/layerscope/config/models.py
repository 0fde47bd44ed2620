"""The architectures: which network, and its sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from layerscope.config.base import Config

Activation = Literal["relu", "sigmoid", "tanh", "gelu", "silu", "identity"]
Stem = Literal["cifar", "imagenet"]
Initialisation = Literal["torch", "he", "glorot"]
Normalisation = Literal["none", "batch", "layer", "group"]


class ModelConfig(Config):
    """What describes a network; `layerscope.models.build` builds it."""


@dataclass(frozen=True)
class FCN(ModelConfig):
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
class ResidualFCN(ModelConfig):
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
class VGG(ModelConfig):
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
class ResNet(ModelConfig):
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
class ViT(ModelConfig):
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
class CustomModel(ModelConfig):
    """A model of one's own, built by ``package.module:function(**arguments)``.

    Attributes:
        factory: Where the function is, importable from the working folder.
        arguments: Its keyword arguments as a JSON object.
    """

    factory: str = ""
    arguments: str = "{}"


MODELS: Mapping[str, type[ModelConfig]] = {
    "fcn": FCN,
    "residual_fcn": ResidualFCN,
    "vgg": VGG,
    "resnet": ResNet,
    "vit": ViT,
    "custom": CustomModel,
}
