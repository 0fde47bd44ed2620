"""A data set in memory: two parts of tensors, and what a model has to know to fit them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from layerscope.config import DataConfig
from layerscope.errors import LayerscopeError


@dataclass(frozen=True, eq=False)
class Split:
    """The training or the test part of a data set, on one device.

    Attributes:
        inputs: uint8 images (N, C, H, W), or float32 inputs (N, ...), which are used as they are.
        targets: int64 classes (N,), or float32 targets (N, d).
        mean: Mean per channel (C,) on the scale 0..1; only for images, None for no shift.
        std: Standard deviation per channel (C,) on the scale 0..1; given with ``mean``.

    Raises:
        LayerscopeError: The lengths differ, or ``mean`` and ``std`` do not fit the inputs.
    """

    inputs: Tensor
    targets: Tensor
    mean: Tensor | None = None
    std: Tensor | None = None

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.targets):
            raise LayerscopeError(
                f"{len(self.inputs)} inputs but {len(self.targets)} targets.",
                "Give one target for each input.",
            )
        if self.mean is None and self.std is None:
            return
        if self.mean is None or self.std is None or self.inputs.dtype != torch.uint8:
            raise LayerscopeError(
                f"mean and std given for {self.inputs.dtype} inputs, or only one of them.",
                "Give both, and uint8 images, or normalise the inputs beforehand.",
            )

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def device(self) -> torch.device:
        """Where the examples live."""
        return self.inputs.device

    @cached_property
    def _affine(self) -> tuple[Tensor, Tensor] | None:
        """Scale and shift (C, 1, 1) with ``scale * x + shift == (x / 255 - mean) / std``."""
        if self.inputs.dtype != torch.uint8:
            return None
        channels = self.inputs.shape[1]
        one, zero = torch.ones(channels), torch.zeros(channels)
        mean = (zero if self.mean is None else self.mean).to(self.device, torch.float64)
        std = (one if self.std is None else self.std).to(self.device, torch.float64)
        scale, shift = 1 / (255 * std), -mean / std
        return scale.float().view(-1, 1, 1), shift.float().view(-1, 1, 1)

    def batch(
        self, indices: Tensor, change: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Model-ready examples, float32 and on this split's device.

        Images become ``(x / 255 - mean) / std`` per channel, computed as one scale and one shift;
        float inputs are only gathered. The tensors are new: the caller may write into them.

        Args:
            indices: int64 positions (B,) on this split's device.
            change: Applied to the pixels, float32 on the scale 0..255, before they are normalised.

        Returns:
            Inputs (B, ...) and targets (B, ...).

        Raises:
            LayerscopeError: ``change`` is given and the inputs are no images.
        """
        inputs, targets = (
            self.inputs.index_select(0, indices),
            self.targets.index_select(0, indices),
        )
        affine = self._affine
        if affine is None:
            if change is not None:
                raise LayerscopeError(
                    f"inputs of type {self.inputs.dtype} cannot be augmented.",
                    'Train on images, or set augmentation to "none".',
                )
            return inputs, targets
        pixels = inputs.float() if change is None else change(inputs.float())
        return pixels.mul_(affine[0]).add_(affine[1]), targets

    def take(self, indices: Tensor) -> Split:
        """The split that holds only the examples at ``indices`` (int64, (M,)), in that order."""
        indices = indices.to(self.device)
        return replace(self, inputs=self.inputs[indices], targets=self.targets[indices])

    def to(self, device: str | torch.device) -> Split:
        """The same split on ``device``."""
        mean = None if self.mean is None else self.mean.to(device)
        std = None if self.std is None else self.std.to(device)
        return Split(self.inputs.to(device), self.targets.to(device), mean, std)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Two splits and what a model has to know to fit them.

    Attributes:
        name: The data set as the user named it.
        train: Examples to train on.
        test: Examples to test on.
        input_shape: Shape of one input, e.g. ``(1, 28, 28)``.
        n_classes: Number of classes; None for regression.
        class_names: Name of each class, where the source names them.
        task: What the targets are.
        note: What a caption has to say (subset, resizing, fidelity), or ``""``.
        fidelity: Of it, in what the data differ from the original set.
    """

    name: str
    train: Split
    test: Split
    input_shape: tuple[int, ...]
    n_classes: int | None
    task: Literal["classification", "regression"]
    class_names: tuple[str, ...] | None = None
    note: str = ""
    fidelity: str = ""

    def to(self, device: str | torch.device) -> Dataset:
        """The same data set on ``device``."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))


def load(
    config: DataConfig, root: str | Path | None = None, device: str | torch.device = "cpu"
) -> Dataset:
    """The data set that a configuration describes.

    Args:
        config: Which one, e.g. ``Digits()``.
        root: Folder of local copies in hub layout; the environment variable ``LAYERSCOPE_DATA``
            where None. Only data that are not made up are looked for there.
        device: Where the examples will live.

    Returns:
        The data set; image sets stay uint8 and are normalised batch by batch.

    Raises:
        LayerscopeError: A setting is out of range, or the set cannot be found or read.
    """
    folder = root if root is not None else os.environ.get("LAYERSCOPE_DATA") or None
    made = config.load_builder()(config, None if folder is None else Path(folder))
    return made.to(device)
