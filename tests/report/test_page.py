"""The file a report is: complete, escaped, small, asking for nothing outside itself."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from layerscope.figures.figure import Heatmap, Lines, Table
from layerscope.report.finding import Finding
from layerscope.report.page import Page, Section
from layerscope.report.render import _wide, measured, table_view, whisker, write
from layerscope.studies.claims import Claim, Verdict

EVIL = '</script><img src=x onerror=alert(1)>&"'
VOID = {"meta", "link", "img", "br", "input", "hr"}
SHAPES = {"circle", "path", "line"}


class Outline(HTMLParser):
    """Collects elements, and complains about tags that do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)

    def count(self, tag: str, **attributes: str) -> int:
        return sum(name == tag and attributes.items() <= found.items() for name, found in self.seen)


def outline(path: Path) -> Outline:
    parser = Outline()
    parser.feed(path.read_text(encoding="utf-8"))
    parser.close()
    assert parser.open == []
    return parser


@pytest.mark.parametrize("name", ["four_layers", "sixty_layers"])
def test_a_page_is_whole_small_and_asks_for_nothing(name, tmp_path, request):
    page = request.getfixturevalue(name)
    path = write(page, tmp_path / "deep" / "report.html")
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_size < 6e6
    found = outline(path)
    assert found.count("h1") == 1
    assert found.count("meta", name="color-scheme") == 1
    assert found.count("button", **{"class": "chip"}) == len(page.layers())
    assert found.count("div", **{"class": "plot"}) == len(page.figures())
    for _, attributes in found.seen:
        for key in ("src", "href", "srcset", "action", "data"):
            assert not re.match(r"\s*(https?:)?//", attributes.get(key) or "")
    own = re.sub(r'id="library">[^<]*<', "<", path.read_text(encoding="utf-8"))
    assert "http://" not in own
    assert "https://" not in own
    assert "@import" not in own


def test_every_verdict_is_told_with_a_word_and_counted_in_the_head(four_layers, tmp_path):
    text = " ".join(outline(write(four_layers, tmp_path / "r.html")).text)
    assert text.count("1 holds, 1 fails, 1 inconclusive") == 2
    for claim, verdict in four_layers.verdicts:
        assert claim.text in text
        assert claim.source in text
        assert verdict.statistic in text


def evil_page() -> Page:
    verdict = Verdict("fails", EVIL, 1.0, None, 1, note=EVIL)
    data = xr.DataArray(
        np.arange(6.0).reshape(2, 3),
        dims=("layer", "step"),
        coords={"layer": [EVIL, "b"]},
        attrs={"long_name": EVIL, "units": EVIL},
    )
    return Page(
        title=EVIL,
        subtitle=EVIL,
        facts=((EVIL, EVIL),),
        findings=(Finding(EVIL, "warning", EVIL, EVIL),),
        table=Table(data.isel(step=0).to_dataset(name="v"), "table", EVIL, EVIL),
        lead=Lines(data, "lead", EVIL, EVIL),
        sections=(Section(EVIL, EVIL, (Lines(data, "b", EVIL, panel="layer", hue=None),)),),
        verdicts=((Claim("a", EVIL, EVIL, lambda _: verdict), verdict),),
        provenance={EVIL: EVIL, "lines": f"{EVIL}\n{EVIL}"},
        notices=(EVIL,),
    )


def test_names_cannot_become_markup(tmp_path):
    path = write(evil_page(), tmp_path / "r.html")
    found = outline(path)
    assert found.count("img") == 0
    assert EVIL not in path.read_text(encoding="utf-8")
    assert EVIL in "".join(found.text)


def test_specifications_are_json(four_layers, tmp_path):
    text = write(four_layers, tmp_path / "r.html").read_text(encoding="utf-8")
    specs = re.findall(r'<script type="application/json" id="spec-\d+">(.*?)</script>', text)
    assert len(specs) == len(four_layers.figures())
    for spec in specs:
        assert {"data", "layout"} <= json.loads(spec).keys()


def test_an_almost_empty_page_is_a_page(tmp_path):
    found = outline(write(Page(title="Nothing yet"), tmp_path / "r.html"))
    assert found.count("h2") == 0
    assert found.count("script", id="library") == 0


def test_the_same_page_is_the_same_file(four_layers, tmp_path):
    one, two = (write(four_layers, tmp_path / name) for name in ("1.html", "2.html"))
    assert one.read_bytes() == two.read_bytes()


def test_a_write_that_fails_leaves_the_old_file(four_layers, tmp_path):
    path = write(four_layers, tmp_path / "r.html")
    before = path.read_bytes()
    bad = replace(four_layers, facts=(("broken",),))
    with pytest.raises(ValueError, match="not enough values"):
        write(bad, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_bars_in_a_table_are_as_long_as_the_values(four_layers):
    view = table_view(four_layers.table)
    widths = [row["cells"][1]["width"] for row in view["rows"]]
    assert widths[-1] == 100
    assert widths == sorted(widths)


def verdict(value: float, interval: tuple[float, float] | None) -> Verdict:
    return Verdict("holds", "difference", value, interval, 5)


def test_a_verdict_is_written_to_the_decimals_its_interval_warrants():
    assert measured(verdict(0.98123, (0.91, 1.0))) == ("0.981", "[0.910, 1.000]")
    assert measured(verdict(-12.34, (-18.2, -6.0))) == (
        "\N{MINUS SIGN}12.3",
        "[\N{MINUS SIGN}18.2, \N{MINUS SIGN}6.0]",
    )
    assert measured(verdict(0.028, (0.0139, 0.0424)))[0] == "0.028"
    assert measured(verdict(0.98123, None)) == ("0.981", "")


def test_a_whisker_lies_in_its_picture_in_order():
    at = whisker(verdict(0.5, (0.2, 0.7)))
    assert 0 < at["threshold"] < at["low"] < at["value"] < at["high"] < 132
    assert whisker(verdict(0.0, None)) == {"value": 6, "threshold": 6, "low": None, "high": None}


def test_a_verdict_without_a_value_has_no_mark():
    nothing = verdict(float("nan"), None)
    assert whisker(nothing) is None
    assert measured(nothing) == ("no value", "")


@pytest.mark.parametrize(("columns", "wide"), [(4, False), (6, True)])
def test_figures_of_many_columns_take_the_whole_width(columns, wide):
    names = [f"c{i}" for i in range(columns)]
    table = Table([{"layer": "a", **dict.fromkeys(names, 1.0)}], "t", "", columns=())
    grid = xr.DataArray(np.zeros((2, 4 * columns)), dims=("layer", "step"))
    assert _wide(table) == wide
    spread = xr.Dataset({name: (("seed", "layer"), [[1.0], [2.0]]) for name in names})
    assert _wide(Table(spread.assign_coords(layer=["a"]), "t", ""))
    assert _wide(Heatmap(grid, "h", "")) == (4 * columns > 12)
    assert _wide(Table([{"layer": "CIFAR-10: settled layers frozen in order", "c": 1.0}], "t", ""))
