"""Every kind of input: integers and floats, rectangles, sequences, padded recordings, symbolic calls."""

import keras
import numpy as np
import pytest
from numerics import array, layer_gradient

import acdbit_keras as acd
from acdbit_keras import masking

SIZES = dict(classes=4, image_size=8, patch_size=4, channels=1, width=32, depth=1, num_heads=1, mlp_ratio=1)
L, rng = keras.layers, np.random.default_rng(0)


def net(**changes):
    return acd.models.VisionTransformer("acd_bit", **{**SIZES, **changes})


# === Types ===
@pytest.mark.any_backend
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float16", "float64"])
def test_pictures_of_any_type_give_what_their_numbers_give(dtype):
    model, pixels = net(), rng.integers(0, 100, (2, 8, 8, 1))
    np.testing.assert_allclose(array(model(pixels.astype(dtype))), array(model(pixels.astype("float32"))), rtol=1e-5)


@pytest.mark.any_backend
def test_a_dense_layer_takes_integers():
    layer = acd.BinaryDense(4, "ste_sign", "ste_sign")
    x = rng.integers(-5, 5, (3, 8))
    np.testing.assert_array_equal(array(layer(x)), array(layer(x.astype("float32"))))


# === Shapes ===
@pytest.mark.parametrize(
    "sizes, grid",
    [
        (dict(image_size=(8, 16)), (2, 4)),
        (dict(image_size=(9, 10), patch_size=(3, 5)), (3, 2)),
        (dict(image_size=(12, 8), channels=7), (3, 2)),
        (dict(image_size=(8, 16), patch_size=(4, 8), stem="patch"), 2),
        (dict(image_size=(8, 16), stem="pooled"), (2, 4)),
    ],
)
def test_rectangles_are_trained_saved_and_converted(sizes, grid, tmp_path):
    model = net(**sizes)
    assert model.grid == grid
    x = rng.normal(size=(6, *model.input_shape_of_images)).astype("float32")
    taps = model(x, training=True, return_taps=True)["taps"]
    assert taps[0]["query"].shape[1] == np.prod(grid) if isinstance(grid, tuple) else grid**2
    model.save(tmp_path / "m.keras")
    loaded = acd.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(array(loaded(x)), array(model(x)))
    assert acd.convert.to_tflite(model, tmp_path / "m.tflite").op_counts["AcdBinaryBlock"] == 1
    assert acd.convert.verify(model, tmp_path / "m.tflite", x).ok


@pytest.mark.parametrize(
    "sizes, message",
    [
        (dict(image_size=(8, 9)), r"image_size=\(8, 9\) is not divisible by patch_size=4"),
        (dict(image_size=(8, 8, 8)), "image_size must be one side, or height and width"),
        (dict(image_size=(8, 0)), "image_size must be an integer of at least 1, not 0"),
        (dict(image_size=(8, 16), patch_size=(4, 8), stem="pooled"), "patch_size must be a power of 2 from 2 up for a pooled"),
    ],
)
def test_shapes_that_do_not_fit(sizes, message):
    with pytest.raises(ValueError, match=message):
        net(**sizes)


@pytest.mark.parametrize("scheme", ["acd_bit", "float32"])
def test_sequences_are_trained_saved_and_converted(scheme, tmp_path):
    model = acd.models.build("vit1d_micro_patch8_128", scheme, 6, depth=1)
    x = rng.normal(size=(6, 128, 9)).astype("float32")
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    model.fit(x, np.arange(6), verbose=0)
    model.save(tmp_path / "m.keras")
    np.testing.assert_array_equal(array(acd.models.load_model(tmp_path / "m.keras")(x)), array(model(x)))
    acd.convert.to_tflite(model, tmp_path / "m.tflite")
    assert acd.convert.verify(model, tmp_path / "m.tflite", x).ok


# === Symbolic calls ===
@pytest.mark.any_backend
def test_symbolic_calls_say_the_shapes_of_eager_ones():
    model, x = net(), rng.normal(size=(2, 8, 8, 1)).astype("float32")
    symbolic, eager = model(keras.Input((8, 8, 1)), return_taps=True), model(x, return_taps=True)
    assert symbolic["logits"].shape == (None, 4) and len(symbolic["taps"]) == 1
    for name, tap in eager["taps"][0].items():
        assert tuple(symbolic["taps"][0][name].shape)[1:] == tuple(tap.shape)[1:], name
    features = keras.Model(i := keras.Input((8, 8, 1)), model(i, return_taps=True)["taps"][0]["features"])
    np.testing.assert_allclose(array(features(x)), array(eager["taps"][0]["features"]), rtol=1e-4, atol=1e-5)


def test_a_backbone_is_exported_without_ever_being_called(tmp_path):
    model = net()
    model.export(tmp_path / "exported", verbose=False)
    import tensorflow as tf

    x = rng.normal(size=(2, 8, 8, 1)).astype("float32")
    exported = tf.saved_model.load(str(tmp_path / "exported"))
    np.testing.assert_allclose(exported.serve(x), array(model(x)), rtol=1e-4, atol=1e-4)


# === Padded recordings ===
def recordings():
    """Two of different length, and what stands behind the shorter one."""
    x = rng.normal(size=(2, 6, 32)).astype("float32") + 1.0
    x[1, 4:] = 50.0
    return x, np.array([[True] * 6, [True] * 4 + [False] * 2])


@pytest.mark.any_backend
@pytest.mark.parametrize("options", [{}, dict(scale="std"), dict(threshold="mean"), dict(threshold="mean", tracking="batch")])
def test_padding_does_not_count_in_statistics(options):
    x, mask = recordings()
    layer, alone = (acd.BinaryDense(4, acd.AlignedSign(**options), "ste_sign") for _ in range(2))
    layer.build(x.shape), alone.build((10, 32))
    for _ in range(2):
        layer(x, training=True, mask=mask)
        alone(x[mask], training=True)
    for ours, theirs in zip(layer.input_quantizer.variables, alone.input_quantizer.variables):
        np.testing.assert_allclose(array(ours).reshape(-1), array(theirs).reshape(-1), rtol=1e-4, atol=1e-5, err_msg=ours.path)


def test_an_exact_median_refuses_a_mask():
    x, mask = recordings()
    with pytest.raises(ValueError, match="an exact median takes no mask; use tracking='running', or threshold='mean'"):
        acd.BinaryDense(4, acd.AlignedSign(tracking="batch"), "ste_sign")(x, training=True, mask=mask)


@pytest.mark.any_backend
@pytest.mark.parametrize("quantizers", [(None,) * 4, ("ste_sign", "ste_sign", "ste_sign", "elastic_binary")])
def test_padded_keys_get_no_attention(quantizers):
    x, mask = recordings()
    attention = acd.BinaryAttention(1, *quantizers)
    context, probabilities = attention(x, x, x, return_probabilities=True, query_mask=mask, key_mask=mask)
    assert np.all(array(probabilities)[1, :, :, 4:] == 0)
    short, _ = attention(x[1:, :4], x[1:, :4], x[1:, :4], return_probabilities=True)
    if quantizers[0] is None:
        np.testing.assert_allclose(array(context)[1, :4], array(short)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.any_backend
@pytest.mark.parametrize(
    "quantizer",
    [
        lambda: acd.quantizers.ThresholdedProbabilities(scale="kept_mean"),
        lambda: acd.quantizers.ThresholdedProbabilities("mean", scale="kept_mean"),
        lambda: acd.ElasticBinary(initial_scale=None),
        lambda: acd.ElasticBinary(),
        lambda: acd.AlignedSign(axis="tensor", threshold="mean"),
        lambda: acd.quantizers.UniformQuantizer(8),
    ],
)
def test_padding_does_not_count_in_statistics_of_probabilities(quantizer):
    x, mask = recordings()
    others = np.where(mask[..., None], x, -7.0).astype("float32")
    longer, longer_mask = np.pad(x, ((0, 0), (0, 6), (0, 0)), constant_values=3.0), np.pad(mask, ((0, 0), (0, 6)))
    found = []
    for inputs, counted in ((x, mask), (others, mask), (longer, longer_mask)):
        attention = acd.BinaryAttention(1, probabilities_quantizer=quantizer())
        masks = dict(query_mask=counted, key_mask=counted)
        attention(inputs, inputs, inputs, training=True, **masks)
        _, probabilities = attention(inputs, inputs, inputs, return_probabilities=True, **masks)
        decoded = array(probabilities)[:, 0, :6, :6]
        found.append([*(array(v) for v in attention.probabilities_quantizer.variables), decoded[0], decoded[1, :4, :4]])
    for again in found[1:]:
        for ours, theirs in zip(found[0], again):
            np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-6)


@pytest.mark.any_backend
def test_one_mask_alone_counts_in_statistics_of_probabilities():
    x, mask = recordings()
    found = []
    for query in (x, np.where(mask[..., None], x, -7.0).astype("float32")):
        attention = acd.BinaryAttention(1, probabilities_quantizer=acd.quantizers.ThresholdedProbabilities(scale="kept_mean"))
        attention(query, x, x, training=True, query_mask=mask)
        found.append(array(attention.probabilities_quantizer.running_scale))
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    attention = acd.BinaryAttention(1, probabilities_quantizer=acd.ElasticBinary(initial_scale=None))
    attention(x, x, x, training=True, key_mask=mask)
    # Rows that sum to 1, six over all keys and six over four.
    assert float(array(attention.probabilities_quantizer.start)) == pytest.approx(4 * 12 / (6 * 6 + 6 * 4))


@pytest.mark.any_backend
def test_elements_behind_a_mask_do_not_divide_the_gradient_of_a_scale():
    """With `lsq` it is divided by the root of the number of those that count."""
    x, mask = recordings()
    found = []
    for padding in (0, 6):
        longer, counted = np.pad(x, ((0, 0), (0, padding), (0, 0))), np.pad(mask, ((0, 0), (0, padding)))
        with masking.only(counted):
            upstream = np.float32(counted[..., None] * np.ones_like(longer))
            quantizer = acd.ElasticBinary(0.5, lsq=True)
            quantizer.build(longer.shape)
            found += layer_gradient(quantizer, longer, upstream, result=lambda code: code.decode())[1]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.any_backend
def test_the_mean_of_probabilities_of_any_length():
    x, _ = recordings()
    attention = acd.BinaryAttention(1, probabilities_quantizer=acd.quantizers.ThresholdedProbabilities("mean"))
    i = keras.Input((None, 32))
    context = array(keras.Model(i, attention(i, i, i))(x))
    np.testing.assert_array_equal(context, array(attention(x, x, x)))
    # Rows that are one another's equals keep every key.
    same = np.ones((1, 5, 32), "float32")
    np.testing.assert_array_equal(array(attention(same, same, same, return_probabilities=True)[1]), 1)


def test_keras_carries_the_mask_through_the_layers(tmp_path):
    """From Masking over a product of bits to the keys: what the padding holds changes nothing."""
    i = keras.Input((6, 32))
    h = acd.BinaryDense(32, acd.AlignedSign(), "weight_sign")(L.Masking(50.0)(i))
    a = acd.BinaryAttention(1, "ste_sign", "ste_sign", "ste_sign", "elastic_binary")(h, h, h)
    model = keras.Model(i, L.Dense(2)(L.GlobalAveragePooling1D()(a)))
    x, _ = recordings()
    with pytest.raises(acd.convert.ConversionError, match="its keys are masked, which attention in bits is not"):
        acd.convert.to_tflite(model, tmp_path / "m.tflite")
    masks, dense, attention = (
        next(layer for layer in model.layers if isinstance(layer, kind))
        for kind in (L.Masking, acd.BinaryDense, acd.BinaryAttention)
    )
    h = dense(masks(x))
    _, probabilities = attention(h, h, h, return_probabilities=True)
    assert np.all(array(probabilities)[1, :, :, 4:] == 0) and np.any(array(probabilities)[0, :, :, 4:] != 0)


# === Layers in time, and layers used twice ===
def classifier(inputs, hidden):
    product = acd.BinaryDense(32, "ste_sign", "ste_sign")(hidden)
    return keras.Model(inputs, L.Dense(3)(L.BatchNormalization()(product)))


def test_recurrent_layers_stay_in_float_and_the_file_says_so(tmp_path):
    inputs = keras.Input((12, 8))
    model = classifier(inputs, L.LSTM(32, name="memory")(inputs))
    conversion = acd.convert.to_tflite(model, tmp_path / "m.tflite")
    assert conversion.in_float["memory/lstm_cell"] == "an ordinary LSTMCell" and conversion.packed_layers == 1
    assert acd.convert.verify(model, tmp_path / "m.tflite", rng.normal(size=(6, 12, 8)).astype("float32")).ok


@keras.saving.register_keras_serializable(package="tests")
class CellOfBits(keras.layers.Layer):
    state_size = output_size = 32

    def build(self, shape):
        self.product = acd.BinaryDense(32, "ste_sign", "ste_sign", name="product")
        self.product.build((None, shape[-1] + 32))

    def call(self, x, states, training=None):
        state = keras.ops.tanh(self.product(keras.ops.concatenate([x, states[0]], -1)))
        return state, [state]


def test_bits_in_a_loop_are_refused_by_their_true_reason(tmp_path):
    inputs = keras.Input((12, 8))
    model = classifier(inputs, L.RNN(CellOfBits(), name="memory")(inputs))
    with pytest.raises(acd.convert.ConversionError, match="product cannot be packed: it is part of the recurrent layer memory"):
        acd.convert.to_tflite(model, tmp_path / "m.tflite")


def test_a_layer_of_bits_that_is_used_twice_is_packed_at_both_places(tmp_path):
    left, right = keras.Input((32,), name="left"), keras.Input((32,), name="right")
    shared = acd.BinaryDense(32, acd.AlignedSign(), "weight_sign")
    model = keras.Model([left, right], L.Dense(3)(L.Concatenate()([shared(left), shared(right)])))
    assert acd.convert.to_tflite(model, tmp_path / "m.tflite").op_counts["LceBconv2d"] == 2
    both = {name: rng.normal(size=(6, 32)).astype("float32") for name in ("left", "right")}
    assert acd.convert.verify(model, tmp_path / "m.tflite", both).ok
    assert acd.summary(model).bit_macs == 2 * 32 * 32


def test_a_layer_of_bits_that_is_called_at_every_time_step_is_counted(capsys):
    inputs = keras.Input((12, 32))
    model = keras.Model(inputs, L.TimeDistributed(acd.BinaryDense(16, "ste_sign", "ste_sign"))(inputs))
    assert acd.summary(model).bit_macs == 12 * 32 * 16
    assert "BinaryDense" in capsys.readouterr().out
