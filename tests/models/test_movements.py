"""The made-up recordings of movements: a dataset of sequences, from the recipe to the file."""

import numpy as np
import pytest

from acdbit_keras.models import data, recipes
from acdbit_keras.models.loading import load_model
from acdbit_keras.models.train import evaluate, train

FACTS = data.info("movements")


def test_the_recordings_are_the_same_every_time_and_as_the_catalog_says():
    images, labels = data.arrays("movements", "train")
    assert (images.shape, images.dtype) == ((FACTS.train_examples, *FACTS.shape), np.uint8)
    assert np.bincount(labels).tolist() == [400] * 6
    pixels = images / 255
    np.testing.assert_allclose(pixels.mean((0, 1)), FACTS.mean, atol=2e-3)
    np.testing.assert_allclose(pixels.std((0, 1)), FACTS.std, atol=0.012)


def test_a_recipe_trains_on_sequences(tmp_path):
    recipe = recipes.get("movements_teacher").replace(epochs=2, jit_compile=False)
    result = train(recipe, tmp_path / "run", verbose=0)
    assert result["accuracy"] > 0.6, "six movements, so 0.17 by chance"
    assert evaluate(load_model(tmp_path / "run"), "movements")["accuracy"] == pytest.approx(result["accuracy"], abs=1e-3)


def test_sequences_have_one_length_and_are_not_augmented():
    with pytest.raises(ValueError, match="movements has recordings of 128 time steps, not of 64"):
        data.load("movements", image_size=64)
    with pytest.raises(ValueError, match="the recordings of movements are not augmented: augment must be 'none' or 'light'"):
        data.load("movements", augment="strong")
    with pytest.raises(ValueError, match=r"the shape must be \(..., steps, 9\)"):
        data.normalize(np.zeros(9), "movements")
