"""The zoo: entries made from runs, what their cards say, and prediction with one by its name."""

import errno
import json
import pathlib
import shutil
import subprocess

import keras
import numpy as np
import pytest
from PIL import Image

from acdbit_keras.cli import main
from acdbit_keras.convert import Interpreter
from acdbit_keras.models import data, from_zoo, load_compact, recipes, zoo, zoo_names
from acdbit_keras.models.loading import load_model
from acdbit_keras.models.train import evaluate, train
from acdbit_keras.studies import zoo as studio

DIGITS = "digits_vit_nano_acd_bit"
pytestmark = pytest.mark.usefixtures("one_block")
QUICK = dict(preset="one_block_8", epochs=1, jit_compile=False)


@pytest.fixture(scope="module")
def run(one_block, tmp_path_factory):
    """A finished run of a 1-bit student, trained on the labels."""
    folder = tmp_path_factory.mktemp("runs") / "student"
    train(recipes.get("digits_acd_bit").replace(teacher=None, **QUICK), folder, verbose=0)
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
    settings = ("preset=one_block_8", "teacher=None", "epochs=1", "jit_compile=False")
    assert card["command"] == " --set ".join(("acdbit train digits_acd_bit", *settings))
    text = (entry / "quick" / "card.md").read_text()
    assert f"{scores['accuracy']:.2%}" in text and card["command"] in text


def test_the_command_on_a_card_is_the_run(entry, run):
    settings = zoo.card("quick", entry)["command"].split(" --set ")[1:]
    assert recipes.get("digits_acd_bit").with_settings(settings) == recipes.Recipe(
        **json.loads((run / "recipe.json").read_text())
    )


def test_the_command_names_the_data_that_a_recipe_was_given():
    recipe = recipes.get("digits_acd_bit").on("./pictures")
    assert studio._command_line(recipe) == "acdbit train digits_acd_bit --data ./pictures"
    changed = studio._command_line(recipe.replace(epochs=3, learning_rate=1e-4))
    assert changed == "acdbit train digits_acd_bit --data ./pictures --set epochs=3 --set learning_rate=0.0001"
    assert studio._changed_settings(recipe) == {}


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


def test_a_float_twin_is_named_on_the_card_of_its_student(entry, run, tmp_path, capsys):
    zoo_folder = tmp_path / "zoo"
    shutil.copytree(entry, zoo_folder)
    teacher = recipes.get("digits_teacher").replace(**QUICK)
    train(teacher, tmp_path / "teacher", verbose=0)
    added = ["zoo", "add", str(tmp_path / "teacher"), "quick_float", "--zoo", str(zoo_folder), "--twin-of"]
    assert main([*added, "quick"]) == 0
    assert zoo.card("quick", zoo_folder)["float_twin"] == "quick_float"
    assert "| float twin | `quick_float` |" in (zoo_folder / "quick" / "card.md").read_text()
    twin, trained = from_zoo("quick_float", zoo_folder), load_model(tmp_path / "teacher")
    assert twin.scheme.name == "float32" and not any("signs" in limit for limit in zoo.card("quick_float", zoo_folder)["limits"])
    images = data.normalize(data.arrays("digits", "test")[0][:8], "digits")
    np.testing.assert_allclose(twin(images, training=False), trained(images, training=False), atol=1e-3)
    capsys.readouterr()
    # What is no twin leaves everything as it is.
    assert main([*added[:3], "other", *added[4:], "quick_float"]) == 2
    assert "'quick_float' is of float32 itself; a twin is that of a 1-bit entry" in capsys.readouterr().err
    assert main(["zoo", "add", str(run), "other", *added[4:], "quick"]) == 2
    assert "is no float twin of 'quick': scheme 'acd_bit' instead of 'float32'" in capsys.readouterr().err
    assert main(["zoo", "add", str(tmp_path / "teacher"), "quick", *added[4:], "quick"]) == 2
    assert "the float twin of 'quick' is an entry beside it and needs another name" in capsys.readouterr().err
    assert zoo_names(zoo_folder) == ["quick", "quick_float"]
    # Trained once more, the student has the same twin.
    assert main(["zoo", "add", str(run), "quick", "--zoo", str(zoo_folder), "--limit", "Again."]) == 0
    assert zoo.card("quick", zoo_folder)["limits"][-1] == "Again."
    assert zoo.card("quick", zoo_folder)["float_twin"] == "quick_float"


@pytest.fixture
def unmeasured(entry, monkeypatch):
    """What is measured of an entry is taken from its card, in place of the time it takes."""
    card = zoo.card("quick", entry)
    monkeypatch.setattr(studio, "_accuracies", lambda *_: {key: card[key] for key in ("accuracy", "run")})
    measured = {**{key: card[key] for key in ("parity", "latency")}, "size": {"tflite_bytes": card["size"]["tflite_bytes"]}}
    monkeypatch.setattr(studio, "_measured", lambda *_: measured)


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("fails", ["card.md", "weights.acdbit", "rename"])
def test_an_entry_that_cannot_be_replaced_stays_what_it_was(fails, entry, run, unmeasured, tmp_path, monkeypatch):
    shutil.copytree(entry, tmp_path / "zoo")
    (tmp_path / "zoo" / "quick" / "robustness.csv").write_text("a curve")
    before = files(tmp_path / "zoo")
    write, rename = studio.write_beside, pathlib.Path.rename

    def full(path, each):
        if path.name == fails:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, each)

    def refused(path, target):
        if path.name == ".quick.new" and fails == "rename":
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(studio, "write_beside", full)
    monkeypatch.setattr(studio, "write_text", lambda path, text: full(path, lambda file: file.write_text(text)))
    monkeypatch.setattr(pathlib.Path, "rename", refused)
    with pytest.raises(OSError, match=r"cannot write .*/quick: No space left on device; what was there before is kept"):
        studio.add(run, "quick", tmp_path / "zoo", precision="float16", say=lambda line: None)
    assert files(tmp_path / "zoo") == before and [path.name for path in (tmp_path / "zoo").iterdir()] == ["quick"]


def test_a_replaced_entry_keeps_what_is_still_so(entry, run, unmeasured, tmp_path):
    shutil.copytree(entry, tmp_path / "zoo")
    folder = tmp_path / "zoo" / "quick"
    for name in ("robustness.csv", "note.txt"):
        (folder / name).write_text("of the old weights?")
    # Left by a process that was killed before the new entry took the place of the old one.
    folder.rename(tmp_path / "zoo" / ".quick.old")
    shutil.copytree(entry / "quick", tmp_path / "zoo" / ".quick.new")
    assert zoo_names(tmp_path / "zoo") == []
    names = {"card.json", "card.md", "history.csv", "note.txt", "weights.acdbit"}
    for precision, kept in (("float24", {"robustness.csv"}), ("float16", set())):
        studio.add(run, "quick", tmp_path / "zoo", precision=precision, say=lambda line: None)
        assert {path.name for path in folder.iterdir()} == names | kept, "the curve of other weights is gone"
        assert [path.name for path in (tmp_path / "zoo").iterdir()] == ["quick"]
    assert zoo.card("quick", tmp_path / "zoo")["size"]["precision"] == "float16"


def test_the_card_of_a_student_is_whole_whatever_becomes_of_its_twin_s_name(tmp_path):
    folder = tmp_path / "quick"
    folder.mkdir()
    for name in ("card.json", "card.md"):
        (folder / name).write_text("before")

    def write(new):
        (new / "card.json").write_text("after")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="cannot write .*quick: No space left"):
        studio._replace(folder, write)
    assert [path.read_text() for path in folder.iterdir()] == ["before", "before"]


def test_an_entry_trained_on_pictures_of_one_s_own_is_converted_by_its_name_and_asks_for_them_where_it_needs_them(
    tmp_path, capsys
):
    name = "imagenette_edge"
    facts, file = zoo.card(name)["data"], str(tmp_path / "photographs.acdm")
    assert facts["dataset"] not in data.names()
    assert main(["convert", name, file]) == 0
    card = Interpreter(file).card
    assert all(card[key] == facts[key] for key in ("dataset", "mean", "std", "central_share", "classes"))
    capsys.readouterr()
    needing = (["evaluate", name], ["evaluate", file], ["verify", name, file], ["convert", name, "x.tflite", "--output", "int8"])
    for arguments in needing:
        assert main([*arguments, "--data-dir", str(tmp_path)]) == 2
        told = (
            f"{arguments[1]} was trained on 'imagenette96', which is not known by its name; pass --dataset with where its images"
        )
        assert told in capsys.readouterr().err


def test_the_committed_float_twins_are_those_of_their_students():
    twins = {name: zoo.card(name).get("float_twin") for name in zoo_names()}
    assert {"cifar10_vit_micro_acd_bit", "cifar100_vit_micro_acd_bit"} <= {name for name, twin in twins.items() if twin}
    for name, twin in twins.items():
        if twin:
            ours, theirs = zoo.card(name), zoo.card(twin)
            assert theirs["model"]["scheme"] == "float32" and theirs["model"]["preset"] == ours["model"]["preset"]
            assert theirs["data"]["dataset"] == ours["data"]["dataset"] and theirs["data"]["classes"] == ours["data"]["classes"]


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
        (["predict", DIGITS, "x.png"], "there is no file x.png"),
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
