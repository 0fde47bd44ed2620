"""Data that needs no download: the digits embedded in scikit-learn, and a sum of sines."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from layerscope.config import Digits, Sine
from layerscope.data.dataset import Dataset, Split
from layerscope.errors import LayerscopeError

FREQUENCIES = (1, 3, 10, 30)
"""The k of the terms ``sin(k x) / k``."""


def digits(config: Digits, root: Path | None = None) -> Dataset:
    """The 1,797 handwritten digits of scikit-learn, 8x8 grey, split with equal class shares.

    Pixels count 0..16 in the source; they are stored as uint8 ``round(255 p / 16)``, which moves a
    pixel by at most 0.2 % of the full scale. Mean and standard deviation are those of the training
    part.

    Raises:
        LayerscopeError: ``test_fraction`` leaves too few examples in either part, or
            ``image_size`` is no multiple of 8.

    Source:
        Alpaydin & Kaynak 1998, "Optical Recognition of Handwritten Digits" (UCI), as embedded in
        ``sklearn.datasets.load_digits``.
    """
    del root  # nothing is read from there
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    n_test = round(1797 * config.test_fraction)
    if not 10 <= n_test <= 1787:
        raise LayerscopeError(
            f"test_fraction is {config.test_fraction}.",
            "Choose it so that 10 to 1,787 of the 1,797 digits are for testing, e.g. 0.2.",
        )
    if config.image_size < 8 or config.image_size % 8:
        raise LayerscopeError(
            f"image_size is {config.image_size}.", "Choose a multiple of the digits' 8 pixels."
        )
    counts, classes = load_digits(return_X_y=True)
    pixels = torch.tensor(counts).mul(255 / 16).round().to(torch.uint8).view(-1, 1, 8, 8)
    scale = config.image_size // 8
    pixels = pixels.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    labels = torch.tensor(classes, dtype=torch.int64)
    train, test = train_test_split(
        range(len(labels)), test_size=n_test, random_state=config.split_seed, stratify=labels
    )
    scaled = pixels[train].double() / 255
    mean, std = scaled.mean().float().view(1), scaled.std(correction=0).float().view(1)
    return Dataset(
        name="digits",
        train=Split(pixels[train], labels[train], mean, std),
        test=Split(pixels[test], labels[test], mean, std),
        input_shape=tuple(pixels.shape[1:]),
        n_classes=10,
        task="classification",
        class_names=tuple(str(digit) for digit in range(10)),
    )


def sine_target(x: Tensor, components: int) -> Tensor:
    """``f(x) = sin x + sin(3x)/3 + sin(10x)/10 + sin(30x)/30``, its first ``components`` terms.

    Args:
        x: Points of any shape, in radians.
        components: 1 to 4.

    Returns:
        ``f(x)``, shaped and typed like ``x``.

    Raises:
        LayerscopeError: ``components`` is not 1 to 4.

    Source:
        Chen, Yuille & Zhou 2023, "Which Layer is Learning Faster?", section 3.1; fewer components
        are the "Complexity" of figure 8.
    """
    if not 1 <= components <= len(FREQUENCIES):
        raise LayerscopeError(f"components is {components}.", "Choose 1, 2, 3 or 4.")
    return torch.stack([torch.sin(k * x) / k for k in FREQUENCIES[:components]]).sum(0)


def sine(config: Sine, root: Path | None = None) -> Dataset:
    """Regression on a sum of sines at points drawn from U[low, high].

    Training and test points are drawn independently from one generator, in this order, so that
    ``sampling_seed`` decides both.

    Returns:
        Inputs and targets of shape (N, 1), float32; targets are computed in float64.

    Raises:
        LayerscopeError: An empty interval, an empty part, or a wrong number of components.
    """
    del root  # nothing is read from there
    if not config.low < config.high:
        raise LayerscopeError(
            f"low is {config.low}, high is {config.high}.", "low must be less than high."
        )
    for name in ("n_train", "n_test"):
        if getattr(config, name) < 1:
            raise LayerscopeError(
                f"{name} is {getattr(config, name)}.", f"{name} must be at least 1."
            )
    generator = torch.Generator().manual_seed(config.sampling_seed)

    def draw(n: int) -> Split:
        unit = torch.rand((n, 1), generator=generator, dtype=torch.float64)
        x = (config.low + (config.high - config.low) * unit).float()
        return Split(x, sine_target(x.double(), config.components).float())

    return Dataset(
        name="sine",
        train=draw(config.n_train),
        test=draw(config.n_test),
        input_shape=(1,),
        n_classes=None,
        task="regression",
    )
