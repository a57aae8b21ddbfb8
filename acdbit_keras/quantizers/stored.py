"""1-bit weights without latent weights: what is left of a kernel in a compact file."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops

from acdbit_keras.code import Code
from acdbit_keras.quantizers.base import Quantizer
from acdbit_keras.typing import Shape, Tensor


@keras.saving.register_keras_serializable(package="acdbit")
class StoredSign(Quantizer):
    """`code(W) = scale_o * W (+ offset_o)` of a kernel W that holds the signs themselves, per output channel o.

    It stands for any 1-bit kernel quantizer once training is over: the signs and what decodes them are all that is kept.
    The real weights from which the signs came are gone, so it refuses to be trained unless it is frozen.

    Args:
        levels: the values of the signs, `"sign"`, the default, for {-1, +1}, or `"zero_one"`.
        restore: whether there is an offset; default False.

    Raises:
        ValueError: on other levels; when called in training and not frozen.

    Example:
        >>> import acdbit_keras as acd
        >>> import numpy as np
        >>> quantizer = acd.quantizers.StoredSign()
        >>> quantizer.build((2, 2))
        >>> _ = quantizer.scale.assign(np.float32([[0.5, 3]]))
        >>> print(np.asarray(quantizer(np.float32([[1, -1], [1, 1]])).decode()))
        [[ 0.5 -3. ]
         [ 0.5  3. ]]
    """

    bits = 1

    def __init__(self, levels: Literal["sign", "zero_one"] = "sign", restore: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if levels not in ("sign", "zero_one"):
            raise ValueError(f"levels must be 'sign' or 'zero_one', not {levels!r}")
        self.levels = levels
        self.restore = restore

    def build(self, input_shape: Shape) -> None:
        fixed = dict(shape=(1, input_shape[-1]), trainable=False, dtype="float32", autocast=False)
        self.scale = self.add_weight(name="scale", initializer="ones", **fixed)
        if self.restore:
            self.offset = self.add_weight(name="offset", initializer="zeros", **fixed)
        self.built = True

    def call(self, inputs: Tensor, training: bool | None = None) -> Code:
        if training:
            raise ValueError(
                "this model has the signs of its weights only, which cannot be trained; from_zoo(name, trainable=True) or "
                "load_model(path, trainable=True) gives it real ones, or freeze it: model.trainable = False"
            )
        offset = ops.cast(self.offset, inputs.dtype) if self.restore else 0.0
        return Code(ops.stop_gradient(inputs), ops.cast(self.scale, inputs.dtype), offset)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "levels": self.levels, "restore": self.restore}
