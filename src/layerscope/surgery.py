"""Layers re-initialised, frozen, removed: the public name of `layerscope.networks.surgery`."""

from layerscope.networks.surgery import (
    freeze,
    frozen,
    reinitialised,
    rerandomised,
    without,
)

__all__ = ["freeze", "frozen", "reinitialised", "rerandomised", "without"]
