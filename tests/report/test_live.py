"""A run that is still going: what is read of it, and the page that keeps itself up to date."""

from __future__ import annotations

import http.client
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from urllib.request import urlopen

import pytest
from tests.cases import CNN

from layerscope.errors import LayerscopeError
from layerscope.probes import GradientMagnitude, Preactivations, WeightChange
from layerscope.recording.recorder import Recorder
from layerscope.report.live import (
    Progress,
    Watched,
    describe,
    duration,
    live_page,
    version,
)
from layerscope.report.render import html
from layerscope.report.serve import serving
from layerscope.schedule import every


@pytest.fixture
def training(tmp_path):
    """A recorder that is open, and a function that trains and writes some steps."""
    model = CNN.model()
    recorder = Recorder(
        model,
        tmp_path / "run",
        task=CNN.task,
        batch=CNN.batch(0),
        probes=[GradientMagnitude(), WeightChange(), Preactivations()],
        measure=every(1),
        metadata={"total_steps": 20},
    )

    def train(steps):
        for _ in range(steps):
            for parameter in model.parameters():
                parameter.data.mul_(1.01)
            recorder.step(loss=2.0 / (recorder.current_step + 1))
        recorder.flush()

    with recorder:
        yield recorder, train


def test_a_run_without_measurements_is_shown(training):
    recorder, _ = training
    live = Watched(recorder.path).now()[1]
    assert (live.progress.status, live.progress.step, live.progress.left) == ("running", 0, None)
    assert live.table() is None
    assert "How each layer is learning" in html(live_page(live))


def test_what_was_written_is_read(training):
    recorder, train = training
    watched = Watched(recorder.path)
    before = watched.now()[0]
    train(4)
    now, live = watched.now()
    assert now != before
    assert (live.progress.step, live.progress.total, live.progress.loss) == (4, 20, 0.5)
    assert live.progress.left == pytest.approx(4 * live.progress.seconds)
    assert [values.name for values in live.columns()] == ["change", "gradient_magnitude"]
    page = live_page(live)
    assert page.subtitle.startswith("run: running, step 4 of 20, loss 0.5")
    assert dict(page.facts)["steps"] == "4"
    rows = dict(zip(page.table.row_names(), page.table.cells(), strict=True))
    expected = recorder.run.results("gradient_magnitude")["gradient_magnitude"].isel(step=-1)
    for layer in expected["layer"].values:
        assert rows[layer][1].value == float(expected.sel(layer=layer))
    assert {"loss", "preactivations"} <= {figure.key.split("-")[0] for figure in page.figures()}


def test_what_has_not_changed_is_not_read_again(training):
    recorder, train = training
    train(2)
    watched = Watched(recorder.path)
    (first, one), (second, other) = watched.now(), watched.now()
    assert first == second
    assert one.measured is other.measured


def test_nothing_is_measured(training):
    recorder, train = training
    train(3)
    before = sorted(recorder.path.rglob("*"))
    live_page(Watched(recorder.path).now()[1])
    assert sorted(recorder.path.rglob("*")) == before


def test_threads_take_turns(training):
    recorder, train = training
    train(3)
    with ThreadPoolExecutor(4) as pool:
        pages = pool.map(lambda _: html(live_page(Watched(recorder.path).now()[1])), range(12))
        assert all("gradient" in page for page in pages)


def test_the_end_is_seen(training):
    recorder, train = training
    train(2)
    watched = Watched(recorder.path)
    recorder.close(ValueError("enough"))
    progress = watched.now()[1].progress
    assert (progress.status, progress.left) == ("interrupted", None)
    assert "How each layer learned" in html(live_page(watched.now()[1]))


def test_an_end_between_two_looks_at_the_disk_is_seen_whole(training, monkeypatch):
    recorder, train = training
    train(2)
    watched = Watched(recorder.path)
    versions = [version(recorder.path)]  # as it was before the end
    train(1)
    recorder.close()
    look = "layerscope.report.live.version"
    monkeypatch.setattr(look, lambda path: versions.pop() if versions else version(path))
    now, seen = watched.now()
    assert now == version(recorder.path)
    assert (seen.progress.status, seen.progress.step) == ("complete", 3)


def test_the_time_of_a_run_whose_process_was_killed_stops(training):
    recorder, train = training
    train(2)
    manifest = (recorder.path / "run.json").read_text()
    recorder.close()
    (recorder.path / "run.json").write_text(manifest)
    os.utime(recorder.path / "run.json", (0, 0))
    first, second = (Watched(recorder.path).now()[1].progress for _ in range(2))
    assert first.status == "interrupted"
    assert 0 < first.seconds == second.seconds


def test_a_folder_without_a_run_is_an_error(tmp_path):
    with pytest.raises(LayerscopeError, match="holds no run"):
        Watched(tmp_path)


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (Progress("running", 120, 900, 40.0, 0.3125), "running, step 120 of 900, loss 0.312, 40 s"),
        (Progress("complete", 1200, None, 7500.0, None), "complete, step 1,200, 2 h 5 min"),
    ],
)
def test_progress_in_words(progress, text):
    assert describe(progress).startswith(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (61, "1 min"), (7230, "2 h 0 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


# The server


def test_the_state_is_that_of_the_run(training):
    recorder, train = training
    train(2)
    watched = Watched(recorder.path)
    with serving(watched) as (address, _):
        state = json.load(urlopen(f"{address}state"))
        assert state["version"] == watched.now()[0]
        assert state["status"] == "running"
        page = urlopen(address).read().decode()
        assert json.dumps(state["version"]) in page
        train(1)
        assert json.load(urlopen(f"{address}state"))["version"] != state["version"]


@pytest.mark.parametrize(
    ("path", "host", "status"),
    [
        ("/", "evil.example", 403),
        ("/state", "evil.example:80", 403),
        ("/../run.json", None, 404),
        ("/run.json", None, 404),
        ("/state?x=1", None, 200),
    ],
)
def test_nothing_else_is_served(training, path, host, status):
    recorder, _ = training
    with serving(Watched(recorder.path)) as (address, _):
        place = address.split("/")[2]
        connection = http.client.HTTPConnection(place)
        connection.putrequest("GET", path, skip_host=True)
        connection.putheader("Host", host or place)
        connection.endheaders()
        assert connection.getresponse().status == status
        connection.close()


def test_a_run_that_is_gone_is_said(training):
    recorder, train = training
    train(1)
    with serving(Watched(recorder.path)) as (address, _):
        shutil.move(recorder.path, recorder.path.parent / "elsewhere")
        place = address.split("/")[2]
        connection = http.client.HTTPConnection(place)
        connection.request("GET", "/state")
        answer = connection.getresponse()
        assert answer.status == 503
        assert "holds no run" in answer.read().decode()
        connection.close()
        shutil.move(recorder.path.parent / "elsewhere", recorder.path)


def test_a_port_that_is_taken_is_an_error(training):
    recorder, _ = training
    with serving(Watched(recorder.path)) as (address, _):
        port = int(address.rstrip("/").rpartition(":")[2])
        with (
            pytest.raises(LayerscopeError, match=f"port {port}"),
            serving(Watched(recorder.path), port),
        ):
            pass


@pytest.mark.browser
def test_the_page_keeps_itself_up_to_date(training):
    recorder, train = training
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or pytest.skip("no Chromium is installed")
    train(3)
    length = "document.querySelector('.js-plotly-plot').data[0].x.length"
    with (
        serving(Watched(recorder.path), refresh=0.2) as (address, served),
        sync_api.sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab, faults = browser.new_page(), []
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.on("console", lambda m: faults.append(m.text) if m.type == "error" else None)
        tab.goto(address)
        tab.wait_for_selector("html[data-ready]")
        tab.locator(".plot").first.scroll_into_view_if_needed()
        tab.wait_for_selector(".js-plotly-plot")
        assert tab.evaluate(length) == 3
        tab.evaluate("window.mark = 1")
        train(4)
        tab.wait_for_function(f"() => {length} === 7")
        said = "() => document.querySelector('.subtitle').textContent.includes('step 7 of 20')"
        tab.wait_for_function(said)
        assert tab.evaluate("window.mark") == 1  # not loaded again
        tab.route("**/state", lambda route: route.abort())
        tab.wait_for_function("() => document.documentElement.dataset.live === 'lost'")
        assert "no longer watched" in tab.inner_text(".subtitle")
        tab.unroute("**/state")
        tab.wait_for_function("() => document.documentElement.dataset.live === 'running'")
        tab.wait_for_function(said)
        assert {*faults} == {"Failed to load resource: net::ERR_FAILED"}
        faults.clear()
        recorder.close()
        tab.wait_for_function("() => document.documentElement.dataset.live === 'complete'")
        served.wait_for_a_last_look(10)
        assert "complete" in tab.inner_text(".subtitle")
        assert faults == []
        browser.close()
