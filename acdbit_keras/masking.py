"""Masks of padded recordings, on their way from a layer to what must not see the padding.

Keras hands a mask to layers; quantizers and executors lie below these and are called with tensors alone. So a layer says for the
time of its call which positions count, and statistics and attention scores ask.
"""

from __future__ import annotations

import contextlib
import contextvars

from keras import ops

from acdbit_keras import replicas

_valid = contextvars.ContextVar("acdbit_mask", default=(None, False))
_operands = contextvars.ContextVar("acdbit_attention_masks", default=(None, None))

# Added to the scores of keys that do not count: a softmax gives them nothing, and half a float still holds it.
EXCLUDED = -3e4


@contextlib.contextmanager
def only(mask, of_pairs=False):
    """For its time only these positions count.

    Args:
        mask: booleans `(batch, tokens)`, `None` for all positions.
        of_pairs: whether it is one of `of_pairs`, and the tensors are probabilities.
    """
    token = _valid.set((mask, of_pairs))
    try:
        yield
    finally:
        _valid.reset(token)


@contextlib.contextmanager
def attending(queries, keys):
    """For its time, that of an attention's call, these are its masks, `(batch, n)` and `(batch, m)` or `None`."""
    token = _operands.set((queries, keys))
    try:
        yield
    finally:
        _operands.reset(token)


def of_queries():
    """The mask of the queries of the attention that is called, `None` where all count."""
    return _operands.get()[0]


def of_keys():
    """The mask of its keys and values."""
    return _operands.get()[1]


def of_pairs():
    """The mask of its probabilities `(batch, heads, n, m)`: booleans that broadcast to them, `None` where all count."""
    queries, keys = _operands.get()
    rows = None if queries is None else ops.cast(queries, "bool")[:, None, :, None]
    columns = None if keys is None else ops.cast(keys, "bool")[:, None, None, :]
    if rows is None or columns is None:
        return columns if rows is None else rows
    return ops.logical_and(rows, columns)


def number_of_keys(x):
    """Length of the last axis: a number, or of probabilities with masked keys how many count, float32 `(batch, 1, 1, 1)`."""
    mask = of_keys()
    if mask is not None and _valid.get()[1]:
        # Also where none does, there is something to divide by.
        return ops.maximum(ops.sum(ops.cast(mask, "float32"), axis=-1), 1.0)[:, None, None, None]
    keys = ops.shape(x)[-1]
    return keys if isinstance(keys, int) else ops.cast(keys, "float32")


def weights(x):
    """1 where a tensor's positions count and 0 where not, float32, in the rank of `x`; `None` where all do.

    Args:
        x: `(batch, tokens, ...)`, as the mask in force says `(batch, tokens)`; what has another form is not masked.
    """
    mask, pairs = _valid.get()
    if mask is None or len(x.shape) < len(mask.shape) + (not pairs):
        return None
    return ops.reshape(ops.cast(mask, "float32"), (*ops.shape(mask), *(1,) * (len(x.shape) - len(mask.shape))))


def without_keys(scores):
    """Scores `(batch, heads, queries, keys)` in which keys that the mask in force leaves out are never attended to."""
    mask = of_keys()
    if mask is None:
        return scores
    counts = ops.cast(mask, "bool")[:, None, None, :]
    return ops.where(counts, scores, ops.cast(EXCLUDED, scores.dtype))


def mean(x, axis):
    """Mean over axes, dimensions kept, of the positions that count; where the first is among them, of the whole batch."""
    share = weights(x)
    if share is None:
        return replicas.mean(x, axis)
    share = share * ops.ones_like(x)
    return replicas.sum(x * share, axis) / ops.maximum(replicas.sum(share, axis), 1.0)


def size(x):
    """Number of elements that count, of the whole batch, float32."""
    share = weights(x)
    return replicas.total(ops.cast(ops.size(x), "float32") if share is None else ops.sum(share * ops.ones_like(x)))
