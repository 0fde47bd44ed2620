"""The curvature of every layer, what normalisation does to it, and very deep residual networks."""

from layerscope.recipes.layerwise_conditioning.settings import paper
from layerscope.studies.paper import Recipe

paper.load(__name__, __path__)


def __getattr__(name: str) -> Recipe:
    """A recipe by its name."""
    return paper.exported(name)
