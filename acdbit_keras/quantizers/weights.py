"""1-bit weights: centring, scale and threshold as options of one quantizer."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops

from acdbit_keras import checks, execution, signs, statistics
from acdbit_keras.code import Code
from acdbit_keras.quantizers.base import Quantizer
from acdbit_keras.typing import Shape, SignLike, Tensor

CENTERS = (None, "mean", "median")
SCALES = (None, "mean_abs", "mad", "learned")


@keras.saving.register_keras_serializable(package="acdbit")
class WeightSign(Quantizer):
    """`code(W) = alpha_o * s(W - m_o) (+ mu_o)`, per output channel o (a column of the kernel).

    The gradient is that of the sign's pseudo-gradient, times alpha_o; m_o, alpha_o and mu_o are constants for it. With
    `through_scale` 1/n is added to alpha_o times the pseudo-gradient, n the number of inputs.

    Args:
        center: m_o. `"median"`, `"mean"`, the default, or `None` for 0.
        scale: alpha_o. `"mean_abs"`, the default: mean |W|, uncentred; `"mad"`: mean |W - m|, the L2-best with m the median;
            `"learned"`: trained as a factor of its start, mean |W| at the first training batch; `None` for 1.
        restore: whether mu_o = mean(W) is added back; default False. It costs one sum of signs per token.
        per: `"row"`, the default: statistics of each output channel; or `"tensor"`: of the whole kernel.
        sign: the straight-through sign; any Larq quantizer, or its name; default `"ste_sign"`.
        through_scale: whether a weight is also trained through the scale that it is a part of, as in XNOR-Net; default
            False.
        limit: positive number: the latent weights are kept within [-limit, limit] after each step of the optimizer;
            `None`, the default, for not.

    Source: XNOR-Net (arXiv:1603.05279) for the scale, the gradient through it and the limit of 1, BinaryViT for the
    centring, BiViT (arXiv:2211.07091) for the learned scale, ACD-BiT for the median shift.

    Example:
        >>> import acdbit_keras as acd
        >>> import numpy as np
        >>> kernel = np.float32([[1, 3], [3, -3]])  # means 2 and 0
        >>> code = acd.WeightSign(center="mean", scale="mean_abs")(kernel)
        >>> print(np.asarray(code.signs), np.asarray(code.scale))
        [[-1.  1.]
         [ 1. -1.]] [[2. 3.]]
    """

    bits = 1

    def __init__(
        self,
        center: Literal["mean", "median"] | None = "mean",
        scale: Literal["mean_abs", "mad", "learned"] | None = "mean_abs",
        restore: bool = False,
        per: Literal["row", "tensor"] = "row",
        sign: SignLike = "ste_sign",
        through_scale: bool = False,
        limit: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, value, allowed in (("center", center, CENTERS), ("scale", scale, SCALES), ("per", per, ("row", "tensor"))):
            checks.choice(name, value, allowed)
        self.center = center
        self.scale = scale
        self.restore = restore
        self.per = per
        self.sign = signs.get(sign)
        self.levels = self.sign.levels
        self.through_scale = through_scale
        if limit is not None and not limit > 0:
            raise ValueError(f"limit must be positive or None, not {limit!r}")
        self.limit = limit

    @property
    def constraint(self) -> keras.constraints.Constraint | None:
        return None if self.limit is None else Limit(self.limit)

    def build(self, input_shape: Shape) -> None:
        if self.scale == "learned":
            self.add_measured_scale((1, input_shape[-1]) if self.per == "row" else (1, 1))
        self.built = True

    def call(self, inputs: Tensor, training: bool | None = None) -> Code:
        weights = ops.cast(ops.stop_gradient(inputs), "float32")
        axes = (0,) if self.per == "row" else (0, 1)
        location = self._location(weights, axes, training)
        scale, offset = 1.0, 0.0
        if self.scale == "mean_abs":
            scale = ops.mean(ops.abs(weights), axis=axes, keepdims=True)
        elif self.scale == "mad":
            scale = statistics.mean_absolute_deviation(weights, 0.0 if location is None else location, axes)
        elif self.scale == "learned":
            scale = self.measured_scale(lambda: ops.mean(ops.abs(weights), axis=axes, keepdims=True), training)
        if self.restore:
            offset = ops.mean(weights, axis=axes, keepdims=True)
        signs_ = self.sign(inputs if location is None else inputs - ops.cast(location, inputs.dtype))
        if self.through_scale:
            # Adds 0 to the signs, and 1/n to alpha times their gradient.
            share = ops.cast(ops.divide_no_nan(1.0 / inputs.shape[0], scale), inputs.dtype)
            signs_ = signs_ + (inputs - ops.stop_gradient(inputs)) * share
        return Code(signs_, scale, offset).map(lambda part: ops.cast(part, inputs.dtype))

    def _location(self, weights, axes, training):
        if self.center is None:
            return None
        if self.center == "mean":
            return ops.mean(weights, axis=axes, keepdims=True)
        columns = weights if self.per == "row" else ops.reshape(weights, (-1, 1))
        return execution.current().column_medians(columns, training)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "center": self.center,
            "scale": self.scale,
            "restore": self.restore,
            "per": self.per,
            "sign": self.sign.get_config(),
            "through_scale": self.through_scale,
            "limit": self.limit,
        }


@keras.saving.register_keras_serializable(package="acdbit")
class Limit(keras.constraints.Constraint):
    """Keeps every element of a weight within [-limit, limit]."""

    def __init__(self, limit):
        self.limit = limit

    def __call__(self, weight):
        return ops.clip(weight, -self.limit, self.limit)

    def get_config(self):
        return {"limit": self.limit}
