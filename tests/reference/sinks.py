"""What a sink is told of measurements, value by value."""

from __future__ import annotations

import math

import xarray as xr

ALLOWED = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"


def numbers(key: str, dataset: xr.Dataset) -> list[tuple[int, str, float]]:
    """Step, name and value of everything finite over steps, or over steps and layers."""
    probe = "".join(letter if letter in ALLOWED else "-" for letter in key)
    layered = [name for name in dataset.data_vars if dataset[name].dims == ("step", "layer")]
    found = []
    for name in dataset.data_vars:
        for step in dataset["step"].values:
            if dataset[name].dims == ("step",):
                value = float(dataset[name].sel(step=step))
                found.append((int(step), f"layerscope/{probe}/{name}", value))
            elif name in layered:
                for layer in dataset["layer"].values:
                    value = float(dataset[name].sel(step=step, layer=layer))
                    stem = probe if len(layered) == 1 else f"{probe}.{name}"
                    found.append((int(step), f"layerscope/{stem}/{layer}", value))
    return [entry for entry in found if math.isfinite(entry[2])]
