"""Values and gradients as numpy arrays, on whichever backend runs."""

import keras
import numpy as np


def array(x):
    return keras.ops.convert_to_numpy(x)


def gradient(function, *inputs, upstream):
    """Vector-Jacobian products of `function` at numpy `inputs`: one array per input."""
    if keras.config.backend() == "jax":
        import jax

        _, pull_back = jax.vjp(function, *inputs)
        return [np.asarray(x) for x in pull_back(jax.numpy.asarray(upstream))]
    import tensorflow as tf

    tensors = [tf.constant(x) for x in inputs]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        outputs = function(*tensors)
    products = tape.gradient(outputs, tensors, output_gradients=tf.constant(upstream), unconnected_gradients="zero")
    return [tf.convert_to_tensor(x).numpy() for x in products]


def layer_gradient(layer, inputs, upstream, result=lambda outputs: outputs, training=False):
    """Gradients of `sum(upstream * result(layer(inputs)))`: with respect to the inputs, and to each trainable weight."""
    frozen = [variable.value for variable in layer.non_trainable_variables]

    def function(x, *weights):
        outputs, _ = layer.stateless_call(list(weights), frozen, x, training=training)
        return result(outputs)

    weights = [array(variable) for variable in layer.trainable_variables]
    by_inputs, *by_weights = gradient(function, inputs, *weights, upstream=upstream)
    return by_inputs, by_weights


def nameless(config):
    """A config without the counted names of the layers in it."""
    if isinstance(config, dict):
        return {key: nameless(value) for key, value in config.items() if key != "name"}
    return config
