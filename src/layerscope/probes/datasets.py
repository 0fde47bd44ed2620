"""What probes measured, as labelled datasets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from layerscope.errors import DivergedError
from layerscope.networks.layers import LayerMap
from layerscope.probes.base import MomentProbe, Probe, layer_coordinates, step_coordinates
from layerscope.runs.environment import package_version
from layerscope.runs.results import settings_attribute

Row = tuple[int, Mapping[str, Tensor]]
"""What a probe measured of one step."""


def assemble(
    probe: MomentProbe,
    layers: LayerMap,
    rows: Sequence[Row],
    steps_per_epoch: int | None,
    missing: Mapping[str, str] = MappingProxyType({}),
) -> xr.Dataset:
    """Rows of one probe as a dataset over ``step`` and ``layer``; one transfer per variable.

    Args:
        probe: What measured the rows.
        layers: The layers it measured.
        rows: Step and values, ascending.
        steps_per_epoch: Optimiser steps per epoch, where known.
        missing: Why a layer has no value, by name: NaN is no error there. Kept as the coordinate
            ``missing`` along ``layer``, empty where a layer was measured.

    Raises:
        DivergedError: A value of another layer is not a number: weights or gradients were not
            finite.
    """
    steps = [step for step, _ in rows]
    coordinates = layer_coordinates(layers) | step_coordinates(steps, steps_per_epoch)
    coordinates["missing"] = ("layer", [missing.get(name, "") for name in layers.names])
    dataset = xr.Dataset(coords=coordinates, attrs=attributes_of(probe))
    measured = [name not in missing for name in layers.names]
    for name, variable in probe.variables.items():
        values = torch.stack([values[name] for _, values in rows]).cpu().numpy()
        bad = [] if variable.partial else np.argwhere(np.isnan(values[:, measured])).tolist()
        if bad:
            layer = np.flatnonzero(measured)[bad[0][1]]
            raise DivergedError(
                f"{name} of layer {layers.names[layer]!r} is not a number at step "
                f"{steps[bad[0][0]]}: its weights or gradients are not finite.",
                "The model has diverged: lower the learning rate; earlier checkpoints are kept.",
            )
        dataset[name] = (("step", *variable.dims), values, variable.attributes(probe.source))
    return dataset


def by_epoch(dataset: xr.Dataset, steps_per_epoch: int) -> xr.Dataset:
    """Means over the steps of every epoch of what was measured at each step, from step 1 on.

    Args:
        dataset: With the dimension ``step``; its steps are those of whole epochs.
        steps_per_epoch: Optimiser steps per epoch.

    Returns:
        The same variables at the last steps of epochs.
    """
    last = {name: "max" for name, found in dataset.coords.items() if "step" in found.dims}
    # A plain mean: where a step has no value, its epoch has none.
    return dataset.coarsen(step=steps_per_epoch, coord_func=last).reduce(np.mean)


def with_reasons(dataset: xr.Dataset, missing: Mapping[str, str]) -> xr.Dataset:
    """The dataset, with why a layer has no value as the coordinate ``missing`` along ``layer``."""
    if "layer" not in dataset.dims:
        return dataset
    reasons = [missing.get(str(name), "") for name in dataset["layer"].values]
    return dataset.assign_coords(missing=("layer", reasons))


def attributes_of(probe: Probe) -> dict[str, str]:
    """What a dataset says of the probe that made it."""
    found = {
        "probe": type(probe).__name__,
        "settings": settings_attribute(probe.settings),
        "layerscope": package_version("layerscope"),
    }
    if probe.sampling is not None:
        found["sample"] = str(probe.sampling)
    return found | ({"revision": str(probe.revision)} if probe.revision > 1 else {})
