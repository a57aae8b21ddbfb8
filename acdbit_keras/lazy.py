"""Public names that are imported when they are first asked for, so that a sensor does not load what only training needs."""

import importlib
import sys

from acdbit_keras import extras, registration


def attributes(module, names):
    """`__getattr__` and `__dir__` of a module whose public names lie in other modules.

    Args:
        module: `__name__` of the module.
        names: dict from public name to the module that it lies in; a name that lies nowhere (`None`) is a submodule.

    Returns:
        `(__getattr__, __dir__)`, to be assigned to these names in the module.
    """

    def getattr_(name):
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        home = names[name]
        try:
            value = importlib.import_module(f"{module}.{name}" if home is None else home)
        except ModuleNotFoundError as error:
            told = extras.missing(error, f"{module}.{name}")
            if told is error:
                raise
            raise told from None
        registration.complete()
        if home is not None:
            value = getattr(value, name)
        setattr(sys.modules[module], name, value)
        return value

    def dir_():
        return sorted({*vars(sys.modules[module]), *names})

    return getattr_, dir_


def module(name):
    """A module that is imported when the first thing in it is asked for."""
    return _Module(name)


class _Module:
    def __init__(self, name):
        self._name = name

    def __getattr__(self, attribute):
        return getattr(importlib.import_module(self._name), attribute)
