"""What every quantizer is: a Keras layer that turns a real tensor into a `Code`."""

import keras

from acdbit_keras import code, signs


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

    def get_config(self):
        return {**super().get_config(), "sign": self.sign.get_config()}
