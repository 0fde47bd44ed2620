"""Numbers of the whole model over a training: its loss, and what the user logs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import xarray as xr
from torch import Tensor

from layerscope.errors import LayerscopeError
from layerscope.probes.base import step_coordinates

RESERVED = ("step", "epoch")
"""What numbers of one's own cannot be called: the coordinates that they stand over."""
Numbers = tuple[int, Mapping[str, float]]
"""Numbers of one step, by name."""


def is_number(value: Any) -> bool:
    """Whether it is a real number, also of numpy, or a tensor of one."""
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_complex()
    return isinstance(value, Real)


def described(value: Any) -> str:
    """What is no number, in words."""
    shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
    return f"a {type(value).__name__}{shape}"


@dataclass
class Scalars:
    """Losses, as their means between measured moments, and numbers of the user's own.

    Attributes:
        total: Sum of the losses since the last mean.
        count: How many these are.
        means: Mean losses not yet written.
        logged: The user's numbers not yet written.
    """

    total: Tensor | float = 0.0
    count: int = 0
    means: list[Numbers] = field(default_factory=list)
    logged: list[Numbers] = field(default_factory=list)
    _written: list[Numbers] = field(default_factory=list)
    """Those of the last step: what is logged there later is written with them, as one row."""

    def add(self, loss: Tensor | float, look: bool = True) -> bool:
        """Add the loss of a step; False, and nothing added, where it is known not to be finite.

        A tensor on an accelerator is not waited for, and nothing is looked at where ``look`` says
        so: `close` finds out.
        """
        if not is_number(loss):
            raise LayerscopeError(
                f"the loss is {described(loss)}, not a number.", "Give the mean over the batch."
            )
        if isinstance(loss, Tensor):
            loss = loss.detach().float() if loss.is_cuda else loss.item()
        if look and not isinstance(loss, Tensor) and not math.isfinite(loss):
            return False
        self.total = self.total + loss
        self.count += 1
        return True

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Keep numbers of the user's own.

        Raises:
            LayerscopeError: A name is one that no variable can have, or a value is no number.
        """
        for name, value in values.items():
            if name in RESERVED or "/" in name or not name:
                raise LayerscopeError(
                    f"a number cannot be kept under the name {name!r}.",
                    f"{' and '.join(RESERVED)} are kept anyway; choose another name, without /.",
                )
            if not is_number(value):
                raise LayerscopeError(
                    f"{name!r} is a {type(value).__name__}, not a number.", "Log numbers only."
                )
        if values:
            self.logged.append((step, {name: float(value) for name, value in values.items()}))

    def close(self, step: int) -> bool:
        """Keep the mean of the losses since the last time; False where it is not finite."""
        mean = float(self.total) / self.count
        if not math.isfinite(mean):
            return False
        self.means.append((step, {"loss": mean}))
        self.total, self.count = 0.0, 0
        return True

    def datasets(self, steps_per_epoch: int | None) -> Iterator[tuple[str, xr.Dataset]]:
        """What there is since the last time, by key; forgotten once the next is asked for."""
        if self.means:
            yield "training", scalars(self.means, steps_per_epoch)
            self.means = []
        if self.logged:
            steps = {step for step, _ in self.logged}
            rows = [*(row for row in self._written if row[0] in steps), *self.logged]
            yield "evaluation", scalars(rows, steps_per_epoch)
            self._written = [row for row in rows if row[0] == max(steps)]
            self.logged = []


def scalars(
    rows: Sequence[tuple[int, Mapping[str, float]]], steps_per_epoch: int | None
) -> xr.Dataset:
    """Numbers of the whole model over steps; several rows of one step are merged."""
    merged: dict[int, dict[str, float]] = {}
    for step, values in rows:
        merged.setdefault(step, {}).update(values)
    names = dict.fromkeys(name for values in merged.values() for name in values)
    return xr.Dataset(
        {
            name: (
                "step",
                [values.get(name, math.nan) for values in merged.values()],
                {"long_name": name.replace("_", " "), "units": "1", "source": "recorder"},
            )
            for name in names
        },
        coords=step_coordinates(list(merged), steps_per_epoch),
    )
