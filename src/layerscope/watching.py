"""What a recorder keeps between two steps: live weights, previous ones, rows not yet written."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
import xarray as xr
from torch import Tensor, nn

from layerscope.isolation import named_state, unwrap
from layerscope.layers import LayerMap
from layerscope.probes.base import MomentProbe, step_coordinates
from layerscope.probes.driver import Row
from layerscope.schedule import Schedule


@dataclass
class Watch:
    """One probe on its schedule: the layers it selects and what it measured since the flush."""

    probe: MomentProbe
    schedule: Schedule
    layers: LayerMap
    rows: list[Row] = field(default_factory=list)


class Live(Mapping[str, Tensor]):
    """The model's tensors at one moment, by name.

    Parameters are found one by one, which costs a fraction of a ``state_dict``; whatever else is
    asked for comes from that. Nothing is remembered from one moment to the next, since modules
    and parameters may be exchanged in between.
    """

    def __init__(self, model: nn.Module, aliases: Mapping[str, str]) -> None:
        self._model = model
        self._aliases = aliases

    @cached_property
    def state(self) -> dict[str, Tensor]:
        """All parameters and buffers, tied ones once: what a checkpoint holds."""
        state = named_state(self._model).items()
        return {k: v.detach() for k, v in state if k not in self._aliases}

    def __getitem__(self, name: str) -> Tensor:
        *path, leaf = name.split(".")
        module: nn.Module | None = self._model
        for part in path:
            module = module._modules.get(part) if module is not None else None
            module = unwrap(module) if module is not None else None
        parameter = module._parameters.get(leaf) if module is not None else None
        return self.state[name] if parameter is None else parameter.detach()

    def __iter__(self) -> Iterator[str]:
        return iter(self.state)

    def __len__(self) -> int:
        return len(self.state)


@dataclass
class Previous:
    """Weights at the moment measured before, shared by all probes of one schedule."""

    names: tuple[str, ...]
    weights: dict[str, Tensor] | None = None

    def keep(self, now: Mapping[str, Tensor]) -> None:
        """Copy the weights of this moment into place."""
        if self.weights is None:
            self.weights = {name: now[name].clone() for name in self.names}
        else:
            torch._foreach_copy_(list(self.weights.values()), [now[n] for n in self.names])


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
