from __future__ import annotations

import subprocess
import sys

import pytest

from layerscope.config import Digits, Images
from layerscope.data.sizes import input_shape
from layerscope.data.table import IMAGE_SETS, row_of


@pytest.mark.parametrize("row", IMAGE_SETS.values(), ids=IMAGE_SETS.keys())
def test_rows_are_consistent(row):
    assert row.channels == len(row.mean) == len(row.std)
    assert row.hub.count("/") == 1
    assert all(0 < m < 1 and 0 < s < 1 for m, s in zip(row.mean, row.std, strict=True))
    assert row_of(row.name) is row_of(row.hub) is row


def test_the_table_is_read_without_torch():
    code = (
        "import layerscope.data as d, sys; assert d.IMAGE_SETS; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (Images("mnist"), (1, 28, 28)),
        (Images("uoft-cs/cifar10", classes=3), (3, 32, 32)),
        (Images("cub200"), (3, 224, 224)),
        (Images("cub200", image_size=64), (3, 64, 64)),
        (Images("cub200", image_size=0), None),
        (Images("nobody/birds"), None),
        (Digits(), None),
    ],
)
def test_the_table_knows_the_shape_of_its_sets(config, shape):
    assert input_shape(config) == shape
