"""How products of codes are carried out.

Layers say *what* is multiplied; an executor says *how*. Training and inference in Keras use `KerasExecutor`. The
exporter swaps in its own for the time of one trace (`with execution.using(...)`), so that the same layers, with the
same quantizers, emit the graph that the converter packs into bits.
"""

import contextlib
import contextvars

import keras
from keras import ops

from acdbit_keras import code, masking, statistics


class KerasExecutor:
    """Products as Keras ops on the decoded signs, differentiable on every backend.

    Attributes:
        allows_xla: whether XLA can compile a training step with it.
    """

    allows_xla = True

    def dense(self, layer, inputs, training):
        """`inputs (..., n, channels)` through a `BinaryDense`, without its bias; returns `(..., n, units)`."""
        quantized = layer.input_quantizer(inputs, training=training)
        self.observe(layer, "input", inputs, quantized.signs)
        return code.matmul(quantized, layer.kernel_code(training))

    def attention(self, layer, query, key, value, training):
        """Real `query (batch, n, heads, head_dim)`, `key`, `value (batch, m, ...)` through a `BinaryAttention`.

        Returns:
            Context `(batch, n, heads, head_dim)` and the quantized probabilities `(batch, heads, n, m)`.
        """
        real = {"query": query, "key": key, "value": value}
        query, key, value = layer.codes(query, key, value, training)
        for (place, tensor), quantized in zip(real.items(), (query, key, value)):
            self.observe(layer, place, tensor, quantized.signs)
        query = query.map(_heads_first)
        key = key.map(_head_dim_second_last)
        value = value.map(_heads_first)
        scores = masking.without_keys(code.matmul(query, key))
        probabilities = layer.probabilities(scores, training)
        self.observe(layer, "probabilities", scores, probabilities.signs)
        context = code.matmul(probabilities, value)
        return ops.transpose(context, (0, 2, 1, 3)), probabilities.decode()

    def block(self, layer, inputs, training):
        """`inputs (batch, height, width, channels)` through a whole transformer block; an executor that fuses overrides it.

        Returns:
            Outputs of the shape of the inputs, and the block's taps, a dict.
        """
        return layer.compute(inputs, training)

    def quantize(self, quantizer, inputs, training):
        """A real tensor through a quantizer that stands in front of no product: what it decodes to."""
        return quantizer(inputs, training=training).decode()

    def patches(self, layer, inputs):
        """`inputs (batch, height, width, channels)` through a `PatchEmbedding`."""
        return layer.convolve(inputs)

    def pooled_stem(self, layer, inputs, training):
        """`inputs (batch, height, width, channels)` through a `PooledStem`."""
        return layer.compute(inputs, training)

    def pooling(self, layer, inputs):
        """`inputs (batch, height, width, channels)` through a `PoolingBranches`."""
        return layer.sum_of_windows(inputs)

    def depthwise(self, layer, inputs):
        """`inputs (batch, height, width, channels)` through a `DepthwiseMixing`."""
        return layer.sum_of_neighbours(inputs)

    def column_medians(self, matrix, training):
        """Averaging medians of a matrix `(rows, columns)` of weights, `(1, columns)`."""
        if training:
            return statistics.ranked_median(matrix) if _on_accelerator() else statistics.select_median(matrix, axis=0)
        # One operation, where the bisection is a loop of a hundred: what runs once is sooner traced than computed.
        return statistics.median(matrix, 0)

    def observe(self, layer, place, real, signs):
        """Told, in order of execution, of every tensor that is quantized; an executor that watches overrides it.

        `place` is `"input"` of a `BinaryDense`, or `"query"`, `"key"`, `"value"` or `"probabilities"` of a
        `BinaryAttention`; for the probabilities `real` are the scores before the softmax.
        """


class CalibrationExecutor(KerasExecutor):
    """Float products, while every quantizer sees its input as in training: for ranges that are calibrated, not trained."""

    def dense(self, layer, inputs, training):
        layer.input_quantizer(inputs, training=True)
        return code.matmul(code.real(inputs), code.real(layer.kernel))

    def attention(self, layer, query, key, value, training):
        layer.codes(query, key, value, True)
        query, key, value = (ops.transpose(x, (0, 2, 1, 3)) for x in (query, key, value))
        scores = masking.without_keys(ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) * float(query.shape[-1]) ** -0.5)
        layer.probabilities(scores, True)
        probabilities = ops.softmax(scores, axis=-1)
        return ops.transpose(ops.matmul(probabilities, value), (0, 2, 1, 3)), probabilities

    def quantize(self, quantizer, inputs, training):
        quantizer(inputs, training=True)
        return inputs


def _heads_first(x):
    return ops.transpose(x, (0, 2, 1, 3))


def _head_dim_second_last(x):
    return ops.transpose(x, (0, 2, 3, 1))


_current = contextvars.ContextVar("acdbit_executor", default=KerasExecutor())  # noqa: B039 - it has no state


def current():
    """The executor in force."""
    return _current.get()


@contextlib.contextmanager
def using(executor):
    """Runs a block with another executor."""
    token = _current.set(executor)
    try:
        yield executor
    finally:
        _current.reset(token)


def _on_accelerator():
    """Whether JAX computes on a GPU or TPU; of TensorFlow's devices nothing is asked, for that would start them."""
    if keras.backend.backend() != "jax":
        return False
    import jax

    return jax.default_backend() != "cpu"
