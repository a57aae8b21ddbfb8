"""Schemes: one short module per system. A module of this package that defines `SCHEME` is found by its name."""

from acdbit_keras.registry import Registry
from acdbit_keras.schemes.base import PLACES, Scheme, Stage
from acdbit_keras.schemes.variants import variant

__all__ = ["PLACES", "Scheme", "Stage", "get", "names"]

_registry = Registry("scheme", __name__, __path__, lambda module: [module.SCHEME] if hasattr(module, "SCHEME") else [])
names = _registry.names


def get(identifier):
    """A `Scheme` from itself, its name, the name of a variant or its config.

    A variant changes options of the scheme's `AlignedSign`s: `"acd_bit[threshold=mean,restore=dynamic]"`; see
    `acdbit_keras.schemes.variants`.

    Raises:
        ValueError: for an unknown name, listing the known ones and the nearest, or an unknown option of a variant.
    """
    if isinstance(identifier, Scheme):
        return identifier
    if isinstance(identifier, dict):
        return Scheme.from_config(identifier)
    name, bracket, options = identifier.partition("[") if isinstance(identifier, str) else (identifier, "", "")
    scheme = _registry.get(name)
    return variant(scheme, identifier, bracket + options) if bracket else scheme
