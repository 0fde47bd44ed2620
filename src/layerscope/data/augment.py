"""Random changes of training images, drawn anew for every step and equal for equal seeds."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from layerscope.data.loader import Augment
from layerscope.errors import LayerscopeError, unknown

PADDING = 4


def crop_flip(images: Tensor, seed: int) -> Tensor:
    """Pad with 4 black pixels, crop at random to the size before, flip half of the images.

    Source: "Are All Layers Created Equal?", Appendix A; usual on CIFAR since Lin et al. 2013.

    Args:
        images: float32 (N, C, H, W), pixels on any scale that has black at 0.
        seed: Decides crops and flips; the global random state is left as found.

    Returns:
        New images of the same shape.
    """
    return _padded_crop_flip(images, seed, "constant")


def reflect_crop_flip(images: Tensor, seed: int) -> Tensor:
    """`crop_flip` with the images mirrored at their outermost pixels instead of black ones.

    The same seed crops and flips as it does there. The outermost pixels are not repeated.

    Source: the code of "Layer-wise conditioning analysis",
    https://github.com/huangleiBuaa/LayerwiseCA; "Wide residual networks", Section 3.

    Args:
        images: float32 (N, C, H, W), more than 4 pixels high and wide, on any scale.
        seed: Decides crops and flips; the global random state is left as found.

    Returns:
        New images of the same shape.

    Raises:
        LayerscopeError: The images are too small to be mirrored.
    """
    if min(images.shape[-2:]) <= PADDING:
        raise LayerscopeError(
            f"images of {images.shape[-2]}x{images.shape[-1]} pixels cannot be padded with "
            f"{PADDING} pixels of their reflection.",
            'Use larger images, or augmentation="crop_flip".',
        )
    return _padded_crop_flip(images, seed, "reflect")


AUGMENTATIONS: Mapping[str, Augment | None] = {
    "none": None,
    "crop_flip": crop_flip,
    "reflect_crop_flip": reflect_crop_flip,
}


def augmentation(name: str) -> Augment | None:
    """The change of a name, as ``RunConfig.augmentation`` has it; None for ``"none"``.

    Raises:
        LayerscopeError: There is none of that name.
    """
    if name not in AUGMENTATIONS:
        raise unknown("augmentation", name, AUGMENTATIONS)
    return AUGMENTATIONS[name]


@cache
def _kornia(size: tuple[int, int], mode: str) -> tuple[Any, Any]:
    from kornia.augmentation import RandomCrop, RandomHorizontalFlip

    crop = RandomCrop(size, padding=PADDING, padding_mode=mode, cropping_mode="slice")
    return crop, RandomHorizontalFlip(p=0.5)


def _padded_crop_flip(images: Tensor, seed: int, mode: Literal["constant", "reflect"]) -> Tensor:
    crop, flip = _kornia((images.shape[-2], images.shape[-1]), mode)
    devices = [images.device] if images.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        return flip(crop(images))
