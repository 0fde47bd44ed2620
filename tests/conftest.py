"""Fixtures that every test folder may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("tests.training_loop")
settings.register_profile("tests", deadline=None)  # a loaded machine is no failure
settings.load_profile("tests")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of real data sets in hub layout: LAYERSCOPE_DATA, else ``shared/data`` next door."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    root = Path(os.environ.get("LAYERSCOPE_DATA") or beside)
    if not root.is_dir():
        pytest.skip(f"no real data: set LAYERSCOPE_DATA or put it at {root}")
    return root
