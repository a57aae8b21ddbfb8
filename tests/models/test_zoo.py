"""The zoo: entries made from runs, what their cards say, and prediction with one by its name."""

import json
import shutil
import subprocess

import keras
import numpy as np
import pytest
from PIL import Image

from acdbit_keras.cli import main
from acdbit_keras.models import data, from_zoo, load_compact, recipes, zoo, zoo_names
from acdbit_keras.models.loading import load_model
from acdbit_keras.models.train import evaluate, train

DIGITS = "digits_vit_nano_acd_bit"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of a 1-bit student, trained on the labels."""
    folder = tmp_path_factory.mktemp("runs") / "student"
    train(recipes.get("digits_acd_bit").replace(teacher=None, epochs=1, jit_compile=False), folder, verbose=0)
    return folder


@pytest.fixture(scope="module")
def entry(run, tmp_path_factory):
    """The zoo with an entry of that run."""
    folder = tmp_path_factory.mktemp("zoo")
    assert main(["zoo", "add", str(run), "quick", "--zoo", str(folder), "--limit", "Made by a test."]) == 0
    return folder


def test_a_card_says_what_was_measured(entry, run):
    card = zoo.card("quick", entry)
    assert zoo_names(entry) == ["quick"]
    model, trained = from_zoo("quick", entry), load_model(run)
    scores = evaluate(model, "digits")
    assert card["accuracy"] == {"top1": scores["accuracy"], "top5": scores["top5"], "images": 355}
    assert card["run"]["top1"] == pytest.approx(evaluate(trained, "digits")["accuracy"])
    assert card["run"]["equal_argmax"] > 0.95
    assert card["parity"]["ok"] and card["parity"]["samples"] == 355
    assert card["size"]["compact_bytes"] == (entry / "quick" / "weights.acdbit").stat().st_size
    assert card["size"]["float32_bytes"] == 4 * sum(np.prod(weight.shape) for weight in trained.trainable_variables)
    assert card["latency"]["median_ms"] > 0 and card["limits"][-1] == "Made by a test."
    assert card["command"] == "acdbit train digits_acd_bit --set teacher=None --set epochs=1 --set jit_compile=False"
    text = (entry / "quick" / "card.md").read_text()
    assert f"{scores['accuracy']:.2%}" in text and card["command"] in text


def test_the_command_on_a_card_is_the_run(entry, run):
    settings = zoo.card("quick", entry)["command"].split(" --set ")[1:]
    assert recipes.get("digits_acd_bit").with_settings(settings) == recipes.Recipe(
        **json.loads((run / "recipe.json").read_text())
    )


def test_a_compact_file_is_a_model_for_every_command(entry, capsys):
    weights = str(entry / "quick" / "weights.acdbit")
    assert main(["evaluate", weights, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == zoo.card("quick", entry)["accuracy"]["top1"]
    assert main(["summary", weights, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["totals"]["packed_bytes"] > 0


def test_prediction_by_the_name_of_an_entry(tmp_path, capsys):
    images, labels = data.arrays("digits", "test")
    paths = []
    for index in range(8):
        paths.append(str(tmp_path / f"{index}.png"))
        Image.fromarray(images[index, ..., 0].astype("uint8")).save(paths[-1])
    assert main(["predict", DIGITS, *paths, "--json"]) == 0
    answers = [answer["classes"][0]["name"] for answer in json.loads(capsys.readouterr().out)]
    expected = from_zoo(DIGITS)(data.normalize(images[:8], "digits"), training=False)
    assert answers == [str(index) for index in np.argmax(expected, axis=1)]
    assert np.mean([int(answer) == label for answer, label in zip(answers, labels)]) >= 0.75


def test_the_committed_entries_keep_their_cards_word():
    for name in zoo_names():
        card = zoo.card(name)
        assert card["name"] == name and card["parity"]["ok"]
        assert card["size"]["compact_bytes"] == (zoo.entries.FOLDER / name / "weights.acdbit").stat().st_size
    assert evaluate(from_zoo(DIGITS), "digits")["accuracy"] == pytest.approx(zoo.card(DIGITS)["accuracy"]["top1"], abs=1e-6)


def test_the_list(entry, capsys):
    assert main(["zoo"]) == 0
    assert DIGITS in capsys.readouterr().out
    assert main(["zoo", "--zoo", str(entry), "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == ["quick"]


def test_bad_input_leaves_no_entry(run, tmp_path, capsys):
    unfinished = tmp_path / "unfinished"
    shutil.copytree(run, unfinished)
    (unfinished / "result.json").unlink()
    for arguments, expected in (
        (["zoo", "add", str(run)], "zoo add needs a run's folder and the entry's name"),
        (["zoo", "add", str(run), "a/b"], "letters, digits and underscores, not 'a/b'"),
        (
            ["zoo", "add", str(run), "a", "--precision", "int8"],
            "precision must be one of 'float16', 'float24', 'float32', not 'int8'",
        ),
        (["zoo", "add", str(unfinished), "a"], "is not finished"),
        (["zoo", "add", str(tmp_path), "a"], "is not a run"),
        (["predict", "digits_vit_nano_acdbit", "x.png"], f"did you mean '{DIGITS}'"),
    ):
        zoo_option = ["--zoo", str(tmp_path / "zoo")] if arguments[0] == "zoo" else []
        assert main([*arguments, *zoo_option]) == 2
        assert expected in capsys.readouterr().err
    assert not (tmp_path / "zoo").exists()


def test_jax_reads_what_tensorflow_wrote(entry, tmp_path, jax_python):
    images, _ = data.arrays("digits", "test")
    np.save(tmp_path / "images.npy", data.normalize(images[:8], "digits"))
    script = (
        "import sys, numpy as np, acdbit_keras as acd\n"
        "weights, folder = sys.argv[1:]\n"
        "model = acd.models.load_compact(weights)\n"
        "model.jit_compile = True\n"
        "np.save(folder + '/logits.npy', model.predict(np.load(folder + '/images.npy'), verbose=0))\n"
    )
    environment = {"KERAS_BACKEND": "jax", "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    weights = entry / "quick" / "weights.acdbit"
    done = subprocess.run([jax_python, "-c", script, weights, tmp_path], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = keras.ops.convert_to_numpy(load_compact(weights)(np.load(tmp_path / "images.npy"), training=False))
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, rtol=1e-4, atol=1e-4)
