"""Relative weight change of the layers of convolutional networks, and controls for it."""

from layerscope.recipes.relative_weight_change.settings import paper
from layerscope.studies.paper import Recipe

paper.load(__name__, __path__)


def __getattr__(name: str) -> Recipe:
    """A recipe by its name."""
    return paper.exported(name)
