"""Integers of 8 bits at the doors of a file: scales by TFLite's formula, logits against Keras, and the refusals."""

import json

import keras
import numpy as np
import pytest
import small_models
from ai_edge_litert.interpreter import Interpreter as Litert

import acdbit_keras as acd
from acdbit_keras.convert import Interpreter, integers, to_tflite, verify

L = keras.layers
rng = np.random.default_rng(0)
CARD = {"classes": [str(digit) for digit in range(10)], "mean": [0.3], "std": [0.38]}
DTYPES = ("int8", "uint8")


@pytest.fixture(scope="module")
def student():
    keras.utils.set_random_seed(0)
    return acd.models.build("vit_nano_patch2_8", "acd_bit", classes=10, depth=1)


def pixels(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 1), np.uint8)


def normalised(images):
    return ((images / np.float32(255) - np.float32(0.3)) / np.float32(0.38)).astype("float32")


@pytest.mark.parametrize(
    "dtype, lowest, highest, scale, zero_point",
    [
        ("int8", -1.0, 3.0, 4 / 255, -64),
        ("uint8", -1.0, 3.0, 4 / 255, 64),
        ("int8", 0.5, 2.55, 0.01, -128),  # widened to hold zero
        ("uint8", -2.55, -1.0, 0.01, 255),
        ("int8", 0.0, 0.0, 1.0, -128),
    ],
)
def test_a_range_is_quantized_as_tflite_does(dtype, lowest, highest, scale, zero_point):
    found = integers.scale_and_zero_point(lowest, highest, dtype)
    assert found == (pytest.approx(scale), zero_point)


@pytest.mark.parametrize("dtype", DTYPES)
def test_litert_takes_and_gives_the_integers(dtype, tmp_path):
    model, x = small_models.float_network(), small_models.images(16)
    to_tflite(model, tmp_path / "m.tflite", input=dtype, output=dtype, calibration=x)
    litert = Litert(str(tmp_path / "m.tflite"))
    litert.allocate_tensors()
    [taken], [given] = litert.get_input_details(), litert.get_output_details()
    assert taken["dtype"] == given["dtype"] == np.dtype(dtype)
    (scale, zero_point), (step, zero) = taken["quantization"], given["quantization"]
    assert scale == pytest.approx((x.max() - x.min()) / 255)
    limits = np.iinfo(dtype)
    stored = np.clip(np.rint(x / scale) + zero_point, limits.min, limits.max).astype(dtype)
    expected = model.predict(np.float32(scale) * (stored.astype("float32") - zero_point), verbose=0)
    for sample, logits in zip(stored, expected):
        litert.set_tensor(taken["index"], sample[None])
        litert.invoke()
        found = step * (litert.get_tensor(given["index"])[0].astype("float64") - zero)
        np.testing.assert_allclose(found, logits, atol=0.51 * step + 1e-4)


@pytest.mark.parametrize("input, output", [("int8", "uint8"), ("uint8", "int8")])
def test_a_file_of_bits_has_them_at_both_doors(input, output, student, tmp_path):
    x, path = normalised(pixels(32)), tmp_path / "m.tflite"
    made = to_tflite(student, path, input=input, output=output, calibration=x)
    assert {name: door["dtype"] for name, door in made.quantized.items()} == {"images": input, "logits": output}
    step = made.quantized["logits"]["scale"]
    assert made.precision == "bits" and f"logits {output} in steps of {step:.3g}" in str(made)
    interpreter = Interpreter(path)
    assert interpreter.input_dtype == "float32" and interpreter.predict(x).dtype == np.float32
    parity = verify(student, path, x)
    assert parity.ok and parity.saturated == 0 and parity.largest_difference < step, str(parity)
    assert parity.steps == {name: door["scale"] for name, door in made.quantized.items()}
    assert f"integers at its doors: images in steps of {parity.steps['images']:.3g}, logits in steps of {step:.3g}" in str(parity)


def test_pixels_less_128_give_what_pixels_give(student, tmp_path):
    images, answers = pixels(8), []
    for dtype in DTYPES:
        made = to_tflite(student, tmp_path / "m.tflite", card=CARD, input=dtype)
        assert made.quantized == {}, "pixels have no scale"
        interpreter = Interpreter(tmp_path / "m.tflite")
        assert interpreter.input_dtype == dtype and verify(student, tmp_path / "m.tflite", normalised(images)).ok
        given = images if dtype == "uint8" else (images.astype(int) - 128).astype("int8")
        answers.append((interpreter.predict(given), interpreter.classify(images[0])))
    np.testing.assert_array_equal(answers[0][0], answers[1][0])
    assert answers[0][1] == answers[1][1]


def test_every_output_has_a_range_of_its_own(tmp_path):
    i = keras.Input((64,))
    h = acd.BinaryDense(64, "ste_sign", "ste_sign")(i)
    model = keras.Model(i, {"kind": L.Dense(3)(h), "distance": L.Rescaling(100.0)(L.Dense(1)(h))})
    x = rng.normal(size=(20, 64)).astype("float32")
    made = to_tflite(model, tmp_path / "m.tflite", output="int8", calibration=x)
    expected = {name: np.ptp(np.append(values, 0.0)) / 255 for name, values in model.predict(x, verbose=0).items()}
    assert {name: door["scale"] for name, door in made.quantized.items()} == pytest.approx(expected, rel=1e-3)
    parity = verify(model, tmp_path / "m.tflite", x)
    assert parity.ok and parity.largest_difference > 0.1, "in units of the distance"


def test_several_inputs_are_quantized_each_by_its_range(tmp_path):
    a, b = keras.Input((8, 8, 1), name="picture"), keras.Input((6,), name="readings")
    h = acd.BinaryDense(64, "ste_sign", "ste_sign")(L.Concatenate()([L.Flatten()(a), b]))
    model = keras.Model([a, b], L.Dense(3)(h))
    x = {"picture": rng.normal(size=(9, 8, 8, 1)).astype("float32"), "readings": 50 * rng.normal(size=(9, 6)).astype("float32")}
    made = to_tflite(model, tmp_path / "m.tflite", input="int8", calibration=x)
    expected = {name: np.ptp(values) / 255 for name, values in x.items()}
    assert {name: door["scale"] for name, door in made.quantized.items()} == pytest.approx(expected, rel=1e-3)
    assert verify(model, tmp_path / "m.tflite", x).ok


def test_files_of_int8_have_them_too(tmp_path):
    model, x = small_models.float_network(), small_models.images(32)
    made = to_tflite(model, tmp_path / "m.tflite", "int8", input="int8", output="int8", calibration=x)
    assert {name: door["dtype"] for name, door in made.quantized.items()} == {"images": "int8", "logits": "int8"}
    assert not {"QUANTIZE", "DEQUANTIZE"} & set(made.op_counts), "integers from door to door"


def test_what_lies_beyond_the_range_is_counted(student, tmp_path):
    x = normalised(pixels(64))
    to_tflite(student, tmp_path / "m.tflite", output="int8", calibration=x[:1])
    parity = verify(student, tmp_path / "m.tflite", x)
    assert parity.ok and parity.saturated > 30 and parity.largest_difference > parity.steps["logits"]
    assert f"samples beyond what these hold, which saturate: {parity.saturated}" in str(parity)


def test_a_file_of_other_weights_is_found_out(student, tmp_path):
    x = normalised(pixels(16))
    to_tflite(student, tmp_path / "m.tflite", output="int8", calibration=x)
    keras.utils.set_random_seed(1)
    assert not verify(acd.models.build("vit_nano_patch2_8", "acd_bit", classes=10, depth=1), tmp_path / "m.tflite", x).ok


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(input="int4"), "input must be one of 'float32', 'int8', 'uint8', not 'int4'"),
        (dict(output="int16"), "output must be one of 'float32', 'int8', 'uint8', not 'int16'"),
        (dict(input="int8"), "input='int8' needs a card with the mean and std .*, or calibration images"),
        (dict(output="uint8"), "output='uint8' needs calibration images, which show the range of its integers"),
        (dict(output="int8", calibration=np.zeros((0, 8, 8, 1), "float32")), "calibration holds no samples"),
        (dict(output="int8", calibration=np.full((1, 8, 8, 1), np.nan, "float32")), "must be finite"),
        (dict(input="int8", calibration=np.full((1, 8, 8, 1), np.inf, "float32")), "values of .* that are not finite"),
        (dict(output="int8", calibration=np.zeros((2, 4, 4, 1), "float32")), "must have the shape"),
        (dict(calibration=np.zeros((2, 8, 8, 1), "float32")), "takes no calibration images"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(options, message, student, tmp_path):
    with pytest.raises(ValueError, match=message) as error:
        to_tflite(student, tmp_path / "m.tflite", **options)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_a_model_that_takes_integers_itself_is_not_given_others(tmp_path):
    i = keras.Input((16,), dtype="int32")
    model = keras.Model(i, L.Dense(2)(L.Rescaling(0.1)(i)))
    with pytest.raises(ValueError, match="input='int8' is for a model that takes floats"):
        to_tflite(model, tmp_path / "m.tflite", input="int8", calibration=np.zeros((2, 16), "int32"))


def test_the_command_line_takes_them_from_zoo_to_accuracy(tmp_path, capsys):
    from acdbit_keras.cli import main

    path = str(tmp_path / "digits.tflite")
    assert main(["convert", "digits_vit_nano_acd_bit", path, "--input", "int8", "--output", "int8"]) == 0
    assert "logits int8 in steps of" in capsys.readouterr().out
    assert main(["verify", "digits_vit_nano_acd_bit", path, "--samples", "100"]) == 0
    assert "integers at its doors: logits in steps of" in capsys.readouterr().out
    assert main(["evaluate", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] > 0.95
    assert main(["convert", "digits_vit_nano_acd_bit", str(tmp_path / "d.acdm"), "--output", "int8"]) == 2
    assert "--output int8 is for .tflite files; flat ones give floats" in capsys.readouterr().err
