"""Zhang, Bengio and Singer, "Are All Layers Created Equal?" (2022).

Fig. 7 draws the residual blocks and has no measurement.
"""

from layerscope.recipes.all_layers_created_equal.settings import paper
from layerscope.studies.paper import Recipe

paper.load(__name__, __path__)


def __getattr__(name: str) -> Recipe:
    """A recipe by its name."""
    return paper.exported(name)
