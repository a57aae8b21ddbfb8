"""Real weights from which a 1-bit quantizer makes given signs: what training goes on with where only these are left."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from keras import ops

from acdbit_keras import code
from acdbit_keras.code import Code
from acdbit_keras.quantizers.base import Quantizer

# Of weights whose quantizer does not ask how large they are: that of a new network's.
_UNSCALED = 0.02
_TOLERANCE = 1e-3
_ROUNDS = 30


def latent_kernel(quantizer: Quantizer, wanted: Code) -> npt.NDArray[np.float32]:
    """A kernel `W = a_o s + c_o` whose code is the wanted one; a scale that the quantizer has learned becomes its own.

    All weights of an output channel are then equally far from their threshold: as sure of their sign as each other, for what a
    training made of their sizes is not stored. a_o is found in steps: times the wanted scale, over the one that came out.

    Args:
        quantizer: of the kernel, built, one bit.
        wanted: `Code` of numpy arrays, signs `(channels, units)`.

    Raises:
        ValueError: the quantizer makes no such code of any kernel of this form, e.g. one of an output channel of one sign only
            behind a mean.
    """
    signs = np.asarray(wanted.signs, np.float32)
    rising = np.where(signs > 0, 1.0, -1.0).astype(np.float32)
    scale = np.broadcast_to(np.asarray(wanted.scale, np.float32), (1, signs.shape[1]))
    if hasattr(quantizer, "start"):
        quantizer.start.assign(
            scale if len(quantizer.start.shape) == 2 and quantizer.start.shape[1] > 1 else _one(quantizer, scale)
        )
        quantizer.started.assign(1.0)
        quantizer.factor.assign(np.ones(quantizer.factor.shape))
    size = np.maximum(scale, 1e-8)
    for _ in range(_ROUNDS):
        kernel = _kernel(size, rising, wanted)
        made = quantizer(kernel, training=False).map(ops.convert_to_numpy)
        if code.is_constant(made.scale):
            kernel = _kernel(_UNSCALED, rising, wanted)
            break
        if hasattr(quantizer, "start") or np.allclose(made.scale, scale, rtol=1e-6, atol=0):
            break
        size = size * np.divide(scale, made.scale, out=np.ones_like(size), where=np.asarray(made.scale) > 0)
    return _checked(quantizer, kernel, wanted)


def _kernel(size, rising, wanted):
    kernel = size * rising
    if code.is_constant(wanted.offset):
        return kernel
    # An offset is the mean of a channel.
    return kernel + wanted.offset - kernel.mean(0, keepdims=True)


def _one(quantizer, scale):
    return np.full(quantizer.start.shape, scale.mean(), np.float32)


def _checked(quantizer, kernel, wanted):
    kernel = kernel.astype(np.float32)
    made = quantizer(kernel, training=False).map(ops.convert_to_numpy)
    same = np.array_equal(made.signs > 0, np.asarray(wanted.signs) > 0)
    pairs = ((made.scale, wanted.scale), (made.offset, wanted.offset))
    if not same or not all(np.allclose(ours, theirs, rtol=_TOLERANCE, atol=1e-6) for ours, theirs in pairs):
        raise ValueError(
            f"the quantizer {quantizer.name!r}, a {type(quantizer).__name__}, makes the stored signs of no real weights"
        )
    return kernel
