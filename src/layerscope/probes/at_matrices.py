"""What probes of matrices share: matrices in the places of layers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from layerscope.errors import LayerscopeError
from layerscope.figures.figure import Figure, Lines
from layerscope.functional.conditioning import Condition
from layerscope.networks.discovery import Layer
from layerscope.networks.factors import (
    Factors,
    Places,
    collect,
    find_uses,
    row_names,
)
from layerscope.networks.layers import LayerMap
from layerscope.networks.likelihood import Fisher
from layerscope.networks.names import every_tensor, unwrap
from layerscope.networks.products import Use
from layerscope.probes.base import Moment, Variable, over_time

T = TypeVar("T")
Mode = Literal["eval", "train"]
MODES: tuple[Mode, ...] = ("eval", "train")


def matrix_rows(moment: Moment, layers: LayerMap, batch: Any = None) -> LayerMap:
    """The matrices of a moment's model as rows, each in the group of its layer.

    A matrix of a selected layer that takes part in no product has a row too.

    Args:
        moment: Has model, task and batch.
        layers: The selected layers.
        batch: Another batch in place of the fixed one.

    Raises:
        LayerscopeError: The layers have none.
    """
    model = unwrap(moment.model)
    uses, _ = find_uses(model, moment.batch if batch is None else batch, moment.task)
    layer_of = {name: layer for layer in layers for name in layer.parameters}
    own = every_tensor(model)
    found: list[Layer] = []
    taken: set[str] = set()  # a parameter stands in one row: the first of those that use it
    for depth, (use, name) in enumerate(row_names(uses).items()):
        if (layer := layer_of.get(use.weight)) is not None:
            names = {use.weight, use.shift} - {"", *taken}
            taken |= names
            found.append(_row(layer, name, depth, use.kind, own, names))
    met, owners = {use.weight for use in uses}, tuple(f"{u.owner}." for u in uses if u.owner)
    for name, layer in layer_of.items():
        if name not in met and own[name].ndim > 1 and not name.startswith(owners):
            found.append(_row(layer, name, len(uses) + len(found), "unused", own, {name}))
    if not found:
        raise LayerscopeError(
            "the layers have no matrices.", "Choose other layers, or leave the probe out."
        )
    return LayerMap(tuple(found))


def _row(
    layer: Layer, name: str, depth: int, kind: str, own: Mapping[str, Tensor], names: set[str]
) -> Layer:
    """A matrix of a layer in the place of the layer."""
    shapes = {n: tuple(own[n].shape) for n in own if n in names}
    return replace(layer, name=name, depth=depth, kind=kind, parameters=shapes, buffers={})


def measured_at(
    moment: Moment,
    layers: LayerMap,
    *,
    training: bool,
    most: int,
    fisher: Fisher = "empirical",
    places: Places = "channels",
    seed: int = 0,
    batches: Iterable[Any] | None = None,
) -> dict[str, Factors]:
    """Second moments at the matrices of a moment's model, on its fixed batch or on others.

    Args:
        moment: Has model, task and batch; why a matrix has none goes to its ``missing``.
        layers: The matrices, as `matrix_rows` gives them.
        training: Mode in which the model runs.
        most: Side of the largest matrix, 0 for traces only.
        fisher: Whose labels.
        places: What enters a convolution.
        seed: Of labels that are drawn.
        batches: What runs in place of the fixed batch.

    Raises:
        LayerscopeError: None has any.
    """
    elsewhere: dict[str, str] = {}
    found = collect(
        moment.model,
        [moment.batch] if batches is None else batches,
        moment.task,
        fisher,
        among=set(layers.parameter_names),
        weights=moment.weights,
        training=training,
        places=places,
        most=most,
        seed=seed,
        elsewhere=elsewhere,
    )
    names = {use: factors.name for use, factors in found.items()}
    return _in_rows(moment, layers, found, names, elsewhere)


def uses_at(moment: Moment, layers: LayerMap) -> dict[str, Use]:
    """The use that every matrix stands for, where nothing but its gradient is looked at.

    Args:
        moment: Has model, task and batch; why a matrix has no use goes to its ``missing``.
        layers: The matrices, as `matrix_rows` gives them.

    Raises:
        LayerscopeError: None has any.
    """
    uses, elsewhere = find_uses(unwrap(moment.model), moment.batch, moment.task)
    return _in_rows(moment, layers, {use: use for use in uses}, uses, elsewhere)


def _in_rows(
    moment: Moment,
    layers: LayerMap,
    found: Mapping[Use, T],
    names: Mapping[Use, str],
    elsewhere: Mapping[str, str],
) -> dict[str, T]:
    """What was found of matrices, by the names of rows."""
    titles = row_names(names)
    by_name = {titles[use]: value for use, value in found.items()}
    for layer in layers:
        if layer.name not in by_name:
            where = [elsewhere[name] for name in layer.parameters if name in elsewhere]
            reason = f"takes part in {where[0]}(), in no product that is known" if where else ""
            moment.missing[layer.name] = reason or "takes part in no product"
    if not set(by_name) & set(layers.names):
        name, reason = next(iter(moment.missing.items()))
        raise LayerscopeError(
            f"no matrix can be measured: {name!r} {reason}.",
            "Choose other layers, or leave the probe out.",
        )
    return {name: by_name[name] for name in layers.names if name in by_name}


def without_block(layer: Layer, use: Use, uses: Iterable[Use]) -> str:
    """Why a matrix has no block of the Fisher matrix of its own; empty where it has one.

    Args:
        layer: Its row.
        use: What it stands for.
        uses: Those of all rows.
    """
    if use.kind == "scale":
        return "has its exact matrix in Conditioning"
    if use.owner:
        return "is derived from parameters, whose block is another one"
    shared = sum(one.weight == use.weight for one in uses) > 1
    if shared or use.size != math.prod(layer.parameters.get(use.weight, ())):
        return "is a part of a parameter, or shares it"
    return ""


def check_shares(probe: str, shares: Sequence[float]) -> None:
    r"""Refuse what is no p of :math:`\kappa_p`.

    Raises:
        LayerscopeError: One is not above 0 and at most 1.
    """
    if not all(0 < p <= 1 for p in shares):
        raise LayerscopeError(
            f"{probe} has shares {tuple(shares)}.", "Shares are above 0 and at most 1."
        )


def kappa(share: float) -> str:
    """Name of a generalised condition number: kappa_50, kappa_99.5."""
    return f"kappa_{100 * share:g}"


def spectrum_variables(matrix: str, shares: Iterable[float], end: str = "") -> dict[str, Variable]:
    """What is told of the spectrum of one matrix.

    Args:
        matrix: What it is called.
        shares: Every p of kappa_p.
        end: End of the names of variables.
    """
    found = {
        "largest": Variable(f"largest eigenvalue of {matrix}", "", partial=True),
        "trace": Variable(f"trace of {matrix}", "", partial=True),
        "rank": Variable(f"rank of {matrix}", partial=True),
        "kappa": Variable(f"condition number of {matrix}, nonzero eigenvalues", partial=True),
    }
    found |= {kappa(p): Variable(f"{kappa(p)} of {matrix}", partial=True) for p in shares}
    return {name + end: variable for name, variable in found.items()}


def spectrum_numbers(found: Condition, shares: Sequence[float], end: str = "") -> dict[str, Tensor]:
    """The numbers of `spectrum_variables`, of one matrix."""
    numbers = {
        "largest": found.largest,
        "trace": found.trace,
        "rank": found.rank,
        "kappa": found.nonzero,
        **dict(zip(map(kappa, shares), found.shares, strict=True)),
    }
    return {k + end: torch.tensor(v, dtype=torch.float64) for k, v in numbers.items()}


def panels(
    dataset: xr.Dataset,
    variables: Mapping[str, str],
    quantity: str,
    key: str,
    title: str,
    caption: str,
) -> Figure:
    """Lines over time of several variables on logarithmic axes, one panel for each.

    Args:
        dataset: What was measured.
        variables: Names of variables by what stands above their panels.
        quantity: What is on the axis.
        key: Of the figure.
        title: Of the figure.
        caption: Of the figure.
    """
    several = xr.concat(
        [over_time(dataset[name])[0] for name in variables.values()],
        xr.Variable("matrix", list(variables)),
        combine_attrs="drop",
    )
    _, x = over_time(dataset[next(iter(variables.values()))])
    return Lines(
        on_logarithmic_axes(several).assign_attrs(long_name=quantity, units=""),
        key=key,
        title=title,
        caption=caption,
        x=x,
        panel="matrix",
        log_y=True,
    )


def on_logarithmic_axes(values: xr.DataArray) -> xr.DataArray:
    """Positive, finite values, gaps elsewhere, of the layers that have any."""
    return of_some_layers(values.where(np.isfinite(values) & (values > 0)))


def of_some_layers(values: xr.DataArray) -> xr.DataArray:
    """The values of the layers that have any."""
    some = values.notnull().any([dim for dim in values.dims if dim != "layer"])
    return values.isel(layer=np.flatnonzero(some))
