from __future__ import annotations

import sys

import pytest

from layerscope.runs import memory


def test_it_asks_the_c_library(monkeypatch):
    asked = []
    monkeypatch.setattr(memory, "_trim", lambda: asked.append)
    memory.give_back()
    assert asked == [0]


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_elsewhere_nothing_is_done(monkeypatch, platform):
    memory._trim.cache_clear()
    monkeypatch.setattr(sys, "platform", platform)
    assert memory._trim() is None
    memory.give_back()
    memory._trim.cache_clear()
