"""Errors a user can mend: each names the thing that is wrong and the way out."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import get_close_matches


class LayerscopeError(Exception):
    """Something the user can mend.

    Args:
        message: What is wrong, naming the file, layer, option or value.
        remedy: What to do about it, as a full sentence.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(f"{message}\n  {remedy}" if remedy else message)
        self.message = message
        self.remedy = remedy


class DivergedError(LayerscopeError):
    """Training produced a loss or a weight that is not finite."""


def check_choice(kind: str, value: object, known: Collection[object]) -> None:
    """Refuse a value that is none of the known ones.

    Raises:
        LayerscopeError: It is none of them.
    """
    if value not in known:
        raise unknown(kind, str(value), map(str, known))


def unknown(kind: str, name: str, known: Iterable[str]) -> LayerscopeError:
    """The error for a name that is not in a table, suggesting the nearest known one.

    Args:
        kind: What was looked up, e.g. ``"recipe"``.
        name: What the user wrote.
        known: Every name that would have been accepted.

    Returns:
        The error, for the caller to raise.
    """
    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return LayerscopeError(
        f"unknown {kind} {name!r}.", f"{hint}Known: {', '.join(names) or 'none'}."
    )
