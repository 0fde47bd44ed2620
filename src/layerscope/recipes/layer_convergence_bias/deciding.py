"""Rates of layers out of a study's data, and the claims that several figures share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.config import Digits, Images
from layerscope.data.table import IMAGE_SETS, row_of
from layerscope.errors import LayerscopeError, unknown
from layerscope.studies.claims import Verdict, above, all_of
from layerscope.studies.study import PLANNED

if TYPE_CHECKING:
    import xarray as xr

    from layerscope.config import RunConfig

Decide = Callable[["xr.DataTree"], Verdict]


def node(data: xr.DataTree, variant: str, probe: str) -> Any:
    """The dataset of a probe whose key begins with ``probe``."""
    found = data[variant]
    return next(c for key, c in found.children.items() if key.startswith(probe)).to_dataset()


def rates(data: xr.DataTree, variant: str, interval: int = 0) -> xr.DataArray:
    """C over the first (or another) interval, (seed, layer)."""
    return node(data, variant, "convergence")["rate"].isel(interval=interval)


def blocks(values: xr.DataArray) -> xr.DataArray:
    """The residual blocks only; of a network without any, its hidden layers."""
    names = [n for n in values["layer"].values if str(n).startswith(("blocks.", "layer"))]
    return values.sel(layer=names)


def first_and_last(values: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Values of the first and of the last block, (seed,)."""
    inner = blocks(values)
    return inner.isel(layer=0, drop=True), inner.isel(layer=-1, drop=True)


def bias(values: xr.DataArray) -> xr.DataArray:
    """First block less last block."""
    first, last = first_and_last(values)
    return first - last


def contrast(more: xr.DataArray, less: xr.DataArray) -> xr.DataArray:
    """``(more - less) / (|more| + |less|)``: between -1 and 1, whatever the signs."""
    return (more - less) / (abs(more) + abs(less))


def relative_bias(values: xr.DataArray) -> xr.DataArray:
    """Contrast of first and last block: 0 for equal rates, 1/3 for twice the rate.

    Also where a block moves away from its final weights, which a ratio of rates would lose.
    """
    return contrast(*first_and_last(values))


def log2(values: xr.DataArray) -> xr.DataArray:
    """Logarithm to base 2, coordinates kept."""
    return values.copy(data=np.log2(values.values))


def shared(values: xr.DataArray) -> xr.DataArray:
    r"""Share of a seed's differences between layers that the other seeds show too, (seed,).

    :math:`1 - \sum_l (v_{sl} - \bar v_{-s,l})^2 / \sum_l (v_{sl} - \bar v_s)^2`, with the mean
    :math:`\bar v_{-s,l}` over the other seeds: 1 where all seeds are alike, 0 where the others
    tell no more than the seed's own mean would, negative where they mislead. Layers without a
    finite value for every seed are left out.
    """
    values = values.where(np.isfinite(values)).dropna("layer")
    n = values.sizes["seed"]
    others = (values.sum("seed") - values) / (n - 1)
    own = values - values.mean("layer")
    return 1 - ((values - others) ** 2).sum("layer") / (own**2).sum("layer")


def exceeds_each(
    values: xr.DataArray, layer: str, others: Iterable[str], what: str, sign: int = 1
) -> Verdict:
    """Whether one layer's value lies above that of each of some others (below, with sign -1)."""
    own = values.sel(layer=layer, drop=True)
    return all_of(
        {
            label(other): above(
                sign * (own - values.sel(layer=other, drop=True)),
                f"{what}: {label(layer)} {'less' if sign > 0 else 'below'} {label(other)}",
            )
            for other in others
        }
    )


def largest_elsewhere(values: xr.DataArray) -> xr.DataArray:
    """A seed's value of the layer whose mean over the other seeds is largest, (seed,).

    The largest value itself would be biased upwards by the noise of every layer.
    """
    n = values.sizes["seed"]
    others = (values.sum("seed") - values) / (n - 1) if n > 1 else values
    return values.isel(layer=others.argmax("layer"), drop=True)


def along(dimension: str, labels: Iterable[str], parts: Iterable[xr.DataArray]) -> xr.DataArray:
    """Values of several variants along a new dimension with names; gaps where one has none."""
    import xarray as xr

    index = xr.DataArray(list(labels), dims=dimension, name=dimension)
    return xr.concat(list(parts), index, coords="minimal", compat="override", join="outer")


def ordered(values: xr.DataArray, what: str, names: Sequence[str] = ()) -> Verdict:
    """Whether values fall from each layer to the next."""
    layers = list(names or values["layer"].values)
    pairs = itertools.pairwise(layers)
    return all_of(
        {
            f"{label(a)} - {label(b)}": above(
                values.sel(layer=a) - values.sel(layer=b), f"{what}: {label(a)} less {label(b)}"
            )
            for a, b in pairs
        }
    )


def label(layer: str) -> str:
    """The paper's name of a layer of the fully connected networks."""
    if layer.startswith("blocks."):
        return f"Res-Block {int(layer.partition('.')[2]) + 1}"
    if layer.startswith("layer") and layer != "layer1":
        return f"Hidden layer {int(layer.removeprefix('layer')) - 1}"
    return {"input": "Layer 1", "layer1": "Layer 1", "output": "Output"}.get(layer, layer)


def present(values: xr.DataArray, names: Sequence[str]) -> xr.DataArray:
    """Those of some layers that the values have; all layers where they have none of them."""
    found = [name for name in names if name in values["layer"].values]
    return values.sel(layer=found) if found else values


def labelled(values: xr.DataArray) -> xr.DataArray:
    """All layers but the output under the paper's names."""
    names = [n for n in values["layer"].values if n != "output"]
    chosen = values.sel(layer=names)
    return chosen.assign_coords(layer=[label(str(name)) for name in names])


def when_trained(variants: Iterable[str], decide: Decide) -> Decide:
    """The decision, with a word on runs that diverged.

    No decision where more than half of the runs of one of the variants diverged: those that are
    left are not a sample of what was planned.

    Args:
        variants: What is compared.
        decide: From data to verdict.
    """

    def decided(data: xr.DataTree) -> Verdict:
        planned = data.attrs[PLANNED]
        left = {v: _seeds(data, v) for v in variants}
        gone = [f"{planned - n} of {planned} runs of {v} diverged" for v, n in left.items()
                if n < planned]  # fmt: skip
        note = "; ".join(gone) + "." if gone else ""
        if any(2 * n < planned for n in left.values()):
            return Verdict("inconclusive", "too few runs left", float("nan"), None, 0, note=note)
        verdict = decide(data)
        return replace(verdict, note=" ".join(part for part in (verdict.note, note) if part))

    return decided


LEARNT = 0.95
"""A network has learnt where its test error is below this share of the error of guessing."""


def chance(config: RunConfig) -> float:
    """Error of guessing, %, on balanced classes.

    Raises:
        LayerscopeError: The data are no images of the table.
    """
    match config.data:
        case Digits():
            classes = 10
        case Images(name, classes=chosen):
            row = row_of(name)
            if row is None:
                raise unknown("data set", name, IMAGE_SETS)
            classes = chosen or row.classes
        case _:
            raise LayerscopeError(
                f"{type(config.data).__name__} has no classes to guess.", "Choose images."
            )
    return 100 * (1 - 1 / classes)


def errors(data: xr.DataTree, variant: str) -> xr.DataArray:
    """Test error at the measured checkpoints, % (seed, step)."""
    return node(data, variant, "performance")["error"]


def error(data: xr.DataTree, variant: str) -> xr.DataArray:
    """Test error at the end of training, % (seed)."""
    return errors(data, variant).isel(step=-1, drop=True)


def if_learnt(chances: Mapping[str, float], decide: Decide) -> Decide:
    """The decision, where every network that is spoken of has learnt something.

    Args:
        chances: The error of guessing for every such variant, %.
        decide: From data to verdict.
    """

    def decided(data: xr.DataTree) -> Verdict:
        errors = {name: float(error(data, name).mean()) for name in chances}
        guessing = [n for n, value in errors.items() if not value <= LEARNT * chances[n]]
        verdict = decide(data)
        if not guessing:
            return verdict
        names = ", ".join(f"{name} ({errors[name]:.1f}% error)" for name in guessing)
        note = f"Not decided: {names} has learnt hardly anything."
        return replace(verdict, outcome="inconclusive", note=f"{note} {verdict.note}".strip())

    return decided


def _seeds(data: xr.DataTree, variant: str) -> int:
    """Runs of a variant that were measured."""
    if variant not in data.children:
        return 0
    return next(iter(data[variant].children.values())).sizes["seed"]
