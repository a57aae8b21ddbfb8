"""Which layers of a converted model multiply floats, and why: nothing stays in float without a word."""

from __future__ import annotations

import keras

from acdbit_keras.layers import BinaryAttention, BinaryDense

_LISTED = 4
_WEIGHTS = ("kernel", "embeddings", "recurrent_kernel", "depthwise_kernel")


def layers(model: keras.Model, precision: str, attention: str) -> dict[str, str]:
    """Dict from the path, below the model, of every layer with a product that is not one of bits to the reason.

    Args:
        model: built Keras model.
        precision, attention: how it was converted, as of `to_tflite`.
    """
    found = {}
    for layer in model._flatten_layers(include_self=False):
        reason = _reason(layer, precision, attention)
        if reason:
            found[layer.path.removeprefix(f"{model.name}/")] = reason
    return found


def _reason(layer, precision, attention):
    if isinstance(layer, (BinaryAttention, BinaryDense)):
        if not layer.is_binary:
            return _real_places(layer)
        if precision != "bits":
            return f"precision={precision!r}"
        return "attention='float'" if isinstance(layer, BinaryAttention) and attention == "float" else None
    if any(len(getattr(layer, name).shape) > 1 for name in _WEIGHTS if hasattr(getattr(layer, name, None), "shape")):
        return f"an ordinary {type(layer).__name__}"
    return None


def _real_places(layer):
    """What of a layer that could be one of bits has no quantizer of one bit."""
    places = ("input", "kernel") if isinstance(layer, BinaryDense) else ("query", "key", "value", "probabilities")
    quantizers = {place: getattr(layer, f"{place}_quantizer") for place in places}
    said = [f"{place} {_width(quantizer)}" for place, quantizer in quantizers.items() if not quantizer.is_binary]
    return f"not of bits: {', '.join(said)}"


def _width(quantizer):
    return (
        "real"
        if quantizer.levels == "real"
        else f"of {quantizer.bits} bits"
        if quantizer.levels == "uniform"
        else quantizer.levels
    )


def text(in_float: dict[str, str], precision: str) -> str:
    """What a report says of these layers, `""` where there are none or all of the file is in floats."""
    if precision != "bits" or not in_float:
        return ""
    names = list(in_float)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"; in float {', '.join(names[:_LISTED])}{more}"
