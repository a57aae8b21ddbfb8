"""Schemes: one short module per system. A module of this package that defines `SCHEME` is found by its name."""

import difflib
import functools
import importlib
import pkgutil

from acdbit_keras.schemes.base import PLACES, Scheme

__all__ = ["PLACES", "Scheme", "get", "names"]


@functools.cache
def _all():
    modules = (importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__) if info.name != "base")
    return {module.SCHEME.name: module.SCHEME for module in modules}


def names():
    """Names of the known schemes."""
    return sorted(_all())


def get(identifier):
    """A `Scheme` from itself, its name or its config.

    Raises:
        ValueError: for an unknown name, listing the known ones and the nearest.
    """
    if isinstance(identifier, Scheme):
        return identifier
    if isinstance(identifier, dict):
        return Scheme.from_config(identifier)
    if identifier not in _all():
        near = difflib.get_close_matches(str(identifier), names(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown scheme {identifier!r}; known: {', '.join(names())}{hint}")
    return _all()[identifier]
