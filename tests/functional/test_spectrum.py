import math

import pytest
import torch

from layerscope.functional.spectrum import mean_frequency

X = torch.linspace(-2, 2, 512, dtype=torch.float64)
SPACING = float(X[1] - X[0])


@pytest.mark.parametrize("cycles", [1.0, 3.0, 8.0])
def test_a_sine_has_its_frequency(cycles):
    wave = torch.sin(2 * math.pi * cycles * X)
    assert float(mean_frequency(wave[None], SPACING)) == pytest.approx(cycles, rel=0.1)


def test_a_straight_line_has_none():
    lines = torch.stack([3 * X - 1, torch.zeros_like(X), torch.ones_like(X)])
    assert mean_frequency(lines, SPACING).tolist() == [0, 0, 0]


def test_slope_and_scale_do_not_count():
    wave = torch.sin(2 * math.pi * 4 * X)
    values = mean_frequency(torch.stack([wave, 100 * wave + 50 * X + 7]), SPACING)
    torch.testing.assert_close(values[0], values[1], rtol=1e-3, atol=0)


def test_more_of_the_fast_part_is_faster():
    slow, fast = torch.sin(2 * math.pi * X), torch.sin(2 * math.pi * 10 * X)
    values = mean_frequency(torch.stack([slow + a * fast for a in (0.0, 0.3, 1.0)]), SPACING)
    assert values.diff().gt(0.1).all()


def test_a_straight_line_in_single_precision_has_none():
    line = (0.3 * X + 1).float()
    assert float(mean_frequency(line[None], SPACING)) == 0
