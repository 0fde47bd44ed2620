"""When nothing is decided: runs that diverged, and networks that have hardly learnt.

What a layer of a network does that is no better than a guess is no evidence on how layers learn,
and the runs that are left where most of them diverged are not a sample of what was planned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import xarray as xr

from layerscope.config import DataConfig, Sine
from layerscope.data import load
from layerscope.data.sizes import classes
from layerscope.probes import Performance
from layerscope.studies.claims import Verdict
from layerscope.studies.quantity import Quantity, measured

Decide = Callable[[xr.DataTree], Verdict]
PLANNED = "planned_seeds"
"""Attribute of a study's data: how many seeds every variant was to have."""
LEARNT = 0.95
"""A network has learnt where its test error is below this share of the error of guessing."""


@dataclass(frozen=True)
class Guessing:
    """What guessing scores on a data set.

    Attributes:
        variable: The score, as `Performance` calls it: ``"error"`` in %, or ``"loss"``.
        value: That of the best constant answer.
    """

    variable: str
    value: float

    def __str__(self) -> str:
        return f"{self.value:g}%" if self.variable == "error" else f"{self.value:.3g}"


@cache
def guessing(config: DataConfig) -> Guessing | None:
    """What guessing scores: the error on balanced classes, or the variance of the targets.

    Returns:
        None for an image set whose number of classes the table does not know.
    """
    if isinstance(config, Sine):
        targets = load(config).test.targets
        return Guessing("loss", float(targets.double().var(correction=0)))
    n = classes(config)
    return Guessing("error", 100 * (1 - 1 / n)) if n else None


def when_trained(variants: Sequence[str], decide: Decide) -> Decide:
    """The decision, with a word on runs that diverged.

    No decision where more than half of the runs of one of the variants diverged.

    Args:
        variants: What is compared.
        decide: From data to verdict.
    """

    def decided(data: xr.DataTree) -> Verdict:
        planned = data.attrs[PLANNED]
        left = {name: _seeds(data, name) for name in variants}
        gone = [
            f"{planned - n} of {planned} runs of {name} diverged"
            for name, n in left.items()
            if n < planned
        ]
        note = "; ".join(gone) + "." if gone else ""
        if any(2 * n < planned for n in left.values()):
            return Verdict("inconclusive", "too few runs left", float("nan"), None, 0, note=note)
        verdict = decide(data)
        return replace(verdict, note=" ".join(part for part in (verdict.note, note) if part))

    return decided


def if_learnt(variants: Mapping[str, DataConfig], probe: Performance, decide: Decide) -> Decide:
    """The decision, where every network that is spoken of has learnt something.

    Args:
        variants: Data sets of the variants that are spoken of.
        probe: What measures their test errors.
        decide: From data to verdict.
    """

    def decided(data: xr.DataTree) -> Verdict:
        verdict = decide(data)
        guesses = {name: guessing(config) for name, config in variants.items()}
        unknown = [name for name, guess in guesses.items() if guess is None]
        hardly = [
            f"{name} ({score})"
            for name, guess in guesses.items()
            if guess is not None
            and name in data.children
            and (score := _too_near(data, name, probe, guess))
        ]
        if hardly:
            have = "has" if len(hardly) == 1 else "have"
            note = f"Not decided: {', '.join(hardly)} {have} learnt hardly anything."
            return replace(verdict, outcome="inconclusive", note=f"{note} {verdict.note}".strip())
        some = [
            f"{n} of {of} runs of {name}"
            for name, guess in guesses.items()
            if guess is not None and name in data.children
            for n, of in [_guessing_runs(data, name, probe, guess)]
            if n
        ]
        if some:
            note = f"Hardly anything was learnt by {', '.join(some)}."
            verdict = replace(verdict, note=f"{verdict.note} {note}".strip())
        if unknown:
            note = f"How far {', '.join(unknown)} learnt is not judged: its classes are not known."
            return replace(verdict, note=f"{verdict.note} {note}".strip())
        return verdict

    return decided


def _too_near(data: xr.DataTree, name: str, probe: Performance, guess: Guessing) -> str:
    """The score of a variant that is hardly better than guessing; empty where it is better."""
    found = float(scored(probe, name, guess.variable).values(data).mean())
    if found <= LEARNT * guess.value:
        return ""
    if guess.variable == "error":
        return f"{found:.1f}% error"
    return f"loss {found:.3g}, a constant has {guess.value:.3g}"


def _guessing_runs(
    data: xr.DataTree, name: str, probe: Performance, guess: Guessing
) -> tuple[int, int]:
    """How many runs of a variant are hardly better than guessing, and of how many."""
    found = scored(probe, name, guess.variable).values(data)
    return int((found > LEARNT * guess.value).sum()), found.size


def scored(probe: Performance, variant: str, variable: str = "error") -> Quantity:
    """Test error or loss of a variant at the end of training, (seed)."""
    return measured(probe, variable, variant).at_end()


def _seeds(data: xr.DataTree, variant: str) -> int:
    """Runs of a variant that were measured."""
    if variant not in data.children:
        return 0
    return next(iter(data[variant].children.values())).sizes["seed"]
