"""Recipes: experiments as code. A module of this package that defines `RECIPES` is found by their names."""

import difflib
import functools
import importlib
import pkgutil

from acdbit_keras.models.recipes.base import Recipe

__all__ = ["Recipe", "get", "names"]


@functools.cache
def _all():
    modules = (importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__) if info.name != "base")
    return {recipe.name: recipe for module in modules for recipe in module.RECIPES}


def names():
    """Names of the known recipes."""
    return sorted(_all())


def get(name):
    """The recipe of that name.

    Raises:
        ValueError: for an unknown name, listing the known ones and the nearest.
    """
    if isinstance(name, Recipe):
        return name
    if name not in _all():
        near = difflib.get_close_matches(str(name), names(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown recipe {name!r}; known: {', '.join(names())}{hint}")
    return _all()[name]
