"""Small Keras models whose weights and running statistics are not those of the start."""

import functools
import os

import keras
import numpy as np

from acdbit_keras import models
from acdbit_keras.convert import runtime


def images(count, shape=(8, 8, 1), seed=0):
    """Standard normal float32 images `(count, *shape)`."""
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)


def jittered(model):
    """Moves every weight a little (spreads stay positive) and returns the model."""
    rng = np.random.default_rng(5)
    for variable in model.variables:
        if variable.dtype == "float32" and "seed" not in variable.path:
            noise = 0.1 * rng.standard_normal(variable.shape)
            positive = any(word in variable.path for word in ("variance", "spread", "scale"))
            variable.assign(variable + (np.abs(noise) if positive else noise).astype(np.float32))
    return model


@functools.cache
def trained(scheme):
    """`vit_nano_patch2_8` of two blocks after a few steps on noise, so that norms and medians have seen data."""
    keras.utils.set_random_seed(0)
    model = jittered(models.build("vit_nano_patch2_8", scheme, depth=2))
    labels = np.random.default_rng(1).integers(0, 10, 128)
    model.compile(keras.optimizers.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(images(128, seed=1), labels, batch_size=32, epochs=2, verbose=0)
    return model


def predict_in_batches(path, samples, sizes):
    """Logits of a file in the stock interpreter, its input resized to several images at once; `sizes` of the batches."""
    from ai_edge_litert.interpreter import Interpreter, load_delegate

    interpreter = Interpreter(os.fspath(path), experimental_delegates=[load_delegate(runtime.library_path())])
    index, found, first = interpreter.get_input_details()[0]["index"], [], 0
    for size in sizes:
        interpreter.resize_tensor_input(index, (size, *samples.shape[1:]))
        interpreter.allocate_tensors()
        interpreter.set_tensor(index, samples[first : first + size])
        interpreter.invoke()
        found.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
        first += size
    return np.concatenate(found)
