"""Small Keras models whose weights and running statistics are not those of the start."""

import functools

import keras
import numpy as np
from acdbit_keras import models


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
