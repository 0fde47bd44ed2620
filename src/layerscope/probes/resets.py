"""Which layers to reset together, and how resets are drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np
import xarray as xr

from layerscope.errors import LayerscopeError
from layerscope.figures.figure import Heatmap, Lines
from layerscope.networks.discovery import preview
from layerscope.networks.layers import LayerMap

RANDOM = "random"
SHORT = "rand"
"""How figures call it, where every column is as narrow as a number."""
WHOLE = "whole model"
ROWS = 8
"""With more layers than this they become columns, as in the paper's figures of deep networks."""
Rule = Literal["alone", "ambient", "all_but_first", "two_of_three", "every_other"]
_PLACES: dict[str, Callable[[int], bool]] = {
    "all_but_first": lambda place: place > 0,
    "two_of_three": lambda place: place % 3 > 0,
    "every_other": lambda place: place % 2 > 0,
}


def marked(rule: str | Sequence[str], layers: LayerMap) -> tuple[bool, ...]:
    """Which layers a rule puts into the group that is reset together.

    A rule counts places among siblings, the layers inside one parent module: the second, third,
    fifth, ... for ``"two_of_three"``, the second, fourth, ... for ``"every_other"``. Where some
    layers lie inside a parent (blocks of stages), those that do not (stem, classifier) are left
    out, and so the first block of each stage never belongs to the group.

    Args:
        rule: A rule, or glob patterns of layer names.
        layers: The layers.

    Raises:
        LayerscopeError: A pattern matches no layer, or the rule is not known.
    """
    if not isinstance(rule, str):
        for pattern in rule:
            if not any(fnmatchcase(name, pattern) for name in layers.names):
                raise LayerscopeError(
                    f"no layer matches {pattern!r}.", f"Layers are called {preview(layers.names)}."
                )
        return tuple(any(fnmatchcase(n, pattern) for pattern in rule) for n in layers.names)
    if rule not in _PLACES:
        raise LayerscopeError(
            f"unknown rule {rule!r}.", f"Choose one of {sorted(_PLACES)}, or name the layers."
        )
    nested = any("." in name for name in layers.names)
    places: dict[str, int] = {}
    found = []
    for name in layers.names:
        parent = name.rpartition(".")[0]
        place = places.setdefault(parent, 0)
        places[parent] += 1
        found.append(_PLACES[rule](place) and (bool(parent) or not nested))
    return tuple(found)


def column_names(dataset: xr.Dataset) -> list[str]:
    """What each column was reset to: ``"rand"``, or the epoch (the step where unknown)."""
    per_epoch = dataset.attrs.get("steps_per_epoch")
    return [
        SHORT if name == RANDOM else f"{int(name) / per_epoch:g}" if per_epoch else name
        for name in map(str, dataset["checkpoint"].values)
    ]


def _over_columns(values: xr.DataArray, dataset: xr.Dataset) -> xr.DataArray:
    named = values.assign_coords(checkpoint=column_names(dataset))
    unit = "epoch" if dataset.attrs.get("steps_per_epoch") else "step"
    named["checkpoint"].attrs = {"long_name": f"reset to {unit}"}
    return named


def with_whole_model(dataset: xr.Dataset) -> xr.DataArray:
    """Test error (layer, checkpoint), the whole model at each checkpoint as the last layer.

    Layers that are reset jointly carry a star, and how many seeds agree where not all do.
    """
    error = dataset["error"].reset_coords(drop=True)
    names = [str(name) for name in error["layer"].values]
    if "member" in dataset:
        member, n = dataset["member"], error.sizes.get("seed", 1)
        counts = (member.sum("seed") if "seed" in member.dims else member.astype(int)).values
        marks = {0: "", n: " *"}
        names = [
            name + marks.get(count, f" * {count}/{n}")
            for name, count in zip(names, counts.tolist(), strict=True)
        ]
    whole = dataset["model_error"].reset_coords(drop=True).expand_dims(layer=[WHOLE])
    joined = xr.concat([error.assign_coords(layer=names), whole], "layer")
    joined.attrs = error.attrs
    joined["layer"].attrs = dataset["layer"].attrs
    return _over_columns(joined, dataset)


def _deep(dataset: xr.Dataset) -> bool:
    return dataset.sizes["layer"] > ROWS


def robustness_heatmap(
    dataset: xr.Dataset, key: str, title: str = "", caption: str = ""
) -> Heatmap:
    """Test error by layer and what it was reset to, in the paper's layout.

    Layers are rows, or columns where there are many; re-randomised first, then the checkpoints;
    the last layer is the whole model at each checkpoint.

    Args:
        dataset: What `Reinitialisation` measured, with or without seeds.
        key: Names the file.
        title: Heading; a general one where empty.
        caption: What a reader has to know beside how to read the figure.
    """
    values = with_whole_model(dataset)
    joint = "member" in dataset
    deep = _deep(dataset)
    base = float(np.mean(dataset["base_error"].values))
    what = (
        "Layers with a star are reset together, and so are the others"
        if joint
        else f"Each {'column' if deep else 'row'} resets one layer"
    )
    reading = (
        f"{what}: to fresh random weights (rand: mean over draws) or to those of an earlier time; "
        "the rest stays as trained. The last one is the whole model at that time. Trained model: "
        f"{base:.2f}%."
    )
    return Heatmap(
        values,
        key=key,
        title=title or f"Test error after resetting {'layers jointly' if joint else 'one layer'}",
        caption=f"{reading} {caption}".strip(),
        x="layer" if deep else "checkpoint",
        y="checkpoint" if deep else "layer",
        annotate=values.sizes["checkpoint"] <= 12 and values.sizes["layer"] <= 12,
    )


def distance_heatmaps(dataset: xr.Dataset, key: str, title: str = "") -> list[Heatmap]:
    """Both distances of the trained weights from those put in their place, beside robustness."""
    deep = _deep(dataset)
    return [
        Heatmap(
            _over_columns(dataset[name].reset_coords(drop=True), dataset),
            key=f"{key}-{short}",
            title=f"{heading}{title and ', ' + title}",
            caption=f"{heading} between a layer's trained parameters and those of each time; "
            "rand: mean over draws.",
            x="layer" if deep else "checkpoint",
            y="checkpoint" if deep else "layer",
        )
        for name, short, heading in (
            ("rms_distance", "l2", "Normalised L2 distance"),
            ("max_distance", "linf", "Largest distance"),
        )
    ]


def robustness_lines(dataset: xr.Dataset, key: str, title: str = "", caption: str = "") -> Lines:
    """The values of `robustness_heatmap` as one line for each checkpoint over the layers."""
    return Lines(
        with_whole_model(dataset).isel(layer=slice(None, -1)),
        key=key,
        title=title or "Test error after resetting one layer",
        caption=f"One line for each time that a layer is reset to. {caption}".strip(),
        x="layer",
        hue="checkpoint",
        markers=True,
    )
