"""Reads HTML as a browser does, and is stricter: every element closed, and nothing from outside."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

KNOWN = {"div", "b", "span", "table", "thead", "tbody", "tr", "th", "td", "img"}


@dataclass
class Reading:
    """Text of a page, its cells in order, and source and meaning of its pictures."""

    text: str = ""
    cells: list[str] = field(default_factory=list)
    pictures: list[tuple[str, str]] = field(default_factory=list)


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found, self.open = Reading(), []

    def handle_starttag(self, tag, attrs):
        assert tag in KNOWN, tag
        given = dict(attrs)
        assert set(given) <= {"style", "alt", "src", "colspan"}
        if tag == "img":
            assert given["src"].startswith("data:image/png;base64,")
            self.found.pictures.append((given["src"], given["alt"]))
            return
        self.open.append(tag)
        if tag in ("td", "th"):
            self.found.cells.append("")

    def handle_endtag(self, tag):
        assert self.open, f"{tag} is closed and was not open"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.found.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.found.cells[-1] += data


def read(html: str) -> Reading:
    """What a page says."""
    parser = _Parser()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    return parser.found
