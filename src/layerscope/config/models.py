"""The architectures: which network, and its sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from layerscope import catalogue
from layerscope.config.base import LATER, Described

Activation = Literal["relu", "sigmoid", "tanh", "gelu", "silu", "identity"]
Stem = Literal["cifar", "imagenet"]
Initialisation = Literal["torch", "he", "he_uniform", "glorot", "fan_out"]
Normalisation = Literal["none", "batch", "layer", "group"]
LastNorm = Literal["none", "pooling", "linear"]


class ModelConfig(Described):
    """What describes a network; `layerscope.models.build` builds it.

    The builder is called with the shape of an example, the number of outputs and, by name, the
    fields of the configuration; it returns the module.
    """

    @property
    def unit(self) -> str | tuple[str, ...]:
        """What makes a layer in a model of this family, for `LayerMap.from_model`.

        ``"module"``, or patterns of module names, each of which matches something.
        """
        return "module"


@dataclass(frozen=True)
class FCN(ModelConfig, name="fcn", builder="layerscope.models.fcn:fcn"):
    """A fully connected network.

    Attributes:
        depth: Number of hidden layers.
        width: Units per hidden layer.
        activation: Activation after every hidden layer.
        normalisation: Normalise before every activation.
        groups: Groups of ``"group"`` normalisation.
        initialisation: How weights are drawn.
        bias: Whether linear layers add a bias.
        output_norm: Normalise the outputs as well.
    """

    depth: int = 3
    width: int = 256
    activation: Activation = "relu"
    normalisation: Normalisation = field(default="none", metadata={LATER: True})
    groups: int = field(default=8, metadata={LATER: True})
    initialisation: Initialisation = field(default="torch", metadata={LATER: True})
    bias: bool = field(default=True, metadata={LATER: True})
    output_norm: bool = field(default=False, metadata={LATER: True})


@dataclass(frozen=True)
class ResidualFCN(ModelConfig, name="residual_fcn", builder="layerscope.models.fcn:residual_fcn"):
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

    @property
    def unit(self) -> tuple[str, ...]:
        """A residual block; input and output layer."""
        return ("input", "blocks.*", "output")


@dataclass(frozen=True)
class VGG(ModelConfig, name="vgg", builder="layerscope.models.vgg:vgg"):
    """A VGG network: convolutions in five groups, fully connected layers, a linear classifier.

    Attributes:
        depth: Layers with weights that the name counts: 11, 13, 16 or 19.
        batch_norm: Normalise after every convolution.
        width: Multiplies every number of channels and units.
        stem: ``"cifar"`` for small images, ``"imagenet"`` for 224 pixels.
        initialisation: How weights are drawn.
        classifier: ``"connected"``: two fully connected layers and a linear one; ``"linear"``:
            the linear one alone.
    """

    depth: Literal[11, 13, 16, 19] = 16
    batch_norm: bool = False
    width: float = 1.0
    stem: Stem = "cifar"
    initialisation: Initialisation = "he"
    classifier: Literal["connected", "linear"] = field(default="connected", metadata={LATER: True})

    @property
    def unit(self) -> tuple[str, ...]:
        """A convolution or fully connected layer with its normalisation."""
        hidden = ("fc*",) if self.classifier == "connected" else ()
        return ("conv*", *hidden, "final_linear")


@dataclass(frozen=True)
class ResNet(ModelConfig, name="resnet", builder="layerscope.models.resnet:resnet"):
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
        residual: Keep the residual connections; a network without them has version 1.
        last_norm: A further batch normalisation, before the average ``"pooling"`` or before the
            last ``"linear"`` layer.
        dropout: Share of what enters the last linear layer that is dropped in training.
    """

    depth: Literal[18, 34, 50, 101, 152] = 18
    version: Literal[1, 2] = 2
    batch_norm: bool = True
    width: float = 1.0
    stem: Stem = "cifar"
    stages: tuple[int, ...] = ()
    downsampling: Literal["block", "layer"] = "block"
    initialisation: Initialisation = "he"
    residual: bool = field(default=True, metadata={LATER: True})
    last_norm: LastNorm = field(default="none", metadata={LATER: True})
    dropout: float = field(default=0.0, metadata={LATER: True})

    @property
    def unit(self) -> tuple[str, ...]:
        """A residual block ("Are all layers created equal?", Figs. 3 and 4).

        Without residual connections a convolution with its normalisation.
        """
        changes_shape = len(self.stages) != 1 or self.depth >= 50
        downsamples = self.downsampling == "layer" and changes_shape
        normalised = self.version == 2 and self.batch_norm
        return (
            "stage0",
            "stage*.resblk*" if self.residual else "stage*.conv*",
            *(("downsample*",) if downsamples else ()),
            *(("final_norm",) if normalised else ()),
            *(("last_norm",) if self.last_norm != "none" else ()),
            "final_linear",
        )


@dataclass(frozen=True)
class ViT(ModelConfig, name="vit", builder="layerscope.models.vit:vit"):
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

    @property
    def unit(self) -> tuple[str, ...]:
        """The patch embedding, every encoder ("Which layer is learning faster?", Figs. 1, 21)."""
        return ("patch_embedding", "encoders.*", "final_norm", "final_linear")


@dataclass(frozen=True)
class CustomModel(ModelConfig, name="custom", builder="layerscope.models.factory:from_factory"):
    """A model of one's own, built by ``package.module:function(**arguments)``.

    Attributes:
        factory: Where the function is, importable from the working folder.
        arguments: Its keyword arguments as a JSON object.
    """

    factory: str = ""
    arguments: str = "{}"


MODELS: Mapping[str, type[ModelConfig]] = catalogue.Classes(catalogue.models)
"""Every family of models by name; that of a file in ``models/`` is imported when looked up."""
