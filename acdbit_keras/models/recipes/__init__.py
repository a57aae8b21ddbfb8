"""Recipes: experiments as code. A module of this package that defines `RECIPES` is found by their names."""

from acdbit_keras.models.recipes.base import Recipe
from acdbit_keras.registry import Registry

__all__ = ["Recipe", "get", "names"]

_registry = Registry("recipe", __name__, __path__, lambda module: getattr(module, "RECIPES", ()))
names = _registry.names


def get(name):
    """The recipe of that name, or the recipe itself.

    Raises:
        ValueError: for an unknown name, listing the known ones and the nearest.
    """
    return name if isinstance(name, Recipe) else _registry.get(name)
