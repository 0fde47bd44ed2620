"""What a report says, as plain data; `write` turns it into one HTML file.

A page arranges and computes nothing: findings, verdicts and figures come ready. The file it writes
holds everything it needs and opens offline from disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from layerscope.figures.figure import Figure, Table, layers_of
from layerscope.report.render import html
from layerscope.runs.files import replacing


@dataclass(frozen=True)
class Finding:
    """One plain sentence about the run, with what it rests on.

    Args:
        text: The sentence.
        tone: ``"good"`` or ``"warning"`` where it is one, else ``"plain"``.
        evidence: The numbers behind it, its threshold and source.
        layer: The layer it is about, if it is about one.
    """

    text: str
    tone: Literal["plain", "good", "warning"] = "plain"
    evidence: str = ""
    layer: str | None = None


@dataclass(frozen=True)
class Section:
    """A heading, a paragraph and figures."""

    title: str
    text: str = ""
    figures: tuple[Figure, ...] = ()


@dataclass(frozen=True)
class VerdictRow:
    """One claim and what the measurement says of it.

    Args:
        id: Short name of the claim.
        text: The claim as a sentence.
        source: Paper and place it comes from.
        outcome: What was decided.
        statistic: Name of the deciding quantity.
        value: Its measured value, the effect size.
        interval: Its confidence interval, if there is one.
        n_seeds: Number of seeds behind it.
        note: Anything a reader must know, such as a deviation from the paper.
        threshold: Value of the statistic that separates holding from failing.
    """

    id: str
    text: str
    source: str
    outcome: Literal["holds", "fails", "inconclusive"]
    statistic: str
    value: float
    interval: tuple[float, float] | None = None
    n_seeds: int = 1
    note: str = ""
    threshold: float = 0.0


@dataclass(frozen=True, eq=False)
class Page:
    """A whole report.

    Args:
        title: What was trained or asked, a few words.
        subtitle: One sentence.
        facts: Short pairs (name, value): model, data, epochs, seeds, final accuracy.
        findings: The most important first.
        table: One row for each layer.
        lead: The figure that matters most.
        sections: Everything else, with figures.
        verdicts: Claims checked.
        provenance: Version, configuration, hardware, the command that makes it again; values of
            several lines are shown as they are.
        notices: What is missing or incomplete; shown above everything else.
    """

    title: str
    subtitle: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    findings: tuple[Finding, ...] = ()
    table: Table | None = None
    lead: Figure | None = None
    sections: tuple[Section, ...] = ()
    verdicts: tuple[VerdictRow, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    notices: tuple[str, ...] = ()

    def figures(self) -> tuple[Figure, ...]:
        """Every figure, in the order of the page, without the table of layers."""
        lead = () if self.lead is None else (self.lead,)
        return lead + tuple(figure for section in self.sections for figure in section.figures)

    def layers(self) -> tuple[str, ...]:
        """Every layer on the page, in order of first mention: table, lead figure, sections."""
        tables = () if self.table is None else (self.table,)
        shown = (name for figure in tables + self.figures() for name in layers_of(figure))
        return tuple(dict.fromkeys(shown))


def write(page: Page, path: str | Path) -> Path:
    """Write the page as one self-contained HTML file; a reader never sees half a file.

    Args:
        page: What it says.
        path: Where to; its folder is made if missing.

    Returns:
        The path written.
    """
    path = Path(path)
    text = html(page)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path
