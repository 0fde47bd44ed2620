"""Recipes: one module per paper, one function per figure or table, each returning a study.

A recipe is a function ``(scale) -> Study``; its docstring cites the figure, states what the paper
left open and how it is read here, and quotes the measured outcome.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from layerscope.errors import unknown

if TYPE_CHECKING:
    from layerscope.studies.study import Scale, Study

Recipe = Callable[["Scale"], "Study"]
PAPERS = ("all_layers_created_equal", "layer_convergence_bias")


def recipes() -> dict[str, Recipe]:
    """Every recipe by its full name, ``<paper>.<figure>``."""
    return {
        f"{paper}.{name}": recipe
        for paper in PAPERS
        for name, recipe in importlib.import_module(f"layerscope.recipes.{paper}").RECIPES.items()
    }


def find(name: str) -> Recipe:
    """The recipe of a name.

    Raises:
        LayerscopeError: There is none; the message suggests the nearest.
    """
    table = recipes()
    if name not in table:
        raise unknown("recipe", name, table)
    return table[name]


def headline(recipe: Recipe) -> str:
    """The first sentence of a recipe's docstring."""
    return (recipe.__doc__ or "").strip().partition("\n")[0]
