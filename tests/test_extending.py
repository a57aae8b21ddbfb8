"""What comes from outside: images, recipes, schemes, presets and datasets of others, through the command line."""

import json
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
from outsiders import fill, installed

from acdbit_keras import models, schemes
from acdbit_keras.cli import main
from acdbit_keras.models import recipes, sizes
from acdbit_keras.models.data import sources
from acdbit_keras.models.pyramid import PyramidVisionTransformer
from acdbit_keras.models.run import Run
from acdbit_keras.models.train import evaluate, train

RECIPES = """
from acdbit_keras.models import register_preset
from acdbit_keras.models.recipes import Recipe

register_preset("pico_8", image_size=8, patch_size=4, width=32, depth=1, num_heads=1, mlp_ratio=1)
TEACHER = Recipe("quick_teacher", "digits", "pico_8", "float32", epochs=2, batch_size=16, jit_compile=False, learning_rate=5e-3)
STUDENT = TEACHER.replace(name="quick", scheme="acd_bit", teacher="quick_teacher")
"""


@pytest.fixture(autouse=True)
def as_new(monkeypatch):
    for registry in (schemes.registry, sizes.registry, sources.registry):
        monkeypatch.setattr(registry, "registered", {})


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with pictures and a file of recipes, in which the commands run."""
    fill(tmp_path / "my_images", count=20, size=(10, 12), suffix=".jpg")
    (tmp_path / "my_images" / "red" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    (tmp_path / "mine.py").write_text(RECIPES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys, *arguments):
    capsys.readouterr()
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.filterwarnings("ignore:of .* 1 of 61 pictures are left out")
def test_pictures_become_a_trained_converted_and_verified_model(workplace, monkeypatch, capsys, tmp_path_factory):
    status, out, _ = run(capsys, "data", "show", "my_images", "--json")
    report = json.loads(out)
    assert status == 0 and report["images_per_class"] == {name: [16, 4] for name in ("blue", "green", "red")}
    assert list(report["broken"]) == ["red/broken.jpg"] and report["sizes"] == [[10, 12], [10, 12]]

    status, out, err = run(capsys, "train", "mine.py:STUDENT", "--data", "my_images")
    assert status == 0, err
    assert "3: blue 16+4, green 16+4, red 16+4" in out and "48 for training, 12 for testing" in out and "broken.jpg" in out
    runs = workplace / "runs"
    assert {folder.name for folder in runs.iterdir()} == {"quick@my_images", "quick_teacher@my_images"}
    for folder in runs.iterdir():
        assert json.loads((folder / "recipe.json").read_text())["dataset"] == "./my_images"
        kept = json.loads((folder / "data.json").read_text())
        assert kept["where"] == str(workplace / "my_images") and kept["facts"]["class_names"] == ["blue", "green", "red"]
        assert kept["pictures"] == 61 and list(kept["broken"]) == ["red/broken.jpg"]
    assert models.load_model(runs / "quick_teacher@my_images").channels == 3

    # From another place, to which the recipe's words do not apply.
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    student = runs / "quick@my_images"
    assert run(capsys, "convert", student, "bits.tflite")[0] == 0
    status, out, _ = run(capsys, "verify", student, "bits.tflite", "--json")
    assert status == 0 and json.loads(out)["samples"] == 12
    _, out, _ = run(capsys, "evaluate", student, "--json")
    scores = json.loads(out)
    result = json.loads((student / "result.json").read_text())
    assert scores["images"] == 12 and scores["accuracy"] == pytest.approx(result["accuracy"], abs=1e-6)
    _, out, _ = run(capsys, "evaluate", "bits.tflite", "--dataset", student, "--json")
    assert json.loads(out)["accuracy"] == pytest.approx(scores["accuracy"], abs=1 / 12)
    status, _, err = run(capsys, "evaluate", "bits.tflite")
    assert status == 2 and "bits.tflite was trained on 'my_images', which is not known by its name; pass --dataset" in err
    status, out, _ = run(capsys, "predict", "bits.tflite", workplace / "my_images" / "blue" / "0.jpg", "--json")
    assert {answer["name"] for answer in json.loads(out)[0]["classes"]} == {"blue", "green", "red"}
    teacher = runs / "quick_teacher@my_images"
    assert run(capsys, "convert", teacher, "int8.tflite", "--precision", "int8")[0] == 0

    # An unfinished run does not go on with other pictures than it began with.
    monkeypatch.chdir(workplace)
    (student / "result.json").unlink()
    fill(workplace / "my_images", count=3, first=20, size=(10, 12))
    status, _, err = run(capsys, "train", "mine.py:STUDENT", "--data", "./my_images/")
    assert status == 2 and "./my_images has changed since the run in runs/quick@my_images began" in err
    with pytest.warns(UserWarning, match="my_images has changed since .*: 61 pictures then, 70 now"):
        status, out, _ = run(capsys, "evaluate", student, "--json")
    assert status == 0 and json.loads(out)["images"] == models.data.info("my_images").test_examples == 15


def test_arrays_registered_in_python_are_trained_on(workplace):
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    images = (rng.uniform(0, 100, (60, 8, 8)) + 150 * labels[:, None, None]).astype("uint8")
    models.data.register(models.data.from_arrays("bright", images, labels))
    recipe = recipes.get("mine.py:TEACHER@bright").replace(epochs=1)
    result = train(recipe, "run", verbose=0)
    assert result["epochs"] == 1 and models.load_model("run").channels == 1
    assert json.loads((workplace / "run" / "data.json").read_text())["kind"] == "arrays"
    assert evaluate(models.load_model("run"), "run")["images"] == 12


def test_a_batch_larger_than_the_data_is_all_of_the_data(workplace):
    fill(workplace / "few", count=3, size=(8, 8))
    result = train(recipes.get("mine.py:TEACHER@few").replace(epochs=1), "run", verbose=0)
    assert result["epochs"] == 1 and Run("run").recipe.batch_size == 16


# === Presets ===


def test_a_registered_preset_is_built_by_its_name():
    models.register_preset("pico_8", image_size=8, patch_size=4, width=32, depth=1, num_heads=1)
    assert "pico_8" in models.presets() and models.build("pico_8", "float32", depth=2).depth == 2
    one_stage = dict(widths=(32,), depths=(1,), num_heads=(1,), mlp_ratios=(1,), reductions=(1,))
    models.register_preset("hill_8", PyramidVisionTransformer, image_size=8, patch_size=2, **one_stage)
    assert models.build("hill_8").grid == 4
    for arguments, sizes_, message in (
        (["pico_8"], {}, "there is a preset 'pico_8' already"),
        (["vit_nano_patch2_8"], {}, "there is a preset 'vit_nano_patch2_8' already"),
        (["a:b"], {}, "the name of a preset must not hold ':', but 'a:b' does"),
        (["other"], {"widht": 3}, "unknown size of the preset 'other' 'widht'; known: image_size, .*did you mean 'width'"),
        (["other"], {"scheme": "bit"}, "unknown size of the preset 'other' 'scheme'"),
        (["other", dict], {}, "the backbone of the preset 'other' must be a subclass of Backbone"),
    ):
        with pytest.raises(ValueError, match=message):
            models.register_preset(*arguments, **sizes_)
    with pytest.raises(ValueError, match="unknown preset 'pico_9'; known: .*; did you mean 'pico_8'"):
        models.build("pico_9")


# === Plug-ins ===

PLUG_IN = """
import numpy as np
from acdbit_keras import ElasticBinary, schemes
from acdbit_keras.models import Preset, VisionTransformer, data

SCHEME = schemes.get("acd_bit").replace(name="twelfth", title="Twelfth", probabilities=ElasticBinary(0.03))
PRESET = Preset("pico_8", VisionTransformer, dict(image_size=8, patch_size=4, channels=1, width=32, depth=1, num_heads=1))
labels = np.arange(200) % 2
images = (np.random.default_rng(0).uniform(0, 100, (200, 8, 8)) + 150 * labels[:, None, None]).astype("uint8")
DATASET = data.from_arrays("strange", images, labels, class_names=["dark", "light"])
"""
PROGRAM = """
import json, sys
from acdbit_keras.cli import main

def run(*arguments):
    assert main(list(arguments)) == 0, arguments

run("data", "list")
run("summary", "pico_8:twelfth:2")
run("train", "recipe.py:TEACHER")
run("train", "recipe.py:STUDENT")
run("convert", "runs/s", "s.tflite")
run("verify", "runs/s", "s.tflite")
"""
PLUG_IN_RECIPES = """
from acdbit_keras.models.recipes import Recipe
TEACHER = Recipe("t", "strange", "pico_8", "float32", epochs=1, jit_compile=False, batch_size=80)
STUDENT = TEACHER.replace(name="s", scheme="twelfth", teacher="t")
"""


def test_an_installed_package_brings_a_scheme_a_preset_and_a_dataset(tmp_path):
    site = tmp_path / "site"
    points = "[acdbit.{}]\n{} = stranger:{}\n"
    installed(site, "acdbit.none", {}, {"stranger": PLUG_IN})
    kinds = (("schemes", "twelfth", "SCHEME"), ("presets", "pico_8", "PRESET"), ("datasets", "strange", "DATASET"))
    (site / "strangers-1.0.dist-info" / "entry_points.txt").write_text("".join(points.format(*kind) for kind in kinds))
    (tmp_path / "recipe.py").write_text(PLUG_IN_RECIPES)
    path = os.pathsep.join([str(site), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "strange        classes 2" in done.stdout and "6 binary layers packed" in done.stdout
    assert "equal to Keras on 40 samples" in done.stdout


def test_a_twelfth_scheme_given_to_register_is_compared_and_packed(tmp_path):
    from acdbit_keras import convert, cost
    from acdbit_keras.studies import experiments

    ours = schemes.register(schemes.get("binary_vit").replace(name="twelfth", title="Twelfth"))
    model = models.build("vit_nano_patch2_8", "twelfth", depth=1)
    assert cost.analyse(model).to_dict()["totals"]["bit_macs"] > 0
    assert "twelfth" in [row.key for row in experiments.compare(recipes.get("digits_acd_bit")).rows]
    images = np.random.default_rng(0).normal(size=(16, 8, 8, 1)).astype("float32")
    model(images, training=True)
    model.save(tmp_path / "model.keras")
    again = models.load_model(tmp_path / "model.keras")
    assert again.scheme.name == ours.name
    assert convert.to_tflite(again, tmp_path / "model.tflite").packed_layers == 6
    assert convert.verify(model, tmp_path / "model.tflite", images).ok


def test_a_broken_plug_in_leaves_the_package_as_it_is(tmp_path, monkeypatch):
    installed(tmp_path, "acdbit.presets", {"bad": "nowhere_at_all:PRESET"}, {})
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sizes.registry, "_plug_ins", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert models.build("vit_nano_patch2_8", "float32", depth=1).depth == 1
    with pytest.warns(UserWarning, match="strangers brings the preset 'bad', which is passed over: ModuleNotFoundError"):
        assert "vit_nano_patch2_8" in models.presets()
