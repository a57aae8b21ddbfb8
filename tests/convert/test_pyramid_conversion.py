"""The pyramid in files: blocks with fewer keys than tokens and merged tokens, packed, equal to Keras, of the predicted size."""

import functools
import os

import keras
import numpy as np
import pytest
from trained_models import images, jittered, predict_in_batches

from acdbit_keras import cost, models, schemes
from acdbit_keras.convert import Interpreter, to_tflite, verify
from acdbit_keras.quantizers import AlignedSign
from acdbit_keras.studies import contenders

PRESET, DEPTHS = "pyramid_nano_patch1_8", (1, 1)
# A reduced block, merging, a block of its usual six.
PRODUCTS = 7 + 1 + 6
DYNAMIC = schemes.get("acd_bit").replace(
    name="dynamic",
    activation=AlignedSign(restore="dynamic"),
    query=AlignedSign(restore="dynamic", channel_axes=2),
    key=AlignedSign(restore="dynamic", channel_axes=2),
)


@functools.cache
def pyramid(scheme, **changes):
    """Norms and medians that have seen data, and probabilities of which some are kept."""
    keras.utils.set_random_seed(0)
    model = jittered(models.build(PRESET, scheme, depths=DEPTHS, **changes))
    model(images(64, seed=1), training=True)
    if model.scheme.is_binary:
        for block in model.blocks:
            quantizer = block.attention.probabilities_quantizer
            quantizer.factor.assign(0.12 / 4 * quantizer.keys)
    return model


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    path = os.fspath(tmp_path_factory.mktemp("pyramid") / "student.tflite")
    return path, to_tflite(pyramid("acd_bit"), path)


def check(model, report, products, size=0.05):
    """The logits are those of Keras, all products of bits are packed, the file's size is predicted to a share of `size`."""
    x = images(48)
    outputs = model(x, return_taps=True)
    theirs = Interpreter(report.path).predict(x)
    difference = np.abs(np.asarray(outputs["logits"]) - theirs).max(axis=1)
    # An activation on its threshold may turn the sign of a sample; the rest agrees to rounding.
    assert np.median(difference) < 1e-5 and (difference < 1e-4).mean() > 0.95
    if report.attention != "float":
        np.testing.assert_allclose(predict_in_batches(report.path, x[:6], (4, 2)), theirs[:6], rtol=0, atol=1e-5)
    assert report.packed_layers == products
    found = cost.analyse(model)
    assert size is None or found.file_bytes == pytest.approx(report.bytes, rel=size)
    assert sum(row.weight_bits == row.activation_bits == 1 for row in found.rows) == report.packed_layers
    assert found.parameters == model.count_params() and not found.uncounted
    if model.scheme.is_binary:
        assert all(0.05 < np.mean(np.asarray(tap["probabilities"]) > 0) < 0.95 for tap in outputs["taps"])


def test_a_student_is_packed_and_equal_to_keras(student):
    """The reduced block as ops of its own, attention in bits included, the other as one op."""
    _, report = student
    check(pyramid("acd_bit"), report, PRODUCTS)
    counts = {name: count for name, count in report.op_counts.items() if name.startswith(("Lce", "Acd"))}
    assert counts.pop("LceQuantize") and counts == {"AcdBinaryAttention": 1, "AcdBinaryBlock": 1, "LceBconv2d": 8}
    assert report.attention_products == report.float_copies == 0


@pytest.mark.parametrize("scheme, size", [("binary_vit", 0.05), (DYNAMIC, 0.2)], ids=["binary_vit", "dynamic"])
def test_other_schemes(scheme, size, tmp_path):
    check(pyramid(scheme), to_tflite(pyramid(scheme), tmp_path / "student.tflite"), PRODUCTS, size)


def test_float_attention_and_float_merging(tmp_path):
    model = pyramid("acd_bit", merging="float")
    check(model, to_tflite(model, tmp_path / "student.tflite", attention="float"), PRODUCTS - 1, size=None)


def test_verification_compares_every_sign(student):
    """Below rounding each sample is traced through all signs, of which none differs; behind a changed norm the first that
    does is found in the block whose layers are ops of their own."""
    path, _ = student
    model = pyramid("acd_bit")
    parity = verify(model, path, images(16), tolerance=1e-9)
    assert set(parity.first_layers) <= {"after the last sign"} and parity.beyond_tolerance
    shift = model.blocks[0].reduction_product.norm.beta
    before = np.asarray(shift)
    shift.assign(before + 0.5)
    try:
        [layer] = verify(model, path, images(8)).first_layers
    finally:
        shift.assign(before)
    assert "block_0/key_product" in layer and "input" in layer


def test_the_teacher(tmp_path):
    model = pyramid("float32")
    check(model, to_tflite(model, tmp_path / "teacher.tflite"), 0)


@pytest.mark.parametrize("sizes", [{}, dict(image_size=(8, 16)), dict(image_size=(16, 8), patch_size=2, stem="pooled")])
def test_the_float_twin_as_onnx_computes_what_keras_computes(sizes, tmp_path):
    import onnxruntime

    twin = contenders.float_twin(models.build(PRESET, "acd_bit", depths=DEPTHS, **sizes))
    assert twin.reductions == (2, 1) and twin.scheme.name == "float32"
    contenders.to_onnx(twin, tmp_path / "twin.onnx")
    session = onnxruntime.InferenceSession(os.fspath(tmp_path / "twin.onnx"), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).normal(size=(1, *twin.input_shape_of_images)).astype("float32")
    [logits] = session.run(None, {"images": x})
    np.testing.assert_allclose(logits, np.asarray(twin(x)), rtol=1e-4, atol=1e-4)


def test_predicted_size_of_an_untrained_model(tmp_path):
    model = models.build(PRESET, "acd_bit", depths=DEPTHS)
    assert cost.analyse(model).file_bytes == pytest.approx(to_tflite(model, tmp_path / "model.tflite").bytes, rel=0.05)


def test_products_are_counted_with_the_keys_there_are():
    """64 tokens of 32 channels with 16 keys, then 16 tokens of 64 channels."""
    first = 64 * (2 * 32**2 + 2 * 32 * 128) + 16 * 3 * 32**2 + 2 * 64 * 16 * 32
    merging = 16 * 128 * 64
    second = 16 * (4 * 64**2 + 2 * 64 * 128) + 2 * 16 * 16 * 64
    assert cost.analyse(models.build(PRESET, "binary_vit", depths=DEPTHS)).bit_macs == first + merging + second
