"""A sentence of a report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One plain sentence about a run, with what it rests on.

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
