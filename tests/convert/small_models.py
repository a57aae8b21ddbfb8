"""Small ``.tflite`` models, as bytes, for the tests of this folder; each is built once per process."""

import functools
import tempfile

import keras
import larq_compute_engine
import numpy as np
import tensorflow as tf


@functools.cache
def float_network():
    """The Keras model behind `float_model` and `int8_model`: images (16, 16, 3) to 10 logits."""
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.layers.Input((16, 16, 3)),
            keras.layers.Conv2D(16, 3, strides=2, padding="same", activation="relu"),
            keras.layers.Conv2D(16, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )


def images(count, shape=(16, 16, 3), seed=0):
    """Standard normal float32 images ``(count, *shape)``."""
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)


@functools.cache
def float_model():
    return _converter().convert()


@functools.cache
def int8_model():
    """int8 throughout, at its input and output too."""
    converter = _converter()
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[None]] for image in images(32))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


class BinaryNetwork(tf.Module):
    """Two 1x1 binary convolutions on (1, 1, tokens, 64), the first bit-packed at its output too."""

    def __init__(self, tokens=16):
        super().__init__()
        rng = np.random.default_rng(2)
        kernels = [np.where(rng.random((1, 1, 64, units)) < 0.5, -1, 1).astype(np.float32) for units in (64, 32)]
        self.first, self.second = (tf.constant(kernel) for kernel in kernels)
        specification = tf.TensorSpec((1, 1, tokens, 64), tf.float32)
        self.serve = tf.function(self._serve, input_signature=[specification])

    def _serve(self, x):
        hidden = tf.nn.conv2d(binary_sign(x), self.first, 1, "VALID")
        outputs = tf.nn.conv2d(binary_sign(hidden - 3.0), self.second, 1, "VALID") * 0.25
        return {"logits": tf.reduce_mean(outputs, [1, 2])}


def binary_sign(x):
    """-1 below zero, +1 from zero on, in the form Larq Compute Engine's converter recognises."""
    return tf.sign(tf.sign(x) + 0.1)


@functools.cache
def binary_network():
    return BinaryNetwork()


@functools.cache
def binary_model():
    return larq_compute_engine.convert_saved_model(_saved(binary_network()))


@functools.cache
def pooling_model(size):
    """Weightless, without kernel scratch memory: three poolings and a concatenation on (1, size, size, 32)."""

    class Pooling(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((1, size, size, 32), tf.float32)])
        def serve(self, x):
            wide = tf.nn.max_pool2d(x, 3, 1, "SAME")
            halves = [tf.nn.avg_pool2d(wide, 2, 2, "SAME"), tf.nn.max_pool2d(wide, 2, 2, "SAME")]
            return {"y": tf.concat(halves, -1)}

    return larq_compute_engine.convert_saved_model(_saved(Pooling()))


@functools.cache
def loop_model():
    """A WHILE node, whose condition and body are subgraphs of their own; (1, 4) in and out."""

    class Loop(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((1, 4), tf.float32)])
        def serve(self, x):
            return {"y": tf.while_loop(lambda v: tf.reduce_sum(v) < 100.0, lambda v: [v * v + 1.0], [x])[0]}

    return tf.lite.TFLiteConverter.from_saved_model(_saved(Loop())).convert()


def _converter():
    folder = tempfile.mkdtemp()
    float_network().export(folder, verbose=False)
    return tf.lite.TFLiteConverter.from_saved_model(folder)


def _saved(module):
    folder = tempfile.mkdtemp()
    tf.saved_model.save(module, folder, signatures=module.serve)
    return folder
