"""The binary products against numpy, and alone in ordinary Keras models."""

import keras
import numpy as np
import pytest
from numerics import array

from acdbit_keras import layers, quantizers

pytestmark = pytest.mark.any_backend


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def randomise(quantizer, seed):
    """Running statistics that no start has."""
    rng = np.random.default_rng(seed)
    for name in quantizer.running_statistics:
        weight = getattr(quantizer, f"running_{name}")
        value = rng.normal(size=weight.shape)
        weight.assign(np.abs(value) + 0.1 if name == "spread" else value)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attention_reference(layer, query, key, value):
    """Float64 attention between the decoded operands, key offset included: the softmax must ignore it."""
    heads, n, channels = layer.num_heads, query.shape[1], query.shape[2]

    def decoded(quantizer, x):
        split = x.reshape(*x.shape[:2], heads, channels // heads)
        return array(quantizer(split).decode()).astype(np.float64)

    q, k, v = decoded(layer.query_quantizer, query), decoded(layer.key_quantizer, key), decoded(layer.value_quantizer, value)
    probabilities = softmax(np.einsum("bnhd,bmhd->bhnm", q, k) / np.sqrt(channels // heads))
    quantized = array(layer.probabilities_quantizer(probabilities.astype(np.float32)).decode()).astype(np.float64)
    return np.einsum("bhnm,bmhd->bnhd", quantized, v).reshape(query.shape[0], n, channels), quantized


@pytest.mark.parametrize("channels", [6, 33])
@pytest.mark.parametrize("shape", [(4,), (4, 5), (4, 3, 2)])
@pytest.mark.parametrize("kernel", [None, "ste_sign", "weight_sign"])
@pytest.mark.parametrize("inputs", [None, "ste_sign", "aligned_sign"])
def test_dense_is_the_product_of_the_decoded_operands(inputs, kernel, shape, channels):
    layer = layers.BinaryDense(5, input_quantizer=inputs, kernel_quantizer=kernel, use_bias=True, bias_initializer="ones")
    x = draw(*shape, channels)
    layer.build(x.shape)
    if inputs == "aligned_sign":
        randomise(layer.input_quantizer, 1)
    a = array(layer.input_quantizer(x).decode()).astype(np.float64)
    w = array(layer.kernel_quantizer(array(layer.kernel)).decode()).astype(np.float64)
    np.testing.assert_allclose(array(layer(x)), a @ w + 1, rtol=1e-4, atol=1e-4)
    assert layer.is_binary == (inputs is not None and kernel is not None)
    assert layer.compute_output_shape(x.shape) == (*shape, 5)


BINARY = dict(
    query_quantizer=quantizers.AlignedSign(channel_axes=2),
    key_quantizer=quantizers.AlignedSign(channel_axes=2),
    value_quantizer=quantizers.AlignedSign(channel_axes=2, contracts="tokens"),
    probabilities_quantizer=quantizers.ElasticBinary(0.1),
)
ATTENTIONS = {
    "float": {},
    "aligned": BINARY,
    "restored_per_token": dict(
        query_quantizer=quantizers.AlignedSign(restore="dynamic", channel_axes=2),
        key_quantizer=quantizers.AlignedSign(axis="token", channel_axes=2),
        value_quantizer=quantizers.AlignedSign(axis="tensor", channel_axes=2, scale="std", contracts="tokens"),
        probabilities_quantizer=quantizers.ElasticBinary(0.1),
    ),
    "only_probabilities": dict(probabilities_quantizer=quantizers.ElasticBinary(0.1)),
    "plain_signs": dict(query_quantizer="ste_sign", key_quantizer="ste_sign", value_quantizer="ste_sign"),
}


@pytest.mark.parametrize("keys", [7, 4])
@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention(name, keys):
    options = {place: quantizers.clone(quantizer) for place, quantizer in ATTENTIONS[name].items()}
    layer = layers.BinaryAttention(2, **options)
    query, key, value = draw(3, 7, 64), draw(3, keys, 64, seed=1), draw(3, keys, 64, seed=2)
    layer.build(query.shape, key.shape, value.shape)
    for seed, quantizer in enumerate((layer.query_quantizer, layer.key_quantizer, layer.value_quantizer)):
        if isinstance(quantizer, quantizers.AlignedSign):
            randomise(quantizer, seed)
    context, probabilities = layer(query, key, value, return_probabilities=True)
    expected, quantized = attention_reference(layer, query, key, value)
    np.testing.assert_allclose(array(probabilities), quantized, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(array(context), expected, rtol=1e-4, atol=1e-4)
    if name == "aligned":
        # The restored mean of the query meets the key's signs: one bias per key, which changes the probabilities.
        layer.query_quantizer.running_mean.assign(0 * layer.query_quantizer.running_mean)
        assert not np.array_equal(array(layer(query, key, value, return_probabilities=True)[1]), quantized)


def test_attention_on_a_grid_equals_attention_on_its_tokens():
    layer = layers.BinaryAttention(2, **{place: quantizers.clone(quantizer) for place, quantizer in BINARY.items()})
    grid = draw(2, 3, 4, 64)
    tokens = grid.reshape(2, 12, 64)
    np.testing.assert_allclose(array(layer(grid, grid, grid)).reshape(2, 12, 64), array(layer(tokens, tokens, tokens)), atol=1e-5)


@pytest.mark.parametrize("batch", [None, 2])
def test_attention_takes_any_number_of_tokens(batch):
    inputs = keras.Input(batch_shape=(batch, None, 64))
    outputs, probabilities = layers.BinaryAttention(2, "ste_sign", "ste_sign", "ste_sign", "elastic_binary")(
        inputs, inputs, inputs, return_probabilities=True
    )
    assert outputs.shape == (batch, None, 64) and len(probabilities.shape) == 4
    model = keras.Model(inputs, [outputs, probabilities])
    for tokens in (3, 5):
        context, weights = model.predict(draw(2, tokens, 64), verbose=0)
        assert context.shape == (2, tokens, 64) and weights.shape == (2, 2, tokens, tokens)


@pytest.mark.parametrize("rank, functional", [(2, False), (3, True), (4, True)])
def test_layers_train_in_ordinary_models(rank, functional):
    """Rank 2 to 4, Sequential and functional: one fit step moves every trainable weight."""
    shape = (4, 6)[: rank - 2] + (64,)
    stack = [
        layers.BinaryDense(32, input_quantizer="aligned_sign", kernel_quantizer="weight_sign"),
        keras.layers.BatchNormalization(),
        layers.RPReLU(),
        layers.LayerScale(),
        *([layers.PoolingBranches()] if rank == 4 else []),
        layers.BinaryDense(3, input_quantizer="approx_sign", kernel_quantizer="ste_sign", use_bias=True),
    ]
    if functional:
        inputs = x = keras.Input(shape)
        for index, layer in enumerate(stack):
            x = layer(x)
            if index == 3 and rank > 2:
                context = layers.BinaryAttention(1, "ste_sign", "ste_sign", "ste_sign", "elastic_binary")(x, x, x)
                x = layers.LayerScale()(context) + x  # unscaled, it would leave the sign behind it without a gradient
        model = keras.Model(inputs, x)
    else:
        model = keras.Sequential([keras.Input(shape), *stack])
    before = [array(weight) for weight in model.trainable_weights]
    model.compile(keras.optimizers.Adam(0.1), "mse", jit_compile=keras.config.backend() == "jax")
    targets = np.random.default_rng(1).normal(size=(8, *shape[:-1], 3))
    model.fit(draw(8, *shape), targets, epochs=2, verbose=0)
    assert model.output_shape == (None, *shape[:-1], 3)
    for weight, start in zip(model.trainable_weights, before):
        assert not np.array_equal(array(weight), start), weight.path


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: layers.BinaryDense(0), "units must be an integer of at least 1, not 0"),
        (lambda: layers.BinaryDense(2.0), "units must be an integer of at least 1, not 2.0"),
        (lambda: layers.BinaryAttention(0), "num_heads must be an integer of at least 1, not 0"),
        (lambda: layers.BinaryAttention(3).build((2, 5, 64)), "the width 64 is not divisible by num_heads=3"),
        (
            lambda: layers.BinaryAttention(3, **BINARY).build((2, 5, 144)),
            "the head width 48 .* is not a multiple of 32: .* packs the channels of a head into 32-bit words",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_float_heads_have_any_width():
    x = draw(2, 5, 9)
    assert layers.BinaryAttention(3)(x, x, x).shape == (2, 5, 9)


def test_regularizer_and_constraint_of_a_kernel():
    layer = layers.BinaryDense(3, kernel_quantizer="ste_sign", kernel_regularizer="l2", kernel_constraint="max_norm")
    layer(draw(2, 4))
    assert len(layer.losses) == 1
    again = layers.BinaryDense.from_config(layer.get_config())
    assert type(again.kernel_constraint) is type(layer.kernel_constraint) and again.kernel_regularizer is not None
