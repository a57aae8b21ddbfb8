"""How products of codes are carried out.

Layers say *what* is multiplied; an executor says *how*. Training and inference in Keras use `KerasExecutor`. The
exporter swaps in its own for the time of one trace (`with execution.using(...)`), so that the same layers, with the
same quantizers, emit the graph that the converter packs into bits.
"""

import contextlib
import contextvars

from keras import ops

from acdbit_keras import code


class KerasExecutor:
    """Products as Keras ops on the decoded signs, differentiable on every backend."""

    def dense(self, layer, inputs, training):
        """`inputs (..., n, channels)` through a `BinaryDense`, without its bias; returns `(..., n, units)`."""
        quantized = layer.input_quantizer(inputs, training=training)
        return code.matmul(quantized, layer.kernel_quantizer(layer.kernel))

    def attention(self, layer, query, key, value, training):
        """Real `query (batch, n, heads, head_dim)`, `key`, `value (batch, m, ...)` through a `BinaryAttention`.

        Returns:
            Context `(batch, n, heads, head_dim)` and the quantized probabilities `(batch, heads, n, m)`.
        """
        query, key, value = layer.codes(query, key, value, training)
        query = query.map(_heads_first)
        key = key.map(_head_dim_second_last)
        value = value.map(_heads_first)
        probabilities = layer.probabilities(code.matmul(query, key), training)
        context = code.matmul(probabilities, value)
        return ops.transpose(context, (0, 2, 1, 3)), probabilities.decode()


def _heads_first(x):
    return ops.transpose(x, (0, 2, 1, 3))


def _head_dim_second_last(x):
    return ops.transpose(x, (0, 2, 3, 1))


_current = contextvars.ContextVar("acdbit_executor", default=KerasExecutor())


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
