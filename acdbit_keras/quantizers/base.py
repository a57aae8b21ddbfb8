"""What every quantizer is: a Keras layer that turns a real tensor into a `Code`."""

from typing import Any, NamedTuple

import keras

from acdbit_keras import code, signs


class Comparison(NamedTuple):
    """How a device computes a 1-bit code: the sign of `x` is negative where `x < threshold`, and constants decode it.

    Attributes:
        threshold: number or numpy array that broadcasts to the quantizer's input.
        scale, offset: likewise, those of the code of signs; `None` where `dynamic`.
        dynamic: whether scale and offset are mean |x - threshold| and mean x over the last axis of the input.
    """

    threshold: Any = 0.0
    scale: Any = 1.0
    offset: Any = 0.0
    dynamic: bool = False


class Quantizer(keras.layers.Layer):
    """Base class. `call(inputs, training=None)` returns a `Code` that stands for `inputs`.

    Attributes:
        bits: width of one stored value.
        levels: the values of `Code.signs`: `"sign"` for {-1, +1}, `"zero_one"` for {0, 1}, `"ternary"`, `"uniform"`
            (several bits) or `"real"`. Only the first two are packed into bits.
    """

    bits = 32
    levels = "real"

    def __init__(self, **kwargs):
        # It works in the precision of what it is given, which is that of the layer it belongs to.
        super().__init__(**{**kwargs, "autocast": False})

    @property
    def is_binary(self):
        return self.levels in ("sign", "zero_one")

    def comparison(self):
        """The `Comparison` that computes this code at inference, `None` where it takes more than that."""
        return None


@keras.saving.register_keras_serializable(package="acdbit")
class Identity(Quantizer):
    """Leaves the tensor real: the quantizer of a float layer."""

    def build(self, input_shape):
        self.built = True

    def call(self, inputs, training=None):
        return code.real(inputs)


@keras.saving.register_keras_serializable(package="acdbit")
class PlainSign(Quantizer):
    """A bare sign function, e.g. any Larq quantizer: code = s(x), with Larq's scale if the function has one.

    Args:
        sign: name, Larq quantizer instance, or config; see `acdbit_keras.signs.get`.
    """

    def __init__(self, sign="ste_sign", **kwargs):
        super().__init__(**kwargs)
        self.sign = signs.get(sign)
        self.levels = self.sign.levels
        self.bits = self.sign.bits

    def build(self, input_shape):
        self.built = True

    def call(self, inputs, training=None):
        return code.Code(self.sign(inputs), scale=self.sign.scale(inputs))

    def comparison(self):
        return Comparison() if self.levels == "sign" and self.sign.name != "magnitude_aware_sign" else None

    def get_config(self):
        return {**super().get_config(), "sign": self.sign.get_config()}
