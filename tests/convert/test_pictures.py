"""Pictures of any size as the pipelines of evaluation would give them, without TensorFlow."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from acdbit_keras.convert import pictures
from acdbit_keras.models import data

CARD = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}


def picture(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


@pytest.mark.parametrize("size", [(32, 32), (96, 96), (47, 80), (200, 33), (17, 17), (1, 5)])
@pytest.mark.parametrize("share", [1.0, 0.875])
def test_a_picture_is_scaled_as_in_the_test_pipelines(size, share):
    pixels = picture(*size)
    ours = pictures.resized(pictures.central(pixels, 32, 32, share), 32, 32)
    theirs = data.resize(tf.constant(pixels, tf.float32), 32, share).numpy()
    np.testing.assert_allclose(ours, theirs, atol=2e-3)


def test_a_picture_of_the_models_size_stays_as_it_is():
    pixels = picture(32, 32)
    np.testing.assert_array_equal(pictures.prepare(pixels, (32, 32, 3), CARD, "uint8"), pixels)


def test_normalisation_is_that_of_the_pipelines():
    pixels, facts = picture(32, 32), data.info("cifar10")
    card = {"mean": list(facts.mean), "std": list(facts.std)}
    np.testing.assert_array_equal(pictures.prepare(pixels, (32, 32, 3), card), data.normalize(pixels, "cifar10"))


def test_a_wide_model_looks_at_a_wide_window():
    pixels = picture(40, 40)
    window = pictures.central(pixels, 10, 20)
    assert window.shape == (20, 40, 3)
    np.testing.assert_array_equal(window, pixels[10:30])


def test_gray_and_colour_become_each_other():
    colour = picture(8, 8)
    luma = np.asarray(Image.fromarray(colour).convert("L"))
    np.testing.assert_array_equal(pictures.prepare(colour, (8, 8, 1), {}, "uint8")[..., 0], luma)
    np.testing.assert_array_equal(pictures.prepare(luma, (8, 8, 3), {}, "uint8"), np.repeat(luma[..., None], 3, axis=2))
    with_alpha = np.concatenate([colour, picture(8, 8, 1)], axis=2)
    np.testing.assert_array_equal(pictures.prepare(with_alpha, (8, 8, 3), {}, "uint8"), colour)


@pytest.mark.parametrize(
    "wrong, reason",
    [
        (np.zeros((8, 8, 3), np.float32), "must be a uint8 array"),
        (np.zeros((2, 8, 8, 3), np.uint8), "must be a uint8 array of shape"),
        (np.zeros((0, 8, 3), np.uint8), "must be a uint8 array of shape"),
        (np.zeros((8, 8, 2), np.uint8), "takes pictures of 3 channels, this one has 2"),
    ],
)
def test_what_is_no_picture_is_refused(wrong, reason):
    with pytest.raises(ValueError, match=reason):
        pictures.prepare(wrong, (8, 8, 3), CARD)
