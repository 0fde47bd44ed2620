"""Colours: a ramp for depth, a handful for categories, and scales for heatmaps.

The ramp runs from blue (first layer) over violet and magenta to orange (last layer) in OKLCH, a
perceptually even colour space (Ottosson 2020, https://bottosson.github.io/posts/oklab/). Its
luminance stays in the narrow range where every colour has a contrast of at least 3:1 on white and
on the dark background, and rises with depth, so that the order survives red-green colour blindness
and greyscale printing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

LIGHT_BACKGROUND = "#ffffff"
DARK_BACKGROUND = "#16181c"

# Depth from 0 to 1, and OKLCH hue (degrees), lightness, chroma at that depth.
_DEPTH = (0.0, 0.25, 0.5, 0.75, 1.0)
_HUE = (256.0, 303.0, 342.0, 378.0, 418.0)
_LIGHTNESS = (0.530, 0.555, 0.600, 0.640, 0.675)
_CHROMA = (0.170, 0.180, 0.190, 0.190, 0.150)

_LAB_TO_LMS = np.array(
    [
        [1.0, 0.3963377774, 0.2158037573],
        [1.0, -0.1055613458, -0.0638541728],
        [1.0, -0.0894841775, -1.2914855480],
    ]
)
_LMS_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)

CATEGORIES = ("#2f74c0", "#c8540c", "#12896a", "#9b5fc0", "#a8780a", "#c2477f")

FRONT = "#ff8fc7"
"""On neither scale; it or a dark rim around it has a contrast of 3:1 with every stop of both."""

SEQUENTIAL = (
    "#440154",
    "#482475",
    "#414487",
    "#355f8d",
    "#2a788e",
    "#21918c",
    "#22a884",
    "#44bf70",
    "#7ad151",
    "#bddf26",
    "#fde725",
)  # viridis; fmt: skip
DIVERGING = (
    "#2166ac",
    "#4393c3",
    "#92c5de",
    "#d1e5f0",
    "#f7f7f7",
    "#fddbc7",
    "#f4a582",
    "#d6604d",
    "#b2182b",
)  # ColorBrewer RdBu, blue below the centre; fmt: skip


def ramp(n: int) -> tuple[str, ...]:
    """Colours for ``n`` layers in order of depth, as ``#rrggbb``; the ends are always used."""
    if n == 1:
        return (at(0.0),)
    return tuple(at(i / (n - 1)) for i in range(n))


def at(depth: float) -> str:
    """The colour at a relative depth between 0 (first layer) and 1 (last layer)."""
    hue = np.radians(np.interp(depth, _DEPTH, _HUE))
    chroma = np.interp(depth, _DEPTH, _CHROMA)
    lab = np.array(
        [np.interp(depth, _DEPTH, _LIGHTNESS), chroma * np.cos(hue), chroma * np.sin(hue)]
    )
    linear = np.clip(_LMS_TO_RGB @ (_LAB_TO_LMS @ lab) ** 3, 0.0, 1.0)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return "#" + "".join(f"{round(float(channel) * 255):02x}" for channel in encoded)


def layer_colours(names: Iterable[str]) -> dict[str, str]:
    """One colour for each layer name, names given in order of depth."""
    unique = tuple(dict.fromkeys(names))
    return dict(zip(unique, ramp(len(unique)), strict=True))


def category_colours(names: Iterable[str]) -> dict[str, str]:
    """One colour for each of a few unordered categories; the ramp where there are more than six."""
    unique = tuple(dict.fromkeys(names))
    colours = CATEGORIES if len(unique) <= len(CATEGORIES) else ramp(len(unique))
    return dict(zip(unique, colours, strict=False))


def hue_colours(
    layers: bool, names: Iterable[str], given: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Colours of a hue: for layers those given or else the ramp, categories for anything else."""
    names = tuple(dict.fromkeys(names))
    if not layers:
        return category_colours(names)
    return layer_colours(names) | {n: c for n, c in (given or {}).items() if n in names}


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast ratio between two colours, from 1 to 21."""
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def linear_rgb(colour: str) -> np.ndarray:
    """The three linear-light channels of ``#rrggbb``, each from 0 to 1."""
    encoded = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def _luminance(colour: str) -> float:
    return float(linear_rgb(colour) @ np.array([0.2126, 0.7152, 0.0722]))
