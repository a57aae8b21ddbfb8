"""Statistics of BatchNorm measured anew, with weights that stand still.

While training, moving averages follow weights that move. In a binary network one step turns signs, whole units of a product at
a time, so that its means move by jumps, and the averages are those of networks that are no more: single epochs then lose many
points on test images and none on training images. Measured over batches with the weights as they are, they are back.

Source: precise BatchNorm, Wu and Johnson, Rethinking "Batch" in BatchNorm (arXiv:2105.07576).
"""

import contextlib

import keras
import numpy as np


class StandingStatistics(keras.callbacks.Callback):
    """Measures the norms of a network before every validation.

    Args:
        network: the backbone that is trained, in place.
        batches: function that gives an iterable of image batches, arrays.
    """

    def __init__(self, network, batches):
        super().__init__()
        self.network = network
        self.batches = batches
        self._forward = None

    def on_test_begin(self, logs=None):
        # Compiled once.
        self._forward = self._forward or _forward(self.network)
        measure(self.network, self.batches(), self._forward)


def measure(network, batches, forward=None):
    """Gives the BatchNorms of a network the means over some batches of their inputs' means and variances.

    Other statistics that are tracked while training see these batches, too.

    Args:
        network: built backbone; its weights stay as they are.
        batches: iterable of image batches, such as it was trained on.
        forward: what carries out the passes; default: one that is compiled for this call.

    Returns:
        The number of batches.
    """
    norms = of(network)
    variables = variables_of(norms)
    sums, count = [np.zeros(variable.shape, np.float64) for variable in variables], 0
    with momentum_of(norms, 0.0):
        forward = forward or _forward(network)
        for images in batches:
            forward(images)
            count += 1
            for total, variable in zip(sums, variables):
                total += keras.ops.convert_to_numpy(variable.value)
    for total, variable in zip(sums, variables):
        if count:
            variable.assign(total / count)
    return count


def of(network):
    """The BatchNorms of a network."""
    return [layer for layer in network._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]


def variables_of(norms):
    """The statistics of those of some BatchNorms that do not stand still."""
    return [variable for norm in norms if norm.trainable for variable in (norm.moving_mean, norm.moving_variance)]


@contextlib.contextmanager
def momentum_of(norms, momentum):
    """With 0, the moving averages are those of the last batch."""
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = momentum
    try:
        yield
    finally:
        for norm, value in zip(norms, kept):
            norm.momentum = value


def _forward(network):
    """A compiled pass in training mode, for what it leaves in the variables."""
    backend = keras.config.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.function(lambda images: network(images, training=True), autograph=False, reduce_retracing=True)
    if backend == "jax":
        import jax

        step = jax.jit(lambda *state, images: network.stateless_call(*state, images, training=True)[1])

        def forward(images):
            trainable, others = network.trainable_variables, network.non_trainable_variables
            moved = step([v.value for v in trainable], [v.value for v in others], images=images)
            for variable, value in zip(others, moved):
                variable.assign(value)

        return forward
    return lambda images: network(images, training=True)
