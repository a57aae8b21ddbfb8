"""What spares TensorFlow a second trace of the training step."""

import keras
from keras import ops


class BuiltBeforeTracing(keras.Model):
    """A model whose optimizer and metrics have their variables before the training step is traced.

    Keras makes them inside the step, and TensorFlow traces a function again when its first trace made variables: half of
    the time until the first step. For outputs, or outputs named `"logits"`, of shape `(batch, self.classes)`.
    """

    def fit(self, x=None, y=None, *args, **kwargs):
        if keras.config.backend() == "tensorflow":
            self._build_metrics(x, y)
        return super().fit(x, y, *args, **kwargs)

    def make_train_function(self, force=False):
        if self.optimizer is not None and not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)
        return super().make_train_function(force)

    def _build_metrics(self, x, y):
        spec = getattr(x, "element_spec", None)
        labels = spec[1] if isinstance(spec, tuple) and len(spec) > 1 else y
        if not hasattr(labels, "shape") or not self.compiled:
            return
        # Their variables are made by the first update.
        self.compute_metrics(None, ops.zeros((1, *labels.shape[1:]), keras.backend.standardize_dtype(labels.dtype)), ops.zeros((1, self.classes)))
        self.reset_metrics()
