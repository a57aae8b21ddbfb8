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
    quantizer = ElasticBinary()
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


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan")])
def test_elastic_scale_is_checked(wrong):
    with pytest.raises(ValueError, match="initial_scale must be at least 1e-05, not"):
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
    for scale, restore in itertools.product(SCALES, (False, True)):
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
        ({"scale": "std"}, "scale must be one of None, 'mean_abs', 'mad', not 'std'"),
        ({"per": "column"}, "per must be one of 'row', 'tensor', not 'column'"),
    ],
)
def test_invalid_weight_options(options, message):
    with pytest.raises(ValueError, match=message):
        WeightSign(**options)
