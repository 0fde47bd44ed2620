"""The papers' architectures, one file per family, built from their configurations.

A new family is one file here: its configuration, a dataclass that derives from
`layerscope.config.ModelConfig` and has a name, and the function that builds it. Lists, ``--model``
and stored configurations find it there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerscope.config import ModelConfig

if TYPE_CHECKING:
    from torch import nn

__all__ = ["build"]


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
    return config.load_builder()(input_shape, outputs, **vars(config))
