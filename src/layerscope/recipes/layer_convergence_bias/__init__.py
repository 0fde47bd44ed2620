"""Chen, Yuille and Zhou, "Which Layer is Learning Faster?" (ICLR 2023)."""

from layerscope.recipes.layer_convergence_bias.settings import paper
from layerscope.studies.paper import Recipe

paper.load(__name__, __path__)


def __getattr__(name: str) -> Recipe:
    """A recipe by its name."""
    return paper.exported(name)
