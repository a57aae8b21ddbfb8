"""Training on several devices: each holds all weights and computes a part of every batch.

The batch stays one, so that the loss of a step is that of one device but for rounding. On JAX XLA sums over the devices wherever
the program sums over the batch, in losses, gradients and in the statistics of normalisation and alignment. On TensorFlow a copy
of the step runs on every device, and what is measured on a batch goes through `acdbit_keras.replicas`. The devices may be those
of several machines, on JAX, see `acdbit_keras.models.hosts`.
"""

import contextlib

import keras

from acdbit_keras import checks
from acdbit_keras.models import hosts


class _WholeBatches(keras.distribution.DataParallel):
    """Data parallelism that gives a batch which cannot be divided to every device."""

    def get_data_layout(self, data_shape):
        layout = super().get_data_layout(data_shape)
        # Of several hosts each passes its own part.
        if data_shape and data_shape[0] % (self.device_mesh.devices.size // hosts.count()):
            return keras.distribution.TensorLayout([None] * len(data_shape), self.device_mesh)
        return layout


@contextlib.contextmanager
def using(count, batch_size):
    """What is built, trained and evaluated within is spread over the first `count` devices; one is as without.

    Args:
        count: number of devices, of every host.
        batch_size: images per training step, divisible by the number of all devices.

    Raises:
        ValueError: a count that does not divide the batch, of more devices than there are, or above one on a backend
            other than JAX and TensorFlow.
    """
    checks.integer("devices", count, 1)
    total = count * hosts.count()
    if total == 1:
        yield
        return
    backend = keras.config.backend()
    if backend not in ("jax", "tensorflow"):
        raise ValueError(f"devices={count} needs the JAX or the TensorFlow backend, not {backend}")
    spread = _on_jax if backend == "jax" else _on_tensorflow
    if batch_size % total:
        raise ValueError(f"batch_size={batch_size} cannot be divided by devices={total}")
    with spread(count, total):
        yield


def _on_jax(count, total):
    import jax

    _check_there_are(count, [f"{device.platform}:{device.id}" for device in jax.local_devices()])
    # The first of every host.
    chosen, of_host = [], {}
    for device in jax.devices():
        of_host[device.process_index] = of_host.get(device.process_index, 0) + 1
        if of_host[device.process_index] <= count:
            chosen.append(f"{device.platform}:{device.id}")
    if len(chosen) < total:
        raise ValueError(f"devices={count}, but a host has fewer; there are {', '.join(map(str, jax.devices()))}")
    return _WholeBatches(devices=chosen, auto_shard_dataset=False).scope()


def _on_tensorflow(count, _):
    import tensorflow as tf

    logical = tf.config.list_logical_devices
    found = [device.name.removeprefix("/device:") for device in logical("GPU") or logical("CPU")]
    _check_there_are(count, found)
    return tf.distribute.MirroredStrategy(found[:count]).scope()


def _check_there_are(count, found):
    if count > len(found):
        raise ValueError(f"devices={count}, but there {'is 1' if len(found) == 1 else f'are {len(found)}'}: {', '.join(found)}")


def test_batch_size(examples, batch_size, count):
    """Size of the batches that test images are evaluated in.

    On JAX every batch, the last one too, must be laid out as the first: all divide into the devices, or none does and every
    device evaluates all of them. On TensorFlow the last one may be divided unequally.

    Args:
        examples: number of test images.
        batch_size: about how large they may be.
        count: number of devices.

    Returns:
        `batch_size` for one device, else the largest size up to it that `count` divides and that, on JAX, divides `examples`; if
        there is none, one that `count` does not divide.
    """
    if count == 1:
        return batch_size
    if keras.config.backend() == "tensorflow":
        return batch_size // count * count
    fitting = [size for size in range(count, batch_size + 1, count) if examples % size == 0]
    return fitting[-1] if fitting else batch_size // count * count + 1
