"""Recipes: experiments as code. A module of this package that defines `RECIPES` is found by their names."""

from acdbit_keras.models.recipes.base import Recipe
from acdbit_keras.registry import Registry

__all__ = ["Recipe", "get", "names"]

registry = Registry("recipe", Recipe, package=__name__, path=__path__, attribute="RECIPES", without="@")
names = registry.names


def get(name):
    """The recipe of that name, or the recipe itself.

    Raises:
        ValueError: for an unknown name, listing the known ones and the nearest.
    """
    return name if isinstance(name, Recipe) else registry.get(name)
