"""Zhang, Bengio and Singer, "Are All Layers Created Equal?" (2022)."""

from layerscope.recipes.all_layers_created_equal.configurations import (
    fig11,
    fig12,
    fig13,
    fig14,
    fig15,
    fig16,
    fig17,
    fig18,
    table3,
)
from layerscope.recipes.all_layers_created_equal.connected import bound, fig1, fig2, fig2b, fig8
from layerscope.recipes.all_layers_created_equal.deep import fig3, fig4, fig5
from layerscope.recipes.all_layers_created_equal.joint import fig6, fig9, fig10, table1
from layerscope.recipes.all_layers_created_equal.stochastic import table2

RECIPES = {
    "fig1": fig1,
    "fig2": fig2,
    "fig2b": fig2b,
    "fig3": fig3,
    "fig4": fig4,
    "fig5": fig5,
    "fig6": fig6,
    "fig8": fig8,
    "fig9": fig9,
    "fig10": fig10,
    "fig11": fig11,
    "fig12": fig12,
    "fig13": fig13,
    "fig14": fig14,
    "fig15": fig15,
    "fig16": fig16,
    "fig17": fig17,
    "fig18": fig18,
    "table1": table1,
    "table2": table2,
    "table3": table3,
    "bound": bound,
}
"""Fig. 7 draws the residual blocks and has no measurement."""
