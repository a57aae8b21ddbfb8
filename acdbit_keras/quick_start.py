"""What keeps TensorFlow from tracing twice, compiling what runs once, and waiting for a tuner."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops


class QuickStart(keras.Model):
    """A Keras model that comes sooner to its first step and its first prediction; on TensorFlow, on JAX there is nothing to mend.

    The optimizer and the metrics have their variables before the training step is traced: Keras makes them inside it, and
    TensorFlow traces a function again when its first trace made variables. Until it is compiled with `compile`, the model
    predicts without XLA, whose compilation takes longer than it saves. And arrays are predicted without tf.data's tuner, see
    `untuned`.

    Subclasses have `classes`, and outputs, or outputs named `"logits"`, of shape `(batch, classes)`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if keras.config.backend() == "tensorflow":
            self.jit_compile = False

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        if keras.config.backend() == "tensorflow" and self.compiled:
            self.build_metrics(x, y)
        return super().fit(x, y, *args, **kwargs)

    def predict(self, x: Any, batch_size: int | None = None, *args: Any, **kwargs: Any) -> Any:
        if keras.config.backend() == "tensorflow" and isinstance(x, np.ndarray) and len(x):
            import tensorflow as tf

            x, batch_size = untuned(tf.data.Dataset.from_tensor_slices(x).batch(batch_size or 32)), None
        return super().predict(x, batch_size, *args, **kwargs)

    def make_train_function(self, force: bool = False) -> Callable[..., Any]:
        if self.optimizer is not None and not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)
        return super().make_train_function(force)

    def build_metrics(self, x: Any, y: Any) -> None:
        """Makes the variables of the compiled metrics, for data of these labels: of `y`, or of a `tf.data.Dataset` `x`."""
        spec = getattr(x, "element_spec", None)
        labels = spec[1] if isinstance(spec, tuple) and len(spec) > 1 else y
        if not hasattr(labels, "shape"):
            return
        # Their variables are made by the first update.
        dtype = keras.backend.standardize_dtype(labels.dtype)
        self.compute_metrics(None, ops.zeros((1, *labels.shape[1:]), dtype), ops.zeros((1, self.classes)))
        self.reset_metrics()


def untuned(dataset):
    """A `tf.data.Dataset` that does not tune itself.

    Its tuner sleeps for 10 ms, then twice as long each time, up to a minute, and where an iterator ends, the caller waits until
    it wakes: evaluating takes up to twice its time (TensorFlow 2.21). Numbers of parallel calls left to it are the number of
    cores.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
