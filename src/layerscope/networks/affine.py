"""Activations or layers of a trained network with affine maps at hand, to be used or not.

The maps stand in a copy of the model, each behind a buffer that says whether it is used, so that a
network with one of them is a variant in one tensor (`layerscope.networks.variants`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from layerscope.errors import LayerscopeError
from layerscope.functional.least_squares import least_squares_map
from layerscope.functional.linearity import affine_fit
from layerscope.networks.activations import Called, keep_visiting
from layerscope.networks.discovery import refuse_half_copied
from layerscope.networks.isolation import copied, isolated
from layerscope.networks.linear_maps import (
    FEW,
    Window,
    applied,
    around,
    find_windows,
    fit_of,
    keep_around,
    paired_rows,
)
from layerscope.networks.names import named_modules
from layerscope.networks.sites import Site, nodes_second, seeing
from layerscope.networks.task import Task, first_examples
from layerscope.networks.variants import Evaluation, evaluate_variants

PREFIX = "layerscope_"
"""What the names of the buffers begin with that hold the maps, in a copy of the model."""


@dataclass(frozen=True, eq=False)
class Maps:
    """Affine maps by row, in buffers of a model: whether one is used, ``weight``, ``shift``.

    The buffers are the model's own, not those of a module in it, which some models would call.
    """

    model: nn.Module

    def add(self, row: int, weight: Tensor, shift: Tensor, like: Tensor) -> None:
        """Keep the map of a row, not in use."""
        use = torch.zeros((), dtype=torch.bool, device=like.device)
        for name, tensor in (("use", use), ("weight", weight.to(like)), ("shift", shift.to(like))):
            self.model.register_buffer(f"{PREFIX}{name}{row}", tensor)

    def __contains__(self, row: int) -> bool:
        return f"{PREFIX}use{row}" in self.model._buffers

    def using(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """The variant that uses the maps of some rows, as far as they have one."""
        names = [f"{PREFIX}use{row}" for row in rows if row in self]
        return {name: torch.ones_like(self.model.get_buffer(name)) for name in names}

    def chosen(self, row: int, map: Callable[[Tensor, Tensor], Tensor], output: Tensor) -> Tensor:
        """The output, or what the map of a row gives in its place."""
        use, weight, shift = (
            self.model.get_buffer(f"{PREFIX}{name}{row}") for name in ("use", "weight", "shift")
        )
        return torch.where(use, map(weight, shift), output)


@dataclass(frozen=True, eq=False)
class Replaceable:
    """A copy of a model with affine maps at hand, none of them in use.

    Attributes:
        model: The copy.
        maps: Its maps.
        weights: Parameters and buffers that it holds.
        rows: How many rows there are, with a map or without.
    """

    model: nn.Module
    maps: Maps
    weights: Mapping[str, Tensor]
    rows: int

    def evaluated(self, data: Any, task: Task, cumulative: bool) -> Evaluation:
        """The model as it is, then with the map of every row, or of all rows up to each.

        Rows without a map leave it as it is.
        """
        sets = [range(row + 1) if cumulative else [row] for row in range(self.rows)]
        return evaluate_variants(
            self.model, [{}, *map(self.maps.using, sets)], data, task, weights=self.weights
        )


def _with_maps(model: nn.Module, batch: Any, task: Task) -> tuple[nn.Module, Maps]:
    """A copy of a model, and where its maps are kept."""
    made = copied(model)
    refuse_half_copied(model, made, first_examples(batch, FEW), task.forward)
    return made, Maps(made)


@dataclass(frozen=True, eq=False)
class _Lines:
    """Straight lines in place of activations; row and axis of every site by name."""

    maps: Maps
    places: Mapping[str, tuple[int, int]]

    def __call__(self, call: Called) -> Tensor:
        output = call.run(call.input)
        row, axis = self.places[call.name]
        shape = [1] * call.input.ndim
        shape[axis] = -1

        def line(slope: Tensor, intercept: Tensor) -> Tensor:
            return torch.addcmul(intercept.view(shape), call.input, slope.view(shape))

        return self.maps.chosen(row, line, output)


def with_lines(
    model: nn.Module, weights: Mapping[str, Tensor], batch: Any, task: Task, names: Sequence[str]
) -> tuple[Replaceable, dict[str, str]]:
    """Activations as straight lines: the best one for every node of every site.

    Args:
        model: The model, left as found.
        weights: Parameters and buffers that it holds.
        batch: Examples to fit to.
        task: What they mean.
        names: Names of the sites.

    Returns:
        The model, and why a site has no line, by name.

    Raises:
        LayerscopeError: The model cannot be copied.
    """
    made, maps = _with_maps(model, batch, task)
    rows = {name: row for row, name in enumerate(names)}
    reasons = dict.fromkeys(names, "did not run on the batch")
    places: dict[str, tuple[int, int]] = {}
    every: dict[str, Site] = {}

    def note(site: Site, before: Tensor, after: Tensor) -> None:
        every[site.name] = site
        if site.name not in rows or site.name in places:
            return
        if not before.is_floating_point() or before.ndim < 2:
            reasons[site.name] = "does not act on real numbers of several examples"
            return
        try:
            line = affine_fit(nodes_second(site, before), nodes_second(site, after))
        except LayerscopeError as error:
            reasons[site.name] = error.message.rstrip(".")
            return
        maps.add(rows[site.name], *line, like=before)
        places[site.name] = rows[site.name], site.axis
        del reasons[site.name]

    with isolated(model, weights=weights), torch.no_grad(), seeing(model, note):
        task.forward(model, batch)
    keep_visiting(made, _Lines(maps, places), {site.module for site in every.values()}, places)
    return Replaceable(made, maps, weights, len(names)), reasons


@dataclass(frozen=True, eq=False)
class _Mapped:
    """An affine map in place of a module."""

    maps: Maps
    row: int
    window: Window | None

    def __call__(self, name: str, run: Callable[[Tensor], Any], input: Tensor) -> Any:
        del name
        before = input.clone()  # the module may work in place
        output = run(input)

        def map(weight: Tensor, shift: Tensor) -> Tensor:
            return applied(before, output, self.window, weight, shift)

        return self.maps.chosen(self.row, map, output)


def with_layer_maps(
    model: nn.Module, weights: Mapping[str, Tensor], batch: Any, task: Task, names: Sequence[str]
) -> tuple[Replaceable, dict[str, str]]:
    """Layers as affine maps of least squares, fitted where a module is called first.

    Args:
        model: The model, left as found.
        weights: Parameters and buffers that it holds.
        batch: Examples to fit to.
        task: What they mean.
        names: Names of the layers.

    Returns:
        The model, and why a layer has no map, by name.

    Raises:
        LayerscopeError: The model cannot be copied.
    """
    made, maps = _with_maps(model, batch, task)
    known = dict(named_modules(model))
    rows = {name: row for row, name in enumerate(names) if name in known}
    windows = find_windows(model, batch, task, list(rows), weights)
    reasons = dict.fromkeys(names, "is no module that maps a tensor to one")

    def see(name: str, run: Callable[[Tensor], Any], input: Tensor) -> Any:
        before, output = input.clone(), run(input)
        if rows[name] not in maps and isinstance(output, Tensor):
            fit = fit_of(before, output, windows.get(name))
            reasons[name] = fit.reason
            if not fit.reason:
                fitted = least_squares_map(*paired_rows(before, output, windows.get(name)))
                maps.add(rows[name], fitted.weight, fitted.intercept, like=output)
        return output

    with isolated(model, weights=weights), torch.no_grad(), around(model, list(rows), see):
        task.forward(model, batch)
    copies = dict(named_modules(made))
    for name, row in rows.items():
        if row in maps:
            keep_around(copies[name], name, _Mapped(maps, row, windows.get(name)))
    return Replaceable(made, maps, weights, len(names)), {n: r for n, r in reasons.items() if r}
