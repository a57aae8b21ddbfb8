"""Flat files against the files and models that they are made from, and the refusals of the engine that runs them."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import keras
import numpy as np
import pytest

import acdbit_keras as acd
from acdbit_keras import models
from acdbit_keras.convert import Interpreter, flat, flat_source, to_flat, to_tflite, verify
from acdbit_keras.convert.parity import FLAT_ALONE

HERE = pathlib.Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent)]

from debian import install_packages
from flat_models import VARIANTS, random_flat

CARD = {"classes": [str(digit) for digit in range(10)], "mean": [0.3], "std": [0.38]}
SCHEMES = ("xnor_net", "bibert", "bit", "bivit", "binary_vit", "binary_former", "acd_bit", "acd_bit[restore=dynamic]")


def jittered(model):
    """The model with weights that are no longer those of the start, where many values sit on their threshold."""
    rng = np.random.default_rng(3)
    for weight in model.weights:
        if "seed" not in weight.path:
            value = np.asarray(weight)
            weight.assign(np.abs(value + rng.normal(size=value.shape) * 0.05) if "variance" in weight.path else
                          value + rng.normal(size=value.shape) * 0.05)  # fmt: skip
    return model


def build(scheme="acd_bit", preset="vit_nano_patch2_8", **options):
    keras.utils.set_random_seed(0)
    return jittered(models.build(preset, scheme, classes=10, **options))


def sequences(scheme="acd_bit"):
    """A model of recordings, its card, and recordings of people moving: readings, and what they are normalised."""
    model, facts = build(scheme, "vit1d_micro_patch8_128", depth=1), models.data.info("movements")
    readings = models.data.arrays("movements", "test")[0][:16]
    card = {"classes": CARD["classes"], "mean": list(facts.mean), "std": list(facts.std)}
    return model, card, readings, models.data.normalize(readings, "movements")


def images(count, shape=(8, 8, 1)):
    return np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)


def pixels(count, shape=(8, 8, 1)):
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


def difference(ours, theirs):
    """The largest, over the largest logit."""
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_flat_file_gives_the_logits_of_the_delegate(scheme, tmp_path):
    to_tflite(build(scheme, depth=1), tmp_path / "m.tflite", attention="binary")
    report = flat.write(tmp_path / "m.tflite", tmp_path / "m.acdm")
    assert report.steps["blocks"] == 1 and report.bytes == (tmp_path / "m.acdm").stat().st_size
    flat_file = Interpreter(tmp_path / "m.acdm")
    assert flat_file.engine == "flat"
    assert difference(flat_file.predict(images(20)), Interpreter(tmp_path / "m.tflite").predict(images(20))) < 1e-6


@pytest.mark.parametrize(
    "preset, sizes",
    [
        ("vit_micro_patch4_32", {}),
        ("vit_mini_pooled4_32", dict(width=64, num_heads=2)),
        ("vit_mini_wide_pooled4_32", dict(width=64, num_heads=2)),
        ("vit_nano_depthwise4_32", {}),
    ],
)
def test_convolutional_and_pooled_stems_and_mixed_tokens(preset, sizes, tmp_path):
    to_tflite(build(preset=preset, depth=1, **sizes), tmp_path / "m.tflite", attention="binary")
    flat.write(tmp_path / "m.tflite", tmp_path / "m.acdm")
    samples = images(10, (32, 32, 3))
    ours, theirs = (Interpreter(tmp_path / name).predict(samples) for name in ("m.acdm", "m.tflite"))
    assert np.median(np.abs(ours - theirs)) < 1e-5, "but for signs on their threshold"


@pytest.mark.parametrize("preset", ["vit_nano_patch2_8", "vit_mini_pooled4_32"])
def test_compact_files_round_and_nothing_more(preset, tmp_path):
    model = build("binary_vit", preset=preset, depth=1)
    shape = model.input_shape_of_images
    card = {**CARD, "mean": [0.3] * shape[-1], "std": [0.38] * shape[-1]}
    exact = tmp_path / "m.tflite"
    to_tflite(model, exact, attention="binary", card=card)
    whole = flat.write(exact, tmp_path / "whole.acdm", input="uint8").constant_bytes
    compact = flat.write(exact, tmp_path / "compact.acdm", input="uint8", compact=True).constant_bytes
    assert compact["stem"] < 0.61 * whole["stem"] and compact["classifier"] < 0.4 * whole["classifier"]
    assert compact["positions"] == whole["positions"] // 2
    samples = pixels(30, shape)
    ours, theirs = (Interpreter(tmp_path / name).predict(samples) for name in ("compact.acdm", "whole.acdm"))
    assert 0 < np.abs(ours - theirs).mean() < 0.3 * np.abs(theirs).std()
    # As floats the same pixels give the same integers.
    flat.write(exact, tmp_path / "floats.acdm", compact=True)
    normalised = ((samples / 255.0 - 0.3) / 0.38).astype(np.float32)
    np.testing.assert_array_equal(Interpreter(tmp_path / "floats.acdm").predict(normalised), ours)


def test_pixels_are_normalised_as_the_card_says(tmp_path):
    model = build(depth=1)
    to_flat(model, tmp_path / "p.acdm", card=CARD, input="uint8")
    to_flat(model, tmp_path / "f.acdm", card=CARD)
    ours = Interpreter(tmp_path / "p.acdm").predict(pixels(20))
    theirs = Interpreter(tmp_path / "f.acdm").predict(((pixels(20) / 255.0 - 0.3) / 0.38).astype(np.float32))
    assert np.median(np.abs(ours - theirs)) < 1e-5
    [best, *_] = Interpreter(tmp_path / "p.acdm").classify(pixels(1)[0])
    assert best.name in CARD["classes"]


def test_sequences_are_verified_against_keras(tmp_path):
    model, card, readings, recordings = sequences()
    report = to_flat(model, tmp_path / "m.acdm", card=card, input="uint8")
    assert report.steps["stem"] == 1 and report.steps["blocks"] == 1
    interpreter = Interpreter(tmp_path / "m.acdm")
    assert interpreter.input_shape == (128, 9) and interpreter.card == {**card, "sequence": True}
    difference = np.abs(interpreter.predict(readings) - model.predict(recordings, verbose=0))
    assert np.median(difference) < 1e-5, "but for signs on their threshold"
    parity = verify(model, tmp_path / "m.acdm", recordings)
    assert parity.ok and parity.samples == 16, str(parity)
    with pytest.raises(ValueError, match=r"takes inputs of shape \(128, 9\), no pictures"):
        interpreter.classify(pixels(1)[0])


def test_a_compact_file_of_sequences_computes_its_patches_in_integers(tmp_path):
    model, card, readings, recordings = sequences("binary_vit")
    sizes = {}
    for compact in (False, True):
        sizes[compact] = to_flat(model, tmp_path / f"{compact}.acdm", compact, card, "uint8").constant_bytes
    assert sizes[True]["stem"] < 0.3 * sizes[False]["stem"]
    ours, theirs = (Interpreter(tmp_path / f"{compact}.acdm").predict(readings) for compact in (True, False))
    assert 0 < np.abs(ours - theirs).mean() < 0.3 * np.abs(theirs).std()
    to_flat(model, tmp_path / "floats.acdm", True, card)
    np.testing.assert_array_equal(Interpreter(tmp_path / "floats.acdm").predict(recordings), ours)


@pytest.mark.parametrize("size, patch", [((8, 16), (4, 16)), ((4, 32), (1, 8))])
def test_patches_that_are_whole_rows_are_embedded_too(size, patch, tmp_path):
    model = models.VisionTransformer("acd_bit", 10, size, patch, channels=2, width=32, depth=1, num_heads=1)
    to_flat(jittered(model), tmp_path / "m.acdm")
    assert verify(model, tmp_path / "m.acdm", images(8, (*size, 2))).ok


@pytest.mark.parametrize("name", VARIANTS)
def test_random_files_of_every_form_run(name):
    for compact in (False, True):
        content = random_flat(1, compact, "uint8", **VARIANTS[name])
        assert np.isfinite(Interpreter(content).predict(pixels(3, (6, 6, 2)))).all()


def test_a_pyramid_is_refused_and_its_ops_are_named(tmp_path):
    model = models.build("pyramid_nano_patch1_8", "binary_vit", classes=10)
    with pytest.raises(flat.FlatError, match="engine lacks .*AcdBinaryAttention.*isotropic backbones"):
        to_flat(model, tmp_path / "p.acdm")


def test_what_a_flat_file_needs_is_said(tmp_path):
    model = models.VisionTransformer("acd_bit", 10, (32, 16), (8, 4), width=32, depth=1, num_heads=1, name="strips")
    with pytest.raises(flat.FlatError, match="^model 'strips' cannot become a flat file: .* cuts patches that are not square"):
        to_flat(model, tmp_path / "m.acdm")
    with pytest.raises(flat.FlatError, match=r"float32 images .* or sequences \(steps, channels\) .*, not \(64,\) of float32"):
        to_flat(keras.Sequential([keras.Input((64,)), acd.BinaryDense(32, "ste_sign", "ste_sign")]), tmp_path / "m.acdm")
    model = build(depth=1)
    with pytest.raises(flat.FlatError, match="mean and std that pixels are normalised with"):
        to_flat(model, tmp_path / "m.acdm", input="uint8")
    with pytest.raises(flat.FlatError, match="mean and std that a compact file's integers are scaled by"):
        to_flat(model, tmp_path / "m.acdm", compact=True)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        to_flat(model, tmp_path / "no" / "m.acdm")


def _with_word(content, index, value):
    words = np.frombuffer(content, "<u4").copy()
    words[index] = value
    return words.tobytes()


@pytest.mark.parametrize(
    "edit, sentence",
    [
        (lambda content: content[:40], "shorter than the header"),
        (lambda content: content[:-64], "is truncated"),
        (lambda content: _with_word(content, 1, 7), "of another version"),
        (lambda content: content[3::-1] + content[4:], "other byte order"),
        (lambda content: _with_word(content, 3, 10**6), "too short for the steps"),
        (lambda content: _with_word(content, 12, 1), "a field that this engine does not know"),
        (lambda content: _with_word(content, 10, 10**9), "card does not lie within"),
        (lambda content: _with_word(content, 8, 4), "another number of logits"),
        (lambda content: _with_word(content, 16, 99), "of a kind that this engine does not know"),
        (lambda content: _with_word(content, 17, 1 << 20), "writes outside of the memory"),
        (lambda content: _with_word(content, 18, 1 << 24), "constants of a convolution are not in the file"),
    ],
)
def test_a_damaged_file_is_refused_in_a_sentence(edit, sentence):
    content = random_flat(1, False, "float32")
    with pytest.raises(flat.FlatError, match=f"^the model given as bytes cannot be run: .*{sentence}"):
        Interpreter(edit(content))


def test_any_word_of_the_steps_may_be_wrong():
    content = random_flat(1, True, "uint8", **VARIANTS["branches"])
    steps = np.frombuffer(content, "<u4")[3]
    refused = 0
    for index in range(16, 16 + 32 * int(steps)):
        for value in (0, 1, 7, 0x7FFFFFFF, 0xFFFFFFFF):
            try:
                Interpreter(_with_word(content, index, value)).predict(pixels(1, (6, 6, 2)))
            except flat.FlatError:
                refused += 1
    assert refused > 200


def test_a_flat_file_runs_on_its_own_engine_only():
    with pytest.raises(ValueError, match="the engine 'flat' runs, not 'acdbit'"):
        Interpreter(random_flat(1, False, "float32"), engine="acdbit")


def movements():
    model, card, readings, _ = sequences()
    with tempfile.TemporaryDirectory() as folder:
        to_flat(model, f"{folder}/m.acdm", True, card, "uint8")
        return pathlib.Path(folder, "m.acdm").read_bytes(), readings[:1], tuple(CARD["classes"])


def pictures():
    return random_flat(2, True, "uint8", **VARIANTS["branches"]), pixels(1, (6, 6, 2)), ("a", "b", "c")


@pytest.mark.parametrize("made", [pictures, movements])
def test_a_c_program_gives_the_same_logits(made, tmp_path):
    """The header, the source and the engine as an Arduino library has them, compiled as C and C++ for this machine."""
    install_packages({"gcc": "gcc", "g++": "g++"})
    content, image, classes = made()
    folder = tmp_path / "sensor"
    flat_source.write_arduino(content, folder)
    assert "name=sensor" in (folder / "library.properties").read_text()
    assert json.loads((folder / "library.json").read_text())["name"] == "sensor"
    assert "sensor_data" in (folder / "examples" / "classify" / "classify.ino").read_text()
    with pytest.raises(FileExistsError, match="not empty"):
        flat_source.write_arduino(content, folder)
    assert ("readings, step by step" in (folder / "src" / "sensor.h").read_text()) == (made is movements)
    (tmp_path / "image").write_bytes(image.tobytes())
    (tmp_path / "main.c").write_text(
        """
        #include <stdio.h>
        #include "acdbit_model.h"
        #include "sensor.h"
        static unsigned char memory[SENSOR_MEMORY] __attribute__((aligned(64))), image[SENSOR_INPUT_BYTES];
        int main(void) {
          float logits[SENSOR_OUTPUTS];
          if (fread(image, 1, sizeof image, stdin) != sizeof image) return 2;
          const char* error = acdbit_model_check(sensor_data, sizeof sensor_data);
          if (!error) error = acdbit_model_prepare(sensor_data, memory, sizeof memory);
          if (error) return puts(error), 1;
          puts(acdbit_model_prepare(sensor_data, memory, sizeof memory - 1));
          acdbit_model_run(sensor_data, memory, image, logits);
          for (int i = 0; i < SENSOR_OUTPUTS; i++) printf("%s %a\\n", sensor_classes[i], logits[i]);
        }
        """
    )
    source = folder / "src"
    objects = []
    for file in [*source.glob("*.cpp"), *source.glob("*.c"), tmp_path / "main.c"]:
        plus = file.suffix == ".cpp"
        compiler = ["g++", "-std=c++17"] if plus else ["gcc", "-std=c11"]
        objects.append(tmp_path / f"{file.name}.o")
        run(*compiler, "-O1", "-ffp-contract=off", f"-I{source}", "-c", file, "-o", objects[-1])
    run("gcc", *objects, "-lm", "-o", tmp_path / "main")
    with open(tmp_path / "image", "rb") as picture:
        lines = run(tmp_path / "main", stdin=picture).splitlines()
    assert lines[0] == "the memory is smaller than acdbit_model_memory says"
    names, logits = zip(*(line.split() for line in lines[1:]))
    assert names == classes
    np.testing.assert_array_equal([float.fromhex(text) for text in logits], Interpreter(content).predict(image)[0])


def run(*command, **options):
    process = subprocess.run(
        [os.fspath(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )
    assert process.returncode == 0, process.stdout[-4000:]
    return process.stdout


def test_a_flat_file_is_evaluated_as_a_tflite_is(tmp_path, capsys):
    from acdbit_keras.cli import main

    answers = []
    for suffix in ("acdm", "tflite"):
        path = str(tmp_path / f"digits.{suffix}")
        assert main(["convert", "digits_vit_nano_acd_bit", path]) == 0
        capsys.readouterr()
        assert main(["evaluate", path, "--json"]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0] == answers[1] and answers[0]["images"] == 355 and answers[0]["accuracy"] > 0.9


# === Against Keras ===


@pytest.mark.parametrize("input", ["float32", "uint8"])
def test_a_flat_file_is_verified_against_keras_as_its_tflite_file_is(input, tmp_path):
    model = build(depth=1)
    to_flat(model, tmp_path / "m.acdm", card=CARD, input=input)
    samples = (pixels(16) / np.float32(255) - np.float32(0.3)) / np.float32(0.38)
    parity = verify(model, tmp_path / "m.acdm", samples)
    assert parity.ok and parity.samples == 16 and parity.stem == "float32" and parity.largest_difference < 1e-3


def test_a_flat_file_of_other_weights_is_not_equal(tmp_path):
    model = build(depth=1)
    to_flat(model, tmp_path / "m.acdm")
    model.layers[-1].weights[0].assign_add(model.layers[-1].weights[0] + 1.0)
    parity = verify(model, tmp_path / "m.acdm", images(8))
    assert not parity.ok and set(parity.first_layers) == {FLAT_ALONE}


def test_a_compact_flat_file_says_that_its_stem_turns_signs(tmp_path):
    model = build(depth=1)
    to_flat(model, tmp_path / "m.acdm", compact=True, card=CARD, input="uint8")
    samples = (pixels(32) / np.float32(255) - np.float32(0.3)) / np.float32(0.38)
    parity = verify(model, tmp_path / "m.acdm", samples)
    assert parity.stem == "int8" and parity.equal_argmax > 0.9
    assert parity.beyond_tolerance == 0 or "the file's stem computes in 8 bits" in str(parity)
