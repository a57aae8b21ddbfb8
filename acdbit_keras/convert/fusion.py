"""What the runtime's own ops (`acdbit_keras.device_ops`) take from the layers: constants, folded once at conversion.

Frozen statistics, scales, biases and BatchNormalizations all end as one multiplier and one bias behind a popcount, a
shift before a sign as its threshold, and a shift behind an activation in whatever reads it. All in float64, rounded
once at the end.
"""

import numpy as np
from keras import ops

from acdbit_keras import device_ops
from acdbit_keras.convert import rewrite
from acdbit_keras.convert.kernels import kernel_code


def attention_constants(layer):
    """Options and constants of the AcdBinaryAttention that a `BinaryAttention` is.

    Args:
        layer: built and binary.

    Returns:
        `(options, constants)`: the op's options, and a dict with `score_scale (heads,)`, `value_scale (channels,)`,
        `value_offset (channels,)`, `probability_scale (heads,)`, with a key bias `key_weights (channels,)`, and the
        thresholds of the three signs, `query_threshold (channels,)` ..., all float64.

    Raises:
        device_ops.NotExpressibleError: as `device_ops.attention_options`.
    """
    heads = layer.num_heads
    channels, head_dim = layer.channels, layer.channels // heads
    options = device_ops.attention_options(layer)
    comparisons = {place: getattr(layer, f"{place}_quantizer").comparison() for place in ("query", "key", "value")}
    query, key, value = comparisons.values()

    def per_head(part):
        return np.broadcast_to(np.asarray(part, np.float64), (1, 1, heads, 1)).reshape(heads)

    def per_channel(part):
        return np.broadcast_to(np.asarray(part, np.float64), (1, 1, heads, head_dim)).reshape(channels)

    constants = {f"{place}_threshold": per_channel(part.threshold) for place, part in comparisons.items()}
    constants["score_scale"] = np.full(heads, head_dim**-0.5)
    if not query.dynamic:
        constants["score_scale"] *= per_head(query.scale) * per_head(key.scale)
    if options["key_bias"]:
        constants["key_weights"] = per_channel(query.offset) * np.repeat(per_head(key.scale), head_dim) * head_dim**-0.5
    constants["value_scale"] = per_channel(value.scale)
    constants["value_offset"] = per_channel(value.offset)
    constants["probability_scale"] = np.full(heads, device_ops.probability_scale(layer))
    return options, constants


def block_constants(block):
    """Options, kernels and vectors of the AcdBinaryBlock that a `BinaryBlock` is.

    Args:
        block: built.

    Returns:
        `(options, kernels, vectors)`: the op's options, its int32 words `(words,)` and its float32 vectors
        `(floats,)`, both in the order of `device_ops`.

    Raises:
        device_ops.NotExpressibleError: as `device_ops.block_options`.
    """
    channels = block.width
    options = device_ops.block_options(block)
    _, constants = attention_constants(block.attention)

    vectors = {}
    vectors["gain_1"], vectors["shift_1"] = affine(block.attention_norm)
    behind = {}  # what each activation adds behind its PReLU, left to those who read it
    for name in ("query", "key", "value"):
        product = getattr(block, f"{name}_product")
        vectors |= _product(name, product, 0.0, 0.0)
        behind[name] = _value(product.activation.shift_out)
        vectors[f"{name}_threshold"] = constants[f"{name}_threshold"] - behind[name]
    for name in ("score_scale", "probability_scale"):
        vectors[name] = constants[name]
    if options["key_bias"]:
        vectors["key_weights"] = constants["key_weights"]
    if options["dynamic_attention"]:
        for name in ("query", "key"):
            vectors[f"{name}_center"] = behind[name].reshape(options["heads"], -1).mean(-1)

    gain, shift = affine(block.context_norm)
    scale = np.repeat(constants["probability_scale"], channels // options["heads"]) * gain
    activation = block.context_activation
    vectors["context.count_multiplier"] = 2.0 * scale * constants["value_scale"]
    vectors["context.kept_multiplier"] = scale * (constants["value_offset"] - constants["value_scale"])
    vectors["context.bias"] = shift - _value(activation.shift_in) + behind["query"] + behind["key"] + behind["value"]
    vectors["context.slope"] = _value(activation.slope)
    behind["context"] = _value(activation.shift_out)

    vectors |= _product("output", block.output_product, behind["context"], behind["context"])
    vectors["gain_2"], vectors["shift_2"] = affine(block.mlp_norm)
    vectors |= _product("mlp_1", block.mlp_product_1, 0.0, 0.0)
    behind["mlp_1"] = _value(block.mlp_product_1.activation.shift_out)
    vectors |= _product("mlp_2", block.mlp_product_2, behind["mlp_1"], behind["mlp_1"].reshape(channels, -1).mean(-1))
    for name, product, scale in (
        ("output", block.output_product, "attention_scale"),
        ("mlp_2", block.mlp_product_2, "mlp_scale"),
    ):
        shift = _value(product.activation.shift_out)
        if options["branches"]:
            layer = getattr(block, scale)
            vectors[f"{name}.gain"] = _value(layer.gain)
            shift = vectors[f"{name}.gain"] * shift + _value(layer.shift)
        vectors[f"{name}.shift"] = shift
    if options["branches"]:
        vectors["mlp_2.shift"] = vectors["mlp_2.shift"] + _value(block.mixer().shift)
    if options["branches"] == device_ops.Branches.DEPTHWISE:
        vectors["depthwise"] = _value(block.depthwise.kernel).reshape(-1)
    elif options["branches"]:
        for direction, gains in zip(("vertical", "horizontal"), _value(block.pooling.gain)):
            for side, gain in zip((3, 5), gains):
                vectors[f"pooling.{direction}_{side}"] = gain / side

    kernels = {name: rewrite.pack_bits(kernel_code(product.dense).signs.T) for name, product in block.products.items()}
    return options, *_flat(options, channels, kernels, vectors)


def affine(norm):
    """The multiplier and the shift that a BatchNormalization is at inference, float64."""
    multiplier = 1.0 / np.sqrt(_value(norm.moving_variance) + norm.epsilon)
    if norm.scale:
        multiplier = multiplier * _value(norm.gamma)
    shift = -_value(norm.moving_mean) * multiplier
    return multiplier, shift + _value(norm.beta) if norm.center else shift


def _flat(options, channels, kernels, vectors):
    lengths = device_ops.block_vectors(options, channels)
    ordered = [np.broadcast_to(vectors[name], (length,)) for name, length in lengths.items()]
    words = [kernels[name].reshape(-1) for name in device_ops.block_kernels(options, channels)]
    return np.concatenate(words), np.concatenate(ordered).astype(np.float32)


def _product(name, product, before, shortcut):
    """The vectors of one product.

    Args:
        name: their prefix.
        product: `BinaryProduct`.
        before: what is still to be added to its input, a number or `(inputs,)`.
        shortcut: what is still to be added to its shortcut.
    """
    dense, activation = product.dense, product.activation
    inputs, units = dense.kernel.shape
    comparison, kernel = dense.input_quantizer.comparison(), kernel_code(dense)
    gain, shift = affine(product.norm)
    gain_of_sign = gain * np.broadcast_to(kernel.scale, (1, units)).reshape(units)
    signs = kernel.signs.astype(np.float64)
    bias = shift - _value(activation.shift_in) + shortcut
    if dense.use_bias:
        bias = bias + gain * _value(dense.bias)
    vectors = {f"{name}.threshold": np.broadcast_to(comparison.threshold, (1, 1, 1, inputs)).reshape(inputs) - before}
    if comparison.dynamic:
        vectors[f"{name}.multiplier"] = -2.0 * gain_of_sign
        vectors[f"{name}.row"] = inputs * gain_of_sign
        vectors[f"{name}.restore"] = gain_of_sign * signs.sum(0)
        bias = bias + vectors[f"{name}.restore"] * np.mean(before)
    else:
        scale = float(np.reshape(comparison.scale, ()))
        offset = np.broadcast_to(np.asarray(comparison.offset, np.float64), (1, 1, 1, inputs)).reshape(inputs)
        vectors[f"{name}.multiplier"] = -2.0 * scale * gain_of_sign
        bias = bias + gain_of_sign * (scale * inputs + offset @ signs)
    vectors[f"{name}.bias"] = bias
    vectors[f"{name}.slope"] = _value(activation.slope)
    return vectors


def _value(weight):
    return ops.convert_to_numpy(weight).astype(np.float64)
