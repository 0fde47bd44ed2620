"""Recipes: one package per paper, one function per figure or table.

A recipe is called with a scale and gives a `layerscope.Study`; its docstring cites the figure,
states what the paper left open and how it is read here.
"""

from __future__ import annotations

import importlib

from layerscope.catalogue import natural, papers
from layerscope.errors import unknown
from layerscope.studies.paper import Recipe


def recipes() -> dict[str, Recipe]:
    """Every recipe by its full name, ``<paper>.<figure>``, in the order of the papers."""
    found: dict[str, Recipe] = {}
    for name in papers():
        paper = importlib.import_module(f"layerscope.recipes.{name}").paper
        for figure in sorted(paper.recipes, key=natural):
            found[paper.recipes[figure].name] = paper.recipes[figure]
    return found


def find(name: str) -> Recipe:
    """The recipe of a name.

    Raises:
        LayerscopeError: There is none; the message suggests the nearest.
    """
    table = recipes()
    if name not in table:
        raise unknown("recipe", name, table)
    return table[name]
