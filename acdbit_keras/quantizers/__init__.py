"""Quantizers: each turns a real tensor into a `Code`. `get` is what every layer argument goes through."""

from __future__ import annotations

from typing import Any

import keras

from acdbit_keras import checks, signs
from acdbit_keras.quantizers.aligned import AlignedSign
from acdbit_keras.quantizers.base import Comparison, Identity, PlainSign, Quantizer
from acdbit_keras.quantizers.elastic import ElasticBinary
from acdbit_keras.quantizers.probabilities import LogarithmicSoftmax, ThresholdedProbabilities
from acdbit_keras.quantizers.stored import StoredSign
from acdbit_keras.quantizers.uniform import PowerOfTwoFactor, UniformQuantizer
from acdbit_keras.quantizers.weights import WeightSign
from acdbit_keras.typing import QuantizerLike

_BY_NAME = {
    "aligned_sign": AlignedSign,
    "elastic_binary": ElasticBinary,
    "identity": Identity,
    "logarithmic_softmax": LogarithmicSoftmax,
    "power_of_two_factor": PowerOfTwoFactor,
    "thresholded_probabilities": ThresholdedProbabilities,
    "uniform_quantizer": UniformQuantizer,
    "weight_sign": WeightSign,
}

__all__ = [
    "AlignedSign", "Comparison", "ElasticBinary", "Identity", "LogarithmicSoftmax", "PlainSign", "PowerOfTwoFactor", "Quantizer",
    "StoredSign", "ThresholdedProbabilities", "UniformQuantizer", "WeightSign", "clone", "get", "names", "own", "serialize",
]  # fmt: skip


def names() -> list[str]:
    """Every name that `get` accepts: ours and Larq's.

    Example:
        >>> import acdbit_keras as acd
        >>> "aligned_sign" in acd.quantizers.names(), "approx_sign" in acd.quantizers.names()
        (True, True)
    """
    return sorted([*_BY_NAME, *signs.names()])


def get(identifier: QuantizerLike) -> Quantizer:
    """A quantizer from any of its forms.

    Args:
        identifier: a `Quantizer`; a name of `names()`; a Larq quantizer instance, class name or alias; a config from
            `serialize`, a dict; or `None`, which leaves the tensor real.

    Raises:
        ValueError: for an unknown name (with the known ones and the nearest) or another type.

    Example:
        >>> import acdbit_keras as acd
        >>> type(acd.quantizers.get("weight_sign")).__name__, type(acd.quantizers.get(None)).__name__
        ('WeightSign', 'Identity')
        >>> acd.quantizers.get("approx_sign").levels, acd.quantizers.get("ste_heaviside").levels
        ('sign', 'zero_one')
    """
    if identifier is None:
        return Identity()
    if isinstance(identifier, Quantizer):
        return identifier
    if isinstance(identifier, dict):
        # Unbuilt, whatever it was: the layer it goes to builds it.
        return keras.saving.deserialize_keras_object({key: value for key, value in identifier.items() if key != "build_config"})
    if isinstance(identifier, str) and identifier in _BY_NAME:
        return _BY_NAME[identifier]()
    if isinstance(identifier, str) and identifier not in signs.spellings():
        hint = checks.did_you_mean(identifier, [*_BY_NAME, *signs.spellings()])
        raise ValueError(f"unknown quantizer {identifier!r}; known: {', '.join(names())}{hint}")
    if type(identifier).__module__ == "larq.quantizers" and type(identifier).__name__ == "NoOp":
        return Identity()
    return PlainSign(signs.get(identifier))


def own(identifier: QuantizerLike) -> Quantizer:
    """What `get` gives, for the one place in a model that keeps its weights and statistics there.

    A quantizer that has a place already, or weights, is copied without them: one dict of options may serve many layers, and
    each of them has its own statistics.

    Args:
        identifier: what `get` takes.

    Raises:
        ValueError: as `get`, or for a quantizer that cannot be copied, because its class has no `get_config`.

    Example:
        >>> import acdbit_keras as acd
        >>> options = dict(input_quantizer=acd.AlignedSign(momentum=0.9), kernel_quantizer="weight_sign")
        >>> first, second = acd.BinaryDense(8, **options), acd.BinaryDense(8, **options)
        >>> first.input_quantizer is options["input_quantizer"], second.input_quantizer is first.input_quantizer
        (True, False)
        >>> second.input_quantizer.momentum
        0.9
    """
    quantizer = get(identifier)
    if quantizer.has_place or quantizer.built:
        try:
            quantizer = clone(quantizer)
        except NotImplementedError:
            raise ValueError(
                f"the quantizer {quantizer.name!r} belongs to another layer already, and quantizers.clone cannot copy it: its "
                f"class {type(quantizer).__name__} needs a get_config; give each layer a quantizer of its own"
            ) from None
    quantizer.has_place = True
    return quantizer


def serialize(quantizer: Quantizer) -> dict[str, Any]:
    """The config of a quantizer, a dict of plain types, for `get_config` of the layer that owns it.

    Args:
        quantizer: `Quantizer`.

    Example:
        >>> import acdbit_keras as acd
        >>> config = acd.quantizers.serialize(acd.WeightSign(scale="mad"))
        >>> config["class_name"], config["config"]["scale"]
        ('WeightSign', 'mad')
        >>> acd.quantizers.get(config).scale
        'mad'
    """
    return keras.saving.serialize_keras_object(quantizer)


def clone(quantizer: QuantizerLike, **changes: Any) -> Quantizer:
    """A fresh quantizer (own weights) with the configuration of another, some options changed.

    Args:
        quantizer: what `get` takes.
        **changes: arguments of the quantizer's constructor, its `name` among them.

    Example:
        >>> import acdbit_keras as acd
        >>> quantizer = acd.AlignedSign(momentum=0.9)
        >>> changed = acd.quantizers.clone(quantizer, threshold="mean")
        >>> changed.threshold, changed.momentum, changed is quantizer
        ('mean', 0.9, False)
    """
    quantizer = get(quantizer)
    config = quantizer.get_config()
    config.pop("name", None)
    return type(quantizer).from_config({**config, **changes})
