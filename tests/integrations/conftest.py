"""Libraries that write below the test's folder, and neither send nor ask anything."""

from __future__ import annotations

import sys
from contextvars import ContextVar

import pytest


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """The folder that every library is told to write to."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    _move_trackio(tmp_path, monkeypatch)
    yield tmp_path
    import mlflow

    while mlflow.active_run() is not None:
        mlflow.end_run()
    mlflow.set_tracking_uri(None)


def _move_trackio(folder, monkeypatch):
    """Trackio reads its folder from the environment once, when it is imported."""
    import trackio

    before = trackio.utils.TRACKIO_DIR
    places = ("TRACKIO_DIR", "MEDIA_DIR", "ARTIFACTS_DIR")
    for module in [m for name, m in sys.modules.items() if name.split(".")[0] == "trackio"]:
        for name in places:
            if name in vars(module):
                moved = folder / getattr(module, name).relative_to(before)
                monkeypatch.setattr(module, name, moved)
    none = ContextVar("current_project", default=None)
    monkeypatch.setattr(trackio.context_vars, "current_project", none)
