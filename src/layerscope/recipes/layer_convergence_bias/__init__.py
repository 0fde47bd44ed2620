"""Chen, Yuille and Zhou, "Which Layer is Learning Faster?" (ICLR 2023)."""

from layerscope.recipes.layer_convergence_bias.connected import fig1a
from layerscope.recipes.layer_convergence_bias.residual import (
    fig1b,
    fig3,
    fig4,
    fig6,
    path_and_progress,
)
from layerscope.recipes.layer_convergence_bias.sweeps import (
    fig8a,
    fig12,
    fig13,
    fig14,
    fig15,
    fig16,
    fig20,
)

RECIPES = {
    "fig1a": fig1a,
    "fig1b": fig1b,
    "fig3": fig3,
    "fig4": fig4,
    "fig6": fig6,
    "fig8a": fig8a,
    "fig12": fig12,
    "fig13": fig13,
    "fig14": fig14,
    "fig15": fig15,
    "fig16": fig16,
    "fig20": fig20,
    "path_and_progress": path_and_progress,
}
