"""Optimizer, learning-rate schedule and label loss of a recipe."""

from __future__ import annotations

import contextlib
import math

import keras
from keras import ops

from acdbit_keras import replicas

SCHEDULES = ("cosine", "one_cycle", "linear")
# Kernels decay; what follows is shifts, gains and scales, which weight decay would only bias.
_WITHOUT_DECAY = ["bias", "gamma", "beta", "shift_in", "shift_out", "slope", "gain", "shift", "scale", "threshold", "factor"]
# Where a warm-up begins, as a share of the peak.
_FIRST_SHARE = {"cosine": 1 / 100, "one_cycle": 1 / 25, "linear": 1 / 100}


@keras.saving.register_keras_serializable(package="acdbit")
class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises to a peak and falls to a floor.

    `"cosine"` rises linearly and falls as half a cosine, `"one_cycle"` does both as half a cosine (Smith, arXiv:1708.07120,
    without its cycle of the momentum), `"linear"` both linearly. From the last step on the rate stays at the floor.

    Args:
        kind: one of `SCHEDULES`.
        peak: the largest rate, positive.
        warmup: steps up to it.
        total: steps altogether.
        floor: the last rate as a share of the peak, from 0, the default, to 1.

    Example:
        >>> from acdbit_keras.models.optimization import Schedule
        >>> rate = Schedule("linear", peak=1.0, warmup=10, total=30, floor=0.5)
        >>> [round(float(rate(step)), 3) for step in (0, 5, 10, 20, 30)]
        [0.01, 0.505, 1.0, 0.75, 0.5]
    """

    def __init__(self, kind: str, peak: float, warmup: int, total: int, floor: float = 0.0) -> None:
        self.kind = kind
        self.peak = peak
        self.warmup = warmup
        self.total = total
        self.floor = floor

    def __call__(self, step):
        step = ops.cast(step, "float32")
        first, floor = self.peak * _FIRST_SHARE[self.kind], self.peak * self.floor
        left = ops.clip((step - self.warmup) / max(self.total - self.warmup, 1), 0.0, 1.0)
        falling = floor + (self.peak - floor) * (1.0 - left if self.kind == "linear" else 0.5 * (1.0 + ops.cos(math.pi * left)))
        if not self.warmup:
            return falling
        done = ops.clip(step / self.warmup, 0.0, 1.0)
        rising = first + (self.peak - first) * (0.5 * (1.0 - ops.cos(math.pi * done)) if self.kind == "one_cycle" else done)
        return ops.where(step < self.warmup, rising, falling)

    def get_config(self):
        return {"kind": self.kind, "peak": self.peak, "warmup": self.warmup, "total": self.total, "floor": self.floor}


def learning_rates(recipe, epochs, steps):
    """The schedule of a stage.

    Args:
        recipe: `Recipe`.
        epochs: of the stage.
        steps: per epoch.
    """
    warmup_epochs = recipe.warmup_epochs if recipe.warmup_share is None else recipe.warmup_share * epochs
    total = epochs * steps
    return Schedule(recipe.schedule, recipe.learning_rate, min(int(warmup_epochs * steps), total), total, recipe.floor)


def optimizer(recipe, rate):
    """The optimizer of a recipe.

    Where gradients are accumulated, Keras counts every batch as a step of the schedule, too.

    Args:
        recipe: `Recipe`.
        rate: learning rate, a number or what `learning_rates` gives.
    """
    averaged = {} if recipe.ema is None else {"use_ema": True, "ema_momentum": recipe.ema}
    accumulated = {} if recipe.accumulate == 1 else {"gradient_accumulation_steps": recipe.accumulate}
    made = WholeBatchAdamW(rate, weight_decay=recipe.weight_decay, global_clipnorm=recipe.clip_norm, **averaged, **accumulated)
    made.exclude_from_weight_decay(var_names=_WITHOUT_DECAY)
    return made


@keras.saving.register_keras_serializable(package="acdbit")
class WholeBatchAdamW(keras.optimizers.AdamW):
    """AdamW that clips the gradient of the whole batch, where Keras' own clips that of each device's part."""

    def apply(self, grads, trainable_variables=None):
        super().apply(replicas.total(list(grads)), trainable_variables)

    def _all_reduce_sum_gradients(self, grads_and_vars):
        # They are summed already.
        return grads_and_vars


def label_loss(mixed, classes, smoothing=0.0):
    """Cross-entropy from logits.

    Args:
        mixed: whether labels are rows of one number per class, as mixing makes them, and not classes.
        classes: number of classes.
        smoothing: share of each label that is spread over all classes.
    """
    if mixed:
        return keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
    if smoothing:
        return SmoothedCrossentropy(classes, smoothing)
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@keras.saving.register_keras_serializable(package="acdbit")
class SmoothedCrossentropy(keras.losses.Loss):
    """Cross-entropy against labels of which a share is spread evenly over all classes, from classes `(batch,)` and logits.

    Args:
        classes: number of classes.
        smoothing: that share, 0 to 1.

    Source: Inception-v3 (arXiv:1512.00567).
    """

    def __init__(self, classes: int, smoothing: float, name: str = "smoothed_crossentropy", **kwargs) -> None:
        super().__init__(name=name, **kwargs)
        self.classes = classes
        self.smoothing = smoothing

    def call(self, y_true, y_pred):
        labels = ops.one_hot(ops.reshape(ops.cast(y_true, "int32"), (-1,)), self.classes)
        return keras.losses.categorical_crossentropy(labels, y_pred, from_logits=True, label_smoothing=self.smoothing)

    def get_config(self):
        return {**super().get_config(), "classes": self.classes, "smoothing": self.smoothing}


@contextlib.contextmanager
def averaged_weights(optimizer):
    """For as long as it is open, the trained weights are their moving averages, where the optimizer keeps some."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if not optimizer.use_ema:
        yield
        return
    _swap(optimizer)
    try:
        yield
    finally:
        _swap(optimizer)


def keep_averages(optimizer):
    """Gives the trained weights their moving averages for good."""
    _swap(getattr(optimizer, "inner_optimizer", optimizer))


def _swap(optimizer):
    for weight, average in zip(optimizer._trainable_variables, optimizer._model_variables_moving_average):
        kept = ops.convert_to_numpy(weight)
        weight.assign(average)
        average.assign(kept)
