"""Claims of papers and the verdicts that measurements reach on them.

A verdict rests on one number per seed, the effect, and the Student-t confidence interval of its
mean over seeds: a claim *holds* where the whole interval lies above the threshold, *fails* where
it lies below, and is *inconclusive* otherwise. One seed decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import xarray as xr

from layerscope.display import html
from layerscope.errors import LayerscopeError
from layerscope.functional.estimates import mean_interval

Outcome = Literal["holds", "fails", "inconclusive"]
VERDICT = ("verdict", "statistic", "value", "95% interval", "holds where", "seeds")
"""Headings of `Verdict.cells`."""


@dataclass(frozen=True)
class Verdict:
    """What a measurement says of a claim.

    Attributes:
        outcome: ``holds``, ``fails`` or ``inconclusive``.
        statistic: Name of the deciding number.
        value: Its mean over seeds; NaN where no seed could be measured.
        interval: Its 95% confidence interval; None with fewer than two seeds.
        n_seeds: Seeds behind it.
        threshold: What separates holding from failing.
        note: Anything a reader must know.
    """

    outcome: Outcome
    statistic: str
    value: float
    interval: tuple[float, float] | None
    n_seeds: int
    threshold: float = 0.0
    note: str = ""

    def __repr__(self) -> str:
        cells = ", ".join(text for text in self.cells[1:] if text)
        return f"Verdict({self.outcome}: {cells})"

    def _repr_html_(self) -> str:
        return html.block(html.table(VERDICT, [self.cells]), html.paragraph(self.note))

    @property
    def cells(self) -> tuple[str, ...]:
        """It for people, see `VERDICT`."""
        interval = "" if self.interval is None else "[{:.3g}, {:.3g}]".format(*self.interval)
        value = f"{self.value:.3g}" if math.isfinite(self.value) else "no value"
        threshold = f"above {self.threshold:.3g}"
        return self.outcome, self.statistic, value, interval, threshold, f"n = {self.n_seeds}"


@dataclass(frozen=True)
class Claim:
    """One falsifiable statement and the statistic that decides it.

    Attributes:
        id: Short name, unique within a study.
        text: The statement.
        source: Paper and place.
        decide: From the study's data to the verdict.
        variants: Variants of the study that it speaks of; all of them where empty.
    """

    id: str
    text: str
    source: str
    decide: Callable[[xr.DataTree], Verdict]
    variants: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Claim({self.id!r}: {self.text})"

    def _repr_html_(self) -> str:
        return html.block(html.heading(self.id, self.source), html.paragraph(self.text))

    def row(self, verdict: Verdict) -> dict[str, Any]:
        """Plain values for ``claims.json``."""
        return {
            "id": self.id,
            "text": self.text,
            "source": self.source,
            "verdict": verdict.outcome,
            "statistic": verdict.statistic,
            "value": _plain(verdict.value),
            "interval": None if verdict.interval is None else [_plain(v) for v in verdict.interval],
            "n_seeds": verdict.n_seeds,
            "threshold": verdict.threshold,
            "note": verdict.note,
        }


def verdict_table(verdicts: Sequence[tuple[Claim, Verdict]]) -> str:
    """Claims and their verdicts, as HTML for notebooks."""
    rows = [[claim.id, claim.text, *verdict.cells] for claim, verdict in verdicts]
    return html.table(["claim", "statement", *VERDICT], rows)


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def above(effects: xr.DataArray | Sequence[float], statistic: str, threshold: float = 0) -> Verdict:
    """Decide whether an effect exceeds a threshold.

    Args:
        effects: One number per seed; what is not finite does not count.
        statistic: What the number is.
        threshold: What it has to exceed.
    """
    values = np.asarray(effects, float).ravel()
    found = mean_interval(values, axis=0)
    n = int(found.n)
    interval = (float(found.low), float(found.high)) if n > 1 else None
    outcome: Outcome = "inconclusive"
    if interval is not None and interval[0] > threshold:
        outcome = "holds"
    elif interval is not None and interval[1] < threshold:
        outcome = "fails"
    note = "" if n > 1 else f"{n} seed: no interval, so nothing is decided."
    return Verdict(outcome, statistic, float(found.mean), interval, n, threshold, note)


def all_of(parts: Mapping[str, Verdict]) -> Verdict:
    """The verdict on a claim that holds only if each of its parts does.

    It fails if a part fails and holds if all do (an intersection-union test, which needs no
    correction for the number of parts). The numbers shown are those of the part that decides:
    the failing one, else the one whose interval reaches lowest against its threshold.

    Raises:
        LayerscopeError: There are no parts.
    """
    if not parts:
        raise LayerscopeError("a claim without parts.", "Give at least one.")
    outcomes = [part.outcome for part in parts.values()]
    outcome: Outcome = "inconclusive"
    if "fails" in outcomes:
        outcome = "fails"
    elif all(o == "holds" for o in outcomes):
        outcome = "holds"

    def margin(part: Verdict) -> float:
        lowest = part.interval[0] if part.interval else part.value
        return lowest - part.threshold if math.isfinite(lowest) else -math.inf

    candidates = [p for p in parts.values() if p.outcome == outcome] or list(parts.values())
    weakest = min(candidates, key=margin)
    others = "; ".join(f"{name} {part.outcome} ({part.value:.3g})" for name, part in parts.items())
    return Verdict(
        outcome,
        weakest.statistic,
        weakest.value,
        weakest.interval,
        min(part.n_seeds for part in parts.values()),
        weakest.threshold,
        f"Parts: {others}." if len(parts) > 1 else weakest.note,
    )
