"""Kernels of binary layers as they are stored: codes of constants, and the +-1 weights that are convolved."""

import numpy as np
import tensorflow as tf
from keras import ops

from acdbit_keras import code
from acdbit_keras.code import Code


def kernel_code(layer):
    """The code of a `BinaryDense`'s kernel, as numpy arrays (signs `(channels, units)`)."""
    with tf.init_scope():
        return layer.kernel_code().map(ops.convert_to_numpy)


def packable_kernel(layer):
    """The kernel of a `BinaryDense` as a code of signs, and the +-1 weights `(channels, outputs)` that are convolved.

    Where the code has an offset the weights have one output more: a column of +1, which sums the signs of a token.
    """
    kernel = signed(kernel_code(layer), layer.kernel_quantizer.levels)
    weights = kernel.signs
    if not (code.is_constant(kernel.offset) and kernel.offset == 0.0):
        weights = np.concatenate([weights, np.ones((len(weights), 1), weights.dtype)], axis=1)
    return kernel, weights


def signed(quantized, levels):
    """A code of {0, 1} as one of {-1, +1}: b = (s + 1) / 2. Codes of signs stay as they are."""
    if levels != "zero_one":
        return quantized
    half = quantized.scale * 0.5 + np.zeros((1,) * len(quantized.signs.shape), np.float32)
    return Code(2.0 * quantized.signs - 1.0, half, quantized.offset + half)
