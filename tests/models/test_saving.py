"""A saved model read by another process, under TensorFlow and under JAX."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from numerics import array

from acdbit_keras import Distiller, layers, quantizers, schemes
from acdbit_keras.models.vit import VisionTransformer

SCRIPT = pathlib.Path(__file__).with_name("in_another_process.py")
NANO = dict(image_size=8, patch_size=4, channels=1, width=64, depth=1, num_heads=2, mlp_ratio=2, classes=3)
# Which block a weight is of is seen in these, which the distiller has; what a scheme puts into one in one block of each.
DEEPER = ("float32", "acd_bit")


def moved(model, x):
    """Running statistics and shifts that no start has."""
    rng = np.random.default_rng(0)
    model(x, training=True)
    for weight in model.trainable_weights:
        if not weight.path.endswith("probabilities/scale"):
            weight.assign_add(0.02 * rng.normal(size=weight.shape))
    return model


def layer_zoo():
    """Every quantizer and layer once, with options that are not the defaults."""
    inputs = keras.Input((3, 4, 64))
    x = layers.BinaryDense(64, quantizers.AlignedSign(axis="tensor", tracking="batch", scale="std"), "MagnitudeAwareSign")(inputs)
    x = layers.RPReLU(0.1)(layers.LayerScale(0.3)(x))
    x = layers.BinaryAttention(
        2,
        quantizers.AlignedSign(restore="dynamic", channel_axes=2, threshold="mean"),
        quantizers.AlignedSign(threshold="learned", channel_axes=2),
        quantizers.AlignedSign(contracts="tokens", channel_axes=2),
        quantizers.ElasticBinary(0.05),
    )(x, x, x)
    x = x + layers.PoolingBranches()(x)
    return keras.Model(inputs, layers.BinaryDense(5, "swish_sign", quantizers.WeightSign("median", "mad", True, "tensor"))(x))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder of saved models and their inputs, and what they compute here."""
    keras.utils.set_random_seed(1)
    folder, rng = tmp_path_factory.mktemp("saved"), np.random.default_rng(2)
    images = rng.normal(size=(6, 8, 8, 1)).astype(np.float32)
    made = {
        name: (moved(VisionTransformer(scheme=name, **{**NANO, "depth": 1 + (name in DEEPER)}), images), images)
        for name in schemes.names()
    }
    for name in ("convolutional", "pooled"):
        made[f"{name}_stem"] = (moved(VisionTransformer(**NANO, stem=name), images), images)
    made["depthwise"] = (moved(VisionTransformer(**NANO, mixing="depthwise"), images), images)
    tokens = rng.normal(size=(2, 3, 4, 64)).astype(np.float32)
    made["layer_zoo"] = (moved(layer_zoo(), tokens), tokens)
    distiller = Distiller(made["float32"][0], made["acd_bit"][0])
    distiller.compile(keras.optimizers.SGD(0.05), metrics=["accuracy"], jit_compile=False)
    made["distiller"] = (distiller, images)
    inputs, results = {"labels": np.arange(6) % 3}, {}
    for name, (model, x) in made.items():
        model.save(folder / f"{name}.keras")
        inputs[name], results[name] = x, array(model(x, training=False))
    results |= {f"evaluated_{k}": v for k, v in distiller.evaluate(images, inputs["labels"], verbose=0, return_dict=True).items()}
    results |= {f"trained_{k}": v for k, v in distiller.train_on_batch(images, inputs["labels"], return_dict=True).items()}
    results["student_after"] = array(distiller.student(images, training=False))
    np.savez(folder / "inputs.npz", **inputs)
    return folder, results


def run(python, backend, folder):
    # XLA's optimisation would take longer than what it is spent on.
    environment = {**os.environ, "KERAS_BACKEND": backend, "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    done = subprocess.run([python, SCRIPT, folder], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(np.load(folder / f"{backend}.npz"))


def compare(results, expected, atol):
    assert set(expected) <= set(results)
    for name, value in expected.items():
        # What lies half-way between two integers goes to either, by the last bit of a float.
        steps = name in schemes.names() and schemes.get(name).precision == "int8"
        np.testing.assert_allclose(results[name], value, rtol=1e-4, atol=0.2 if steps else atol, err_msg=name)


def test_a_fresh_process_computes_the_same(saved):
    folder, expected = saved
    compare(run(sys.executable, "tensorflow", folder), expected, 1e-5)


def test_jax_computes_the_same_from_a_model_saved_under_tensorflow(saved, jax_python):
    """Logits, losses of the same weights and batch, and the student after the same step; without tensorflow and larq."""
    folder, expected = saved
    results = run(jax_python, "jax", folder)
    assert list(results.pop("imported")) == ["jax"]
    compare(results, expected, 1e-4)


def test_the_jax_environment_has_neither_tensorflow_nor_larq(jax_python):
    command = "import importlib.util as u; assert not u.find_spec('tensorflow') and not u.find_spec('larq')"
    subprocess.run([jax_python, "-c", command], check=True)
