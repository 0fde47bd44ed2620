"""The papers' architectures, one file per family, built from their configurations."""

from __future__ import annotations

import importlib
import json
from typing import TYPE_CHECKING

from layerscope.config import FCN, MODELS, VGG, CustomModel, ModelConfig, ResidualFCN, ResNet, ViT
from layerscope.errors import LayerscopeError, unknown

if TYPE_CHECKING:
    from torch import nn


def build(config: ModelConfig, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """The model that a configuration describes, freshly initialised from the global random state.

    Args:
        config: The architecture and its sizes.
        input_shape: Shape of one example.
        outputs: Number of classes, or of regression targets.

    Raises:
        LayerscopeError: A size is not positive, a choice is unknown, sizes do not fit one another
            or the images, or a custom factory cannot be found or fails.
    """
    match config:
        case FCN():
            from layerscope.models.fcn import fcn

            return fcn(input_shape, outputs, config.depth, config.width, config.activation)
        case ResidualFCN():
            from layerscope.models.fcn import residual_fcn

            return residual_fcn(input_shape, outputs, **vars(config))
        case VGG():
            from layerscope.models.vgg import vgg

            return vgg(input_shape, outputs, **vars(config))
        case ResNet():
            from layerscope.models.resnet import resnet

            return resnet(input_shape, outputs, **vars(config))
        case ViT():
            from layerscope.models.vit import vit

            return vit(input_shape, outputs, **vars(config))
        case CustomModel():
            return custom(config)
        case _:
            raise unknown("model", type(config).__name__, [c.__name__ for c in MODELS.values()])


def unit(config: ModelConfig) -> str | tuple[str, ...]:
    """What makes a layer in a model of this family, for `LayerMap.from_model`.

    A convolution or fully connected layer with its normalisation in a VGG, a residual block in a
    ResNet ("Are all layers created equal?", Figs. 3 and 4) and in a residual FCN, the patch
    embedding and every encoder block in a ViT ("Which layer is learning faster?", Figs. 1 and 21),
    a module elsewhere.

    Args:
        config: The architecture and its sizes.

    Returns:
        ``"module"``, or patterns of module names, each of which matches something.
    """
    match config:
        case VGG():
            return ("conv*", "fc*", "final_linear")
        case ResNet():
            changes_shape = len(config.stages) != 1 or config.depth >= 50
            downsamples = config.downsampling == "layer" and changes_shape
            normalised = config.version == 2 and config.batch_norm
            return (
                "stage0",
                "stage*.resblk*",
                *(("downsample*",) if downsamples else ()),
                *(("final_norm",) if normalised else ()),
                "final_linear",
            )
        case ResidualFCN():
            return ("input", "blocks.*", "output")
        case ViT():
            return ("patch_embedding", "encoders.*", "final_norm", "final_linear")
        case _:
            return "module"


def custom(config: CustomModel) -> nn.Module:
    """A model built by ``package.module:function(**arguments)``.

    Raises:
        LayerscopeError: The function cannot be imported, refuses its arguments, or returns
            something that is no module.
    """
    from torch import nn

    module_name, _, function = config.factory.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), function)
    except Exception as error:  # importing runs what the module does
        raise LayerscopeError(
            f"cannot import the model factory {config.factory!r}: {error}.",
            'Write "package.module:function", importable from the working folder.',
        ) from error
    try:
        arguments = json.loads(config.arguments)
    except (ValueError, TypeError, RecursionError) as error:
        arguments, reason = None, str(error)
    else:
        reason = f"a {type(arguments).__name__}"
    if not isinstance(arguments, dict):
        raise LayerscopeError(
            f"{config.factory} does not take the arguments {_shortened(config.arguments)}, "
            f"which are no JSON object: {reason}.",
            'Write a JSON object of keyword arguments, e.g. {"width": 64}.',
        )
    try:
        model = factory(**arguments)
    except LayerscopeError:
        raise
    except Exception as error:  # whatever the factory does
        raise LayerscopeError(
            f"{config.factory} does not take the arguments {_shortened(config.arguments)}: "
            f"{type(error).__name__}: {error}.",
            'Name its own keyword arguments, e.g. {"width": 64}; or mend the factory.',
        ) from error
    if not isinstance(model, nn.Module):
        raise LayerscopeError(
            f"{config.factory} returned {type(model).__name__}, not a torch.nn.Module.",
            "Return the model itself.",
        )
    return model


def _shortened(text: object, most: int = 200) -> str:
    text = str(text)
    return text if len(text) <= most else f"{text[:most]}..."
