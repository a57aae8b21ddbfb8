"""Things that are found by name: a package's own, those that a program registers, and those of installed plug-ins.

A plug-in is any distribution with an entry point in the group of a registry, for instance in its `pyproject.toml`

    [project.entry-points."acdbit.schemes"]
    mine = "my_package.my_module:SCHEME"

which names a thing, a tuple of them, or a module that defines them as the package's own modules do.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
import random
import types
import warnings
from typing import Any

from acdbit_keras.checks import did_you_mean


class Registry:
    """The named things of one kind.

    Args:
        kind: what they are called in messages, e.g. `"scheme"`.
        type: class of the things, or a tuple of classes; each thing has a `name`.
        own: those that are known from the start.
        package: `__name__` of a package whose modules define things.
        path: its `__path__`.
        attribute: name under which a module defines one thing, or a tuple of them.
        group: of the entry points of plug-ins.
        without: characters that no name may hold, because they mean something where a name is written.

    Attributes:
        registered: dict from name to what `register` was given; they are looked up first.
    """

    def __init__(self, kind, type, own=(), package=None, path=(), attribute=None, group=None, without=""):
        self.kind = kind
        self.registered = {}
        self._type = type
        self._given = {thing.name: thing for thing in own}
        self._package = package
        self._path = path
        self._attribute = attribute
        self._group = group
        self._without = without
        self._own = None
        self._plug_ins = None

    def names(self) -> list[str]:
        """The known names, sorted."""
        return sorted({*self._load_own(), *self._load_plug_ins(), *self.registered})

    def own(self) -> list[str]:
        """The names that are known without plug-ins and `register`, sorted."""
        return sorted(self._load_own())

    def find(self, name: str) -> Any:
        """What has that name, `None` if nothing has."""
        # An unhashable name is unknown, too. Plug-ins are not read for a name that is known without them.
        if not isinstance(name, str):
            return None
        for load in (lambda: self.registered, self._load_own, self._load_plug_ins):
            if name in (known := load()):
                return known[name]
        return None

    def get(self, name: str) -> Any:
        """What has that name.

        Raises:
            ValueError: for an unknown name, listing the known ones and the nearest.
        """
        found = self.find(name)
        if found is None:
            raise unknown(self.kind, name, self.names())
        return found

    def register(self, thing: Any) -> Any:
        """Makes a thing known under its name, for this process; returns it.

        Raises:
            ValueError: not a thing of this kind, or another one has that name.
        """
        self._check(thing)
        self._check_new(thing)
        self.registered[thing.name] = thing
        return thing

    def _check_new(self, thing):
        other = self.find(thing.name)
        if other is not None and other is not thing:
            raise ValueError(f"there is a {self.kind} {thing.name!r} already; another one needs another name")

    def _check(self, thing):
        if not isinstance(thing, self._type):
            classes = self._type if isinstance(self._type, tuple) else (self._type,)
            expected = " or ".join(cls.__name__ for cls in classes)
            raise ValueError(f"a {self.kind} must be of the type {expected}, not {type(thing).__name__}")
        if not isinstance(thing.name, str) or not thing.name.strip():
            raise ValueError(f"the name of a {self.kind} must be a text, not {thing.name!r}")
        if wrong := [character for character in thing.name if character in self._without]:
            raise ValueError(f"the name of a {self.kind} must not hold {wrong[0]!r}, but {thing.name!r} does")

    def _things(self, value):
        """The things that a module, a tuple, or a single thing stands for."""
        if isinstance(value, types.ModuleType):
            value = getattr(value, self._attribute, ())
        things = tuple(value) if isinstance(value, (tuple, list)) else (value,)
        for thing in things:
            self._check(thing)
        return things

    def _load_own(self):
        # On first use: the modules import the package that owns the registry.
        if self._own is None:
            with _same_random_numbers():
                modules = [importlib.import_module(f"{self._package}.{info.name}") for info in pkgutil.iter_modules(self._path)]
            things = [thing for module in modules for thing in self._things(module)]
            self._own = {**self._given, **{thing.name: thing for thing in things}}
        return self._own

    def _load_plug_ins(self):
        if self._plug_ins is None:
            # Filled as it goes: a plug-in may register more while it is imported.
            self._plug_ins = {}
            for point in importlib.metadata.entry_points(group=self._group) if self._group else ():
                try:
                    with _same_random_numbers():
                        things = self._things(point.load())
                    for thing in things:
                        self._check_new(thing)
                    self._plug_ins.update({thing.name: thing for thing in things})
                except Exception as error:  # Whatever a stranger's module raises, the rest works on.
                    said = f"{type(error).__name__}: {' '.join(str(error).split())}"
                    distribution = point.dist.name if point.dist else "an unknown distribution"
                    warnings.warn(
                        f"{distribution} brings the {self.kind} {point.name!r}, which is passed over: {said}", stacklevel=2
                    )
        return self._plug_ins


def unknown(kind, name, known):
    """A ValueError for a name that is none of `known`: it lists them, and the nearest."""
    return ValueError(f"unknown {kind} {name!r}; known: {', '.join(known)}{did_you_mean(name, known)}")


class _same_random_numbers:
    """Layers and quantizers made by a module draw seeds: what is random later would depend on when it was read."""

    def __enter__(self):
        self._state = random.getstate()

    def __exit__(self, *_):
        random.setstate(self._state)
