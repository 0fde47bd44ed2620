"""An empty cache for each test that builds a set, and a maker of tiny sets."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest
from tests.data.cases import encoded, write_parquet


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache folder that only this test uses."""
    monkeypatch.setenv("LAYERSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LAYERSCOPE_DATA", raising=False)
    datasets.disable_progress_bars()
    return tmp_path / "cache" / "data"


@pytest.fixture
def make_set(tmp_path, cache):
    """Write a set of 6 training and 3 test images under ``tmp_path / "root"``; gives its folder."""

    def make(name="birds", train=6, test=3, sizes="same", modes=("RGB",), test_name="test", **kw):
        folder = tmp_path / "root" / name
        labels = kw.pop("labels", [i % 3 for i in range(train)])
        write_parquet(
            folder / "data" / "train-00000-of-00001.parquet",
            encoded(train, sizes, modes),
            labels,
            **kw,
        )
        if test:
            write_parquet(
                folder / "data" / f"{test_name}-00000-of-00001.parquet",
                encoded(test, sizes, modes),
                [i % 3 for i in range(test)],
                **kw,
            )
        return folder

    return make
