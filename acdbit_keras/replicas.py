"""Batches that TensorFlow splits over several devices: what is measured on a batch is measured on all of its parts.

`tf.distribute` runs a copy of a step, a replica, on every device with that device's part of the batch, and sums gradients alone.
A statistic of a part is another number than one of the batch, and training with it another training. Here is what a layer needs
to measure the whole batch. Wherever a batch is whole - on one device, on JAX, whose program is one over all devices, outside of
a step - these functions are the plain ones of `keras.ops`.
"""

import contextlib
import contextvars

import keras
from keras import ops

_alike = contextvars.ContextVar("acdbit_alike_on_every_device", default=False)


@contextlib.contextmanager
def alike():
    """For its time tensors are taken for the same on every device, as kernels are, and not for parts of a batch."""
    token = _alike.set(True)
    try:
        yield
    finally:
        _alike.reset(token)


def _replica():
    """TensorFlow's context of the replica in which this is called; `None` where the tensors at hand are whole."""
    if keras.config.backend() != "tensorflow" or _alike.get():
        return None
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return context if context is not None and context.num_replicas_in_sync > 1 else None


def number():
    """Number of devices over which TensorFlow's strategy in force splits batches; 1 without one, and on JAX."""
    if keras.config.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def total(x):
    """Sum over the devices of a tensor, or of each of a list, that every one has; differentiable."""
    replica = _replica()
    return x if replica is None else replica.all_reduce("SUM", x)


def sum(x, axis):
    """Sum over axes, dimensions kept; where the first is among them, over the whole batch."""
    summed = ops.sum(x, axis=axis, keepdims=True)
    return total(summed) if _over_batch(axis, x) else summed


def mean(x, axis):
    """Mean over axes, dimensions kept; where the first is among them, over the whole batch."""
    if _replica() is None or not _over_batch(axis, x):
        return ops.mean(x, axis=axis, keepdims=True)
    # Parts may differ in size, and the last one of an epoch may be empty.
    summed, count = total([ops.sum(part, axis=axis, keepdims=True) for part in (x, ops.ones_like(x))])
    return summed / count


def minimum(x, axis):
    """Smallest element over axes, the first among them, dimensions kept, of the whole batch."""
    smallest = ops.min(x, axis=axis, keepdims=True)
    return smallest if _replica() is None else ops.min(rows(smallest), axis=0, keepdims=True)


def maximum(x, axis):
    """Largest element over axes, the first among them, dimensions kept, of the whole batch."""
    largest = ops.max(x, axis=axis, keepdims=True)
    return largest if _replica() is None else ops.max(rows(largest), axis=0, keepdims=True)


def rows(x):
    """The rows of the whole batch, the first device's first: `(part, ...)` to `(batch, ...)`."""
    replica = _replica()
    return x if replica is None else replica.all_gather(x, axis=0)


def own_rows(x, part):
    """Those rows of `x`, one for each sample of the whole batch, that belong to the samples of `part`, this device's."""
    if _replica() is None:
        return x
    first, count = first_row(part), ops.shape(part)[0]
    return x[first : first + count]


def first_row(part):
    """Number of samples of the batch on the devices before this one, whose samples are `part`."""
    replica = _replica()
    if replica is None:
        return 0
    return ops.cast(ops.sum(_sizes(part)[: replica.replica_id_in_sync_group]), "int32")


def batch_shape(part):
    """Shape of the whole batch of which this device has a part."""
    shape = ops.shape(part)
    return shape if _replica() is None else (ops.cast(ops.sum(_sizes(part)), "int32"), *shape[1:])


def share_of_mean(x):
    """What this device's elements add to the mean over those of all devices, a number; the shares sum to that mean."""
    if _replica() is None:
        return ops.mean(x)
    return ops.sum(x) / total(ops.cast(ops.size(x), x.dtype))


def batch_normalization(**options):
    """Keras' layer, with statistics of the whole batch where it is made for a strategy of TensorFlow.

    Args:
        **options: of `keras.layers.BatchNormalization`.
    """
    return keras.layers.BatchNormalization(synchronized=number() > 1, **options)


def _sizes(part):
    """Numbers of samples of all parts, `(devices,)`; as floats, which every device exchanges."""
    return rows(ops.reshape(ops.cast(ops.shape(part)[0], "float32"), (1,)))


def _over_batch(axis, x):
    axes = (axis,) if isinstance(axis, int) else axis
    return 0 in axes or -len(x.shape) in axes
