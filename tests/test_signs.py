"""Signs with straight-through gradients: values, closed-form gradients, names. Larq's are in `test_larq.py`."""

import numpy as np
import pytest
from numerics import array, gradient

from acdbit_keras import layers, quantizers, signs

pytestmark = pytest.mark.any_backend

INPUTS = {
    "values": np.float32([-2.5, -1.5, -1.0, -0.6, -0.3, -0.04, -1e-6, 1e-6, 0.04, 0.3, 0.5, 0.6, 1.0, 1.5, 2.5]),
    "zeros": np.float32([-1.0, 0.0, 0.5, -0.0, 1.0, 0.0]),
    "all_zeros": np.zeros(6, "float32"),
    "beyond_clip": np.float32([-30.0, -3.0, -1.0001, 1.0001, 3.0, 30.0]),
}


def sign(x):
    return np.where(x >= 0, 1.0, -1.0)


def inside(x, bound=1.0):
    return (np.abs(x) <= bound).astype(float)


def swish(x, beta=5.0):
    bx = beta * np.float64(x)
    return beta * (2 - bx * np.tanh(bx / 2)) / (1 + np.cosh(bx))


def tern(x, bound=0.05):
    return np.where(x > bound, 1.0, np.where(x < -bound, -1.0, 0.0))


# name, arguments -> forward, pseudo-gradient
CLOSED_FORMS = [
    ("ste_sign", {}, sign, inside),
    ("ste_sign", {"clip_value": 0.5}, sign, lambda x: inside(x, 0.5)),
    ("ste_sign", {"clip_value": None}, sign, np.ones_like),
    ("approx_sign", {}, sign, lambda x: (2 - 2 * np.abs(x)) * inside(x)),
    ("swish_sign", {}, sign, swish),
    ("swish_sign", {"beta": 2.0}, sign, lambda x: swish(x, 2.0)),
    ("magnitude_aware_sign", {}, sign, inside),
    ("ste_heaviside", {}, lambda x: (x > 0).astype(float), inside),
    ("ste_heaviside", {"clip_value": 2.0}, lambda x: (x > 0).astype(float), lambda x: inside(x, 2.0)),
    ("ste_tern", {}, tern, inside),
    ("ste_tern", {"threshold_value": 0.4}, lambda x: tern(x, 0.4), inside),
    ("ste_tern", {"ternary_weight_networks": True}, lambda x: tern(x, 0.7 * np.mean(np.abs(x))), inside),
]


@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("name, arguments, forward, pseudo_gradient", CLOSED_FORMS)
def test_forward_and_gradient(name, arguments, forward, pseudo_gradient, inputs):
    x = INPUTS[inputs]
    upstream = np.linspace(-2, 3, x.size).astype(np.float32)
    function = signs.Sign(name, arguments)
    np.testing.assert_array_equal(array(function(x)), forward(x))
    np.testing.assert_allclose(gradient(function, x, upstream=upstream)[0], upstream * pseudo_gradient(x), rtol=1e-5, atol=1e-6)


def test_the_gradients_of_the_plain_functions():
    x = np.float32([-0.5, 0.0, 0.3, 0.5, 1.0, 1.5, 2.5])
    np.testing.assert_array_equal(array(signs.ste_round(x)), [0, 0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(gradient(signs.ste_round, x, upstream=np.ones(7, "float32"))[0], [0, 1, 1, 1, 1, 0, 0])
    np.testing.assert_array_equal(array(signs.sign(np.float32([-0.0, 0.0, -1e-30, 3]))), [1, 1, -1, 1])


@pytest.mark.parametrize("mode", ["activations", "weights"])
@pytest.mark.parametrize("k_bit", [1, 2, 4])
def test_dorefa(k_bit, mode):
    x = np.float32([-1.2, -0.5, -0.1, 0.0, 0.2, 0.45, 0.8, 1.0, 1.3])
    steps = 2**k_bit - 1
    limited = np.clip(x, 0, 1) if mode == "activations" else np.tanh(x) / (2 * np.max(np.abs(np.tanh(x)))) + 0.5
    expected = np.round(limited * steps) / steps
    slope = ((x >= 0) & (x <= 1)) * 1.0
    if mode == "weights":
        expected, slope = 2 * expected - 1, (1 - np.tanh(x) ** 2) / np.max(np.abs(np.tanh(x)))
    function = signs.Sign("dorefa_quantizer", {"k_bit": k_bit, "mode": mode})
    np.testing.assert_allclose(array(function(x)), expected, atol=1e-6)
    np.testing.assert_allclose(gradient(function, x, upstream=np.ones_like(x))[0], slope, atol=1e-6)


def test_dorefa_of_zero_weights_is_finite():
    function = signs.Sign("dorefa_quantizer", {"mode": "weights"})
    assert np.all(np.isfinite(array(function(np.zeros(3, "float32")))))


@pytest.mark.parametrize(
    "name, levels, is_binary, bits",
    [
        ("ste_sign", "sign", True, 1),
        ("ste_heaviside", "zero_one", True, 1),
        ("ste_tern", "ternary", False, 2),
        ("dorefa_quantizer", "uniform", False, 2),
        ("magnitude_aware_sign", "sign", True, 1),
    ],
)
def test_what_a_name_stands_for(name, levels, is_binary, bits):
    quantizer = quantizers.get(name)
    assert (quantizer.levels, quantizer.is_binary, quantizer.bits) == (levels, is_binary, bits)


def test_magnitude_aware_sign_keeps_its_scale_apart():
    x = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    quantized = quantizers.get("magnitude_aware_sign")(x)
    np.testing.assert_array_equal(array(quantized.signs), sign(x))
    np.testing.assert_allclose(array(quantized.scale), np.mean(np.abs(x), 0, keepdims=True), rtol=1e-6)


@pytest.mark.parametrize("name", ["ste_sign", "SteSign"])
def test_aliases_and_class_names(name):
    assert signs.get(name) == signs.Sign("ste_sign")
    assert signs.get(signs.get(name).get_config()) == signs.Sign("ste_sign")


LAYER_ARGUMENTS = [
    (layers.BinaryDense, {"units": 2}, "input_quantizer"),
    (layers.BinaryDense, {"units": 2}, "kernel_quantizer"),
    *((layers.BinaryAttention, {"num_heads": 2}, f"{place}_quantizer") for place in ("query", "key", "value", "probabilities")),
]


@pytest.mark.parametrize("layer, options, argument", LAYER_ARGUMENTS)
@pytest.mark.parametrize("wrong, near", [("ste_sing", "ste_sign"), ("SteSine", "SteSign"), ("aligned_sing", "aligned_sign")])
def test_unknown_name_lists_the_known_and_the_nearest(layer, options, argument, wrong, near):
    with pytest.raises(ValueError) as error:
        layer(**options, **{argument: wrong})
    message = str(error.value)
    assert message.startswith(f"unknown quantizer {wrong!r}; known: ") and message.endswith(f"did you mean {near!r}?")
    assert "approx_sign" in message


@pytest.mark.parametrize("wrong", [3, object(), lambda x: x])
def test_what_is_no_quantizer(wrong):
    with pytest.raises(ValueError, match="a name, a Larq quantizer or a config"):
        quantizers.get(wrong)
