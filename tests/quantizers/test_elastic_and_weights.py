"""Elastic probabilities and 1-bit weights against their formulas."""

import itertools

import keras
import numpy as np
import pytest
from numerics import array, layer_gradient

from acdbit_keras.quantizers import ElasticBinary, WeightSign
from acdbit_keras.quantizers.weights import CENTERS, SCALES

pytestmark = pytest.mark.any_backend


@pytest.mark.parametrize("scale", [0.005, 0.25, 2.0])
def test_elastic_binary(scale):
    """Values and LSQ gradients: dx = g inside; da = g (round(x/a) - x/a) inside and g above."""
    rng = np.random.default_rng(0)
    x = (scale * np.concatenate([rng.uniform(-0.5, 1.6, 60), [0.0, 0.4, 0.6, 1.4]])).astype(np.float32).reshape(4, 4, 2, 2)
    upstream = rng.normal(size=x.shape).astype(np.float32)
    quantizer = ElasticBinary(initial_scale=scale)
    code = quantizer(x)
    t = np.float64(x) / scale
    np.testing.assert_array_equal(array(code.signs), (t > 0.5) * 1.0)
    np.testing.assert_allclose(array(code.decode()), scale * (t > 0.5), rtol=1e-6)
    assert code.scale.shape == (1, 1, 1, 1)
    by_inputs, (by_scale,) = layer_gradient(quantizer, x, upstream, result=lambda code: code.decode())
    inside = (t >= 0) & (t <= 1)
    np.testing.assert_allclose(by_inputs, upstream * inside, atol=1e-5)
    expected = np.sum(upstream * np.where(inside, np.round(t) - t, t > 1))
    np.testing.assert_allclose(by_scale, expected, rtol=1e-4, atol=1e-4)


def test_an_elastic_scale_is_held_above_its_bound_and_can_recover():
    """A step far below 1e-5 ends there, and the gradient there is that of any scale: da = g above."""
    quantizer = ElasticBinary(0.005)
    x = np.full((1, 2), 0.3, "float32")
    quantizer.build(x.shape)
    optimizer = keras.optimizers.SGD(1.0)
    for upstream, expected in ((1.0, 1e-5), (-0.25, 0.5)):
        _, gradients = layer_gradient(quantizer, x, np.full_like(x, upstream), result=lambda code: code.decode())
        optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients], quantizer.trainable_variables)
        assert array(quantizer.scale) == pytest.approx(expected, rel=1e-3)


def test_elastic_gradients_in_half_precision_are_finite():
    """With a small scale x / a^2 is beyond the largest float16, 65504."""
    quantizer = ElasticBinary(1e-3)
    x = np.float16([[0.0, 0.0004, 0.5, 1.0]])
    quantizer.build(x.shape)
    by_inputs, (by_scale,) = layer_gradient(quantizer, x, np.ones_like(x), result=lambda code: code.decode())
    assert by_inputs.dtype == np.float16
    np.testing.assert_allclose(by_inputs, [[1, 1, 0, 0]])
    np.testing.assert_allclose(by_scale, 2 - 0.4, rtol=1e-3)


def elastic(x, upstream, scale, signed, bits):
    """Decoded values, and the gradients by x and by the scale, in float64."""
    t = np.float64(x) / scale
    if signed and bits == 1:
        q, inside, by_scale = np.where(t >= 0, 1.0, -1.0), np.abs(t) <= 1, np.where(t >= 0, 1.0, -1.0)
    else:
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        q, inside = np.round(np.clip(t, low, high)), (t >= low) & (t <= high)
        by_scale = q - t * inside
    return scale * q, upstream * inside, np.sum(upstream * by_scale)


@pytest.mark.parametrize("lsq", [False, True])
@pytest.mark.parametrize("signed, bits", [(True, 1), (False, 1), (True, 2), (False, 2)])
def test_an_elastic_scale_that_is_measured(signed, bits, lsq):
    """The first training batch sets the start; then the scale is start * factor, and the factor is what is trained."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(4, 6, 5)).astype(np.float32)
    x, upstream = x if signed else np.abs(x), rng.normal(size=x.shape).astype(np.float32)
    quantizer = ElasticBinary(initial_scale=None, signed=signed, bits=bits, lsq=lsq)
    quantizer.build(x.shape)
    assert array(quantizer(x).scale).item() == 1.0, "nothing is measured at inference"
    quantizer(x, training=True)
    scale = (2 if signed else 4) * np.abs(np.float64(x)).mean() / {(True, 2): 1, (False, 2): 3**0.5}.get((signed, bits), 1)
    quantizer(100 * x, training=True)
    assert array(quantizer(x).scale).item() == pytest.approx(scale, rel=1e-5), "the second batch moves nothing"
    quantizer.factor.assign(1.25)
    decoded, by_x, by_scale = elastic(x, upstream, 1.25 * scale, signed, bits)
    np.testing.assert_allclose(array(quantizer(x).decode()), decoded, rtol=1e-5)
    by_inputs, (by_factor,) = layer_gradient(quantizer, x, upstream, result=lambda code: code.decode())
    if lsq:
        by_scale /= x.size**0.5
        # Its other half passes through x / a in the unsigned code, whose gradient by x is untouched.
    np.testing.assert_allclose(by_inputs, by_x, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(by_factor, by_scale * scale, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("signed", [False, True])
def test_the_comparison_of_an_elastic_code_is_the_code(signed):
    x = np.random.default_rng(4).normal(size=(50,)).astype(np.float32)
    half = np.float32(0.35)
    x[:3] = np.nextafter(half, np.float32(0)), half, np.nextafter(half, np.float32(1))
    quantizer = ElasticBinary(initial_scale=0.7, signed=signed)
    expected = array(quantizer(x).decode())
    comparison = quantizer.comparison()
    # As a file stores it, in float32.
    decoded = np.where(x < np.float32(comparison.threshold), -1, 1) * comparison.scale + comparison.offset
    np.testing.assert_allclose(decoded, expected, rtol=1e-6)
    two_bits = ElasticBinary(bits=2)
    two_bits.build(x.shape)
    assert two_bits.comparison() is None


@pytest.mark.parametrize("bits", [1, 2])
@pytest.mark.parametrize("keys", [16, 197])
def test_the_scale_of_probabilities_starts_at_what_would_be_measured(keys, bits):
    """It needs no batch for that, and a step of the optimizer is relative to it."""
    scores = np.random.default_rng(5).normal(size=(2, 3, 4, keys))
    probabilities = np.float32(np.exp(scores) / np.exp(scores).sum(-1, keepdims=True))
    measured = ElasticBinary(initial_scale=None, bits=bits)
    measured(probabilities, training=True)
    quantizer = ElasticBinary(bits=bits)
    start = array(quantizer(probabilities).scale).item()
    assert start == pytest.approx(array(measured(probabilities).scale).item(), rel=1e-5)
    quantizer.factor.assign(1.5)
    code = quantizer(probabilities)
    highest = 2**bits - 1
    np.testing.assert_array_equal(array(code.signs), np.round(np.clip(probabilities / np.float32(1.5 * start), 0, highest)))
    assert array(code.scale).item() == pytest.approx(1.5 * start)
    upstream = np.float32(np.random.default_rng(6).normal(size=probabilities.shape))
    _, (by_factor,) = layer_gradient(quantizer, probabilities, upstream, result=lambda code: code.decode())
    _, _, by_scale = elastic(probabilities, upstream, 1.5 * start, False, bits)
    assert by_factor == pytest.approx(by_scale * start, rel=1e-3)


def test_the_scale_over_any_number_of_probabilities():
    """Each input is scaled by its own number of keys; no constant stands for that on a device."""
    quantizer = ElasticBinary()
    quantizer.build((None, 2, 4, None))
    for keys in (8, 20):
        assert array(quantizer(np.zeros((1, 2, 4, keys), "float32")).scale).item() == pytest.approx(4 / keys)
    with pytest.raises(ValueError, match="its scale depends on the number of keys, and it was built for any number"):
        quantizer.bounded_scale()


def test_the_scale_of_probabilities_has_no_signs():
    with pytest.raises(ValueError, match="initial_scale 'probabilities' is for unsigned levels"):
        ElasticBinary(signed=True)


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), "mean"])
def test_elastic_scale_is_checked(wrong):
    with pytest.raises(ValueError, match="initial_scale must be 'probabilities', None or at least 1e-05, not"):
        ElasticBinary(initial_scale=wrong)


def reference(kernel, center, scale, restore, per):
    """Signs and the decoded kernel in float64."""
    axes = (0,) if per == "row" else (0, 1)
    w = np.float64(kernel)
    m = {None: 0.0, "mean": w.mean(axes, keepdims=True), "median": np.median(w, axes, keepdims=True)}[center]
    alpha = {None: 1.0, "mean_abs": np.abs(w).mean(axes, keepdims=True), "mad": np.abs(w - m).mean(axes, keepdims=True)}[scale]
    signs = np.where(w >= m, 1.0, -1.0)
    return signs, alpha * signs + (w.mean(axes, keepdims=True) if restore else 0.0), alpha, w - m


@pytest.mark.parametrize("shape", [(64, 5), (33, 1)])
@pytest.mark.parametrize("per", ["row", "tensor"])
@pytest.mark.parametrize("center", CENTERS)
def test_every_option_of_weights(center, per, shape):
    rng = np.random.default_rng(1)
    kernel, upstream = (0.4 * rng.normal(size=shape) + 0.1).astype(np.float32), rng.normal(size=shape).astype(np.float32)
    for scale, restore in itertools.product([scale for scale in SCALES if scale != "learned"], (False, True)):
        quantizer = WeightSign(center=center, scale=scale, restore=restore, per=per)
        signs, decoded, alpha, centred = reference(kernel, center, scale, restore, per)
        # At an odd count the median is an element, and its sign depends on the last bit of the search.
        clear = np.abs(centred) > 1e-6
        code = quantizer(kernel)
        np.testing.assert_array_equal(array(code.signs)[clear], signs[clear])
        np.testing.assert_allclose(array(code.decode())[clear], decoded[clear], atol=1e-6)
        # Larq's clipped identity on the centred weight, times alpha.
        by_kernel, _ = layer_gradient(quantizer, kernel, upstream, result=lambda code: code.decode())
        np.testing.assert_allclose(by_kernel, upstream * alpha * (np.abs(centred) <= 1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("per", ["row", "tensor"])
def test_learned_scales_of_weights(per):
    """The start is mean |W| at the first training batch, and the factor has the gradient of a scale, times the start."""
    rng = np.random.default_rng(5)
    kernel, upstream = rng.normal(size=(2, 16, 5)).astype(np.float32)
    quantizer = WeightSign(center="mean", scale="learned", per=per)
    quantizer.build(kernel.shape)
    signs, _, alpha, centred = reference(kernel, "mean", "mean_abs", False, per)
    np.testing.assert_allclose(array(quantizer(kernel).decode()), alpha * signs, rtol=1e-5)
    quantizer(kernel, training=True)
    quantizer.factor.assign(np.full(alpha.shape, 2.0))
    np.testing.assert_allclose(array(quantizer(3 * kernel, training=True).decode()), 2 * alpha * signs, rtol=1e-5)
    by_kernel, (by_factor,) = layer_gradient(quantizer, kernel, upstream, result=lambda code: code.decode())
    np.testing.assert_allclose(by_kernel, upstream * 2 * alpha * (np.abs(centred) <= 1), rtol=1e-4, atol=1e-6)
    axes = (0,) if per == "row" else (0, 1)
    np.testing.assert_allclose(by_factor, (upstream * signs * alpha).sum(axes, keepdims=True), rtol=1e-4, atol=1e-5)


def test_the_gradient_through_the_scale():
    """XNOR-Net: dW_b (1/n + alpha where |W| <= 1), and the code is that without it."""
    rng = np.random.default_rng(6)
    kernel, upstream = rng.normal(size=(2, 8, 3)).astype(np.float32)
    kernel[:, 0] = 0.0
    quantizer = WeightSign(center=None, scale="mean_abs", through_scale=True)
    plain = WeightSign(center=None, scale="mean_abs")
    np.testing.assert_array_equal(array(quantizer(kernel).signs), array(plain(kernel).signs))
    by_kernel, _ = layer_gradient(quantizer, kernel, upstream, result=lambda code: code.decode())
    alpha = np.abs(kernel).mean(0)
    expected = upstream * (np.where(alpha > 0, 1 / 8, 0) + alpha * (np.abs(kernel) <= 1))
    np.testing.assert_allclose(by_kernel, expected, rtol=1e-4, atol=1e-6)


def test_a_limit_is_a_constraint_of_the_kernel():
    from acdbit_keras import BinaryDense

    layer = BinaryDense(2, kernel_quantizer=WeightSign(limit=0.5), kernel_initializer="ones")
    layer.build((None, 3))
    optimizer = keras.optimizers.SGD(1.0)
    optimizer.apply([keras.ops.full((3, 2), 2.0)], [layer.kernel])
    np.testing.assert_array_equal(array(layer.kernel), -0.5)


@pytest.mark.parametrize("rows", [64, 97])
def test_the_median_balances_the_rows_of_skewed_weights(rows):
    kernel = np.random.default_rng(2).exponential(size=(rows, 8)).astype(np.float32)
    balance = array(WeightSign(center="median")(kernel).signs).sum(0)
    np.testing.assert_array_equal(np.abs(balance) <= rows % 2, True)


@pytest.mark.parametrize("value", [0.0, 0.7])
def test_constant_weights(value):
    code = WeightSign(center="median", scale="mad")(np.full((6, 3), value, "float32"))
    np.testing.assert_array_equal(array(code.signs), 1)
    np.testing.assert_array_equal(array(code.decode()), 0)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"center": "mode"}, "center must be one of None, 'mean', 'median', not 'mode'"),
        ({"scale": "std"}, "scale must be one of None, 'mean_abs', 'mad', 'learned', not 'std'"),
        ({"limit": 0}, "limit must be positive or None, not 0"),
        ({"per": "column"}, "per must be one of 'row', 'tensor', not 'column'"),
    ],
)
def test_invalid_weight_options(options, message):
    with pytest.raises(ValueError, match=message):
        WeightSign(**options)
