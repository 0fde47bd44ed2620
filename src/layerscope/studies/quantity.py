"""Quantities: what is measured, by which probe, on which variants of a study.

A quantity is a formula over measurements that have yet to be made. It carries the probes that
measure it and the variants that it speaks of, so that a study knows what to measure, and a claim
what it rests on. Plain arithmetic works on quantities::

    rate = runs["resnet50"].of(Convergence(intervals=((0, 20),)), "rate")
    effect = rate["stage1"] - 2 * rate["stage4"]
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, cast

import xarray as xr

from layerscope.errors import LayerscopeError, unknown
from layerscope.probes import Probe


@dataclass(frozen=True)
class PerStep:
    """What a probe measured live at every step, as means over the steps of every epoch."""

    probe: Probe

    @property
    def key(self) -> str:
        """Its name in a study's data."""
        return f"{self.probe.key}@steps"


Measurement = Probe | PerStep


@dataclass(frozen=True, eq=False)
class Quantity:
    """Numbers of every seed, computed from a study's measurements once they are there.

    Attributes:
        values: From a study's data to an array with the dimension ``seed``.
        probes: The probes that measure it.
        variants: The variants that it speaks of.
    """

    values: Callable[[xr.DataTree], xr.DataArray]
    probes: tuple[Measurement, ...] = ()
    variants: tuple[str, ...] = ()

    def map(self, function: Callable[[xr.DataArray], xr.DataArray]) -> Quantity:
        """The quantity of which a function of the array gives the values."""
        return combined(function, self)

    def sel(self, **labels: Any) -> Quantity:
        """Values at labels of dimensions, which then are gone (kept where several are named).

        Raises:
            LayerscopeError: On use: a dimension has no such label.
        """
        return self.map(lambda values: _selected(values, labels))

    def isel(self, **places: Any) -> Quantity:
        """Values at places of dimensions, which then are gone (kept where several are named)."""
        return self.map(lambda values: values.isel(places, drop=True))

    def __getitem__(self, layer: Any) -> Quantity:
        """The values of a layer, or of several by a list of names."""
        return self.sel(layer=layer)

    def layers(self, chosen: Callable[[str], bool]) -> Quantity:
        """The values of the layers whose names pass a test.

        Raises:
            LayerscopeError: On use: no layer does.
        """

        def values(array: xr.DataArray) -> xr.DataArray:
            names = [name for name in array["layer"].values if chosen(str(name))]
            if not names:
                known = ", ".join(map(str, array["layer"].values))
                raise LayerscopeError(f"none of the layers {known} is meant.", "Choose others.")
            return array.sel(layer=names)

        return self.map(values)

    def group(self, label: str) -> Quantity:
        """Mean over the layers of a group.

        Raises:
            LayerscopeError: On use: no layer belongs to such a group.
        """

        def values(array: xr.DataArray) -> xr.DataArray:
            labels = array["group"].values
            if label not in labels:
                raise unknown("group of layers", label, {str(one) for one in labels})
            return array.isel(layer=labels == label).mean("layer")

        return self.map(values)

    def where(self, other: Quantity, equals: Any) -> Quantity:
        """The values where another quantity has a value, gaps elsewhere."""
        return combined(lambda values, mask: values.where(mask == equals), self, other)

    def mean(self, dimension: str) -> Quantity:
        """Mean along a dimension."""
        return self.map(lambda values: values.mean(dimension))

    def max(self, dimension: str) -> Quantity:
        """Largest value along a dimension."""
        return self.map(lambda values: values.max(dimension))

    def min(self, dimension: str) -> Quantity:
        """Smallest value along a dimension."""
        return self.map(lambda values: values.min(dimension))

    def when(self, chosen: Callable[[xr.DataArray], xr.DataArray]) -> Quantity:
        """The moments whose epochs pass a test, e.g. ``when(lambda epoch: epoch <= 5)``."""
        return self.map(lambda values: values.where(chosen(values["epoch"]), drop=True))

    def over_epochs(self) -> Quantity:
        """The same values over epochs, if they are over steps yet."""
        return self.map(
            lambda values: (
                values
                if "epoch" in values.dims
                else values.swap_dims(step="epoch").drop_vars("step", errors="ignore")
            )
        )

    def first(self, dimension: str) -> Quantity:
        """The first value along a dimension; a gap where there is none."""
        return self.map(lambda values: values.isel({dimension: slice(1)}).mean(dimension))

    def last(self, dimension: str) -> Quantity:
        """The last value along a dimension; a gap where there is none."""
        return self.map(lambda values: values.isel({dimension: slice(-1, None)}).mean(dimension))

    def at_end(self) -> Quantity:
        """The values at the last step."""
        return self.isel(step=-1)

    def named(self, titles: Mapping[str, str]) -> Quantity:
        """The values of some layers, under other names."""
        return self.map(
            lambda values: _selected(values, {"layer": list(titles)}).assign_coords(
                layer=list(titles.values())
            )
        )

    def __neg__(self) -> Quantity:
        return self.map(operator.neg)

    def __add__(self, other: Quantity | float) -> Quantity:
        return combined(operator.add, self, other)

    def __sub__(self, other: Quantity | float) -> Quantity:
        return combined(operator.sub, self, other)

    def __rsub__(self, other: float) -> Quantity:
        return combined(operator.sub, other, self)

    def __rmul__(self, other: float) -> Quantity:
        return combined(operator.mul, other, self)

    def __truediv__(self, other: Quantity) -> Quantity:
        return combined(operator.truediv, self, other)


def measured(probe: Measurement, variable: str, variant: str) -> Quantity:
    """What a probe measures on a variant.

    Args:
        probe: The probe, with the settings that are meant.
        variable: A variable of its dataset.
        variant: A variant of the study.

    Raises:
        LayerscopeError: On use: the data hold no such variant, probe or variable.
    """

    def values(data: xr.DataTree) -> xr.DataArray:
        found = dataset_of(data, probe, variant)
        if variable not in found:
            raise unknown(f"variable of {probe.key}", variable, map(str, found.data_vars))
        return found[variable]

    return Quantity(values, (probe,), (variant,))


def dataset_of(data: xr.DataTree, probe: Measurement, variant: str) -> xr.Dataset:
    """Everything a probe measured on a variant, over seeds.

    Raises:
        LayerscopeError: The data hold no such variant or probe.
    """
    if variant not in data.children:
        raise unknown("variant", variant, data.children)
    if probe.key not in data[variant].children:
        raise unknown(f"measurement of {variant}", probe.key, data[variant].children)
    return cast(xr.DataTree, data[variant][probe.key]).to_dataset()


def combined(function: Callable[..., xr.DataArray], *parts: Quantity | Any) -> Quantity:
    """A function of the arrays of several quantities; whatever is none is passed as it is."""
    known = [part for part in parts if isinstance(part, Quantity)]

    def values(data: xr.DataTree) -> xr.DataArray:
        return function(*(p.values(data) if isinstance(p, Quantity) else p for p in parts))

    return Quantity(values, probes_of(known), variants_of(known))


def statistic(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of arrays that also takes quantities, and then returns one."""

    @wraps(function)
    def either(*parts: Any, **options: Any) -> Any:
        if any(isinstance(part, Quantity) for part in parts):
            return combined(lambda *arrays: function(*arrays, **options), *parts)
        return function(*parts, **options)

    return either


def stacked(dimension: str, parts: Mapping[Any, Quantity], **attributes: str) -> Quantity:
    """Several quantities along a new dimension, whose labels are the keys.

    Those of variants that have no run to measure are left out; where one has no value for a layer
    or step that another has, there is a gap.

    Args:
        dimension: Name of the new dimension.
        parts: Quantities by label.
        attributes: Attributes of the result, e.g. ``long_name`` and ``units``.
    """

    def values(data: xr.DataTree) -> xr.DataArray:
        there = {k: p for k, p in parts.items() if set(p.variants) <= set(data.children)}
        index = xr.DataArray(list(there), dims=dimension, name=dimension)
        arrays = _comparable([part.values(data) for part in there.values()])
        found = xr.concat(arrays, index, coords="minimal", compat="override", join="outer")
        return found.assign_attrs(attributes)

    return Quantity(values, probes_of(parts.values()), variants_of(parts.values()))


def _comparable(arrays: Sequence[xr.DataArray]) -> list[xr.DataArray]:
    """The arrays without coordinates that mean something for each of them alone.

    What is told of layers, e.g. their groups, is kept where all arrays have the same layers.
    """
    layers = {tuple(a["layer"].values) for a in arrays if "layer" in a.dims}
    kept = ("layer", "step") if len(layers) == 1 else ("step",)
    return [
        a.drop_vars(
            [c for c, v in a.coords.items() if c not in a.dims and not set(v.dims) & {*kept}]
        )
        for a in arrays
    ]


def probes_of(*groups: Iterable[Any]) -> tuple[Measurement, ...]:
    """The probes behind things that have ``probes``, each once, in order."""
    found = {probe.key: probe for group in groups for thing in group for probe in thing.probes}
    return tuple(found.values())


def variants_of(quantities: Iterable[Any]) -> tuple[str, ...]:
    """The variants behind several things that have ``variants``, each once, in order."""
    return tuple(dict.fromkeys(name for quantity in quantities for name in quantity.variants))


def _selected(values: xr.DataArray, labels: Mapping[str, Any]) -> xr.DataArray:
    try:
        return values.sel(labels, drop=True)
    except KeyError:
        for dimension, wanted in labels.items():
            known = [str(label) for label in values[dimension].values]
            several = isinstance(wanted, list | tuple)
            for label in wanted if several else (wanted,):
                if str(label) not in known:
                    raise unknown(dimension, str(label), known) from None
        raise LayerscopeError(f"no values at {dict(labels)}.", "Choose other labels.") from None
