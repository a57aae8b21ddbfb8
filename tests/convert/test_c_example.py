"""The C example is compiled as its comment says, and gives Python's classes."""

import os
import platform
import re
import subprocess

import c_example
import numpy as np
import pytest

from acdbit_keras.convert import Interpreter, to_tflite
from acdbit_keras.models import build

CARD = {"classes": [f"class {i}" for i in range(10)], "mean": [0.5] * 3, "std": [0.25] * 3}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("file") / "model.tflite"
    model = build("vit_micro_patch8_32", depth=1)
    to_tflite(model, path, card=CARD, input="uint8")
    return path


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("program")
    runtime = folder / "runtime"
    c_example.call("cmake", "-S", c_example.RUNTIME, "-B", runtime, "-G", "Ninja")
    c_example.call("cmake", "--build", runtime, "--target", "acdbit_runtime")
    return c_example.compile_example(folder, runtime, platform.machine())


def run(program, *arguments):
    binary, libraries = program
    environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, libraries))}
    return subprocess.run([str(binary), *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=60)


def test_pictures_of_every_size_have_the_class_and_the_probability_of_python(program, file, tmp_path):
    pictures = list(c_example.pictures(3))
    labels, paths = c_example.write_inputs(tmp_path, file, pictures)
    interpreter = Interpreter(file)
    for pixels, path in zip(pictures, paths):
        process = run(program, file, labels, path)
        assert process.returncode == 0, process.stderr
        name, probability = process.stdout.strip().rsplit(" ", 1)
        [best] = interpreter.classify(pixels, 1)
        # A pixel that is rounded the other way moves it a little, where the picture is scaled.
        assert name == best.name and float(probability) == pytest.approx(best.probability, abs=2e-3), pixels.shape


def test_the_example_stays_short():
    assert len((c_example.EXAMPLE / "classify.c").read_text().splitlines()) < 100


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(model="text"), "not a .tflite file: .*text"),
        (dict(model="nowhere"), "not a .tflite file: .*nowhere"),
        (dict(picture="text"), "not a binary PPM or PGM picture of 8 bits: .*text"),
        (dict(picture="nowhere"), "there is no picture: .*nowhere"),
        (dict(picture="cut.ppm"), "the picture is cut off: .*cut.ppm"),
        (dict(picture="grey.pgm"), "takes pictures of another number of channels than: .*grey.pgm"),
        (dict(labels="nowhere"), "there is no file of labels: .*nowhere"),
        (dict(labels="nothing"), "there are fewer labels than classes: .*nothing"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(program, file, tmp_path, wrong, message):
    labels, [path, *_] = c_example.write_inputs(tmp_path, file, c_example.pictures(3, count=1))
    (tmp_path / "text").write_text("text")
    (tmp_path / "nothing").write_text("")
    (tmp_path / "cut.ppm").write_bytes(path.read_bytes()[:-1])
    (tmp_path / "grey.pgm").write_bytes(b"P5 2 2 255\n" + bytes(4))
    given = dict(model=file, labels=labels, picture=path) | {key: tmp_path / name for key, name in wrong.items()}
    process = run(program, given["model"], given["labels"], given["picture"])
    said = [line for line in process.stderr.splitlines() if line.startswith("classify:")]
    assert process.returncode == 2 and len(said) == 1 and re.search(message, said[0]), process.stderr


def test_a_model_that_takes_floats_is_refused_with_advice(program, tmp_path):
    path = tmp_path / "floats.tflite"
    to_tflite(build("vit_micro_patch8_32", depth=1), path, card=CARD)
    labels, [picture] = c_example.write_inputs(tmp_path, path, [np.zeros((32, 32, 3), np.uint8)])
    process = run(program, path, labels, picture)
    assert process.returncode == 2 and "the model takes no pixels; convert it with --input uint8" in process.stderr
