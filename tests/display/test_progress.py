"""Who sees a bar, when, and where; time is told by the test."""

from __future__ import annotations

import io
import sys
from types import ModuleType, SimpleNamespace

import pytest
from rich.console import Console
from tests.cases import FCN

from layerscope.display import progress
from layerscope.errors import LayerscopeError
from layerscope.execution import local
from layerscope.probes import DistanceFromInitialisation, WeightChange, measure, measure_all
from layerscope.recording.recorder import Recorder
from layerscope.schedule import every


@pytest.fixture
def clock(monkeypatch):
    """Seconds, which stand still but for what a test adds."""
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now.seconds)
    monkeypatch.setattr(progress, "_busy", False)
    monkeypatch.delenv(progress.SETTING, raising=False)
    return now


@pytest.fixture
def terminal(clock, monkeypatch):
    """A terminal that keeps what is printed on it."""
    del clock
    console = Console(record=True, file=io.StringIO(), force_terminal=True, width=80)
    monkeypatch.setattr(progress, "_console", lambda: console)
    monkeypatch.setattr(progress, "in_notebook", lambda: False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    return console


@pytest.fixture
def notebook(clock, monkeypatch):
    """A notebook, as far as a bar needs one: what its one display has shown."""
    del clock
    shown: list[str] = []

    class ZMQInteractiveShell:
        pass

    def display(html, display_id):
        assert display_id
        shown.append(html)
        return SimpleNamespace(update=shown.append)

    ipython, inside = ModuleType("IPython"), ModuleType("IPython.display")
    ipython.get_ipython = ZMQInteractiveShell
    inside.HTML, inside.display = str, display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", inside)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    return shown


def work(clock, seconds, label="measuring", advance=None, steps=4):
    with progress.reporting(label, advance) as report:
        for done in range(1, steps + 1):
            clock.seconds += seconds / steps
            report(done, steps)


def written(console):
    return console.file.getvalue()


def test_a_long_call_shows_a_bar_that_goes_away(terminal, clock):
    work(clock, 6.0)
    text = written(terminal)
    assert "measuring" in text
    assert "2/4" in text
    assert "4/4" in text
    assert "1/4" not in text  # the patience was not over
    assert text.rstrip().endswith("\x1b[2K")  # transient: the line is erased


def test_a_short_call_shows_nothing(terminal, clock):
    work(clock, 1.9)
    assert written(terminal) == ""


def test_a_bar_is_not_drawn_at_every_step(terminal, clock):
    work(clock, 4.0, steps=10_000)
    assert 15 < written(terminal).count("measuring") < 25


def test_nothing_is_printed_where_there_is_no_terminal(clock, monkeypatch, capfd):
    monkeypatch.setattr(progress, "in_notebook", lambda: False)
    work(clock, 60.0)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("setting", "shown"), [("0", False), ("1", True)])
def test_a_setting_turns_it_off(setting, shown, terminal, clock, monkeypatch):
    monkeypatch.setenv("LAYERSCOPE_PROGRESS", setting)
    work(clock, 8.0)
    assert bool(written(terminal)) is shown


def test_a_setting_that_means_nothing_is_refused(terminal, clock, monkeypatch):
    monkeypatch.setenv("LAYERSCOPE_PROGRESS", "off")
    with pytest.raises(LayerscopeError, match=r"LAYERSCOPE_PROGRESS 'off'.*\n.*Known: 0, 1"):
        work(clock, 8.0)
    monkeypatch.setenv("LAYERSCOPE_PROGRESS", "1")
    work(clock, 8.0)
    assert "4/4" in written(terminal)


def test_who_gives_advance_is_told_and_nothing_is_shown(terminal, clock):
    seen = []
    work(clock, 8.0, advance=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert written(terminal) == ""


@pytest.mark.parametrize("outer", [None, lambda done, total: None])
def test_of_calls_inside_one_another_the_outermost_speaks(outer, terminal, clock):
    with progress.reporting("outer", outer) as report:
        work(clock, 8.0, "inner")
        report(1, 2)
    text = written(terminal)
    assert "inner" not in text
    assert ("outer" in text) is (outer is None)
    work(clock, 8.0, "after")
    assert "after" in written(terminal)


def test_a_call_that_fails_takes_its_bar_with_it(terminal, clock):

    def fails():
        with progress.reporting("failing", None) as report:
            clock.seconds += 3
            report(1, 2)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert written(terminal).rstrip().endswith("\x1b[2K")
    work(clock, 8.0, "after")
    assert "after" in written(terminal)


def test_a_notebook_has_the_browsers_own_bar(notebook, clock):
    work(clock, 8.0, "a <b>")
    first, *between, last = notebook
    assert (first, last) == ("", "")
    assert between[-1] == 'a &lt;b&gt; <progress value="4" max="4"></progress> 4/4'
    assert len(between) == 4


def test_where_python_runs_is_told_apart(notebook, monkeypatch):
    assert notebook == []
    assert progress.in_notebook()
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: None)
    assert not progress.in_notebook()
    monkeypatch.delitem(sys.modules, "IPython")
    assert not progress.in_notebook()


def test_workers_say_nothing(terminal, clock, monkeypatch):
    monkeypatch.setattr(local.torch, "set_num_threads", lambda n: None)
    local._start_worker(None, 1)
    work(clock, 8.0)
    assert written(terminal) == ""


def test_measuring_shows_a_bar(terminal, clock, tmp_path, monkeypatch):
    model = FCN.model()
    with Recorder(model, tmp_path / "a", checkpoints=every(1), measure=every(1)) as recorder:
        for _ in range(3):
            recorder.step()
    run = recorder.run
    read = run.checkpoint

    def slow(step, *rest):
        clock.seconds += 3.0
        return read(step, *rest)

    monkeypatch.setattr(run, "checkpoint", slow)
    measure(WeightChange(), run)
    assert "measuring weight_change" in written(terminal)
    assert "4/4" in written(terminal)
    measure_all([WeightChange(p=2.0), DistanceFromInitialisation()], run)
    assert "measuring 2 probes" in written(terminal)
