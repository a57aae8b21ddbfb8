"""Schemes: one short module per system. A module of this package that defines `SCHEME` is found by its name.

So is a scheme that was given to `register`, or that an installed package names in its entry points `acdbit.schemes`.
"""

from __future__ import annotations

from acdbit_keras.registry import Registry
from acdbit_keras.schemes.base import PLACES, Scheme, Stage
from acdbit_keras.schemes.variants import variant
from acdbit_keras.typing import SchemeLike

__all__ = ["PLACES", "Scheme", "Stage", "get", "names", "register"]

registry = Registry("scheme", Scheme, package=__name__, path=__path__, attribute="SCHEME", group="acdbit.schemes", without="[:")
names = registry.names


def get(identifier: SchemeLike) -> Scheme:
    """A `Scheme` from itself, its name, the name of a variant or its config.

    Args:
        identifier: a `Scheme`; a name of `names()`; such a name and, in brackets, options that the scheme's `AlignedSign`s
            have other values of, `"acd_bit[threshold=mean,restore=dynamic]"`, see `acdbit_keras.schemes.variants`; or a
            config, a dict, from `Scheme.get_config`.

    Raises:
        ValueError: for an unknown name, listing the known ones and the nearest, or an unknown option of a variant.

    Example:
        >>> import acdbit_keras as acd
        >>> scheme = acd.schemes.get("acd_bit")
        >>> scheme.title, scheme.is_binary, scheme.quantizer("activation").threshold
        ('ACD-BiT', True, 'median')
        >>> acd.schemes.get("acd_bit[threshold=mean]").quantizer("activation").threshold
        'mean'
    """
    if isinstance(identifier, Scheme):
        return identifier
    if isinstance(identifier, dict):
        return Scheme.from_config(identifier)
    name, bracket, options = identifier.partition("[") if isinstance(identifier, str) else (identifier, "", "")
    scheme = registry.get(name)
    return variant(scheme, identifier, bracket + options) if bracket else scheme


def register(scheme: Scheme) -> Scheme:
    """Makes a scheme known under its name, wherever one is named, until the process ends; returns it.

    To have it in every process, those of the command line and of the tables' runs too, name it in the entry points of a package
    of your own:

        [project.entry-points."acdbit.schemes"]
        mine = "my_package.my_module:SCHEME"

    Args:
        scheme: `Scheme`; its name must not be that of another one, nor hold "[", which begins the options of a variant,
            or ":", which stands between preset and scheme.

    Raises:
        ValueError: not a scheme, or such a name.

    Example:
        >>> import acdbit_keras as acd
        >>> ours = acd.schemes.get("acd_bit").replace(name="ours", probabilities=acd.ElasticBinary(0.02))
        >>> ours = acd.schemes.register(ours)
        >>> student = acd.models.build("vit_nano_patch2_8", scheme="ours")
    """
    return registry.register(scheme)
