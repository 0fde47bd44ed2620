"""How many examples and classes a data set has, and their shape, said without reading it."""

from __future__ import annotations

from layerscope.config import DataConfig, Digits, Images, Sine
from layerscope.data.table import row_of

DIGITS = 1797
"""Images in scikit-learn's set."""


def training_examples(config: DataConfig) -> int | None:
    """Training examples; None for an image set that the table does not know and no limit cuts."""
    match config:
        case Digits():
            return DIGITS - round(DIGITS * config.test_fraction)
        case Sine():
            return config.n_train
        case Images():
            row = row_of(config.name)
            return config.limit or (row.n_train if row is not None else None)
    return None


def classes(config: DataConfig) -> int | None:
    """Number of classes; None for a regression, and for an image set not in the table."""
    match config:
        case Digits():
            return 10
        case Images():
            row = row_of(config.name)
            return config.classes or (row.classes if row is not None else None)
    return None


def input_shape(config: DataConfig) -> tuple[int, ...] | None:
    """Shape of one input of an image set of the table; None for other data, and for no size.

    It is that of the set on the hub: a local copy may have images of another size.
    """
    if not isinstance(config, Images) or (row := row_of(config.name)) is None:
        return None
    side = row.image_size if config.image_size is None else config.image_size
    return (row.channels, side, side) if side > 0 else None
