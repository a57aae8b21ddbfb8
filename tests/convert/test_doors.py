"""Several named inputs and outputs, inputs of integers, and what stays in float: in Keras, the file and the interpreter alike."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import acdbit_keras as acd
from acdbit_keras.convert import Interpreter, doors, to_tflite, verify

L, q = keras.layers, acd.AlignedSign
rng = np.random.default_rng(0)


def product(units=64):
    return acd.BinaryDense(units, "ste_sign", "ste_sign")


def fused(as_dict=False):
    """A picture and six readings in, a class out."""
    a, b = keras.Input((8, 8, 1), name="picture"), keras.Input((6,), name="readings")
    h = L.BatchNormalization()(product()(L.Concatenate()([L.Flatten()(a), b])))
    return keras.Model({"readings": b, "picture": a} if as_dict else [b, a], L.Dense(3)(h))


def forked(as_dict):
    """A vector in, a class and a distance out."""
    c = keras.Input((64,))
    h = product()(c)
    kind, distance = L.Dense(3, name="kind")(h), L.Dense(1, name="distance")(h)
    return keras.Model(c, {"kind": kind, "distance": distance} if as_dict else [kind, distance])


SAMPLES = {"picture": rng.normal(size=(5, 8, 8, 1)).astype("float32"), "readings": rng.normal(size=(5, 6)).astype("float32")}


@pytest.mark.parametrize("as_dict", [True, False])
def test_several_inputs_are_told_apart_by_their_names(as_dict, tmp_path):
    model, path = fused(as_dict), tmp_path / "m.tflite"
    assert to_tflite(model, path).packed_layers == 1
    interpreter = Interpreter(path)
    assert interpreter.input_shape == {"picture": (8, 8, 1), "readings": (6,)}
    assert interpreter.input_dtype == {"picture": "float32", "readings": "float32"}
    expected = model.predict(SAMPLES if as_dict else [SAMPLES["readings"], SAMPLES["picture"]], verbose=0)
    found = interpreter.predict(SAMPLES)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_array_equal(interpreter.predict([SAMPLES[name] for name in interpreter.input_names]), found)
    data = SAMPLES if as_dict else [SAMPLES["readings"], SAMPLES["picture"]]
    assert verify(model, path, data).ok
    assert verify(model, path, tf.data.Dataset.from_tensor_slices((SAMPLES, np.zeros(5))).batch(2)).samples == 5


@pytest.mark.parametrize("as_dict", [True, False])
def test_several_outputs_come_as_keras_gives_them(as_dict, tmp_path):
    model, path, x = forked(as_dict), tmp_path / "m.tflite", rng.normal(size=(5, 64)).astype("float32")
    to_tflite(model, path)
    interpreter = Interpreter(path)
    assert set(interpreter.output_names) == {"kind", "distance"}
    expected, found = model.predict(x, verbose=0), interpreter.predict(x)
    if as_dict:
        assert found.keys() == expected.keys()
    else:
        expected = {"kind": expected[0], "distance": expected[1]}
        found = dict(zip(interpreter.output_names, found))
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-4, err_msg=name)
    parity = verify(model, path, x)
    assert parity.ok and parity.samples == 5


def test_a_file_of_other_weights_is_found_out_with_several_outputs(tmp_path):
    to_tflite(forked(True), tmp_path / "m.tflite")
    parity = verify(forked(True), tmp_path / "m.tflite", rng.normal(size=(4, 64)).astype("float32"))
    assert not parity.ok and "it was converted from another model or other weights" in parity.cause


def test_inputs_that_do_not_fit_are_named(tmp_path):
    to_tflite(fused(), tmp_path / "m.tflite")
    interpreter = Interpreter(tmp_path / "m.tflite")
    for wrong, message in (
        ({"picture": SAMPLES["picture"]}, "the inputs must be .*readings.*, not picture"),
        (SAMPLES["picture"], "the file has the inputs .*: give a dict of these, or as many in this order"),
        ({**SAMPLES, "readings": SAMPLES["readings"][:2]}, "all inputs must have as many samples"),
        ({**SAMPLES, "readings": SAMPLES["picture"]}, r"the input 'readings' must have the shape \(N, 6\)"),
    ):
        with pytest.raises(ValueError, match=message):
            interpreter.predict(wrong)
    with pytest.raises(ValueError, match="takes .*, no single picture"):
        interpreter.classify(np.zeros((8, 8), np.uint8))
    with pytest.raises(ValueError, match="input='uint8' with the card's mean and std is for models of one input, not"):
        to_tflite(fused(), tmp_path / "n.tflite", input="uint8", card={"mean": [0.5], "std": [0.5]})
    c = keras.Input((64,))
    with pytest.raises(ValueError, match="the output 'tap_1' must have another name"):
        to_tflite(keras.Model(c, {"tap_1": product()(c), "b": L.Dense(1)(c)}), tmp_path / "n.tflite")


def test_subclassed_models_of_several_inputs_are_refused():
    class Two(keras.Model):
        def call(self, inputs):
            return inputs[0] + inputs[1]

    model = Two()
    model([np.ones((1, 2)), np.ones((1, 2))])
    with pytest.raises(ValueError, match="has several inputs, .*; of such models a functional one can be converted"):
        doors.of(model)


def test_a_model_that_takes_pixels_itself_takes_them_in_the_file(tmp_path):
    i = keras.Input((8, 8, 1), dtype="uint8")
    h = product()(L.Flatten()(L.Rescaling(1 / 127.5, -1.0)(i)))
    model, path = keras.Model(i, L.Dense(3)(h)), tmp_path / "m.tflite"
    to_tflite(model, path)
    pixels, interpreter = rng.integers(0, 256, (4, 8, 8, 1), "uint8"), Interpreter(path)
    assert interpreter.input_dtype == "uint8"
    np.testing.assert_allclose(interpreter.predict(pixels), model.predict(pixels, verbose=0), atol=1e-4)
    assert verify(model, path, pixels).ok


def test_floats_of_any_width_are_taken(tmp_path):
    model, x = keras.Sequential([keras.Input((64,)), product(), L.Dense(2)]), rng.normal(size=(2, 64)).astype("float16")
    to_tflite(model, tmp_path / "m.tflite")
    interpreter = Interpreter(tmp_path / "m.tflite")
    expected = interpreter.predict(x.astype("float32"))
    for dtype in ("float16", "float64"):
        np.testing.assert_array_equal(interpreter.predict(x.astype(dtype)), expected)


# === What stays in float ===
def attention_only():
    i = keras.Input((16, 32))
    parts = [L.Dense(32, name=name)(i) for name in ("query", "key", "value")]
    quantizers = q(channel_axes=2), q(channel_axes=2), q(channel_axes=2, contracts="tokens"), "elastic_binary"
    return keras.Model(
        i,
        L.Dense(3, name="head")(L.GlobalAveragePooling1D()(acd.BinaryAttention(1, *quantizers, name="binary_attention")(*parts))),
    )


@pytest.mark.parametrize("precision", [None, "bits"])
def test_attention_alone_is_converted_into_bits(precision, tmp_path):
    model, path = attention_only(), tmp_path / "m.tflite"
    made = to_tflite(model, path, precision=precision)
    assert (made.precision, made.attention, made.op_counts["AcdBinaryAttention"]) == ("bits", "binary", 1)
    assert made.in_float == dict.fromkeys(("query", "key", "value", "head"), "an ordinary Dense")
    assert "in float query, key, value, head" in str(made)
    assert verify(model, path, rng.normal(size=(4, 16, 32)).astype("float32")).ok


def test_attention_that_is_asked_for_in_float_is_said_to_be(tmp_path):
    made = to_tflite(attention_only(), tmp_path / "m.tflite", attention="float")
    assert made.precision == "float32" and made.in_float["binary_attention"] == "precision='float32'"
    with pytest.raises(ValueError, match="precision='bits' needs a model whose attention in bits is asked for in float"):
        to_tflite(attention_only(), tmp_path / "m.tflite", precision="bits", attention="float")


def test_the_reasons_name_what_is_real(tmp_path):
    layers = [
        acd.BinaryDense(32, None, "ste_sign", name="real_input"),
        acd.BinaryDense(32, "ste_sign", acd.quantizers.UniformQuantizer(bits=4), name="integer_kernel"),
        acd.BinaryDense(32, "ste_sign", "ste_sign", name="packed"),
        L.Dense(2, name="head"),
    ]
    model = keras.Sequential([keras.Input((32,)), *layers])
    assert to_tflite(model, tmp_path / "m.tflite").in_float == {
        "real_input": "not of bits: input real",
        "integer_kernel": "not of bits: kernel of 4 bits",
        "head": "an ordinary Dense",
    }
    assert to_tflite(model, tmp_path / "m.tflite", precision="float32").in_float["packed"] == "precision='float32'"


# === Zero padding over maps that are smaller than the kernel ===
@pytest.mark.parametrize(
    "size, kernel, dilation", [((2, 2), 3, 1), ((1, 6), 3, 1), ((4, 4), 5, 1), ((4, 4), 3, 2), ((5, 5), 5, 1)]
)
def test_the_engine_lce_answers_right_over_tiny_maps(size, kernel, dilation, tmp_path):
    import larq_compute_engine as lce

    weights = np.where(rng.normal(size=(kernel, kernel, 32, 8)) >= 0, 1.0, -1.0).astype("float32")
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec((1, *size, 32), tf.float32)])
    def convolve(x):
        return {"y": tf.nn.conv2d(tf.sign(tf.sign(x) + 0.1), weights, 1, "SAME", dilations=dilation)}

    module.convolve = convolve
    tf.saved_model.save(module, str(tmp_path), signatures=convolve)
    content, x = lce.convert_saved_model(str(tmp_path)), rng.normal(size=(1, *size, 32)).astype("float32")
    expected = convolve(x)["y"].numpy()
    for engine in ("acdbit", "lce"):
        np.testing.assert_array_equal(Interpreter(content, engine=engine).predict(x), expected, err_msg=engine)
