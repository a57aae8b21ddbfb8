"""Every scheme as the file it is meant for: bits packed, attention included, and equal to Keras; others as LiteRT runs them."""

import json

import numpy as np
import pytest

from acdbit_keras import convert, execution, schemes
from acdbit_keras.cli import main
from acdbit_keras.convert import flatbuffer
from acdbit_keras.models.vit import VisionTransformer

TINY = dict(image_size=4, patch_size=1, channels=1, width=64, depth=1, num_heads=2, mlp_ratio=2, classes=5)


def stored_as(precision):
    """Names of the schemes whose files are of that precision."""
    return [name for name in schemes.names() if schemes.get(name).precision == precision]


def images(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 4, 4, 1)).astype(np.float32)


def network(scheme):
    """A network with weights that matter, whose quantizers have measured what they measure in training."""
    model = VisionTransformer(scheme, **TINY)
    rng = np.random.default_rng(1)
    for weight in model.trainable_variables:
        if weight.name in ("shift_in", "shift_out", "beta", "threshold"):
            weight.assign(rng.normal(scale=0.2, size=weight.shape))
    for seed in range(3):
        model(images(16, seed + 10), training=True)
    for weight in model.trainable_variables:
        # A probability is kept from half the scale on, whose factor starts at 4 / tokens: now from their mean on.
        if weight.path.endswith("probabilities/factor"):
            weight.assign(0.5)
    return model


@pytest.mark.parametrize("fuse_blocks", [True, False], ids=["block", "layers"])
@pytest.mark.parametrize("scheme", stored_as("bits"))
def test_a_scheme_of_bits_is_packed_and_equal_to_keras(scheme, fuse_blocks, tmp_path):
    model, path = network(scheme), tmp_path / "model.tflite"
    conversion = convert.to_tflite(model, path, fuse_blocks=fuse_blocks)
    assert (conversion.precision, conversion.attention, conversion.packed_layers) == ("bits", "binary", 6)
    assert conversion.attention_products == conversion.float_copies == 0
    assert ("AcdBinaryBlock" if fuse_blocks else "AcdBinaryAttention") in conversion.op_counts
    kept = np.asarray(model(images(48), return_taps=True)["taps"][0]["probabilities"]) > 0
    assert 0.02 < kept.mean() < 0.98, "a rule that keeps all or nothing would prove nothing"
    assert convert.verify(model, path, images(48)).ok


def test_what_a_rule_without_softmax_cannot_express_is_said(tmp_path):
    model = VisionTransformer("bibert[restore=frozen,scale=mad]", **TINY)
    model(images(8) + 1.0, training=True)
    with pytest.raises(convert.ConversionError, match="what an offset of the keys adds to the scores does not cancel"):
        convert.to_tflite(model, tmp_path / "model.tflite", fuse_blocks=False)


def test_heads_too_wide_for_bits_are_said_and_convert_as_floats(tmp_path):
    model, path = VisionTransformer("acd_bit", **{**TINY, "width": 256, "num_heads": 1}), tmp_path / "model.tflite"
    model(images(8), training=True)
    with pytest.raises(
        convert.ConversionError, match="its heads have 256 channels, at most 224 .*; attention='float' converts it"
    ):
        convert.to_tflite(model, path)
    convert.to_tflite(model, path, attention="float")
    assert convert.verify(model, path, images(8)).ok


@pytest.mark.parametrize("scheme", stored_as("int8"))
def test_a_scheme_of_integers_is_an_int8_file(scheme, tmp_path):
    model, path = VisionTransformer(scheme, **TINY), tmp_path / "model.tflite"
    with execution.using(execution.CalibrationExecutor()):
        for seed in range(4):
            model(images(32, seed))
    with pytest.raises(ValueError, match="precision='int8' needs calibration images"):
        convert.to_tflite(model, path)
    conversion = convert.to_tflite(model, path, calibration=images(64))
    assert conversion.precision == "int8" and not any(name.startswith(("Lce", "Acd", "Flex")) for name in conversion.op_counts)
    file = flatbuffer.read(path.read_bytes())
    products = [node for node in flatbuffer.operators(file) if node.name in ("FULLY_CONNECTED", "BATCH_MATMUL")]
    assert len(products) == 9 and all(tensor.dtype == "int8" for node in products for tensor in node.inputs[:2])
    theirs, ours = convert.Interpreter(path.read_bytes()).predict(images(64, 5)), np.asarray(model(images(64, 5)))
    assert np.corrcoef(theirs.ravel(), ours.ravel())[0, 1] > 0.98


@pytest.mark.parametrize("scheme", stored_as("float16"))
def test_half_precision_is_a_float16_file(scheme, tmp_path):
    model, path = VisionTransformer(scheme, **TINY), tmp_path / "model.tflite"
    conversion = convert.to_tflite(model, path)
    assert conversion.precision == "float16"
    assert conversion.bytes < 0.75 * convert.to_tflite(model, tmp_path / "float.tflite", "float32").bytes
    difference = np.abs(convert.Interpreter(path.read_bytes()).predict(images(8)) - np.asarray(model(images(8))))
    assert 0 < difference.max() < 5e-3


def test_the_precision_is_that_of_the_scheme():
    wanted = {name: schemes.get(name).precision for name in schemes.names()}
    assert set(wanted.values()) <= set(convert.export.PRECISIONS)


def test_the_command_line_calibrates_a_scheme_of_integers_by_itself(tmp_path, capsys):
    file = tmp_path / "integers.tflite"
    assert main(["convert", "vit_nano_patch2_8:quant_noise_w8a8", str(file), "--dataset", "digits", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["precision"] == "int8" and file.stat().st_size > 0
