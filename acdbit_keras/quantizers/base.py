"""What every quantizer is: a Keras layer that turns a real tensor into a `Code`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import keras
import numpy as np
from keras import ops

from acdbit_keras import code, freezing, signs
from acdbit_keras.typing import Shape, SignLike, Tensor

if TYPE_CHECKING:
    from acdbit_keras.code import Code


class Comparison(NamedTuple):
    """How a device computes a 1-bit code: the sign of `x` is negative where `x < threshold`, and constants decode it.

    Attributes:
        threshold: number or numpy array that broadcasts to the quantizer's input.
        scale, offset: likewise, those of the code of signs; `None` where `dynamic`.
        dynamic: whether scale and offset are mean |x - threshold| and mean x over the last axis of the input.

    Example:
        >>> import acdbit_keras as acd
        >>> acd.quantizers.get("ste_sign").comparison()
        Comparison(threshold=0.0, scale=1.0, offset=0.0, dynamic=False)
        >>> quantizer = acd.ElasticBinary(initial_scale=0.5)
        >>> quantizer.build((None, 16))
        >>> print(*quantizer.comparison()[:3])  # 1 above a/2; 0 and a are the signs times a/2, plus a/2
        0.25000003 0.25 0.25
    """

    threshold: float | np.ndarray = 0.0
    scale: float | np.ndarray | None = 1.0
    offset: float | np.ndarray | None = 0.0
    dynamic: bool = False


class Quantizer(keras.layers.Layer):
    """Base class. `call(inputs, training=None)` returns a `Code` that stands for `inputs`; frozen, it is called for inference.

    Attributes:
        bits: width of one stored value.
        levels: the values of `Code.signs`: `"sign"` for {-1, +1}, `"zero_one"` for {0, 1}, `"ternary"`, `"uniform"`
            (several bits) or `"real"`. Only the first two are packed into bits.
        takes_scores: whether as a quantizer of attention probabilities it is given the scores, before any softmax.
        constraint: Keras constraint of the weight that it quantizes, or `None`.

    Example:
        >>> import acdbit_keras as acd
        >>> import numpy as np
        >>> class HalfSign(acd.quantizers.Quantizer):
        ...     bits, levels = 1, "sign"
        ...
        ...     def build(self, input_shape):
        ...         self.sign = acd.quantizers.get("ste_sign")
        ...         self.built = True
        ...
        ...     def call(self, inputs, training=None):
        ...         return acd.Code(self.sign(inputs).signs, scale=0.5)
        >>> layer = acd.BinaryDense(1, HalfSign(), "ste_sign", kernel_initializer="ones")
        >>> print(np.asarray(layer(np.float32([[0.3, -0.2, 1.5]]))), layer.is_binary)
        [[0.5]] True
    """

    bits: int = 32
    levels: str = "real"
    takes_scores: bool = False
    constraint: keras.constraints.Constraint | None = None
    has_place: bool = False  # whether a layer keeps it; see `quantizers.own`

    def __init__(self, **kwargs: Any) -> None:
        # It works in the precision of what it is given, which is that of the layer it belongs to.
        super().__init__(**{**kwargs, "autocast": False})

    def __call__(self, inputs: Tensor, training: bool | None = None, **kwargs: Any) -> Code:
        # Here, so that a quantizer from elsewhere need not know of it.
        return super().__call__(inputs, training=freezing.mode(self, training), **kwargs)

    @property
    def is_binary(self) -> bool:
        return self.levels in ("sign", "zero_one")

    def comparison(self) -> Comparison | None:
        """The `Comparison` that computes this code at inference, `None` where it takes more than that."""
        return None

    def add_measured_scale(self, shape: Shape) -> None:
        """Adds the weights of a learned scale `factor * start` whose start is measured on the first training batch.

        Only the factor is trained: a step of an optimizer is then relative to the scale. For the first
        batch the trained weight cannot be set itself, because under JAX a call changes no trainable weight.
        """
        self.add_factor(shape)
        untrained = dict(trainable=False, dtype="float32", autocast=False)
        self.start = self.add_weight(name="start", shape=shape, initializer="ones", **untrained)
        self.started = self.add_weight(name="started", shape=(), initializer="zeros", **untrained)

    def add_factor(self, shape: Shape) -> None:
        """Adds the trained weight of a scale that is learned as a factor of its start, 1 at first."""
        above_zero = AtLeast(SMALLEST_FACTOR)
        self.factor = self.add_weight(name="factor", shape=shape, initializer="ones", constraint=above_zero, autocast=False)

    def bounded_factor(self) -> Tensor:
        return bounded(self.factor, SMALLEST_FACTOR)

    def measured_scale(self, measure: Callable[[], Tensor], training: bool | None) -> Tensor:
        """The scale `factor * start`, in float32; `measure()` is the start where there is none yet."""
        start = ops.where(self.started.value > 0, self.start.value, measure())
        if training:
            self.start.assign(start)
            self.started.assign(ops.ones_like(self.started.value))
        return start * self.bounded_factor()


SMALLEST_FACTOR = 1e-3


def bounded(weight, smallest):
    """A weight as a tensor, not below `smallest`; at the bound its gradient is whole."""
    # Selected, not a maximum: at the bound JAX would halve the gradient of that.
    weight = ops.convert_to_tensor(weight)
    return ops.where(weight >= smallest, weight, smallest)


@keras.saving.register_keras_serializable(package="acdbit")
class AtLeast(keras.constraints.Constraint):
    """Keeps every element of a weight at or above `smallest`."""

    def __init__(self, smallest):
        self.smallest = smallest

    def __call__(self, weight):
        return ops.maximum(weight, self.smallest)

    def get_config(self):
        return {"smallest": self.smallest}


@keras.saving.register_keras_serializable(package="acdbit")
class Identity(Quantizer):
    """Leaves the tensor real: the quantizer of a float layer.

    Example:
        >>> import acdbit_keras as acd
        >>> import numpy as np
        >>> quantizer = acd.quantizers.Identity()
        >>> print(np.asarray(quantizer(np.float32([0.5, -2])).decode()), quantizer.is_binary)
        [ 0.5 -2. ] False
    """

    def build(self, input_shape: Shape) -> None:
        self.built = True

    def call(self, inputs: Tensor, training: bool | None = None) -> Code:
        return code.real(inputs)


@keras.saving.register_keras_serializable(package="acdbit")
class PlainSign(Quantizer):
    """A bare sign function, e.g. any Larq quantizer: code = s(x), with Larq's scale if the function has one.

    Args:
        sign: name, Larq quantizer instance, or config; default `"ste_sign"`. See `acdbit_keras.signs.get`.

    Example:
        >>> import acdbit_keras as acd
        >>> import numpy as np
        >>> quantizer = acd.quantizers.PlainSign("approx_sign")
        >>> print(np.asarray(quantizer(np.float32([0.5, 0, -2])).decode()), quantizer.is_binary)
        [ 1.  1. -1.] True
    """

    def __init__(self, sign: SignLike = "ste_sign", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sign = signs.get(sign)
        self.levels = self.sign.levels
        self.bits = self.sign.bits

    def build(self, input_shape: Shape) -> None:
        self.built = True

    def call(self, inputs: Tensor, training: bool | None = None) -> Code:
        return code.Code(self.sign(inputs), scale=self.sign.scale(inputs))

    def comparison(self) -> Comparison | None:
        return Comparison() if self.levels == "sign" and self.sign.name != "magnitude_aware_sign" else None

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "sign": self.sign.get_config()}
