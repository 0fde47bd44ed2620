"""When something happens: schedules answer, for a step, yes or no.

Step 0 is the initialisation, step ``n`` the state after ``n`` optimiser steps. Every schedule but
`never` says yes at 0. Schedules combine with ``|`` and print as the expression that makes them,
which `parse` reads back.
"""

from __future__ import annotations

import ast
import math
from dataclasses import dataclass
from typing import Literal

from layerscope.errors import LayerscopeError, unknown


@dataclass(frozen=True)
class Schedule:
    """A set of steps. Make one with `every`, `epochs`, `log_spaced`, `at`, `never` or ``a | b``."""

    kind: Literal["every", "epochs", "log_spaced", "at", "never", "any"]
    values: tuple[int, ...] = ()
    parts: tuple[Schedule, ...] = ()

    def __call__(self, step: int) -> bool:
        """Whether ``step`` belongs to the schedule."""
        if step == 0:
            return not self.empty
        match self.kind:
            case "never":
                return False
            case "every":
                return step % self.values[0] == 0
            case "log_spaced":
                return _is_log_spaced(step, self.values[0])
            case "at":
                return step in self.values
            case "any":
                return any(part(step) for part in self.parts)
            case "epochs":
                raise LayerscopeError(
                    f"the schedule {self} does not know how many steps an epoch has.",
                    "Pass steps_per_epoch, e.g. steps_per_epoch=len(loader), or use every(n).",
                )

    @property
    def empty(self) -> bool:
        """Whether no step belongs to it."""
        return self.kind == "never" or (self.kind == "any" and all(p.empty for p in self.parts))

    def bind(self, steps_per_epoch: int | None) -> Schedule:
        """The same schedule in steps: ``epochs(n)`` becomes ``every(n * steps_per_epoch)``.

        Raises:
            LayerscopeError: The schedule counts epochs and ``steps_per_epoch`` is None.
        """
        if self.kind == "any":
            return Schedule("any", parts=tuple(p.bind(steps_per_epoch) for p in self.parts))
        if self.kind != "epochs":
            return self
        if steps_per_epoch is None:
            self(1)
        return every(self.values[0] * int(steps_per_epoch or 0))

    def __or__(self, other: Schedule) -> Schedule:
        return Schedule("any", parts=(self, other))

    def __str__(self) -> str:
        if self.kind == "any":
            return " | ".join(str(part) for part in self.parts)
        return f"{self.kind}({', '.join(map(str, self.values))})"


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise LayerscopeError(f"{name}({value}) is no schedule.", "Use a number of at least 1.")
    return value


def _is_log_spaced(step: int, per_decade: int) -> bool:
    nearest = round(math.log10(step) * per_decade)
    return any(round(10 ** (k / per_decade)) == step for k in (nearest - 1, nearest, nearest + 1))


def every(n: int) -> Schedule:
    """Every ``n`` steps."""
    return Schedule("every", (_positive("every", n),))


def epochs(n: int = 1) -> Schedule:
    """At the end of every ``n``-th epoch; needs ``steps_per_epoch`` where it is used."""
    return Schedule("epochs", (_positive("epochs", n),))


def log_spaced(per_decade: int = 10) -> Schedule:
    """``per_decade`` steps in each factor of ten, evenly spaced on a logarithmic axis."""
    return Schedule("log_spaced", (_positive("log_spaced", per_decade),))


def at(*steps: int) -> Schedule:
    """At the named steps and at no other."""
    return Schedule("at", tuple(sorted(steps)))


def never() -> Schedule:
    """At no step, not even at the start or the end."""
    return Schedule("never")


_MAKERS = {
    "every": every,
    "epochs": epochs,
    "log_spaced": log_spaced,
    "at": at,
    "never": never,
}


def parse(text: str) -> Schedule:
    """Read a schedule such as ``"epochs(1) | log_spaced(5)"``.

    Raises:
        LayerscopeError: The text is no such expression.
    """
    try:
        return _build(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, TypeError) as error:
        raise LayerscopeError(
            f"cannot read the schedule {text!r}.",
            'Write for example "epochs(1)", "every(100)", "log_spaced(10)" or "at(0, 50)", '
            "joined by |.",
        ) from error


def _build(node: ast.expr) -> Schedule:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _build(node.left) | _build(node.right)
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)) or node.keywords:
        raise ValueError(ast.dump(node))
    if node.func.id not in _MAKERS:
        raise unknown("schedule", node.func.id, _MAKERS)
    values = [ast.literal_eval(argument) for argument in node.args]
    if not all(isinstance(value, int) for value in values):
        raise ValueError(values)
    return _MAKERS[node.func.id](*values)
