"""The float layers beside the binary products, against numpy."""

import keras
import numpy as np
import pytest
from numerics import array, gradient

from acdbit_keras import layers
from acdbit_keras.layers.pooling import average_channels, tile_channels
from acdbit_keras.layers.stem import ConvolutionalStem, PooledStem, WidePooledStem, halve_by_maximum

pytestmark = pytest.mark.any_backend


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def randomised(layer, shape):
    layer.build(shape)
    for index, weight in enumerate(layer.trainable_weights):
        weight.assign(draw(*weight.shape, seed=index + 1))
    return layer


def box_means(x, gain, shift):
    """The definition of the branches: zero padding, counted in the mean."""
    batch, height, width, channels = x.shape
    outputs = np.zeros_like(x, dtype=np.float64) + shift
    for index, side in enumerate((3, 5)):
        margin = side // 2
        padded = np.pad(np.float64(x), ((0, 0), (margin, margin), (margin, margin), (0, 0)))
        for i in range(height):
            for j in range(width):
                down = padded[:, i : i + side, j + margin].mean(1)
                across = padded[:, i + margin, j : j + side].mean(1)
                outputs[:, i, j] += gain[0, index] * down + gain[1, index] * across
    return outputs


@pytest.mark.parametrize("grid", [(4, 4), (6, 5), (2, 3), (1, 1)])
def test_pooling_branches(grid):
    x = draw(2, *grid, 3)
    layer = randomised(layers.PoolingBranches(), x.shape)
    outputs = array(layer(x))
    np.testing.assert_allclose(outputs, box_means(x, array(layer.gain), array(layer.shift)), rtol=1e-4, atol=1e-5)
    convolved = keras.ops.depthwise_conv(x, layer.kernel(), padding="same") + array(layer.shift)
    np.testing.assert_allclose(array(convolved), outputs, rtol=1e-4, atol=1e-5)


def test_pooling_branches_start_at_zero():
    assert not array(layers.PoolingBranches()(draw(2, 3, 3, 4))).any()


def test_pooling_branches_on_a_grid_of_any_size():
    inputs = keras.Input((None, None, 3))
    layer = layers.PoolingBranches()
    model = keras.Model(inputs, layer(inputs))
    for index, weight in enumerate(layer.trainable_weights):
        weight.assign(draw(*weight.shape, seed=index + 1))
    for grid in ((3, 4), (5, 2)):
        x = draw(1, *grid, 3)
        np.testing.assert_allclose(
            model.predict(x, verbose=0), box_means(x, array(layer.gain), array(layer.shift)), rtol=1e-4, atol=1e-5
        )


def convolved(x, kernel, shift):
    """The definition: every token is the sum of its 3x3 neighbours, those beyond the border 0, by the kernel's weights."""
    batch, height, width, channels = x.shape
    outputs = np.zeros_like(x, dtype=np.float64) + shift
    for i, j, row, column in np.ndindex(height, width, 3, 3):
        down, right = i + row - 1, j + column - 1
        if 0 <= down < height and 0 <= right < width:
            outputs[:, i, j] += x[:, down, right] * kernel[row, column]
    return outputs


@pytest.mark.parametrize("grid", [(4, 4), (6, 5), (2, 3), (1, 4), (1, 1)])
def test_depthwise_mixing(grid):
    x = draw(2, *grid, 3)
    layer = randomised(layers.DepthwiseMixing(), x.shape)
    outputs = array(layer(x))
    np.testing.assert_allclose(outputs, convolved(x, array(layer.kernel), array(layer.shift)), rtol=1e-4, atol=1e-5)
    builtin = keras.ops.depthwise_conv(x, array(layer.kernel)[..., None], padding="same") + array(layer.shift)
    np.testing.assert_allclose(array(builtin), outputs, rtol=1e-4, atol=1e-5)


def test_depthwise_mixing_starts_at_zero_and_learns():
    x = draw(2, 3, 3, 4)
    layer = layers.DepthwiseMixing()
    assert not array(layer(x)).any()
    weights = [array(weight) for weight in layer.trainable_weights]
    by_weights = gradient(lambda *given: layer.stateless_call(list(given), [], x)[0], *weights, upstream=np.ones_like(x))
    assert all(np.abs(found).min() > 0.0 for found in by_weights)


def test_depthwise_mixing_on_a_grid_of_any_size():
    inputs = keras.Input((None, None, 3))
    layer = layers.DepthwiseMixing()
    model = keras.Model(inputs, layer(inputs))
    for index, weight in enumerate(layer.trainable_weights):
        weight.assign(draw(*weight.shape, seed=index + 1))
    for grid in ((3, 4), (5, 2)):
        x = draw(1, *grid, 3)
        expected = convolved(x, array(layer.kernel), array(layer.shift))
        np.testing.assert_allclose(model.predict(x, verbose=0), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 6), (2, 3, 6), (2, 3, 5, 6)])
@pytest.mark.parametrize("times", [1, 2, 3])
def test_channels_are_tiled_and_averaged(shape, times):
    x = draw(*shape)
    np.testing.assert_array_equal(array(tile_channels(x, times)), np.concatenate([x] * times, -1))
    expected = x.reshape(*shape[:-1], shape[-1] // times, times).mean(-1)
    np.testing.assert_allclose(array(average_channels(x, times)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(4, 3), (2, 5, 3), (2, 4, 4, 3)])
def test_rprelu_and_layer_scale(shape):
    x = draw(*shape)
    layer = randomised(layers.RPReLU(), shape)
    a, slope, b = (array(weight) for weight in (layer.shift_in, layer.slope, layer.shift_out))
    np.testing.assert_allclose(array(layer(x)), np.where(x - a > 0, x - a, slope * (x - a)) + b, rtol=1e-5, atol=1e-6)
    layer = randomised(layers.LayerScale(), shape)
    np.testing.assert_allclose(array(layer(x)), array(layer.gain) * x + array(layer.shift), rtol=1e-5, atol=1e-6)


def test_starts():
    x = draw(2, 3)
    np.testing.assert_allclose(array(layers.RPReLU()(x)), np.where(x > 0, x, 0.25 * x), rtol=1e-6)
    np.testing.assert_allclose(array(layers.LayerScale()(x)), 0.1 * x, rtol=1e-6)


@pytest.mark.parametrize("stem", [ConvolutionalStem, PooledStem, WidePooledStem])
@pytest.mark.parametrize("patch_size", [1, 3, 6, 0])
def test_stem_refuses_other_patches(stem, patch_size):
    with pytest.raises(ValueError, match=f"patch_size must be a power of 2 from 2 up .* not {patch_size}"):
        stem(8, patch_size)


def test_pooled_stem_refuses_a_width_that_it_cannot_halve():
    with pytest.raises(ValueError, match="the width 12 of a pooled stem is not divisible by patch_size=8"):
        PooledStem(12, 8)


@pytest.mark.parametrize("shape", [(2, 2, 2, 1), (3, 4, 6, 5), (2, 8, 8, 3)])
def test_halving_is_the_same_pooling_in_xla_and_outside(shape, monkeypatch):
    """Of equals each form gives the gradient to one, not always the same: here there are none."""
    x = draw(*shape)
    expected = array(keras.ops.max_pool(x, 3, strides=2, padding="same"))
    gradients = []
    for compiled in (True, False):
        monkeypatch.setattr("acdbit_keras.tracing.compiled_by_xla", lambda compiled=compiled: compiled)
        np.testing.assert_array_equal(array(halve_by_maximum(x)), expected)
        gradients.append(gradient(halve_by_maximum, x, upstream=np.ones_like(expected))[0])
    np.testing.assert_array_equal(*gradients)


@pytest.mark.parametrize("kind", [PooledStem, WidePooledStem])
@pytest.mark.parametrize("patch_size", [2, 4])
def test_a_pooled_stem_may_pool_before_or_behind_its_norms(patch_size, kind):
    """Where no gain is negative, which training keeps so."""
    x = draw(3, 8, 8, 3)
    stem = randomised(kind(16, patch_size), x.shape)
    stem(x, training=True)
    for norm in stem.norms:
        norm.gamma.assign(norm.gamma.constraint(norm.gamma))
        assert array(norm.gamma).min() == 0.0 < array(norm.gamma).max()
    outputs = array(stem(x, training=False))
    assert outputs.shape == stem.compute_output_shape(x.shape) == (3, 8 // patch_size, 8 // patch_size, 16)
    np.testing.assert_allclose(array(stem.compute_pooled_last(x)), outputs, rtol=1e-4, atol=1e-5)
