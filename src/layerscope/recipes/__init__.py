"""Recipes: one package per paper, one function per figure or table.

A recipe is called with a scale and gives a `layerscope.Study`; its docstring cites the figure,
states what the paper left open and how it is read here.
"""

from __future__ import annotations

import importlib
import re

from layerscope.errors import unknown
from layerscope.studies.paper import Recipe

PAPERS = ("all_layers_created_equal", "layer_convergence_bias")


def recipes() -> dict[str, Recipe]:
    """Every recipe by its full name, ``<paper>.<figure>``, in the order of the papers."""
    found: dict[str, Recipe] = {}
    for name in PAPERS:
        paper = importlib.import_module(f"layerscope.recipes.{name}").paper
        for figure in sorted(paper.recipes, key=_order):
            found[paper.recipes[figure].name] = paper.recipes[figure]
    return found


def _order(figure: str) -> tuple[int, int, str]:
    """Figures, then tables, by their numbers; then the rest."""
    match = re.fullmatch(r"(fig|table)(\d+)(\w*)", figure)
    if match is None:
        return 2, 0, figure
    return ("fig", "table").index(match[1]), int(match[2]), match[3]


def find(name: str) -> Recipe:
    """The recipe of a name.

    Raises:
        LayerscopeError: There is none; the message suggests the nearest.
    """
    table = recipes()
    if name not in table:
        raise unknown("recipe", name, table)
    return table[name]
