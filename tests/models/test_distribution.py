"""Training on several devices: two virtual ones give the loss curve of one."""

import json
import os
import subprocess

import pytest

from acdbit_keras.models import distribution, recipes
from acdbit_keras.models.train import train

# In a process of its own: the number of devices is fixed when JAX starts, and this one runs TensorFlow.
CURVES = """
import json
import keras
import numpy as np
import sklearn.datasets
from acdbit_keras import Distiller
from acdbit_keras.models import build, data, distribution

digits = sklearn.datasets.load_digits()
images = data.normalize(digits.images[..., None] / 16 * 255, "digits")
labels = digits.target.astype("int32")
train, test = (images[:256], labels[:256]), (images[256:355], labels[256:355])

def curve(devices):
    with distribution.using(devices, 64):
        keras.utils.set_random_seed(3)
        sizes = dict(width=32, num_heads=1, depth=1, mlp_ratio=2)
        teacher = build("vit_nano_patch2_8", "float32", **sizes)
        student = build("vit_nano_patch2_8", "acd_bit", drop_path=0.1, **sizes)
        distiller = Distiller(teacher, student)
        distiller.compile(keras.optimizers.AdamW(2e-3), metrics=["accuracy"])
        size = distribution.test_batch_size(99, 64, devices)
        validation = dict(validation_data=test, validation_batch_size=size)
        history = distiller.fit(*train, batch_size=64, epochs=2, shuffle=False, verbose=0, **validation)
        kernel = student.blocks[0].query_product.dense.kernel.value
    return {**history.history, "devices": [len(kernel.sharding.device_set)]}

print(json.dumps([curve(1), curve(2)]))
"""


def test_two_devices_give_the_loss_curve_of_one(jax_python):
    flags = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    environment = {**os.environ, "KERAS_BACKEND": "jax", "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([jax_python, "-c", CURVES], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    one, two = json.loads(done.stdout.splitlines()[-1])
    assert (one.pop("devices"), two.pop("devices")) == ([1], [2])
    assert len(one["loss"]) == 2 and one["loss"][1] < one["loss"][0]
    for name, values in one.items():
        assert two[name] == pytest.approx(values, rel=2e-3 if "loss" in name else 0, abs=0 if "loss" in name else 0.02), name


@pytest.mark.parametrize(
    "examples, batch_size, devices, expected",
    [(10_000, 512, 1, 512), (10_000, 512, 4, 500), (10_000, 512, 5, 500), (10_000, 512, 3, 511), (355, 64, 2, 65)],
)
def test_test_images_are_laid_out_alike_in_every_batch(examples, batch_size, devices, expected):
    size = distribution.test_batch_size(examples, batch_size, devices)
    assert size == expected
    assert devices == 1 or size % devices or examples % size == 0


def test_several_devices_need_jax(tmp_path):
    quick = recipes.get("digits_teacher").replace(epochs=1)
    with pytest.raises(ValueError, match="devices=2 needs the JAX backend, not tensorflow"):
        train(quick, tmp_path / "run", devices=2, verbose=0)
    with pytest.raises(ValueError, match="devices must be an integer of at least 1, not 0"):
        train(quick, tmp_path / "run", devices=0, verbose=0)
    assert not (tmp_path / "run").exists()
