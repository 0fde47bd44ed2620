"""Chen, Yuille and Zhou, "Which Layer is Learning Faster?" (ICLR 2023)."""

from layerscope.recipes.layer_convergence_bias.connected import fig1a
from layerscope.recipes.layer_convergence_bias.convolutional import fig2, fig7, fig11
from layerscope.recipes.layer_convergence_bias.datasets import fig8e, fig10, fig17
from layerscope.recipes.layer_convergence_bias.landscapes import fig5, fig18, fig19
from layerscope.recipes.layer_convergence_bias.residual import (
    fig1b,
    fig3,
    fig4,
    fig6,
    path_and_progress,
)
from layerscope.recipes.layer_convergence_bias.sweeps import (
    domain,
    fig8a,
    fig12,
    fig13,
    fig14,
    fig15,
    fig16,
    fig20,
)
from layerscope.recipes.layer_convergence_bias.transformers import fig9, fig21

RECIPES = {
    "fig1a": fig1a,
    "fig1b": fig1b,
    "fig2": fig2,
    "fig3": fig3,
    "fig4": fig4,
    "fig5": fig5,
    "fig6": fig6,
    "fig7": fig7,
    "fig8a": fig8a,
    "fig8e": fig8e,
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
    "fig19": fig19,
    "fig20": fig20,
    "fig21": fig21,
    "domain": domain,
    "path_and_progress": path_and_progress,
}
