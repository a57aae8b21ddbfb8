"""Elastic {0, 1} codes: attention probabilities, which are never negative."""

import keras
import numpy as np
from keras import ops

from acdbit_keras import signs
from acdbit_keras.code import Code
from acdbit_keras.quantizers.base import Comparison, Quantizer

SMALLEST_SCALE = 1e-5


@keras.saving.register_keras_serializable(package="acdbit")
class ElasticBinary(Quantizer):
    """`code(x) = a * round(clip(x / a, 0, 1))` with one learned scale a: 1 where x > a / 2.

    Gradient: dx = g where 0 <= x <= a, else 0; da = g * (round(x / a) - x / a) inside, g above.

    Args:
        initial_scale: a at the start. 0.005 suits probabilities over about 200 tokens.

    Source: the elastic binarisation of BiT (arXiv:2205.13016) with the one scalar per layer of BinaryViT.
    """

    bits = 1
    levels = "zero_one"

    def __init__(self, initial_scale=0.005, **kwargs):
        super().__init__(**kwargs)
        if not initial_scale >= SMALLEST_SCALE:
            raise ValueError(f"initial_scale must be at least {SMALLEST_SCALE}, not {initial_scale!r}")
        self.initial_scale = initial_scale

    def build(self, input_shape):
        start = keras.initializers.Constant(self.initial_scale)
        # Held above its bound by the optimizer: guarded in `call` instead, a scale that one step took below it would
        # have no gradient and stay there for good.
        self.scale = self.add_weight(name="scale", shape=(), initializer=start, constraint=_bounded, autocast=False)
        self.built = True

    def call(self, inputs, training=None):
        scale = self.bounded_scale()
        # In float32: the gradient x / a^2 of half a float overflows for a small a.
        signs_ = signs.ste_round(ops.cast(inputs, "float32") / scale)
        return Code(signs_, ops.reshape(scale, (1,) * len(inputs.shape))).map(lambda part: ops.cast(part, inputs.dtype))

    def bounded_scale(self):
        """a as it is used, a scalar tensor."""
        # The bound holds for weights from elsewhere, too, such as those of a file from before there was a constraint.
        # Selected, not a maximum: at the bound JAX would halve the gradient of that.
        scale = ops.convert_to_tensor(self.scale)
        return ops.where(scale >= SMALLEST_SCALE, scale, SMALLEST_SCALE)

    def comparison(self):
        # 1 where x / a > 1/2, and the tie rounds to 0: from the next float on. As signs, 0 and a are a/2 -+ a/2.
        half = 0.5 * ops.convert_to_numpy(self.bounded_scale())
        return Comparison(np.nextafter(half, np.float32(np.inf)), half, half)

    def get_config(self):
        return {**super().get_config(), "initial_scale": self.initial_scale}


def _bounded(scale):
    return ops.maximum(scale, SMALLEST_SCALE)
