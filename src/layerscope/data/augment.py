"""Random changes of training images, drawn anew for every step and equal for equal seeds."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

PADDING = 4


@cache
def _kornia(size: tuple[int, int]) -> tuple[Any, Any]:
    from kornia.augmentation import RandomCrop, RandomHorizontalFlip

    return RandomCrop(size, padding=PADDING, cropping_mode="slice"), RandomHorizontalFlip(p=0.5)


def crop_flip(images: Tensor, seed: int) -> Tensor:
    """Pad with 4 black pixels, crop at random to the size before, flip half of the images.

    Source: "Are All Layers Created Equal?", Appendix A; usual on CIFAR since Lin et al. 2013.

    Args:
        images: float32 (N, C, H, W), pixels on any scale that has black at 0.
        seed: Decides crops and flips; the global random state is left as found.

    Returns:
        New images of the same shape.
    """
    crop, flip = _kornia((images.shape[-2], images.shape[-1]))
    devices = [images.device] if images.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        return flip(crop(images))
