"""Elastic codes: a learned scale, and levels at its multiples."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from acdbit_keras import checks, masking, signs
from acdbit_keras.code import Code
from acdbit_keras.quantizers.base import AtLeast, Comparison, Quantizer, bounded
from acdbit_keras.typing import Shape, Tensor

SMALLEST_SCALE = 1e-5
PROBABILITIES = "probabilities"


@keras.saving.register_keras_serializable(package="acdbit")
class ElasticBinary(Quantizer):
    """`code(x) = a * q(x / a)` with one learned scale a per tensor.

    Unsigned, for what is never negative, such as attention probabilities: q(t) = round(clip(t, 0, 2^bits - 1)); with one
    bit 1 where x > a / 2. Gradient: dx = g inside the clip, else 0; da = g * (q(t) - t) inside, g * q(t) outside, summed.

    Signed, one bit: q(t) = s(t). Gradient: dx = g where |x| <= a, else 0; da = g * s(x), summed. Signed, more bits:
    q(t) = round(clip(t, -2^(bits - 1), 2^(bits - 1) - 1)), gradient as unsigned.

    Args:
        initial_scale: a at the start. A number: a itself is learned. `"probabilities"`, the default: 4 / keys /
            sqrt(highest level), keys those of the last axis that are not masked, and a is learned as a factor of that. `None`:
            likewise, but measured on the first training batch, 4 mean|x| / sqrt(highest level) unsigned, 2 mean|x| /
            sqrt(highest level) signed.
        signed: whether the levels are on both sides of 0; default False.
        bits: width of a code, 1 to 8: 1, the default, for the device; more for the steps on the way to it.
        lsq: whether da is divided by sqrt(number of elements); default False.

    Raises:
        ValueError: for an initial scale below 1e-5 or of an unknown kind, `bits` outside 1 to 8, `"probabilities"` with
            signed levels.

    Source: the elastic binarisation of BiT (arXiv:2205.13016), whose start for what is never negative becomes 4 / keys for
    rows that sum to 1; the one scalar per layer of BinaryViT, which starts at 0.005 over 197 keys. That it is learned as a
    factor of its start is ours: a step of Adam has the size of the learning rate, and a few such steps halve or double a
    scale as small as these.

    Example:
        >>> import acdbit_keras as acd
        >>> import numpy as np
        >>> p = np.float32([[0.625, 0.25, 0.125, 0]])
        >>> print(np.asarray(acd.ElasticBinary(0.375)(p).decode()))  # above 0.1875
        [[0.375 0.375 0.    0.   ]]
        >>> print(np.asarray(acd.ElasticBinary()(p).decode()))  # a = 4 / keys = 1: above 0.5
        [[1. 0. 0. 0.]]
        >>> print(np.asarray(acd.ElasticBinary(0.5, signed=True)(np.float32([[-3, 0.1]])).decode()))
        [[-0.5  0.5]]
    """

    def __init__(
        self,
        initial_scale: float | str | None = PROBABILITIES,
        signed: bool = False,
        bits: int = 1,
        lsq: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        _check_initial_scale(initial_scale, signed)
        checks.integer("bits", bits, 1, 8)
        self.initial_scale = initial_scale
        self.signed = signed
        self.bits = bits
        self.lsq = lsq
        self.levels = ("sign" if signed else "zero_one") if bits == 1 else "uniform"
        self.lowest, self.highest = (-(2 ** (bits - 1)), max(2 ** (bits - 1) - 1, 1)) if signed else (0, 2**bits - 1)

    def build(self, input_shape: Shape) -> None:
        if self.initial_scale is None:
            self.add_measured_scale(())
        elif self.initial_scale == PROBABILITIES:
            self.keys = input_shape[-1]
            self.add_factor(())
        else:
            start = keras.initializers.Constant(self.initial_scale)
            # Held above its bound by the optimizer: guarded in `call` instead, a scale that one step took below it would
            # have no gradient and stay there for good.
            constraint = AtLeast(SMALLEST_SCALE)
            self.scale = self.add_weight(name="scale", shape=(), initializer=start, constraint=constraint, autocast=False)
        self.built = True

    def call(self, inputs: Tensor, training: bool | None = None) -> Code:
        # In float32: the gradient x / a^2 of half a float overflows for a small a.
        x = ops.cast(inputs, "float32")
        scale = self._scale(x, training)
        if self.lsq:
            constant = ops.stop_gradient(scale)
            scale = constant + (scale - constant) * ops.rsqrt(masking.size(x))
        if self.levels == "sign":
            # Of the sign alone: where x leaves the clip is no reason to move the scale.
            signs_ = signs.get("ste_sign")(x / ops.stop_gradient(scale))
        else:
            signs_ = signs.ste_round(x / scale, float(self.lowest), float(self.highest))
        # A number, or with masked keys one per sample.
        scale = ops.reshape(scale, (*ops.shape(scale), *(1,) * (len(inputs.shape) - len(scale.shape))))
        return Code(signs_, scale).map(lambda part: ops.cast(part, inputs.dtype))

    def _scale(self, x, training):
        if self.initial_scale == PROBABILITIES:
            return self._scale_over(masking.number_of_keys(x))
        if self.initial_scale is not None or not training:
            return self.bounded_scale()
        times = (2.0 if self.signed else 4.0) / self.highest**0.5
        return self.measured_scale(lambda: ops.maximum(times * self._mean_size(x), SMALLEST_SCALE), True)

    @staticmethod
    def _mean_size(x):
        return ops.reshape(masking.mean(ops.abs(ops.stop_gradient(x)), tuple(range(len(x.shape)))), ())

    def _scale_over(self, keys):
        return 4.0 / self.highest**0.5 / ops.cast(keys, "float32") * self.bounded_factor()

    def bounded_scale(self) -> Tensor:
        """a as it is used at inference, a scalar tensor; 1 where no batch has been measured yet.

        Raises:
            ValueError: for a start of `"probabilities"` if the layer was built for any number of keys.
        """
        if self.initial_scale is None:
            return self.measured_scale(lambda: 1.0, False)
        if self.initial_scale == PROBABILITIES:
            if self.keys is None:
                raise ValueError(f"{self.path}: its scale depends on the number of keys, and it was built for any number")
            return self._scale_over(self.keys)
        # The bound holds for weights from elsewhere, too, such as those of a file from before there was a constraint.
        return bounded(self.scale, SMALLEST_SCALE)

    def comparison(self) -> Comparison | None:
        scale = ops.convert_to_numpy(self.bounded_scale())
        if self.levels == "sign":
            return Comparison(0.0, scale)
        if self.levels == "zero_one":
            # 1 where x / a > 1/2, and the tie rounds to 0: from the next float on. As signs, 0 and a are a/2 -+ a/2.
            # In float32, which numpy below 2 leaves for a product with a plain 0.5.
            half = np.float32(0.5) * np.float32(scale)
            return Comparison(np.nextafter(half, np.float32(np.inf)), half, half)
        return None

    def get_config(self) -> dict[str, Any]:
        options = {name: getattr(self, name) for name in ("initial_scale", "signed", "bits", "lsq")}
        return {**super().get_config(), **options}


def _check_initial_scale(initial_scale, signed):
    if initial_scale is None:
        return
    if initial_scale == PROBABILITIES:
        if signed:
            raise ValueError(f"initial_scale {PROBABILITIES!r} is for unsigned levels; signed ones start at a number or None")
    elif isinstance(initial_scale, str) or not initial_scale >= SMALLEST_SCALE:
        raise ValueError(f"initial_scale must be {PROBABILITIES!r}, None or at least {SMALLEST_SCALE}, not {initial_scale!r}")
