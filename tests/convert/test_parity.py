"""Verification: agreement is told from disagreement, and a sign on its threshold from a mistake."""

import json
import os
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from trained_models import images, jittered, trained

from acdbit_keras.convert import Interpreter, flatbuffer, to_tflite, verify
from acdbit_keras.layers import BinaryDense
from acdbit_keras.quantizers import AlignedSign, WeightSign


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    path = os.fspath(tmp_path_factory.mktemp("verify") / "student.tflite")
    to_tflite(trained("acd_bit"), path)
    return path


def test_a_converted_model_is_equal(student):
    parity = verify(trained("acd_bit"), student, images(100))
    assert parity.ok and parity.samples == 100 and parity.equal_argmax == 1.0 and not parity.cause
    assert 0 < parity.mean_difference <= parity.largest_difference
    assert parity.unexplained == 0 and parity.beyond_tolerance == parity.on_threshold
    assert json.loads(json.dumps(parity.to_dict()))["ok"] is True
    assert "equal to Keras on 100 samples" in str(parity)


def test_figures_are_those_of_a_plain_comparison(student):
    samples = images(30)
    difference = np.abs(trained("acd_bit")(samples).numpy() - Interpreter(student).predict(samples))
    parity = verify(trained("acd_bit"), student, samples, batch_size=30)
    assert parity.largest_difference == pytest.approx(difference.max(), abs=1e-6)
    assert parity.mean_difference == pytest.approx(difference.mean(), abs=1e-6)


def test_a_dataset_gives_what_its_array_gives(student):
    samples = images(50)
    dataset = tf.data.Dataset.from_tensor_slices((samples, np.zeros(50))).batch(17)
    from_dataset, from_array = (verify(trained("acd_bit"), student, data, batch_size=8) for data in (dataset, samples))
    assert from_dataset.samples == 50 and from_dataset.largest_difference == pytest.approx(
        from_array.largest_difference, abs=1e-6
    )


def test_rounding_is_no_threshold(student):
    """Differences without a sign that differs are not explained away."""
    parity = verify(trained("acd_bit"), student, images(40), tolerance=1e-8)
    assert not parity.ok and parity.unexplained == parity.beyond_tolerance > 0
    assert set(parity.first_layers) == {"after the last sign"}


def on_threshold(margin):
    """A layer of bits and an image one of whose channels lies `margin` above its threshold, where the file has it below."""
    keras.utils.set_random_seed(0)
    layer = BinaryDense(16, AlignedSign(threshold="learned", scale=None, restore="off"), WeightSign(), name="layer")
    model = keras.Sequential([keras.layers.Input((64,)), layer])
    shift = np.zeros((1, 64), np.float32)
    shift[0, 5] = margin
    return model, layer, shift


@pytest.mark.parametrize("margin, explained", [(1e-6, True), (1e-2, False)])
def test_a_sign_on_its_threshold_explains_and_one_beside_it_does_not(margin, explained, tmp_path):
    model, layer, shift = on_threshold(margin)
    layer.input_quantizer.shift.assign(shift)
    to_tflite(model, tmp_path / "m.tflite")
    layer.input_quantizer.shift.assign(-shift)
    samples = images(3, (64,))
    samples[1, 5] = 0.0
    parity = verify(model, tmp_path / "m.tflite", samples)
    assert parity.beyond_tolerance == 1 and parity.ok is explained
    [parting] = parity.partings
    assert parting.sample == 1 and parting.signs == 1 and "layer, input" in parting.layer
    assert parting.on_threshold is explained


@pytest.fixture(scope="module", params=[{}, {"fuse_blocks": False}, {"attention": "float"}], ids=["blocks", "layers", "float"])
def in_a_form(request, tmp_path_factory):
    path = os.fspath(tmp_path_factory.mktemp("form") / "m.tflite")
    to_tflite(trained("acd_bit"), path, **request.param)
    return path


def copy_of(model):
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


@pytest.mark.parametrize("place", ["query", "key", "value", "probabilities"])
def test_the_first_place_of_a_mistake_is_named(place, in_a_form):
    """A threshold of the second block changed after conversion: every sample parts there, whatever the file is made of."""
    model = copy_of(trained("acd_bit"))
    attention = model.blocks[1].attention
    if place == "probabilities":
        attention.probabilities_quantizer.factor.assign(0.9 * attention.probabilities_quantizer.factor)
    else:
        quantizer = getattr(attention, f"{place}_quantizer")
        quantizer.running_location.assign(quantizer.running_location + 0.5)
    parity = verify(model, in_a_form, images(12))
    assert not parity.ok and parity.unexplained > 6
    assert list(parity.first_layers)[0].endswith(f"block_1/attention, {place}")


@pytest.mark.parametrize("name", ["key_product", "output_product", "mlp_product_1", "mlp_product_2"])
def test_a_mistake_inside_a_fused_block_is_named(name, student):
    model = copy_of(trained("acd_bit"))
    dense = getattr(model.blocks[1], name).dense
    dense.input_quantizer.running_location.assign(dense.input_quantizer.running_location + 0.5)
    parity = verify(model, student, images(12))
    assert not parity.ok and parity.unexplained > 6
    assert list(parity.first_layers)[0].endswith(f"block_1/{name}/{dense.name}, input")
    assert "parts first at" in str(parity)


def test_other_weights_are_recognised(student):
    model = keras.models.clone_model(trained("acd_bit"))
    parity = verify(jittered(model), student, images(10))
    assert not parity.ok and "block_0/query_product/query is not in the file" in parity.cause
    assert parity.cause in str(parity)


def test_fused_thresholds_are_traced(tmp_path):
    """Where signs leave a convolution in bits there is no real tensor to look at, and none is needed."""
    keras.utils.set_random_seed(4)
    layers = [
        layer for _ in range(2) for layer in (BinaryDense(64, AlignedSign(), WeightSign()), keras.layers.BatchNormalization())
    ]
    model = jittered(keras.Sequential([keras.layers.Input((64,)), *layers]))
    to_tflite(model, tmp_path / "m.tflite")
    quantizer = layers[2].input_quantizer
    quantizer.running_location.assign(quantizer.running_location + 0.7)
    parity = verify(model, tmp_path / "m.tflite", images(20, (64,)))
    assert not parity.ok and all(layer.endswith(f"{layers[2].name}, input") for layer in parity.first_layers)


def test_a_float_model(tmp_path):
    to_tflite(trained("float32"), tmp_path / "teacher.tflite")
    parity = verify(trained("float32"), tmp_path / "teacher.tflite", images(40))
    assert parity.ok and parity.largest_difference < 1e-4 and parity.beyond_tolerance == 0


def test_progress_counts_samples(student):
    seen = []
    verify(trained("acd_bit"), student, images(20), batch_size=8, progress=seen.append)
    assert seen == [8, 16, 20]


class TestBadInput:
    def test_another_input_shape(self, student):
        model = keras.Sequential([keras.layers.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
        with pytest.raises(ValueError, match=r"takes images of shape \(8, 8, 1\), the model \(4, 4, 1\)"):
            verify(model, student, images(2, (4, 4, 1)))

    def test_another_number_of_classes(self, student):
        model = keras.Sequential([keras.layers.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(7)])
        with pytest.raises(ValueError, match=r"gives \(10,\) per image, the model \(7,\)"):
            verify(model, student, images(2))

    def test_no_images(self, student):
        with pytest.raises(ValueError, match="data holds no images"):
            verify(trained("acd_bit"), student, images(0))

    def test_not_finite(self, student):
        samples = images(3)
        samples[1, 2, 3] = np.nan
        with pytest.raises(ValueError, match="image 1 holds NaN"):
            verify(trained("acd_bit"), student, samples)

    @pytest.mark.parametrize("options", [dict(tolerance=0.0), dict(batch_size=0)])
    def test_options(self, options, student):
        with pytest.raises(ValueError, match="must be"):
            verify(trained("acd_bit"), student, images(2), **options)

    def test_truncated_file(self, student, tmp_path):
        content = pathlib.Path(student).read_bytes()
        (tmp_path / "cut.tflite").write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match="truncated or corrupt"):
            verify(trained("acd_bit"), tmp_path / "cut.tflite", images(2))

    def test_no_such_file(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            verify(trained("acd_bit"), tmp_path / "none.tflite", images(2))


def test_metadata_stays_out_of_the_runtime(student):
    """The codes that verify looks at are no outputs of the file."""
    file = flatbuffer.read(student)
    assert [tensor.shape for tensor in flatbuffer.outputs(file)] == [(1, 10)]
