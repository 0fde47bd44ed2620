"""Slow, obvious twins of the data code: one image, one pixel row, one number at a time."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image


def normalised_batch(inputs, mean, std, indices):
    """``(x / 255 - mean) / std``, one image and one channel at a time, in float64."""
    rows = []
    for index in indices.tolist():
        channels = [
            (channel.double() / 255 - m) / s
            for channel, m, s in zip(inputs[index], mean.double(), std.double(), strict=True)
        ]
        rows.append(torch.stack(channels))
    return torch.stack(rows)


def decoded(data: bytes, mode: str, side: int | None) -> torch.Tensor:
    """One encoded image (C, H, W): open, convert, shorter side to ``side``, centre square."""
    image = Image.open(io.BytesIO(data)).convert(mode)
    if side is not None:
        factor = side / min(image.width, image.height)
        image = image.resize(
            (round(image.width * factor), round(image.height * factor)), Image.Resampling.BILINEAR
        )
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def statistics(pixels):
    """Mean and population standard deviation per channel, from all values at once."""
    values = pixels.double().transpose(0, 1).flatten(1) / 255
    return values.mean(1), values.std(1, correction=0)
