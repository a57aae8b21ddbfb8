"""Cheap per-channel float layers around the binary products."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from acdbit_keras.typing import Shape, Tensor


@keras.saving.register_keras_serializable(package="acdbit")
class RPReLU(keras.layers.Layer):
    """Shifted PReLU: `y = z if z > 0 else slope * z, plus b`, with `z = x - a`; a, b and slope per channel.

    The float non-linearity behind a binary product, which can reshape and shift its output distribution.

    Args:
        initial_slope: slope of every channel at the start, 0.25 by default; a and b start at 0.

    Source: ReActNet (arXiv:2003.03488); a slope of 0.25 as in BinaryViT.

    Example:
        >>> import acdbit_keras as acd
        >>> import numpy as np
        >>> print(np.asarray(acd.RPReLU(initial_slope=0.25)(np.float32([[-2, 0, 4]]))))
        [[-0.5  0.   4. ]]
    """

    def __init__(self, initial_slope: float = 0.25, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.initial_slope = initial_slope
        self.supports_masking = True

    def build(self, input_shape: Shape) -> None:
        shape = (input_shape[-1],)
        self.shift_in = self.add_weight(name="shift_in", shape=shape, initializer="zeros")
        self.slope = self.add_weight(name="slope", shape=shape, initializer=keras.initializers.Constant(self.initial_slope))
        self.shift_out = self.add_weight(name="shift_out", shape=shape, initializer="zeros")
        self.built = True

    def call(self, inputs: Tensor) -> Tensor:
        z = inputs - self.shift_in
        # This sum, with a slope of one rank less than the input, is the form that converters recognise as one PRELU.
        negative_slope = ops.reshape(-ops.convert_to_tensor(self.slope), (1,) * (len(inputs.shape) - 2) + (-1,))
        return ops.relu(z) + negative_slope * ops.relu(-z) + self.shift_out

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "initial_slope": self.initial_slope}


@keras.saving.register_keras_serializable(package="acdbit")
class LayerScale(keras.layers.Layer):
    """`y = gain * x + shift` per channel, on a residual branch.

    Args:
        initial_gain: gain of every channel at the start, 0.1 by default; the shift starts at 0.

    Source: CaiT (arXiv:2103.17239), with the shift of BinaryViT.

    Example:
        >>> import acdbit_keras as acd
        >>> import numpy as np
        >>> print(np.asarray(acd.LayerScale(initial_gain=0.5)(np.float32([[-2, 0, 4]]))))
        [[-1.  0.  2.]]
    """

    def __init__(self, initial_gain: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.initial_gain = initial_gain
        self.supports_masking = True

    def build(self, input_shape: Shape) -> None:
        shape = (input_shape[-1],)
        self.gain = self.add_weight(name="gain", shape=shape, initializer=keras.initializers.Constant(self.initial_gain))
        self.shift = self.add_weight(name="shift", shape=shape, initializer="zeros")
        self.built = True

    def call(self, inputs: Tensor) -> Tensor:
        return self.gain * inputs + self.shift

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "initial_gain": self.initial_gain}
