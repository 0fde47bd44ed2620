"""Models of one's own, from a function that the configuration names."""

from __future__ import annotations

import importlib
import json

from torch import nn

from layerscope.config import CustomModel
from layerscope.errors import LayerscopeError


def from_factory(
    input_shape: tuple[int, ...], outputs: int, factory: str, arguments: str
) -> nn.Module:
    """The model of `custom`; the function knows its sizes, or takes them as arguments.

    Raises:
        LayerscopeError: As for `custom`.
    """
    del input_shape, outputs
    return custom(CustomModel(factory, arguments))


def custom(config: CustomModel) -> nn.Module:
    """A model built by ``package.module:function(**arguments)``.

    Raises:
        LayerscopeError: The function cannot be imported, refuses its arguments, or returns
            something that is no module.
    """
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
