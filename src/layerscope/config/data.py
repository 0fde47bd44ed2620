"""The data sets: which one, and which part of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from layerscope import catalogue
from layerscope.config.base import Described


class DataConfig(Described):
    """What describes a data set; `layerscope.data.load` reads or makes it.

    The builder is called with the configuration and the folder of local data, or None, and returns
    a `layerscope.data.Dataset`.
    """


@dataclass(frozen=True)
class Digits(DataConfig, name="digits", builder="layerscope.data.synthetic:digits"):
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
class Sine(DataConfig, name="sine", builder="layerscope.data.synthetic:sine"):
    """Regression on the sum of ``sin(k x) / k``, k the first ``components`` of 1, 3, 10, 30."""

    components: int = 4
    low: float = -2.0
    high: float = 2.0
    n_train: int = 5000
    n_test: int = 5000
    sampling_seed: int = 0


@dataclass(frozen=True)
class Images(DataConfig, builder="layerscope.data.images:images"):
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


DATA: Mapping[str, type[DataConfig]] = catalogue.Classes(catalogue.data)
"""Kinds of data by name; image sets are rows of a table. Looking one up may import its file."""
