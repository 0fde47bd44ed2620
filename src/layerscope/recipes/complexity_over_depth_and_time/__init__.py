"""How many layers of a network act linearly, over depth and time, and how one can tell."""

from layerscope.recipes.complexity_over_depth_and_time.settings import paper
from layerscope.studies.paper import Recipe

paper.load(__name__, __path__)


def __getattr__(name: str) -> Recipe:
    """A recipe by its name."""
    return paper.exported(name)
