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
    found = _found()
    if count > len(found):
        there = f"there {'is' if len(found) == 1 else 'are'} {len(found)}"
        raise ValueError(f"devices={count}, but {there}: {', '.join(found)}")
    if batch_size % total:
        raise ValueError(f"batch_size={batch_size} cannot be divided by devices={total}")
    with _on_jax(count, total) if backend == "jax" else _on_tensorflow(found[:count]):
        yield


def check_recipe(recipe, count):
    """Whether a recipe can be trained on so many devices.

    Raises:
        ValueError: it asks for what Keras wraps in a condition on TensorFlow, where devices cannot exchange anything.
    """
    if count == 1 or keras.config.backend() != "tensorflow":
        return
    for field in ("accumulate", "steps_per_execution"):
        if getattr(recipe, field) > 1:
            raise ValueError(
                f"{field}={getattr(recipe, field)} needs one device on TensorFlow, or the JAX backend, not devices={count}"
            )


def _found():
    """Names of this host's devices."""
    if keras.config.backend() == "jax":
        import jax

        return [f"{device.platform}:{device.id}" for device in jax.local_devices()]
    import tensorflow as tf

    logical = tf.config.list_logical_devices
    return [device.name.removeprefix("/device:") for device in logical("GPU") or logical("CPU")]


def _on_jax(count, total):
    import jax

    # The first of every host.
    chosen, of_host = [], {}
    for device in jax.devices():
        of_host[device.process_index] = of_host.get(device.process_index, 0) + 1
        if of_host[device.process_index] <= count:
            chosen.append(f"{device.platform}:{device.id}")
    if len(chosen) < total:
        raise ValueError(f"devices={count}, but a host has fewer; there are {', '.join(map(str, jax.devices()))}")
    return _WholeBatches(devices=chosen, auto_shard_dataset=False).scope()


_strategy = None


def _on_tensorflow(devices):
    global _strategy
    import tensorflow as tf

    # One in a process: a second would number its collective operations like the first, and TensorFlow take them for the same.
    _strategy = _strategy or tf.distribute.MirroredStrategy(devices)
    if _strategy.num_replicas_in_sync != len(devices):
        raise ValueError(
            f"devices={len(devices)}, but this process has trained on {_strategy.num_replicas_in_sync}; "
            "on TensorFlow another number needs another process"
        )
    return _strategy.scope()


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
