"""Thresholded probabilities, the logarithmic softmax and integers of several bits against their formulas in numpy."""

import keras
import numpy as np
import pytest
from numerics import array, layer_gradient

from acdbit_keras.quantizers import LogarithmicSoftmax, PowerOfTwoFactor, ThresholdedProbabilities, UniformQuantizer

pytestmark = pytest.mark.any_backend


def softmax(scores):
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def probabilities(seed=0, spread=2.0):
    return softmax(spread * np.random.default_rng(seed).normal(size=(2, 3, 4, 16))).astype(np.float32)


# === Thresholds ===
@pytest.mark.parametrize("ratio", [0.25, 1.0])
def test_the_ratio_to_the_maximum(ratio):
    p, upstream = probabilities(), np.random.default_rng(1).normal(size=(2, 3, 4, 16)).astype(np.float32)
    quantizer = ThresholdedProbabilities("max_ratio", ratio=ratio)
    np.testing.assert_array_equal(array(quantizer(p).decode()), p >= np.float32(ratio) * p.max(-1, keepdims=True))
    by_inputs, weights = layer_gradient(quantizer, p, upstream, result=lambda code: code.decode())
    np.testing.assert_allclose(by_inputs, upstream)
    assert not weights and not quantizer.takes_scores


def test_the_mean_of_a_row_and_the_running_scale():
    p, upstream = probabilities(), np.ones((2, 3, 4, 16), "float32")
    quantizer = ThresholdedProbabilities("mean", scale="kept_mean", momentum=0.5)
    kept = p >= 1 / 16
    np.testing.assert_array_equal(array(quantizer(p).decode()), kept)
    code = quantizer(p, training=True)
    np.testing.assert_allclose(array(code.decode()), kept * p[kept].mean(), rtol=1e-5)
    other = probabilities(seed=2, spread=0.5)
    quantizer(other, training=True)
    expected = 0.5 * (p[kept].mean() + other[other >= 1 / 16].mean())
    assert float(array(quantizer.constant_scale())) == pytest.approx(expected, rel=1e-5)
    by_inputs, _ = layer_gradient(quantizer, p, upstream, result=lambda code: code.decode())
    np.testing.assert_allclose(by_inputs, expected, rtol=1e-5)
    # A row without preferences is kept whole, not lost to rounding.
    np.testing.assert_array_equal(array(quantizer(np.full((1, 1, 1, 7), 1 / 7, "float32")).signs), 1)


def test_raw_scores():
    scores = np.array([[[[-2.0, -0.5, 0.0, 0.5, 2.0]]]], "float32")
    quantizer = ThresholdedProbabilities("zero")
    np.testing.assert_array_equal(array(quantizer(scores).decode()), [[[[0, 0, 1, 1, 1]]]])
    by_inputs, _ = layer_gradient(quantizer, scores, np.ones_like(scores), result=lambda code: code.decode())
    np.testing.assert_array_equal(by_inputs, [[[[0, 1, 1, 1, 0]]]])
    assert quantizer.takes_scores


def test_without_a_softmax_attention_is_that_of_bibert():
    """B = H(Q K^T / sqrt(d)), context B V, and an offset of the keys counts."""
    from acdbit_keras import AlignedSign, BinaryAttention

    rng = np.random.default_rng(3)
    query, key, value = (rng.normal(size=(1, 5, 64)).astype(np.float32) for _ in range(3))
    sign = AlignedSign(threshold=None, scale=None, restore="off", sign="ste_sign", channel_axes=2)
    offset = AlignedSign(threshold=None, scale=None, restore="frozen", sign="ste_sign", channel_axes=2, axis="tensor")
    for key_quantizer, mean in ((sign, 0.0), (offset, 0.75)):
        attention = BinaryAttention(2, sign, key_quantizer, sign, ThresholdedProbabilities("zero"))
        attention.build(query.shape)
        if mean:
            attention.key_quantizer.running_mean.assign(np.full((1, 1, 2, 1), mean))
        context, kept = attention(query, key, value, return_probabilities=True)
        q, k, v = (np.where(x >= 0, 1.0, -1.0).reshape(5, 2, 32) for x in (query, key, value))
        expected = np.einsum("nhd,mhd->hnm", q, k + mean) >= 0
        np.testing.assert_array_equal(array(kept)[0], expected)
        np.testing.assert_allclose(array(context)[0], np.einsum("hnm,mhd->nhd", expected, v).reshape(5, 64))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"rule": "max"}, "rule must be one of 'max_ratio', 'mean', 'zero', not 'max'"),
        ({"rule": "zero", "scale": "kept_mean"}, "rule='zero' has scores alone"),
        ({"ratio": 0.0}, r"ratio must be in \(0, 1\], not 0.0"),
    ],
)
def test_invalid_thresholds(options, message):
    with pytest.raises(ValueError, match=message):
        ThresholdedProbabilities(**options)


# === Logarithms ===
def test_the_logarithmic_softmax():
    scores = (4 * np.random.default_rng(4).normal(size=(2, 2, 6, 16))).astype(np.float32)
    below = np.float64(scores - scores.max(-1, keepdims=True))
    shifts = np.floor(-below / np.log(2))
    r = below + shifts * np.log(2)
    e = (0.3582 * r**2 + 0.9696 * r + 1) * 2.0**-shifts
    exact = np.log2(e.sum(-1, keepdims=True) / e)
    clear = np.abs(exact - np.floor(exact) - 0.5) > 1e-4
    q = np.round(exact)
    expected = np.where(q <= 15, 2.0**-q, 0)
    assert (expected == 0).any() and clear.mean() > 0.99
    found = array(LogarithmicSoftmax(4)(scores).decode())
    np.testing.assert_array_equal(found[clear], expected[clear])
    # A power of two next to the softmax: a factor of sqrt(2), and what the polynomial adds.
    p = softmax(np.float64(scores))
    kept = expected > 0
    assert np.abs(np.log2(expected[kept] / p[kept])).max() < 0.55
    assert (p[~kept] < 2**-14.5).all()


# === Integers ===
def affine(x, low, high, levels=255):
    low, high = min(low, 0.0), max(high, 0.0)
    step = (high - low) / levels
    zero = np.round(-low / step)
    return (np.clip(np.round(np.float64(x) / step + zero), 0, levels) - zero) * step, step


@pytest.mark.parametrize("bits", [4, 8])
def test_affine_integers_of_a_kernel(bits):
    x = np.random.default_rng(5).normal(1.0, 2.0, size=(20, 6)).astype(np.float32)
    expected, step = affine(x, x.min(), x.max(), 2**bits - 1)
    found = array(UniformQuantizer(bits)(x).decode())
    # A value half-way between two integers may go to either.
    np.testing.assert_allclose(found, expected, atol=1.001 * step)
    assert np.mean(np.abs(found - expected) < 1e-4) > 0.99 and len(np.unique(found)) <= 2**bits


def test_symmetric_integers_of_the_rows():
    x = np.random.default_rng(6).normal(size=(20, 3)).astype(np.float32) * [1.0, 10.0, 0.0]
    x = x.astype(np.float32)
    found = array(UniformQuantizer(8, symmetric=True, per="row")(x).decode())
    step = np.abs(x).max(0) / 127
    np.testing.assert_allclose(found[:, :2], np.round(x[:, :2] / step[:2]) * step[:2], rtol=1e-4)
    np.testing.assert_array_equal(found[:, 2], 0)


def test_tracked_ranges_and_their_gradient():
    rng = np.random.default_rng(7)
    x = rng.normal(size=(4, 5, 6)).astype(np.float32)
    for kind, expected in (("average", 0.5 * (x.max() + 2 * x.max())), ("extremes", 2 * x.max())):
        quantizer = UniformQuantizer(range=kind, momentum=0.5)
        quantizer(x, training=True)
        quantizer(2 * x, training=True)
        assert array(quantizer.high).item() == pytest.approx(expected, rel=1e-6)
    low, high = array(quantizer.low).item(), array(quantizer.high).item()
    wide = 1.5 * np.linspace(low, high, 50, dtype="float32").reshape(1, 1, 50)
    values, step = affine(wide, low, high)
    np.testing.assert_allclose(array(quantizer(wide).decode()), values, atol=1e-5 + step * 1e-3)
    by_inputs, _ = layer_gradient(quantizer, wide, np.ones_like(wide), result=lambda code: code.decode())
    inside = (wide > low) & (wide < high)
    np.testing.assert_allclose(by_inputs[inside], 1, rtol=1e-5)
    np.testing.assert_array_equal(by_inputs[np.abs(wide) > 1.1 * high], 0)


def test_noise_quantizes_a_part_while_training_and_all_at_inference():
    x = np.random.default_rng(8).normal(size=(64, 64)).astype(np.float32)
    quantizer = UniformQuantizer(bits=4, noise=0.25)
    quantized = array(quantizer(x).decode())
    first, second = (array(quantizer(x, training=True).decode()) for _ in range(2))
    for drawn in (first, second):
        is_quantized, is_kept = np.isclose(drawn, quantized, atol=1e-5), np.isclose(drawn, x, atol=1e-5)
        assert (is_quantized | is_kept).all()
        assert is_quantized.mean() == pytest.approx(0.25, abs=0.03)
    assert not np.array_equal(first, second)
    by_inputs, _ = layer_gradient(quantizer, x, np.ones_like(x), result=lambda code: code.decode(), training=True)
    # The ends of the range may be clipped, because the zero point is an integer.
    assert (np.abs(by_inputs - 1) < 1e-4).mean() > 0.999


def test_power_of_two_factors():
    """Channels of different size get the exponent with the least error; one step for all is 8 times the smallest."""
    rng = np.random.default_rng(9)
    x = (rng.normal(size=(64, 10, 4)) * [8.0, 3.0, 1.5, 0.5]).astype(np.float32)
    quantizer = PowerOfTwoFactor()
    quantizer(x, training=True)
    low, high = float(x.min()), float(x.max())
    zero = np.round(-low / ((high - low) / 255))
    candidates = []
    for exponent in range(4):
        step = (high - low) / 255 * 2.0 ** (exponent - 3)
        candidates.append((np.clip(np.round(x / step + zero), 0, 255) - zero) * step)
    errors = [((each - x) ** 2).sum((0, 1)) for each in candidates]
    best = np.argmin(errors, 0)
    np.testing.assert_array_equal(array(quantizer.exponents), best)
    assert best[0] == 3 and best[-1] == 0
    expected = np.stack([candidates[e][..., c] for c, e in enumerate(best)], -1)
    assert np.mean(np.abs(array(quantizer(x).decode()) - expected) < 1e-4) > 0.99
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(quantizer))
    assert again.get_config() == quantizer.get_config()
