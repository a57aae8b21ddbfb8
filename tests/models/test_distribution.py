"""Training on several devices: two virtual ones give the loss curve of one, on both backends."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from acdbit_keras.files import read_json
from acdbit_keras.models import data, distribution, recipes
from acdbit_keras.models.data.validation import HeldOut
from acdbit_keras.models.run import Run
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


# Likewise, for TensorFlow's number is fixed when it first computes. Its optimizer of graphs would take longer than it saves.
TENSORFLOW = """
import json
import sys

import tensorflow as tf

[processor] = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 3)
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})

import keras
import numpy as np

import acdbit_keras as acd
from acdbit_keras import quantizers, replicas
from acdbit_keras.models import budget, distribution, optimization, recipes
from acdbit_keras.models import train as room
from acdbit_keras.models.blocks import DropPath
from acdbit_keras.models.run import Run
from acdbit_keras.models.train import train
"""

MEASURING = """
random = np.random.default_rng(0)
images, labels = random.normal(size=(38, 2, 2, 16)).astype("float32"), random.integers(0, 10, 38)


class Kept(keras.layers.Layer):
    \"\"\"Attention probabilities through a threshold.\"\"\"

    def build(self, shape):
        self.quantizer = quantizers.ThresholdedProbabilities(scale="kept_mean")
        self.quantizer.build(shape)
        self.built = True

    def call(self, x, training=None):
        return x * self.quantizer(keras.ops.softmax(x), training=training).decode()


def layers():
    noisy = quantizers.UniformQuantizer
    places = {
        "running": acd.BinaryDense(16, acd.AlignedSign(batch_share=0.7), "weight_sign"),
        "deviation": acd.BinaryDense(16, acd.AlignedSign(threshold="mean", scale="std"), "weight_sign"),
        "exact_median": acd.BinaryDense(16, acd.AlignedSign(tracking="batch"), "weight_sign"),
        "range": acd.BinaryDense(16, noisy(range="average", noise=0.5), noisy(noise=0.5)),
        "extremes": acd.BinaryDense(16, quantizers.PowerOfTwoFactor()),
        "elastic": acd.BinaryDense(16, acd.ElasticBinary(None, bits=2, lsq=True), acd.WeightSign(scale="learned")),
        "kept": Kept(),
        "drop_path": DropPath(0.5),
    }
    for name, layer in places.items():
        layer.name = name
        # So that nothing leaves its range, and that every layer's normalisation is looked at, too.
        yield from (layer, replicas.batch_normalization(name=f"{name}_norm"))


def run(devices):
    with distribution.using(devices, 16):
        keras.utils.set_random_seed(1)
        inputs, outputs = keras.Input((2, 2, 16)), lambda: (keras.layers.Flatten(), keras.layers.Dense(10))
        teacher, student = keras.Sequential([inputs, *outputs()]), keras.Sequential([inputs, *layers(), *outputs()])
        model = acd.Distiller(teacher, student)
        optimizer = optimization.WholeBatchAdamW(1e-3, global_clipnorm=0.3)
        model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
        # Of 38 images the last batch has 6.
        history = model.fit(images, labels, batch_size=16, epochs=2, shuffle=False, verbose=0)
    weights = {variable.path: variable.numpy().tolist() for variable in student.variables if "seed" not in variable.path}
    return {**history.history, **weights}


found = [run(1), run(2)]
for devices, batch_size, said in (
    (4, 16, "but there are 3: CPU:0, CPU:1, CPU:2"),
    (3, 16, "batch_size=16 cannot be divided by devices=3"),
    (3, 18, "but this process has trained on 2"),
):
    try:
        with distribution.using(devices, batch_size):
            raise AssertionError(said)
    except ValueError as error:
        assert said in str(error), error
print(json.dumps(found))
"""

WHOLE_RUN = """
acd.models.register_preset("tiny", width=32, num_heads=1, depth=1, mlp_ratio=2, image_size=8, patch_size=2, channels=1)
recipe = recipes.get("digits_teacher").replace(preset="tiny", epochs=3, jit_compile=False, drop_path=0.1, clip_norm=0.5)


def stop(name, epoch, total, logs):
    if epoch == 2:
        raise InterruptedError


train(recipe, f"{sys.argv[1]}/1", verbose=0)
try:
    train(recipe, f"{sys.argv[1]}/2", devices=2, verbose=0, progress=stop)
except InterruptedError:
    print(train(recipe, f"{sys.argv[1]}/2", devices=2, verbose=0)["epochs"])


def measure(model, train_set, test_set, batches):
    print(replicas.number(), sum(len(labels) for _, labels in test_set))
    return budget.Measured(step=0.1, validation=0.1, spent=0.1)


budget.measure = measure
planned = recipe.replace(minutes=1.0, validation_share=0.2)
room._Training(planned, Run(f"{sys.argv[1]}/3"), devices=2).plan()
"""


def on_tensorflow(script, *arguments):
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", TENSORFLOW + script, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_whatever_is_measured_on_two_devices_of_tensorflow_is_measured_on_one():
    one, two = json.loads(on_tensorflow(MEASURING).splitlines()[-1])
    assert sum("running_" in name for name in one) > 5
    for (name, ours), theirs in zip(two.items(), one.values(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4, err_msg=name)


def test_a_run_on_two_devices_of_tensorflow_has_the_loss_curve_of_one_although_it_was_stopped(tmp_path):
    epochs, *planned = on_tensorflow(WHOLE_RUN, tmp_path).split()
    assert epochs == "3"
    # A budget has a step on both devices measured, and a validation of the images that are held out.
    held_out = HeldOut(data.source("digits"), 0.2).info().test_examples
    assert [int(number) for number in planned] == [2, held_out]
    one, two = (Run(tmp_path / devices).history for devices in "12")
    assert len(one) == len(two) == 3 and float(one[2]["loss"]) < float(one[0]["loss"])
    for ours, theirs in zip(two, one):
        for name in ("loss", "val_loss"):
            assert float(ours[name]) == pytest.approx(float(theirs[name]), rel=2e-3), name
        assert float(ours["val_accuracy"]) == pytest.approx(float(theirs["val_accuracy"]), abs=0.01)
    assert read_json(tmp_path / "2" / "plan.json")["devices"] == 2


@pytest.mark.parametrize(
    "examples, batch_size, devices, expected",
    [(10_000, 512, 1, 512), (10_000, 512, 4, 500), (10_000, 512, 5, 500), (10_000, 512, 3, 511), (355, 64, 2, 65)],
)
def test_test_images_are_laid_out_alike_in_every_batch(examples, batch_size, devices, expected, monkeypatch):
    monkeypatch.setattr("keras.config.backend", lambda: "jax")
    size = distribution.test_batch_size(examples, batch_size, devices)
    assert size == expected
    assert devices == 1 or size % devices or examples % size == 0


def test_the_first_batch_of_test_images_is_divided_evenly_on_tensorflow():
    assert [distribution.test_batch_size(10_000, 512, devices) for devices in (1, 3, 4)] == [512, 510, 512]


@pytest.mark.parametrize("field", ["accumulate", "steps_per_execution"])
def test_what_tensorflow_cannot_do_on_several_devices_is_refused(field, tmp_path):
    with pytest.raises(ValueError, match=f"{field}=2 needs one device on TensorFlow, or the JAX backend, not devices=2"):
        train(recipes.get("digits_teacher").replace(**{field: 2}), tmp_path / "run", devices=2, verbose=0)
    assert not (tmp_path / "run").exists()


def test_a_number_of_devices_that_cannot_be_is_refused(tmp_path):
    quick = recipes.get("digits_teacher").replace(epochs=1)
    with pytest.raises(ValueError, match="devices=64, but there is 1: CPU:0"):
        train(quick, tmp_path / "run", devices=64, verbose=0)
    with pytest.raises(ValueError, match="devices must be an integer of at least 1, not 0"):
        train(quick, tmp_path / "run", devices=0, verbose=0)
    assert not (tmp_path / "run").exists()
