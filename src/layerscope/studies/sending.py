"""What a study came to, for sinks: its verdicts as a table, its figures as pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

from layerscope.figures.figure import Figure
from layerscope.recording.sinks import ROOT, Cell, Sink, attempt, labels
from layerscope.studies.claims import Claim, Verdict
from layerscope.studies.study import Study

COLUMNS = (
    "claim",
    "statement",
    "verdict",
    "statistic",
    "value",
    "low",
    "high",
    "threshold",
    "n",
    "note",
)
"""Headings of the table of verdicts; ``low`` and ``high`` are the ends of the 95% interval."""


def log_verdicts(sink: Sink, verdicts: Sequence[tuple[Claim, Verdict]]) -> None:
    """Give a sink the table ``layerscope/verdicts``, one row for each claim.

    Args:
        sink: One that was started.
        verdicts: Every claim with its verdict.
    """
    sink.table(f"{ROOT}/verdicts", COLUMNS, [_row(*pair) for pair in verdicts])


def _row(claim: Claim, verdict: Verdict) -> list[Cell]:
    low, high = verdict.interval or (None, None)
    return [
        claim.id,
        claim.text,
        verdict.outcome,
        verdict.statistic,
        _plain(verdict.value),
        _plain(low),
        _plain(high),
        verdict.threshold,
        verdict.n_seeds,
        verdict.note,
    ]


def _plain(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def send(
    sinks: Sequence[Sink],
    study: Study,
    verdicts: Sequence[tuple[Claim, Verdict]],
    figures: Sequence[Figure],
) -> None:
    """Give sinks, which this starts and finishes, all that a study came to.

    One that fails is said in the log and costs nothing else.

    Args:
        sinks: Where it goes.
        study: The study.
        verdicts: Every claim with its verdict.
        figures: What is drawn.
    """
    if not sinks:
        return
    from layerscope.figures.matplotlib import png

    about = {"study": study.name, "scale": study.scale, "source": study.source}
    config = {ROOT: about | {"run": study.folder, "seeds": list(study.seeds)}}
    pictures = [(f"{ROOT}/{figure.key}", png(figure)) for figure in figures]

    def give(sink: Sink) -> None:
        sink.start(config, {})
        log_verdicts(sink, verdicts)
        for name, picture in pictures:
            sink.figure(name, picture)
        sink.finish("complete")

    for label, sink in zip(labels(sinks), sinks, strict=True):
        attempt(label, lambda sink=sink: give(sink))
