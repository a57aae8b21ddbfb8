"""Recipes: experiments as code. A module of this package that defines `RECIPES` is found by their names.

A recipe of your own may lie in any Python file, which `get`, and with it every command, takes as `path/to/file.py:NAME`.
"""

from __future__ import annotations

from acdbit_keras.models.recipes.base import Recipe, parts
from acdbit_keras.models.recipes.from_file import is_file, read
from acdbit_keras.registry import Registry

__all__ = ["Recipe", "get", "is_one", "names"]

registry = Registry("recipe", Recipe, package=__name__, path=__path__, attribute="RECIPES", without="@")
names = registry.names


def get(identifier: str | Recipe) -> Recipe:
    """The recipe that an identifier names, or the recipe itself.

    Args:
        identifier: a name of `names()`; `"path/to/file.py:NAME"`, a recipe of a file, or the file alone if it holds one; either
            with `"@DATA"` behind it, for the same training on other data: see `Recipe.on`.

    Raises:
        ValueError: for an unknown name, listing the known ones and the nearest; a file that is not there, that cannot be
            imported, or that holds no such recipe.
    """
    if isinstance(identifier, Recipe):
        return identifier
    recipe, data = parts(identifier) if isinstance(identifier, str) else (identifier, None)
    found = read(recipe, lambda thing: thing in map(registry.get, names())) if is_file(recipe) else registry.get(recipe)
    return found.on(data) if data else found


def is_one(identifier: str) -> bool:
    """Whether an identifier is meant for `get`, by its form or its name, and not the place of a model."""
    recipe, _ = parts(identifier)
    return recipe in names() or is_file(recipe) and ":" in recipe
