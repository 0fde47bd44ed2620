"""What a report says, as plain data; `layerscope.report.render` turns it into one HTML file.

A page arranges and computes nothing: findings, verdicts and figures come ready.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from layerscope.figures.figure import Figure, Table, layers_of
from layerscope.report.finding import Finding
from layerscope.studies.claims import Claim, Verdict


@dataclass(frozen=True)
class Section:
    """A heading, a paragraph and figures."""

    title: str
    text: str = ""
    figures: tuple[Figure, ...] = ()


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
        verdicts: Claims checked, each with its verdict.
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
    verdicts: tuple[tuple[Claim, Verdict], ...] = ()
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
