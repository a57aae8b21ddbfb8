"""Recipes of a Python file: `path/to/file.py:NAME`."""

import importlib.util
import pathlib
import sys
import traceback

from acdbit_keras.models.recipes.base import Recipe, parts
from acdbit_keras.registry import unknown

# A file is imported once as long as it stays what it is: path and time of the last change to module.
_modules = {}


def is_file(identifier):
    """Whether an identifier, without data behind it, names a file."""
    return isinstance(identifier, str) and identifier.partition(":")[0].endswith(".py")


def read(identifier, is_known):
    """The recipe that `"path.py:NAME"` names; NAME is that of a variable or of a recipe.

    What the recipe names, a teacher, a teacher of labels or a start, may lie in the same file.

    Args:
        identifier: `"path.py:NAME"`, or `"path.py"` of a file that holds one recipe.
        is_known: whether a recipe is one of the package; those that a file imports are not its own.

    Raises:
        ValueError: a file that is not there or cannot be imported, or that holds no such recipe.
    """
    path, _, name = identifier.partition(":")
    held = vars(_imported(path))
    found = {key: value for key, value in held.items() if isinstance(value, Recipe)}
    listed = held.get("RECIPES", ())
    for recipe in listed if isinstance(listed, (tuple, list)) else ():
        if not isinstance(recipe, Recipe):
            raise ValueError(f"RECIPES of {path} must hold recipes, not {type(recipe).__name__}")
        found.setdefault(recipe.name, recipe)
    by_name = {recipe.name: recipe for recipe in found.values()}
    own = [called for called, recipe in by_name.items() if not is_known(recipe)]
    if not name:
        if len(own) != 1:
            said = f"{len(own)} recipes, {', '.join(own)}; name one, {path}:NAME" if own else "no recipe of its own"
            raise ValueError(f"{path} holds {said}")
        recipe = by_name[own[0]]
    elif name in found or name in by_name:
        recipe = found.get(name) or by_name[name]
    elif name in held:
        raise ValueError(f"{name} of {path} is no Recipe, but of the type {type(held[name]).__name__}")
    elif by_name:
        variables = [key for key, recipe in found.items() if recipe.name in own]
        raise unknown(f"recipe of {path}", name, sorted({*variables, *own}) or sorted(found))
    else:
        raise ValueError(f"{path} holds no recipe")
    changes = {}
    for field in ("teacher", "label_teacher", "start"):
        named, data = parts(getattr(recipe, field) or "")
        if named in found or named in by_name:
            changes[field] = f"{path}:{named}" + (f"@{data}" if data else "")
    return recipe.replace(**changes) if changes else recipe


def _imported(path):
    file = pathlib.Path(path)
    if not file.is_file():
        raise ValueError(f"there is no file {path}")
    key = (str(file.resolve()), file.stat().st_mtime_ns)
    if key not in _modules:
        specification = importlib.util.spec_from_file_location(f"acdbit_recipes_{file.stem}", file)
        module = importlib.util.module_from_spec(specification)
        # As for a script, what lies beside it can be imported.
        sys.path.insert(0, str(file.resolve().parent))
        try:
            specification.loader.exec_module(module)
        except Exception as error:
            told = " ".join(str(getattr(error, "msg", error)).split())
            raise ValueError(f"{path} cannot be imported: {type(error).__name__}{_line(error, file)}: {told}") from error
        finally:
            sys.path.pop(0)
        _modules[key] = module
    return _modules[key]


def _line(error, file):
    """Where in the file it went wrong, as text."""
    if isinstance(error, SyntaxError):
        return f" in line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if pathlib.Path(frame.filename) == file]
    return f" in line {lines[-1]}" if lines else ""
