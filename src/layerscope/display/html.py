"""Small HTML for notebooks: escaped, without colours or fonts of its own, nothing loaded.

What is shown takes the notebook's colours, so that it can be read on light and on dark ground.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from html import escape

MOST_ROWS = 60
"""Rows of a table that are shown; of more, the first and last halves of these."""
CELL = "padding:2px 10px;vertical-align:top"
LONG = 48
"""Letters of a cell that stay on one line; longer ones are wrapped."""
TABLE = "border-collapse:collapse;color:inherit;font:inherit"
"""Pages without a doctype, as some viewers make, have black tables otherwise."""


def block(*parts: str) -> str:
    """Parts under one another."""
    return f"<div>{''.join(parts)}</div>"


def heading(text: str, note: str = "") -> str:
    """A line that says what is shown; the note stands behind it."""
    behind = f" <span>{escape(note)}</span>" if note else ""
    return f"<div><b>{escape(text)}</b>{behind}</div>"


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f'<div style="max-width:60em;margin:4px 0">{escape(text)}</div>'


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table; numbers stand to the right, and long tables are shortened in the middle.

    Args:
        columns: Headings; all empty for none.
        rows: A cell for every column: texts, or numbers (3 significant digits), or None.
    """
    left = [all(isinstance(row[i], str | None) for row in rows) for i in range(len(columns))]
    sides = ["left" if side else "right" for side in left]
    head = "".join(_cell("th", name, side) for name, side in zip(columns, sides, strict=True))
    lines = [
        "".join(_cell("td", text(cell), side) for cell, side in zip(row, sides, strict=True))
        for row in rows
    ]
    lines = shortened(lines, f'<td style="{CELL}" colspan="{len(columns)}">{{}}</td>')
    top = f"<thead><tr>{head}</tr></thead>" if any(columns) else ""
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<table style="{TABLE}">{top}<tbody>{body}</tbody></table>'


def _cell(tag: str, content: str, side: str) -> str:
    wrap = "normal;min-width:20em;max-width:36em" if len(content) > LONG else "nowrap"
    style = f"{CELL};text-align:{side};white-space:{wrap}"
    return f'<{tag} style="{style}">{escape(content)}</{tag}>'


def shortened(lines: Sequence[str], middle: str = "{}") -> list[str]:
    """At most `MOST_ROWS` lines, and between their halves how many more there are.

    Args:
        lines: The lines.
        middle: What stands around that, ``{}`` in its place.
    """
    half, gone = MOST_ROWS // 2, len(lines) - MOST_ROWS
    if gone <= 0:
        return list(lines)
    return [*lines[:half], middle.format(f"... {gone:,} more ..."), *lines[-half:]]


def picture(png: bytes, alt: str, width: int) -> str:
    """A picture, inside of the page, on white: figures are drawn for paper.

    Args:
        png: The PNG file.
        alt: What it shows.
        width: In pixels of the page.
    """
    source = f"data:image/png;base64,{b64encode(png).decode()}"
    style = f"max-width:100%;width:{width}px;background:#fff"
    return f'<div><img alt="{escape(alt)}" src="{source}" style="{style}"></div>'


def text(value: object) -> str:
    """A cell: 3 significant digits of a number, separators in a whole one, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool | str):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"
