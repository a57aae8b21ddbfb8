"""Evenly spaced levels of several bits: the integer systems of the comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import keras
from keras import ops

from acdbit_keras import checks, masking, replicas, signs, statistics
from acdbit_keras.code import Code, real
from acdbit_keras.quantizers.base import Quantizer
from acdbit_keras.typing import Shape, Tensor

if TYPE_CHECKING:
    from acdbit_keras.code import Code

RANGES = ("own", "average", "extremes")
SMALLEST_STEP = 1e-8
LARGEST_EXPONENT = 3


@keras.saving.register_keras_serializable(package="acdbit")
class UniformQuantizer(Quantizer):
    """`x' = S (clip(round(x / S) + Z, 0, 2^bits - 1) - Z)`: integers with a step S and a zero point Z.

    S and Z span [low, high], 0 included: S = (high - low) / (2^bits - 1), Z = round(-low / S). Symmetric: S = max|x| / h and
    x' = S clip(round(x / S), -h, h), h = 2^(bits - 1) - 1. Gradient: dx = g where the integer is not clipped, else 0; S and Z
    are constants for it.

    Args:
        bits: width of one integer, 2 to 16; default 8.
        symmetric: whether 0 is in the middle; default False.
        per: `"tensor"`, the default: one step; or `"row"`: one for each output channel, the last axis of a kernel.
        range: low and high. `"own"`, the default: of the tensor at hand, as weights have them; `"average"`: a running
            average of those of the training batches; `"extremes"`: the lowest and highest seen in training or calibration.
        noise: share of the elements, in (0, 1], drawn anew each time, that are quantized while training; the others are
            only clipped. At inference all are. Default 1.
        momentum: share of its old value that the running average keeps in an update, in [0, 1); default 0.99.

    Raises:
        ValueError: on an unknown option.

    Source: the usual affine scheme; `noise` is the scalar variant of Quant-Noise (arXiv:2004.07320).

    Example:
        >>> import acdbit_keras as acd
        >>> import numpy as np
        >>> x = np.float32([-1, 0.2, 0.9, 2])
        >>> print(np.asarray(acd.quantizers.UniformQuantizer(bits=2)(x).decode()))  # S = 1, Z = 1
        [-1.  0.  1.  2.]
        >>> y = np.float32([-3, 0.5, 2])
        >>> print(np.asarray(acd.quantizers.UniformQuantizer(bits=2, symmetric=True)(y).decode()))  # S = 3
        [-3.  0.  3.]
    """

    levels = "uniform"

    def __init__(
        self,
        bits: int = 8,
        symmetric: bool = False,
        per: Literal["tensor", "row"] = "tensor",
        range: Literal["own", "average", "extremes"] = "own",
        noise: float = 1.0,
        momentum: float = 0.99,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        checks.integer("bits", bits, 2, 16)
        for name, value, allowed in (("per", per, ("tensor", "row")), ("range", range, RANGES)):
            checks.choice(name, value, allowed)
        if not 0.0 < noise <= 1.0:
            raise ValueError(f"noise must be in (0, 1], not {noise!r}")
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"momentum must be in [0, 1), not {momentum!r}")
        self.bits = bits
        self.symmetric = symmetric
        self.per = per
        self.range = range
        self.noise = noise
        self.momentum = momentum
        if noise < 1.0:
            self.seed_generator = keras.random.SeedGenerator()

    def build(self, input_shape: Shape) -> None:
        if self.range != "own":
            tracked = dict(trainable=False, dtype="float32", autocast=False, initializer="zeros")
            shape = self._statistics_shape(input_shape)
            self.low = self.add_weight(name="low", shape=shape, **tracked)
            self.high = self.add_weight(name="high", shape=shape, **tracked)
            self.updates = self.add_weight(name="updates", shape=(), **tracked)
        self.built = True

    def call(self, inputs: Tensor, training: bool | None = None) -> Code:
        x = ops.cast(inputs, "float32")
        step, zero_point, lowest, highest = self.grid(*self._limits(ops.stop_gradient(x), training))
        # In float32 throughout: half a float holds no integers of 16 bits.
        t = x / step + zero_point
        q = signs.ste_round(t, lowest, highest)
        if self.noise < 1.0 and training:
            drawn = replicas.own_rows(keras.random.uniform(replicas.batch_shape(x), seed=self.seed_generator), x)
            q = ops.where(drawn < self.noise, q, ops.clip(t, lowest, highest))
        return real(ops.cast((q - zero_point) * step, inputs.dtype))

    def grid(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, float, float]:
        """Step, zero point, and the lowest and highest integer."""
        if self.symmetric:
            half = float(2 ** (self.bits - 1) - 1)
            return ops.maximum(ops.maximum(-low, high) / half, SMALLEST_STEP), 0.0, -half, half
        levels = float(2**self.bits - 1)
        low, high = ops.minimum(low, 0.0), ops.maximum(high, 0.0)
        step = ops.maximum((high - low) / levels, SMALLEST_STEP)
        return step, ops.round(-low / step), 0.0, levels

    def _statistics_shape(self, input_shape):
        rank = len(input_shape)
        return (1,) * rank if self.per == "tensor" else (*(1,) * (rank - 1), input_shape[-1])

    def _limits(self, x, training):
        axes = tuple(range(len(x.shape))) if self.per == "tensor" else tuple(range(len(x.shape) - 1))
        counted = masking.weights(x)
        # Padding is taken for 0, which the range holds anyway.
        seen = x if counted is None else x * counted
        if self.range == "own":
            return ops.min(seen, axis=axes, keepdims=True), ops.max(seen, axis=axes, keepdims=True)
        low, high = replicas.minimum(seen, axes), replicas.maximum(seen, axes)
        updates = self.updates.value
        if training:
            self.low.assign(self._moved(self.low.value, low, updates, ops.minimum))
            self.high.assign(self._moved(self.high.value, high, updates, ops.maximum))
            self.updates.assign(updates + 1.0)
        # Of a network that has seen nothing yet, the tensor's own.
        seen = self.updates.value > 0
        return ops.where(seen, self.low.value, low), ops.where(seen, self.high.value, high)

    def _moved(self, previous, value, updates, extreme):
        if self.range == "extremes":
            return ops.where(updates > 0, extreme(previous, value), value)
        return statistics.running_average(previous, value, statistics.tracking_rate(updates, self.momentum))

    def get_config(self) -> dict[str, Any]:
        options = {name: getattr(self, name) for name in ("bits", "symmetric", "per", "range", "noise", "momentum")}
        return {**super().get_config(), **options}


@keras.saving.register_keras_serializable(package="acdbit")
class PowerOfTwoFactor(UniformQuantizer):
    """A `UniformQuantizer` of channels that differ in size: channel c has the step `S 2^e_c`, e_c in 0 ... 3.

    S = (high - low) / (2^bits - 1) / 8 of the whole tensor, one zero point for all channels, Z = round(-low / (8 S)). The
    exponent is the one with the least squared error on the last batch of the calibration; 3, the plain step, before.

    Args:
        bits: width of one integer, 2 to 16; default 8.

    Source: the power-of-two factor of FQ-ViT (arXiv:2111.13824).

    Example:
        >>> import acdbit_keras as acd
        >>> import numpy as np
        >>> x = np.float32([[255, 3.125], [3, 0.125]])  # S = 1/8
        >>> quantizer = acd.quantizers.PowerOfTwoFactor()
        >>> code = quantizer(x, training=True)
        >>> print(np.asarray(quantizer.exponents), np.asarray(code.decode()).tolist())
        [3. 0.] [[255.0, 3.125], [3.0, 0.125]]
    """

    def __init__(self, bits: int = 8, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "bits": bits, "symmetric": False, "per": "tensor", "range": "extremes", "noise": 1.0})

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        start = keras.initializers.Constant(LARGEST_EXPONENT)
        self.exponents = self.add_weight(
            name="exponents", shape=(input_shape[-1],), initializer=start, trainable=False, dtype="float32", autocast=False
        )

    def call(self, inputs: Tensor, training: bool | None = None) -> Code:
        x = ops.cast(inputs, "float32")
        limits = self._limits(ops.stop_gradient(x), training)
        if training:
            errors = [
                replicas.sum(ops.square(self._quantized(x, limits, float(e)) - x), tuple(range(len(x.shape) - 1)))
                for e in range(LARGEST_EXPONENT + 1)
            ]
            best = ops.argmin(ops.stack(errors), axis=0)
            self.exponents.assign(ops.cast(ops.reshape(best, self.exponents.shape), "float32"))
        return real(ops.cast(self._quantized(x, limits, self.exponents.value), inputs.dtype))

    def _quantized(self, x, limits, exponents):
        step, zero_point, lowest, highest = self.grid(*limits)
        step = step * ops.power(2.0, exponents - float(LARGEST_EXPONENT))
        return (signs.ste_round(x / step + zero_point, lowest, highest) - zero_point) * step
