"""Distribution alignment: median shift and mean restore around the sign.

One quantizer holds every variant that the paper's ablation needs to separate: which threshold, over which axis,
tracked how, and what is restored behind the sign.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import keras
from keras import ops

from acdbit_keras import checks, code, masking, replicas, signs, statistics
from acdbit_keras.code import Code
from acdbit_keras.quantizers.base import Comparison, Quantizer
from acdbit_keras.typing import Shape, SignLike, Tensor

THRESHOLDS = (None, "median", "mean", "learned", "shifted_median")
_STATISTICS = ("median", "mean", "shifted_median")
_MEDIANS = ("median", "shifted_median")
_TRAINED = ("learned", "shifted_median")
AXES = ("token", "channel", "tensor")
TRACKINGS = ("running", "batch")
SCALES = (None, "mad", "std")
RESTORES = ("off", "frozen", "dynamic")


@keras.saving.register_keras_serializable(package="acdbit")
class AlignedSign(Quantizer):
    """1-bit activations: `code(z) = alpha * s(z - m) + mu`.

    With m the median, P(+1) = P(-1) = 1/2: each sign carries one bit of entropy, the maximum. alpha = mean|z - m|
    and mu = mean(z) are then the least-squares affine map of the signs, and E[code] = mu.

    Gradient: dz = dcode * alpha * phi(z - m), phi the pseudo-gradient of `sign`; m, alpha and mu are constants for
    the gradient, except what of a threshold is learned.

    Args:
        threshold: m. `"median"`, the default, `"mean"`, `"learned"` (one trainable value per channel, 0 at the start; the
            shift of BinaryViT), `"shifted_median"` (the median plus such a trainable value: balanced at the start, and as
            training wants it from there) or `None` for 0.
        axis: what m, and frozen alpha and mu, are statistics of: `"channel"`, the default, `"tensor"` or `"token"`.
        tracking: `"running"`, the default: m, alpha and mu are tracked while training and used as constants, in training and
            inference alike, where they fold into thresholds and biases; the median by pinball steps, without a
            sort. `"batch"`: exact statistics of the batch while training, their running average at inference.
            Statistics per token belong to the input and are always computed from it.
        scale: alpha. `"mad"`, the default, mean |z - m|; `"std"`, the standard deviation, which aligns the second
            moment; `None` for 1. With `contracts="channels"` the mean of those of the channels.
        restore: mu. `"off"`: 0. `"frozen"`, the default: of `axis`, tracked like m. `"dynamic"`: alpha and mu are
            those of each token, computed at inference too.
        sign: the straight-through sign; any Larq quantizer to {-1, +1}, or its name; default `"approx_sign"`.
        channel_axes: number of trailing axes that index channels: 1, the default, or 2 for `(..., heads, head_dim)`.
        contracts: `"channels"`, the default, if the code enters a product over its last axis, where alpha must be one
            number; `"tokens"` if over its second last (values of attention), where alpha may differ per channel.
        momentum: share of their old values that the running statistics keep in an update, in [0, 1); default 0.99.
        batch_share: share of a batch, in (0, 1], from whose first samples the running statistics are taken; with
            thousands of tokens in a batch a part of it says as much, and costs less. Batches must be shuffled. Default 1.

    Raises:
        ValueError: on an unknown option or a combination without meaning.

    Source: ACD-BiT (Sensors 2024, 24, 8190) states median shift and mean restore around the sign; the formulas are
    our reconstruction.

    Example:
        >>> import acdbit_keras as acd
        >>> import numpy as np
        >>> z = np.float32(
        ...     [[-3, 9], [-1, 11], [1, 13], [3, 15]]
        ... )  # medians 0 and 12, both channels 2 away from them
        >>> code = acd.AlignedSign(tracking="batch")(z, training=True)
        >>> print(np.asarray(code.signs))
        [[-1. -1.]
         [-1. -1.]
         [ 1.  1.]
         [ 1.  1.]]
        >>> print(np.asarray(code.scale), np.asarray(code.offset))
        [[2.]] [[ 0. 12.]]
        >>> print(np.asarray(code.decode()))
        [[-2. 10.]
         [-2. 10.]
         [ 2. 14.]
         [ 2. 14.]]
    """

    bits = 1

    def __init__(
        self,
        threshold: Literal["median", "mean", "learned", "shifted_median"] | None = "median",
        axis: Literal["token", "channel", "tensor"] = "channel",
        tracking: Literal["running", "batch"] = "running",
        scale: Literal["mad", "std"] | None = "mad",
        restore: Literal["off", "frozen", "dynamic"] = "frozen",
        sign: SignLike = "approx_sign",
        channel_axes: Literal[1, 2] = 1,
        contracts: Literal["channels", "tokens"] = "channels",
        momentum: float = 0.99,
        batch_share: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, value, allowed in (
            ("threshold", threshold, THRESHOLDS),
            ("axis", axis, AXES),
            ("tracking", tracking, TRACKINGS),
            ("scale", scale, SCALES),
            ("restore", restore, RESTORES),
            ("channel_axes", channel_axes, (1, 2)),
            ("contracts", contracts, ("channels", "tokens")),
        ):
            checks.choice(name, value, allowed)
        if contracts == "tokens" and (axis == "token" or restore == "dynamic"):
            raise ValueError("statistics per token vary along the tokens, over which a product with contracts='tokens' sums")
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"momentum must be in [0, 1), not {momentum!r}")
        if not 0.0 < batch_share <= 1.0:
            raise ValueError(f"batch_share must be in (0, 1], not {batch_share!r}")
        self.threshold = threshold
        self.axis = axis
        self.tracking = tracking
        self.scale = scale
        self.restore = restore
        self.sign = signs.get(sign)
        if self.sign.levels != "sign":
            raise ValueError(f"sign must be a function to -1 and +1, which alignment balances, not {self.sign.name!r}")
        self.levels = self.sign.levels
        self.channel_axes = channel_axes
        self.contracts = contracts
        self.momentum = momentum
        self.batch_share = batch_share

    @property
    def running_statistics(self) -> tuple[str, ...]:
        """Names of the running statistics that this combination of options needs."""
        if self.axis == "token":
            return ()
        names = []
        if self.threshold in _STATISTICS:
            names.append("location")
        if self.restore == "frozen":
            names.append("mean")
        if self.scale and self.restore != "dynamic":
            names.append("spread")
        return tuple(names)

    def build(self, input_shape: Shape) -> None:
        rank = len(input_shape)
        axes = statistics.reduction_axes(self.axis, rank, self.channel_axes)
        shape = tuple(1 if i in axes else d for i, d in enumerate(input_shape))
        channels = tuple(1 if i < rank - self.channel_axes else d for i, d in enumerate(input_shape))
        if self.threshold in _TRAINED:
            self.shift = self.add_weight(name="threshold", shape=channels, initializer="zeros")
        # Kept out of mixed precision: half a float counts to 2048 and loses small steps.
        tracked = dict(trainable=False, dtype="float32", autocast=False)
        for name in self.running_statistics:
            start = "ones" if name == "spread" else "zeros"
            setattr(self, f"running_{name}", self.add_weight(name=f"running_{name}", shape=shape, initializer=start, **tracked))
        if self.running_statistics:
            self.updates = self.add_weight(name="updates", shape=(), initializer="zeros", **tracked)
        self.built = True

    def call(self, inputs: Tensor, training: bool | None = None) -> Code:
        training = bool(training)
        z = ops.cast(ops.stop_gradient(inputs), "float32")
        axes = statistics.reduction_axes(self.axis, len(inputs.shape), self.channel_axes)
        exact = self.axis == "token" or (self.tracking == "batch" and training)
        statistic = self._statistic(z, axes, exact)
        location = self._shifted(statistic)
        signs_ = self.sign(inputs if location is None else inputs - ops.cast(location, inputs.dtype))
        center = 0.0 if location is None else ops.stop_gradient(ops.cast(location, "float32"))
        if training and self.running_statistics:
            # Before they are read: alpha and mu of a batch include it, so that the first is not scaled by the start.
            self._track(z, signs_, statistic, center, axes, exact)
        if self.restore == "dynamic":
            spread, mean = self._spread(z, center, (-1,)), ops.mean(z, axis=-1, keepdims=True)
        elif exact:
            spread, mean = self._spread(z, center, axes), masking.mean(z, axes)
        else:
            spread = ops.convert_to_tensor(self.running_spread) if self.scale else None
            mean = ops.convert_to_tensor(self.running_mean) if self.restore == "frozen" else None
        return self._code(signs_, spread, mean, inputs.dtype)

    def _location(self):
        """The threshold as it is tracked and trained, `None` for 0."""
        return self._shifted(self._statistic(None, None, exact=False))

    def _shifted(self, statistic):
        if self.threshold not in _TRAINED:
            return statistic
        shift = ops.convert_to_tensor(self.shift)
        return shift if statistic is None else statistic + ops.cast(shift, statistic.dtype)

    def _statistic(self, z, axes, exact):
        """What of the threshold is a statistic, `None` for nothing."""
        if self.threshold not in _STATISTICS:
            return None
        if not exact:
            return ops.convert_to_tensor(self.running_location)
        if self.threshold == "mean":
            return masking.mean(z, axes)
        if self.axis != "token" and masking.weights(z) is not None:
            raise ValueError(f"{self.path}: an exact median takes no mask; use tracking='running', or threshold='mean'")
        return statistics.median(z if self.axis == "token" else replicas.rows(z), axes)

    def _spread(self, z, center, axes):
        if self.scale is None:
            return None
        if self.scale == "std":
            return self._deviation(z, axes)
        return statistics.mean_absolute_deviation(z, center, axes)

    @staticmethod
    def _deviation(z, axes):
        return ops.sqrt(masking.mean(ops.square(z - masking.mean(z, axes)), axes))

    def _code(self, signs_, spread, mean, dtype):
        scale, offset = 1.0, 0.0
        if spread is not None:
            if self.contracts == "channels":
                # The popcount form needs one scale along the contracted axis.
                spread = ops.mean(spread, axis=-1, keepdims=True)
            scale = ops.cast(spread, dtype)
        if self.restore != "off":
            offset = ops.cast(mean, dtype)
        return Code(signs_, scale, offset)

    def comparison(self) -> Comparison | None:
        if self.axis == "token" and self.threshold in _STATISTICS:
            return None
        location = self._location()
        threshold = 0.0 if location is None else ops.convert_to_numpy(location)
        if self.restore == "dynamic" or self.axis == "token":
            return Comparison(threshold, None, None, dynamic=True) if self.scale == "mad" and self.restore != "off" else None
        spread = ops.convert_to_tensor(self.running_spread) if self.scale else None
        mean = ops.convert_to_tensor(self.running_mean) if self.restore == "frozen" else None
        decoded = self._code(None, spread, mean, "float32")
        constants = (part if code.is_constant(part) else ops.convert_to_numpy(part) for part in decoded[1:])
        return Comparison(threshold, *constants)

    def _track(self, z, signs_, statistic, center, axes, exact):
        """Moves the running statistics by one batch."""
        # Read and reckoned once for all that is tracked: in a graph every operation is one more to trace.
        updates = ops.convert_to_tensor(self.updates)
        rate = statistics.tracking_rate(updates, self.momentum)
        if self.threshold == "shifted_median" and not exact:
            # The median is where as many lie above as below, wherever the threshold went.
            signs_ = ops.where(z >= statistic, 1.0, -1.0)
        z, signs_ = self._share(z, signs_)
        mean = masking.mean(z, axes)
        spread = (
            statistics.mean_absolute_deviation(z, center, axes) if self.threshold in _MEDIANS or self.scale == "mad" else None
        )
        if "location" in self.running_statistics:
            if self.threshold in _MEDIANS and not exact:
                mean_sign = masking.mean(ops.cast(ops.stop_gradient(signs_), "float32"), axes)
                moved = statistics.pinball_step(self.running_location.value, mean_sign, spread, mean, updates, rate)
            else:
                target = statistic if self.threshold in _MEDIANS else mean
                moved = statistics.running_average(self.running_location.value, target, rate)
            self.running_location.assign(moved)
        if "mean" in self.running_statistics:
            self.running_mean.assign(statistics.running_average(self.running_mean.value, mean, rate))
        if "spread" in self.running_statistics:
            value = self._deviation(z, axes) if self.scale == "std" else spread
            self.running_spread.assign(statistics.running_average(self.running_spread.value, value, rate))
        self.updates.assign(updates + 1.0)

    def _share(self, z, signs_):
        """Of both, the samples that the running statistics are taken from."""
        # A mask is one of the whole batch.
        if self.batch_share == 1.0 or masking.weights(z) is not None:
            return z, signs_
        batch = replicas.batch_shape(z)[0]
        if isinstance(batch, int):
            count = math.ceil(batch * self.batch_share)
        else:
            count = ops.cast(ops.ceil(ops.cast(batch, "float32") * self.batch_share), "int32")
            count = ops.maximum(count - replicas.first_row(z), 0)
        return z[:count], signs_[:count]

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "threshold": self.threshold,
            "axis": self.axis,
            "tracking": self.tracking,
            "scale": self.scale,
            "restore": self.restore,
            "sign": self.sign.get_config(),
            "channel_axes": self.channel_axes,
            "contracts": self.contracts,
            "momentum": self.momentum,
            "batch_share": self.batch_share,
        }
