"""Bit flips in converted files: which bits they touch, that nothing else changes, and the run through the command line."""

import json

import keras
import numpy as np
import pytest

from acdbit_keras import models
from acdbit_keras.cli import main
from acdbit_keras.convert import Interpreter, flatbuffer, rewrite, to_tflite
from acdbit_keras.studies.robustness import bitflips


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An untrained float and binary model, the latter also as a file of layers and as one of blocks."""
    folder = tmp_path_factory.mktemp("files")
    keras.utils.set_random_seed(4)
    for scheme in ("float32", "binary_vit"):
        model = models.build("vit_nano_patch2_8", scheme, classes=10, depth=1)
        model.save(folder / f"{scheme}.keras")
        to_tflite(model, folder / f"{scheme}.tflite", card={"dataset": "digits", "scheme": scheme})
    to_tflite(model, folder / "layers.tflite", attention="float", card={"dataset": "digits", "scheme": "binary_vit"})
    return folder


def kernels(file):
    return [found.words for found in rewrite.filters(file)]


@pytest.mark.parametrize("name", ["binary_vit", "layers"])
def test_every_packed_bit_is_in_reach_and_no_other(name, folder):
    file = flatbuffer.read(folder / f"{name}.tflite")
    regions, what = bitflips.weights(file)
    total = sum(region.bits for region in regions)
    # Query, key, value, output: 64 x 64; the feed-forward part: twice 64 x 256.
    assert total == 4 * 64 * 64 + 2 * 64 * 256 and what == "packed kernels of signs"
    everything = bitflips.flipped(file, regions, np.arange(total))
    for before, after in zip(kernels(file), kernels(everything), strict=True):
        np.testing.assert_array_equal(after, ~before)
    touched = {region.buffer for region in regions}
    for number, (before, after) in enumerate(zip(file.buffers, everything.buffers, strict=True)):
        if number not in touched:
            assert before.data is after.data
    # Twice is not at all.
    assert flatbuffer.pack(bitflips.flipped(everything, regions, np.arange(total))) == flatbuffer.pack(file)


def test_as_many_bits_flip_as_are_drawn(folder):
    file = flatbuffer.read(folder / "binary_vit.tflite")
    regions, _ = bitflips.weights(file)
    total, rng = sum(region.bits for region in regions), np.random.default_rng(0)
    assert len(bitflips.draw(regions, 0.0, rng)) == 0 and len(bitflips.draw(regions, 1.0, rng)) == total
    positions = bitflips.draw(regions, 0.01, rng)
    assert len(set(positions.tolist())) == len(positions)
    assert abs(len(positions) - 0.01 * total) < 5 * (0.01 * total) ** 0.5
    after = bitflips.flipped(file, regions, positions)
    different = sum(int(np.unpackbits((a ^ b).view(np.uint8)).sum()) for a, b in zip(kernels(file), kernels(after), strict=True))
    assert different == len(positions)
    images = np.random.default_rng(1).standard_normal((4, 8, 8, 1)).astype(np.float32)
    logits = [Interpreter(flatbuffer.pack(each)).predict(images) for each in (file, after)]
    assert np.abs(logits[0] - logits[1]).max() > 1e-4
    with pytest.raises(ValueError, match="positions must be from 0"):
        bitflips.flipped(file, regions, [total])


def test_a_float_file_has_its_own_bits(folder):
    file = flatbuffer.read(folder / "float32.tflite")
    regions, what = bitflips.weights(file)
    # The same kernels in 32 bits each; neither the patch embedding nor the classifier.
    assert sum(region.bits for region in regions) == 32 * (4 * 64 * 64 + 2 * 64 * 256) and what == "float32 kernels of the blocks"
    positions = [5, 40]
    once = bitflips.flipped(file, regions, positions)
    [number] = [i for i, (a, b) in enumerate(zip(file.buffers, once.buffers)) if a.data is not b.data]
    difference = np.asarray(file.buffers[number].data) ^ once.buffers[number].data
    assert np.flatnonzero(np.unpackbits(difference, bitorder="little")).tolist() == positions
    assert flatbuffer.pack(bitflips.flipped(once, regions, positions)) == flatbuffer.pack(file)


def test_robustness_of_models_and_files(folder, tmp_path, capsys):
    arguments = ["--dataset", "digits", "--samples", "20", "--repetitions", "1", "--gaussian", "40", "--uniform", "40"]
    arguments += [
        "--salt-and-pepper",
        "0.2",
        "--epsilons",
        "8",
        "--steps",
        "2",
        "--severities",
        "3",
        "--rates",
        "0",
        "0.5",
        "--json",
    ]
    models_ = [str(folder / "float32.keras"), str(folder / "binary_vit.keras")]
    assert main(["robustness", *models_, "--out", str(tmp_path / "a"), *arguments]) == 0
    results = json.loads(capsys.readouterr().out)
    assert len(results["rows"]) == 3 * 2 + (2 * 2 + 1) + 15 * 2 + 2 * 2
    assert {row["test"] for row in results["rows"]} == {"noise", "attack", "corruption", "bitflip"}
    clean = {model["name"]: model["clean"] for model in results["models"]}
    for row in results["rows"]:
        if row["test"] == "bitflip" and row["strength"] == 0:
            # The file classifies as Keras does, up to one image on a threshold.
            assert abs(row["accuracy"] - clean[row["model"]]) <= 0.051
    assert (tmp_path / "a" / "curves.png").read_bytes()[:4] == b"\x89PNG"

    files = [str(folder / "float32.tflite"), str(folder / "binary_vit.tflite")]
    assert main(["robustness", *files, "--out", str(tmp_path / "b"), "--tests", "noise", "bitflip", *arguments[2:]]) == 0
    from_files = json.loads(capsys.readouterr().out)
    assert from_files["dataset"] == "digits" and [model["scheme"] for model in from_files["models"]] == ["float32", "binary_vit"]

    def flips(found):
        return [row["accuracy"] for row in found["rows"] if row["test"] == "bitflip"]

    assert flips(from_files) == flips(results)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (
            ["binary_vit.tflite"],
            "has no gradient to attack along: name the Keras model it was converted from, or use --tests noise",
        ),
        (["float32.keras", "--dataset", "digits", "--severities", "0"], "severity must be one of 1, 2, 3, 4, 5, not 0"),
        (["float32.keras", "--dataset", "digits", "--tests", "bitflips"], "did you mean 'bitflip'"),
        (["float32.keras"], "does not say which dataset it was trained on; pass --dataset"),
        (["none.keras", "--dataset", "digits"], "there is no file or folder"),
    ],
)
def test_bad_input(arguments, sentence, folder, tmp_path, capsys):
    model, *others = arguments
    assert main(["robustness", str(folder / model), "--out", str(tmp_path / "out"), *others]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("acdbit: ")]
    assert len(lines) == 1 and sentence in lines[0]
    assert not (tmp_path / "out").exists()
