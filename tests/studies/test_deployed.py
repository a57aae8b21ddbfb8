"""The way of a trained model to the device, on the digits' entry of the zoo."""

import numpy as np
import pytest

from acdbit_keras.models import build, data, from_zoo, zoo
from acdbit_keras.studies import deployed

NAME = "digits_vit_nano_acd_bit"


@pytest.fixture(scope="module")
def model():
    return from_zoo(NAME)


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "digits.tflite"
    assert deployed.convert(model, path, "digits").precision == "bits"
    return path


def test_a_file_says_what_it_was_trained_on(model, file, tmp_path):
    card = deployed.card(model, "digits")
    assert deployed.card_of(file) == card and set(card) == set(deployed.CARD)
    assert card["classes"] == [str(digit) for digit in range(10)]
    deployed.convert(model, tmp_path / "silent.tflite", "digits", described=False)
    assert deployed.card_of(tmp_path / "silent.tflite") == {}


def test_the_first_test_images_are_compared(model, file):
    parity = deployed.compare(model, file, "digits", samples=40)
    assert parity.ok and parity.samples == 40
    facts = deployed.parity_facts(parity)
    assert facts["samples"] == 40 and facts["ok"] and "partings" not in facts and "path" not in facts


def test_the_accuracy_of_a_file_is_that_of_its_card(model, file):
    found = deployed.evaluate_file(file, "digits", model=model, compared=150)
    accuracy = zoo.card(NAME)["accuracy"]
    assert found["images"] == accuracy["images"] and found["compared"] == 200, "in whole batches of 100"
    assert found["accuracy"] == pytest.approx(accuracy["top1"], abs=1 / 355)
    assert found["top5"] == pytest.approx(accuracy["top5"], abs=1 / 355) and found["equal_argmax"] >= 0.995
    assert "compared" not in deployed.evaluate_file(file, "digits")


def test_files_are_timed_side_by_side(file):
    first, second = deployed.time_files([file, file], runs=3)
    assert first["engine"] == second["engine"] == "acdbit" and first["arena_bytes"] == second["arena_bytes"] > 0
    assert 0 < first["median_ms"] <= first["p90_ms"]


def test_integers_are_calibrated_on_training_images_as_they_are():
    [images, labels], *others = data.calibration("digits", 8).as_numpy_iterator()
    assert images.shape == (128, 8, 8, 1) and len(labels) == 128 and len(others) == 1
    assert np.isfinite(images).all() and len(np.unique(labels)) == 10


def test_integers_without_a_dataset_are_refused(tmp_path):
    with pytest.raises(ValueError, match="precision 'int8' is calibrated on training images: name the dataset"):
        deployed.convert(build("vit_nano_patch2_8", "quant_noise_w8a8", depth=1), tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())
