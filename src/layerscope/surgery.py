"""Layers re-initialised, frozen, removed, linearised: `layerscope.networks.surgery`, public."""

from layerscope.networks.sites import Site, find_sites
from layerscope.networks.surgery import (
    freeze,
    frozen,
    linearise,
    linearised,
    reinitialised,
    rerandomised,
    scale,
    without,
)

__all__ = [
    "Site",
    "find_sites",
    "freeze",
    "frozen",
    "linearise",
    "linearised",
    "reinitialised",
    "rerandomised",
    "scale",
    "without",
]
