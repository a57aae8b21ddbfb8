"""The engine of flat files on emulated microcontrollers: the classes of Keras, the bits of this machine, what it takes."""

import pathlib
import sys

import numpy as np
import pytest

HERE = pathlib.Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent / "convert")]

import test_flat
from boards import Boards
from flat_models import VARIANTS, random_flat
from measure import forms, pictures, twin_instructions

from acdbit_keras.convert import Interpreter, cards, flat, to_tflite
from acdbit_keras.models import zoo

CIFAR10, DIGITS = "cifar10_vit_micro_acd_bit", "digits_vit_nano_acd_bit"
# Of the compact CIFAR-10 model on a Cortex-M4 with GCC 12; another compiler may need other limits.
MOST_INSTRUCTIONS, MOST_FLASH, MOST_ARENA, MOST_STACK = 7_000_000, 300_000, 48_000, 6_000


@pytest.fixture(scope="module")
def boards(tmp_path_factory):
    return Boards(tmp_path_factory.mktemp("boards"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return {name: forms(name, tmp_path_factory.mktemp(name)) for name in (CIFAR10, DIGITS)}


@pytest.mark.parametrize("board", ["cortex-m4", "cortex-m7"])
@pytest.mark.parametrize("name", [DIGITS, CIFAR10])
def test_twenty_images_get_the_classes_of_keras(boards, files, name, board):
    contents, exact = files[name]
    interpreter = Interpreter(exact)
    images, _ = pictures(zoo.card(name)["data"]["dataset"], interpreter.input_shape, 20)
    offset, factor = cards.normalisation(interpreter.card)
    normalised = (images.astype(np.float32) - offset) * factor
    logits = zoo.from_zoo(name).predict(normalised, verbose=0)
    found = boards[board].classify(contents["exact"], images)
    np.testing.assert_array_equal(found.logits.argmax(1), logits.argmax(1))
    assert np.median(np.abs(found.logits - logits)) < 1e-4


def test_the_compact_model_on_a_cortex_m4(boards, files):
    """Its classes are those of the same file here; how often they are those of Keras, results/mcu.json says."""
    contents, exact = files[CIFAR10]
    images, _ = pictures("cifar10", Interpreter(exact).input_shape, 20)
    found = boards["cortex-m4"].classify(contents["compact"], images)
    np.testing.assert_array_equal(found.logits, Interpreter(contents["compact"]).predict(images))
    assert found.instructions <= MOST_INSTRUCTIONS
    assert found.flash_bytes <= MOST_FLASH and found.arena_bytes <= MOST_ARENA and found.stack_bytes <= MOST_STACK
    assert found.instructions < twin_instructions(boards["cortex-m4"])


@pytest.mark.parametrize("form", ["exact", "compact"])
def test_a_pooled_stem_gives_the_classes_of_this_machine(boards, tmp_path, form):
    model = test_flat.build("binary_vit", preset="vit_mini_pooled4_32", depth=1, width=64, num_heads=2)
    card = {**test_flat.CARD, "mean": [0.3] * 3, "std": [0.38] * 3}
    to_tflite(model, tmp_path / "m.tflite", attention="binary", card=card)
    content = flat.build(tmp_path / "m.tflite", compact=form == "compact", input="uint8")
    images = test_flat.pixels(2, (32, 32, 3))
    here, found = Interpreter(content).predict(images), boards["cortex-m4"].classify(content, images)
    np.testing.assert_array_equal(found.logits.argmax(1), here.argmax(1))
    # The float stem fuses multiplications and additions there; integers are the same everywhere.
    assert (np.abs(found.logits - here) <= (0 if form == "compact" else 1e-3 * np.abs(here).max())).all()


def test_a_core_without_floats_or_vectors_runs_a_model_of_the_zoo(boards, files):
    content = files[DIGITS][0]["compact"]
    images, _ = pictures("digits", Interpreter(content).input_shape, 3)
    np.testing.assert_array_equal(boards["rv32imc"].classify(content, images).logits, Interpreter(content).predict(images))


@pytest.mark.parametrize("board", ["cortex-m3", "cortex-m33", "cortex-m55", "rv32imc"])
def test_other_cores_give_the_same_classes(boards, board):
    for name, options in VARIANTS.items():
        content = random_flat(3, True, "uint8", **options)
        images = np.random.default_rng(0).integers(0, 256, (4, 6, 6, 2), dtype=np.uint8)
        here, found = Interpreter(content).predict(images), boards[board].classify(content, images)
        assert np.abs(found.logits - here).max() < 1e-4 * max(1.0, np.abs(here).max()), name
