"""Things that are found by name: every module of a package may define some, and an unknown name gets a helpful error."""

import importlib
import pkgutil
import random

from acdbit_keras.checks import did_you_mean


class Registry:
    """The named things that the modules of one package define.

    Args:
        kind: what they are called in messages, e.g. `"scheme"`.
        package: `__name__` of the package.
        path: its `__path__`.
        entries: function from a module to the things in it, each with a `name`. Modules without any are passed over.
    """

    def __init__(self, kind, package, path, entries):
        self.kind = kind
        self._package = package
        self._path = path
        self._entries = entries
        self._found = None

    def names(self):
        """The known names, sorted."""
        return sorted(self._all())

    def get(self, name):
        """What has that name.

        Raises:
            ValueError: for an unknown name, listing the known ones and the nearest.
        """
        # An unhashable name is unknown, too.
        if not isinstance(name, str) or name not in self._all():
            raise unknown(self.kind, name, self.names())
        return self._all()[name]

    def _all(self):
        # On first use: the modules import the package that owns the registry.
        if self._found is None:
            # Layers and quantizers made by a module draw seeds: what is random later would depend on when it was read.
            state = random.getstate()
            modules = [importlib.import_module(f"{self._package}.{info.name}") for info in pkgutil.iter_modules(self._path)]
            random.setstate(state)
            self._found = {entry.name: entry for module in modules for entry in self._entries(module)}
        return self._found


def unknown(kind, name, known):
    """A ValueError for a name that is none of `known`: it lists them, and the nearest."""
    return ValueError(f"unknown {kind} {name!r}; known: {', '.join(known)}{did_you_mean(name, known)}")
