"""Attention probabilities by a threshold that nothing learns, and as powers of two."""

from __future__ import annotations

import math
from typing import Any, Literal

import keras
from keras import ops

from acdbit_keras import checks, masking, replicas, signs, statistics
from acdbit_keras.code import Code, real
from acdbit_keras.quantizers.base import Quantizer
from acdbit_keras.typing import Shape, Tensor

RULES = ("max_ratio", "mean", "zero")
SCALES = (None, "kept_mean")


@keras.saving.register_keras_serializable(package="acdbit")
class ThresholdedProbabilities(Quantizer):
    """`code(P) = a * H(P - bound)`, H(z) = 1 if z >= 0 else 0, with a bound from the row itself.

    Rules:
        `"max_ratio"`: bound = ratio * max_row P. Gradient: dP = a g, straight through.
        `"mean"`: bound = 1 / keys that are not masked, the mean of a row. Gradient: dP = a g, straight through.
        `"zero"`: on the scores S before any softmax, H(S). Gradient: dS = a g where |S| <= 1, else 0.

    The bound and a are constants for the gradient.

    Args:
        rule: one of the above; default `"max_ratio"`.
        ratio: what `"max_ratio"` multiplies the maximum of a row by, in (0, 1]; default 0.25.
        scale: a. `"kept_mean"`: mean of the P that are kept, a running average over training batches, so that it is a
            constant on the device; `None`, the default, for 1.
        momentum: share of its old value that the running average keeps in an update, in [0, 1); default 0.99.

    Raises:
        ValueError: on an unknown option, or a scale of scores.

    Source: BiViT (arXiv:2211.07091) for the ratio to the maximum, BiBERT (arXiv:2203.06390) for the scores without a
    softmax. The rule `"mean"` is ours: XNOR-Net has no attention, and its sign would make every P >= 0 a one.

    Example:
        >>> import acdbit_keras as acd
        >>> import numpy as np
        >>> p = np.float32([[0.6, 0.2, 0.18, 0.02]])
        >>> print(np.asarray(acd.quantizers.ThresholdedProbabilities(ratio=0.25)(p).signs))  # 0.15 and more
        [[1. 1. 1. 0.]]
        >>> print(np.asarray(acd.quantizers.ThresholdedProbabilities("mean")(p).signs))  # 1 / 4 and more
        [[1. 0. 0. 0.]]
    """

    bits = 1
    levels = "zero_one"

    def __init__(
        self,
        rule: Literal["max_ratio", "mean", "zero"] = "max_ratio",
        ratio: float = 0.25,
        scale: Literal["kept_mean"] | None = None,
        momentum: float = 0.99,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, value, allowed in (("rule", rule, RULES), ("scale", scale, SCALES)):
            checks.choice(name, value, allowed)
        if rule == "zero" and scale:
            raise ValueError("scale='kept_mean' is a mean of probabilities, and rule='zero' has scores alone")
        if not 0.0 < ratio <= 1.0:
            raise ValueError(f"ratio must be in (0, 1], not {ratio!r}")
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"momentum must be in [0, 1), not {momentum!r}")
        self.rule = rule
        self.ratio = ratio
        self.scale = scale
        self.momentum = momentum

    @property
    def takes_scores(self) -> bool:
        return self.rule == "zero"

    def build(self, input_shape: Shape) -> None:
        if self.scale:
            tracked = dict(trainable=False, dtype="float32", autocast=False)
            self.running_scale = self.add_weight(name="running_scale", shape=(), initializer="ones", **tracked)
            self.updates = self.add_weight(name="updates", shape=(), initializer="zeros", **tracked)
        self.built = True

    def call(self, inputs: Tensor, training: bool | None = None) -> Code:
        x = ops.cast(inputs, "float32")
        if self.rule == "zero":
            kept = signs.ste_step(x)
        else:
            bound = 1.0 / masking.number_of_keys(x) if self.rule == "mean" else self.ratio * ops.max(x, axis=-1, keepdims=True)
            kept = signs.ste_step(x - ops.stop_gradient(bound), clip_value=None)
        if self.scale and training:
            self._track(ops.stop_gradient(x), ops.stop_gradient(kept))
        scale = ops.reshape(self.constant_scale(), (1,) * len(x.shape)) if self.scale else 1.0
        return Code(kept, scale).map(lambda part: ops.cast(part, inputs.dtype))

    def constant_scale(self) -> Tensor | float:
        """a as it is used, a number or a scalar tensor."""
        return ops.convert_to_tensor(self.running_scale) if self.scale else 1.0

    def _track(self, x, kept):
        counted = masking.weights(x)
        kept = kept if counted is None else kept * counted
        # Every row keeps its largest element, so without a mask there is something to divide by.
        summed, count = replicas.total([ops.sum(x * kept), ops.sum(kept)])
        mean = summed / ops.maximum(count, 1.0)
        updates = ops.convert_to_tensor(self.updates)
        rate = statistics.tracking_rate(updates, self.momentum)
        self.running_scale.assign(statistics.running_average(self.running_scale.value, mean, rate))
        self.updates.assign(updates + 1.0)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **{name: getattr(self, name) for name in ("rule", "ratio", "scale", "momentum")}}


@keras.saving.register_keras_serializable(package="acdbit")
class LogarithmicSoftmax(Quantizer):
    """Softmax whose outputs are powers of two: P_i = 2^-q_i, q_i = round(log2(sum_j e_j / e_i)), 0 where q_i >= 2^bits.

    The exponential is that of integer hardware: e_i = (.3582 r^2 + .9696 r + 1) 2^-n with S_i - max S = r - n ln 2 and r
    in (-ln 2, 0]. It takes the scores S. There is no gradient: it is for networks that are not trained any more.

    Args:
        bits: width of one q; default 4.

    Source: FQ-ViT (arXiv:2111.13824), with real numbers where the device has integers.

    Example:
        >>> import acdbit_keras as acd
        >>> import numpy as np
        >>> scores = np.log(np.float32([[4, 1, 1]]))  # softmax: 2/3, 1/6, 1/6
        >>> print(np.asarray(acd.quantizers.LogarithmicSoftmax()(scores).decode()))
        [[0.5   0.125 0.125]]
    """

    levels = "uniform"
    takes_scores = True

    def __init__(self, bits: int = 4, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        checks.integer("bits", bits, 1, 8)
        self.bits = bits

    def build(self, input_shape: Shape) -> None:
        self.built = True

    def call(self, inputs: Tensor, training: bool | None = None) -> Code:
        scores = ops.cast(ops.stop_gradient(inputs), "float32")
        below = scores - ops.max(scores, axis=-1, keepdims=True)
        shifts = ops.floor(below / -math.log(2.0))
        r = below + shifts * math.log(2.0)
        e = (0.3582 * ops.square(r) + 0.9696 * r + 1.0) * ops.power(2.0, -shifts)
        total = ops.sum(e, axis=-1, keepdims=True)
        # Beyond the range of floats e is 0, and so is P.
        q = ops.round(ops.log2(total / ops.maximum(e, 1e-30)))
        return real(ops.cast(ops.where(q < 2**self.bits, ops.power(2.0, -q), 0.0), inputs.dtype))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "bits": self.bits}
