"""``layerscope watch`` in a terminal."""

from __future__ import annotations

import io
import math
import threading

import pytest
from rich.console import Console
from tests.cases import FCN

from layerscope.cli import main
from layerscope.cli import watch as watch_module
from layerscope.cli.watch import BARS, sparkline, view
from layerscope.probes import DistanceFromInitialisation, WeightChange
from layerscope.recording.recorder import Recorder
from layerscope.report.live import Watched
from layerscope.schedule import every


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], ""),
        ([math.nan], ""),
        ([0, 1, 2, 3, 4, 5, 6, 7], BARS),
        ([1, 10, 100, 1000], "▁▃▆█"),  # by their logarithms
        ([2, 2, 2], "▄▄▄"),
        ([0, math.inf, 7], "▁ █"),
        ([0, 0, 4, 4], "▁▁██"),
    ],
)
def test_sparklines(values, expected):
    assert sparkline(values) == expected


def test_a_long_sparkline_is_averaged():
    assert sparkline([0, 0, 1, 1, 6, 8, 7, 7], 4) == "▁▂██"


def recorded(path, steps, close=True):
    model = FCN.model()
    recorder = Recorder(
        model,
        path,
        probes=[WeightChange(), DistanceFromInitialisation()],
        measure=every(1),
        metadata={"total_steps": 10},
    ).open()
    for _ in range(steps):
        for parameter in model.parameters():
            parameter.data.mul_(1.02)
        recorder.step(loss=1.5)
    recorder.flush()
    if close:
        recorder.close()
    return recorder


def text(live, width, monkeypatch):
    console = Console(width=width, record=True, file=io.StringIO())
    monkeypatch.setattr(watch_module, "out", console)
    console.print(view(live))
    return console.export_text()


def test_a_row_for_every_layer(tmp_path, monkeypatch):
    recorder = recorded(tmp_path / "run", 5, close=False)
    shown = text(Watched(recorder.path).now()[1], 120, monkeypatch)
    assert shown.startswith("run: running, step 5 of 10, loss 1.5")
    for name in recorder.layers.names:
        (line,) = [line for line in shown.splitlines() if line.startswith(name)]
        assert "0.02" in line
        assert "▁" in line
    narrow = text(Watched(recorder.path).now()[1], 60, monkeypatch)
    assert "1 more in a wider terminal" in narrow
    recorder.close()


def test_the_command_on_a_run_that_has_ended(tmp_path, capsys):
    recorded(tmp_path / "run", 3)
    assert main(["watch", str(tmp_path / "run")]) == 0
    assert "complete, step 3 of 10" in capsys.readouterr().out


def test_the_command_ends_with_the_run(tmp_path, monkeypatch):
    recorder = recorded(tmp_path / "run", 3, close=False)
    console = Console(width=100, force_terminal=True, file=(tmp_path / "screen").open("w"))
    monkeypatch.setattr(watch_module, "out", console)
    timer = threading.Timer(1.0, recorder.close)
    timer.start()
    assert main(["watch", str(tmp_path / "run"), "--refresh", "0.2"]) == 0
    timer.join()
    console.file.close()
    assert "complete" in (tmp_path / "screen").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [(["nowhere"], "holds no run"), (["nowhere", "--refresh", "0"], "refresh is 0")],
)
def test_mistakes(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["watch", *words]) == 2
    assert message in capsys.readouterr().err
