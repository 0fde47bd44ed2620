"""Colours can be told apart, on white and on dark, by readers who do not see red and green."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from layerscope.figures import palette

# Machado, Oliveira, Fernandes 2009, deuteranopia at full severity, on linear RGB.
DEUTERANOPIA = np.array(
    [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ]
)
RGB_TO_LAB = (np.linalg.inv(palette._LMS_TO_RGB), np.linalg.inv(palette._LAB_TO_LMS))


def as_seen(colour: str) -> np.ndarray:
    """OKLab coordinates of a colour under deuteranopia."""
    linear = np.clip(DEUTERANOPIA @ palette.linear_rgb(colour), 0, 1)
    to_lms, to_lab = RGB_TO_LAB
    return to_lab @ np.cbrt(to_lms @ linear)


def difference(one: str, other: str) -> float:
    return float(np.linalg.norm(as_seen(one) - as_seen(other)))


def test_contrast_agrees_with_known_values():
    assert palette.contrast("#000000", "#ffffff") == pytest.approx(21)
    assert palette.contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 8, 60, 500])
def test_every_colour_stands_out_on_both_backgrounds(n):
    for colour in palette.ramp(n) + palette.CATEGORIES:
        assert palette.contrast(colour, palette.LIGHT_BACKGROUND) >= 3
        assert palette.contrast(colour, palette.DARK_BACKGROUND) >= 3


def test_ends_of_the_ramp_are_far_apart_without_red_and_green():
    first, *_, last = palette.ramp(60)
    assert difference(first, last) > 0.25


@pytest.mark.parametrize("n", [2, 3, 4])
def test_few_layers_are_told_apart_without_red_and_green(n):
    assert min(difference(a, b) for a, b in combinations(palette.ramp(n), 2)) > 0.05


def test_the_ramp_gets_lighter_with_depth():
    lightness = [palette._luminance(colour) for colour in palette.ramp(30)]
    assert (np.diff(lightness) > -0.005).all()
    assert lightness[-1] > lightness[0] + 0.1


def test_names_get_their_colours_in_order():
    assert list(palette.layer_colours(["a", "b", "a"])) == ["a", "b"]
    assert len(set(palette.category_colours(map(str, range(9))).values())) == 9
    assert palette.hue_colours(True, ["a"], {"a": "#000000", "b": "#111111"}) == {"a": "#000000"}
