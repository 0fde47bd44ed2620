"""What a reader does with a report, in a real browser, offline."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from layerscope.report.render import write

pytestmark = pytest.mark.browser
sync_api = pytest.importorskip("playwright.sync_api")

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
VISIBLE_LAYERS = """() => [...document.querySelectorAll('.plot.js-plotly-plot')].map(node => [
    node.dataset.key,
    [...new Set(node.data.flatMap(t => t.meta.points || t.meta.rows ? t.y : [t.meta.layer])
        .filter(Boolean))]])"""


WITHIN = "() => document.documentElement.scrollWidth <= innerWidth"


@dataclass
class Reader:
    """A page in the browser, and everything it did that it should not have done."""

    tab: sync_api.Page
    faults: list[str] = field(default_factory=list)

    def open(self, path: Path, hash: str = "") -> None:
        self.tab.on("console", lambda m: self.faults.append(m.text) if m.type == "error" else None)
        self.tab.on("pageerror", lambda error: self.faults.append(str(error)))
        self.tab.on("request", self._request)
        self.tab.goto(f"{path.as_uri()}{hash}")
        self.tab.wait_for_selector("html[data-ready]", timeout=20_000)

    def _request(self, request: sync_api.Request) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            self.faults.append(request.url)

    def draw_all(self) -> None:
        for plot in self.tab.locator(".plot").all():
            plot.scroll_into_view_if_needed()
            plot.locator(".main-svg").first.wait_for()
        self.tab.evaluate("scrollTo(0, 0)")

    def plot(self, key: str) -> sync_api.Locator:
        plot = self.tab.locator(f".plot[data-key={key}]")
        plot.scroll_into_view_if_needed()
        plot.locator(".main-svg").first.wait_for()
        return plot

    def range(self, key: str) -> list[float]:
        return self.tab.evaluate(
            "key => document.querySelector(`.plot[data-key=${key}]`)._fullLayout.xaxis.range", key
        )

    def wider_than_screen(self) -> bool:
        return self.tab.evaluate("document.documentElement.scrollWidth > innerWidth")


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    found = (
        os.environ.get("LAYERSCOPE_CHROMIUM")
        or shutil.which("chromium")
        or shutil.which("chromium-browser")
    )
    if not found:
        pytest.skip("no Chromium found; set LAYERSCOPE_CHROMIUM to its path")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield running
        running.close()


@pytest.fixture(scope="module")
def path(four_layers, tmp_path_factory) -> Path:
    return write(four_layers, tmp_path_factory.mktemp("report") / "four.html")


@pytest.fixture(scope="module")
def deep_path(sixty_layers, tmp_path_factory) -> Path:
    return write(sixty_layers, tmp_path_factory.mktemp("report") / "sixty.html")


@pytest.fixture
def reader(browser) -> Iterator[Reader]:
    context = browser.new_context(viewport={"width": 1280, "height": 800}, offline=True)
    made = Reader(context.new_page())
    yield made
    context.close()
    assert made.faults == []


def test_first_screen_shows_findings_table_and_layers(reader, path):
    reader.open(path)
    for what in ("#findings", "#layers", ".findings li >> nth=0", "table.data >> nth=0", ".chip"):
        box = reader.tab.locator(what).first.bounding_box()
        assert box["y"] + box["height"] < 800, what


def test_every_figure_is_drawn(reader, path):
    reader.open(path)
    reader.draw_all()
    drawn = reader.tab.evaluate(VISIBLE_LAYERS)
    assert len(drawn) == 7
    assert all(layers for _, layers in drawn)


def test_hover_names_layer_and_value(reader, path):
    reader.open(path)
    plot = reader.plot("change")
    box = plot.locator(".nsewdrag").first.bounding_box()
    at = reader.tab.evaluate(
        """() => { const g = document.querySelector('.plot[data-key=change]');
        const t = g.data.find(t => t.meta.role === 'line' && t.meta.layer === 'head');
        const f = g._fullLayout;
        return [f.xaxis.d2p(t.x[20]), f.yaxis.d2p(t.y[20])] }"""
    )
    reader.tab.mouse.move(box["x"] + at[0] - 3, box["y"] + at[1])
    reader.tab.mouse.move(box["x"] + at[0], box["y"] + at[1], steps=3)
    label = plot.locator(".hoverlayer .hovertext")
    label.wait_for()
    text = label.text_content()
    assert "head" in text
    assert "epoch 20" in text
    assert "relative change 0." in text


@pytest.mark.slow
def test_zoom_by_dragging_is_shared_and_double_click_resets(reader, path):
    reader.open(path)
    reader.draw_all()
    plot = reader.plot("change")
    whole = reader.range("change")
    box = plot.locator(".nsewdrag").first.bounding_box()
    middle = box["y"] + box["height"] / 2
    reader.tab.mouse.move(box["x"] + 0.2 * box["width"], middle)
    reader.tab.mouse.down()
    reader.tab.mouse.move(box["x"] + 0.6 * box["width"], middle, steps=6)
    reader.tab.mouse.up()
    reader.tab.wait_for_timeout(500)
    zoomed = reader.range("change")
    assert zoomed[0] > whole[0] + 5
    assert zoomed[1] < whole[1] - 5
    for key in ("distance", "gradient", "convergence"):
        assert reader.range(key) == pytest.approx(zoomed)
    reader.tab.locator(".theme").click()
    assert reader.range("change") == pytest.approx(zoomed)
    plot.locator(".nsewdrag").first.dblclick()
    reader.tab.wait_for_timeout(500)
    assert reader.range("change") == pytest.approx(whole)
    assert reader.range("distance") != pytest.approx(zoomed)


@pytest.mark.slow
def test_choosing_layers_holds_in_every_figure_and_in_the_table(reader, path):
    reader.open(path)
    reader.draw_all()
    chip = reader.tab.locator(".chip[data-layer=fc1]")
    chip.dblclick()
    shown = reader.tab.evaluate(VISIBLE_LAYERS)
    assert len(shown) == 7
    for key, layers in shown:
        assert layers == ["fc1"], key
    assert reader.tab.locator("table[data-layers] tr.on").get_attribute("data-layer") == "fc1"
    assert "layers=fc1" in reader.tab.url
    reader.tab.locator(".all").click()
    reader.tab.locator(".chip[data-layer=head]").click()
    assert all("head" not in layers for _, layers in reader.tab.evaluate(VISIBLE_LAYERS))
    assert reader.tab.locator(".chip[aria-pressed=true]").count() == 3
    reader.tab.locator(".chip[data-layer=head]").click()
    assert all("head" in layers for _, layers in reader.tab.evaluate(VISIBLE_LAYERS))


def test_a_row_chooses_its_layer_and_gives_it_back(reader, path):
    reader.open(path)
    row = reader.tab.locator("table[data-layers] tr[data-layer=conv2] td").first
    row.click()
    assert reader.tab.locator(".chip[aria-pressed=true]").all_inner_texts() == ["conv2"]
    row.click()
    assert reader.tab.locator(".chip[aria-pressed=true]").count() == 4


def test_layers_are_chosen_by_keyboard(reader, path):
    reader.open(path)
    reader.tab.locator(".chip[data-layer=conv1]").focus()
    reader.tab.keyboard.press("Enter")
    assert reader.tab.locator(".chip[aria-pressed=true]").count() == 3
    reader.tab.keyboard.press("Tab")
    reader.tab.keyboard.press("Alt+Enter")
    reader.tab.locator("tr[data-layer=fc1] .pick").focus()
    reader.tab.keyboard.press("Enter")
    assert reader.tab.locator(".chip[aria-pressed=true]").all_inner_texts() == ["fc1"]


def test_the_address_keeps_the_choice(reader, path):
    reader.open(path, "#layers=conv1%7Chead&theme=dark")
    assert reader.tab.locator(".chip[aria-pressed=true]").all_inner_texts() == ["conv1", "head"]
    assert reader.tab.locator("html").get_attribute("data-theme") == "dark"


def test_a_heading_sorts_the_table(reader, path):
    reader.open(path)
    table = reader.tab.locator("table[data-layers]").first
    names = table.locator("tbody th")
    head = table.get_by_role("columnheader", name="distance travelled")
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert names.all_inner_texts() == ["head", "fc1", "conv2", "conv1"]
    head.get_by_role("button").click()
    assert names.all_inner_texts() == ["conv1", "conv2", "fc1", "head"]


def test_theme_follows_the_system_and_the_button(browser, path):
    context = browser.new_context(color_scheme="dark", offline=True)
    reader = Reader(context.new_page())
    reader.open(path)
    reader.plot("change")
    paper = "() => getComputedStyle(document.body).backgroundColor"
    ink = "() => document.querySelector('.plot[data-key=change]')._fullLayout.font.color"
    assert reader.tab.evaluate(paper) == "rgb(22, 24, 28)"
    assert reader.tab.evaluate(ink) == "#a0a6b0"
    reader.tab.locator(".theme").click()
    assert reader.tab.evaluate(paper) == "rgb(255, 255, 255)"
    assert reader.tab.evaluate(ink) == "#5b6069"
    assert "theme=light" in reader.tab.url
    context.close()
    assert reader.faults == []


@pytest.mark.slow
@pytest.mark.parametrize("which", ["path", "deep_path"])
def test_nothing_is_wider_than_the_screen(reader, which, request):
    reader.tab.set_viewport_size({"width": 400, "height": 800})
    reader.open(request.getfixturevalue(which))
    reader.draw_all()
    assert not reader.wider_than_screen()
    for width in (1280, 768):  # a window that is made wider, and narrower again
        reader.tab.set_viewport_size({"width": width, "height": 800})
        reader.tab.wait_for_function(WITHIN)


def test_numbers_can_be_saved(reader, path):
    reader.open(path)
    reader.plot("change")
    figure = reader.tab.locator("#figure-change")
    figure.locator("summary").click()
    with reader.tab.expect_download() as download:
        figure.get_by_role("button", name="Numbers (CSV)").click()
    lines = Path(download.value.path()).read_text(encoding="utf-8").splitlines()
    assert download.value.suggested_filename == "change.csv"
    assert lines[0] == "panel,name,x,value"
    assert len(lines) == 1 + 4 * 50


def test_the_line_of_a_front_takes_no_rows_and_is_no_number(reader, path):
    """It has one point more than there are squares on it."""
    reader.open(path)
    reader.plot("convergence")
    rows = "() => document.querySelector('.plot[data-key=convergence]')._fullLayout.yaxis.range"
    assert reader.tab.evaluate(rows) == [3.5, -0.5]
    reader.tab.locator(".chip[data-layer=fc1]").dblclick()
    assert reader.tab.evaluate(rows) == [0.5, -0.5]
    figure = reader.tab.locator("#figure-convergence")
    figure.locator("summary").click()
    with reader.tab.expect_download() as download:
        figure.get_by_role("button", name="Numbers (CSV)").click()
    lines = Path(download.value.path()).read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + 4 * 50 + 4 + 4


def test_without_scripts_the_findings_can_be_read(browser, path):
    context = browser.new_context(java_script_enabled=False, offline=True)
    tab = context.new_page()
    tab.goto(path.as_uri())
    assert tab.locator(".findings li").count() == 4
    assert tab.locator("table[data-layers] tbody tr").count() == 4
    assert tab.get_by_text("scripts are switched off").is_visible()
    context.close()
