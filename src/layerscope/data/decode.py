"""From encoded images to uint8 arrays of one size."""

from __future__ import annotations

import io
import struct
import sys
import time
from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image, ImageOps

from layerscope.errors import LayerscopeError

_DEEP_MODES = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
Encoded = tuple[bytes | None, str | None]
"""One image as stored: its bytes, or else the path of its file."""


def decode_image(encoded: Encoded, channels: int, image_size: int | None) -> np.ndarray:
    """One image as uint8.

    The orientation an image carries in its EXIF data is applied, grey and RGB are converted into
    each other as ``channels`` demands (grey is ITU-R 601-2 luma), transparency is dropped.

    Args:
        encoded: Bytes or path of a PNG, JPEG or anything else that Pillow reads.
        channels: 1 for grey, 3 for RGB.
        image_size: Side in pixels of the square to bring it to, or None for the size it has. The
            shorter side is resized to it (bilinear, antialiased), then the centre is cut out.

    Returns:
        (C, H, W).

    Raises:
        ValueError: More than 8 bits per channel.
        OSError: Pillow cannot read it; it may also raise ``SyntaxError`` or ``struct.error``.
    """
    data, path = encoded
    image = Image.open(io.BytesIO(data) if data is not None else path or "")
    if "exif" in image.info:
        image = ImageOps.exif_transpose(image)
    if image.mode in _DEEP_MODES:
        raise ValueError(f"mode {image.mode} has more than 8 bits per channel")
    mode = "L" if channels == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    if image_size is not None and image.size != (image_size, image_size):
        image = resize(image, image_size)
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def resize(image: Image.Image, side: int) -> Image.Image:
    """Resize the shorter side to ``side`` (bilinear, antialiased) and cut out the centre square."""
    width, height = image.size
    short = min(width, height)
    size = (max(side, round(width * side / short)), max(side, round(height * side / short)))
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    resized = image.resize(size, Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + side, top + side))


def decode_all(
    images: Iterable[Encoded], capacity: int, channels: int, image_size: int | None, where: str
) -> np.ndarray:
    """All images of one split as one array.

    Args:
        images: Encoded images, at most ``capacity`` of them.
        capacity: Images to reserve memory for.
        channels: 1 for grey, 3 for RGB.
        image_size: Side to resize to, or None: then all must have the size of the first.
        where: What to call the split in an error, e.g. ``"split train of /data/birds"``.

    Returns:
        uint8 (N, C, H, W), N being the number of images.

    Raises:
        LayerscopeError: An image cannot be read, sizes differ, or there is no image.
    """
    out: np.ndarray | None = None
    count = 0
    for encoded in track(images, capacity, f"decoding {where}"):
        pixels = decode_named(encoded, channels, image_size, f"image {count} of {where}")
        if out is None:
            out = np.empty((capacity, *pixels.shape), np.uint8)
        if count == capacity:
            raise LayerscopeError(
                f"{where} has more than the {capacity:,} images expected.", "Choose another copy."
            )
        if pixels.shape != out.shape[1:]:
            raise LayerscopeError(
                f"image {count} of {where} has {_size(pixels.shape)} pixels (width x height), "
                f"the first one {_size(out.shape[1:])}.",
                "Set image_size to resize all of them to one square.",
            )
        out[count] = pixels
        count += 1
    if out is None:
        raise LayerscopeError(f"{where} has no images.", "Add images, or choose another copy.")
    return out[:count]


def decode_named(encoded: Encoded, channels: int, image_size: int | None, what: str) -> np.ndarray:
    """:func:`decode_image` with an error that says which image it was.

    Raises:
        LayerscopeError: The image called ``what`` cannot be decoded.
    """
    try:
        return decode_image(encoded, channels, image_size)
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
        raise LayerscopeError(
            f"{what} cannot be decoded: {error}.", "Mend or remove it in the source."
        ) from error


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[2]}x{shape[1]}"


def track(
    items: Iterable[Encoded], total: int, label: str, patience: float = 2.0
) -> Iterator[Encoded]:
    """Pass ``items`` on, with a progress bar on a terminal once ``patience`` seconds are over."""
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import Progress

    start = time.monotonic()
    with Progress(console=Console(stderr=True), transient=True, auto_refresh=False) as progress:
        task = progress.add_task(label, total=total, visible=False)
        shown = start + patience
        for count, item in enumerate(items):
            if time.monotonic() > shown:
                progress.update(task, completed=count, visible=True, refresh=True)
                shown = time.monotonic() + 0.2
            yield item
