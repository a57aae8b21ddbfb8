"""Bundles on this side of the way: the code for images, the plan, what is refused, parts, results; and one that is trained.

The training runs in a Python that has JAX and numpy and nothing else, not even pip.
"""

import errno
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest

from acdbit_keras.cli import main
from acdbit_keras.models import build, data, load_model, recipes, save_compact
from acdbit_keras.models.run import Run
from acdbit_keras.studies.bundle import delivery, order, pack, pixels, plan, store, weights, wheels
from acdbit_keras.studies.bundle import run as script


# === The code for images ===
def smooth(rng, count, side, channels):
    """Images of waves with a little noise, whose channels are alike."""
    y, x = np.mgrid[:side, :side] / side
    a, b, c = rng.uniform(1, 6, (3, count, 1, 1))
    grey = 128 + 90 * np.sin(a * x + b * y + c)
    images = grey[..., None] + rng.normal(0, 2, (count, side, side, channels)) + np.arange(channels) * 12
    return np.clip(images, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("count, side, channels", [(1, 1, 1), (3, 2, 3), (7, 5, 1), (90, 16, 3)])
@pytest.mark.parametrize("kind", ["smooth", "noise", "extremes", "one colour"])
def test_images_come_back_to_the_last_bit(count, side, channels, kind):
    rng = np.random.default_rng(count)
    shape = (count, side, side, channels)
    images = {
        "smooth": lambda: smooth(rng, *(count, side, channels)),
        "noise": lambda: rng.integers(0, 256, shape, dtype=np.uint8),
        "extremes": lambda: (rng.integers(0, 2, shape) * 255).astype(np.uint8),
        "one colour": lambda: np.full(shape, 77, np.uint8),
    }[kind]()
    header, chunks = pixels.encode(images)
    assert len(chunks) == 1
    np.testing.assert_array_equal(pixels.decode(header, 0, chunks[0]), images)


def test_many_images_are_several_chunks_each_of_which_can_be_read_alone(monkeypatch):
    monkeypatch.setattr(pixels, "CHUNK", 40)
    images = smooth(np.random.default_rng(0), 100, 8, 3)
    header, chunks = pixels.encode(images)
    assert len(chunks) == 3
    np.testing.assert_array_equal(pixels.decode(header, 2, chunks[2]), images[80:])
    np.testing.assert_array_equal(pixels.decode(header, 0, chunks[0]), images[:40])


def test_images_become_less_than_deflated_ones():
    images = smooth(np.random.default_rng(0), 500, 16, 3)
    _, chunks = pixels.encode(images)
    assert sum(map(len, chunks)) < 0.75 * len(zlib.compress(images.tobytes(), 9))


@pytest.mark.parametrize("damage", [lambda content: content[:-40], lambda content: content[:99] + b"\x55" + content[100:]])
def test_damaged_images_are_refused(damage):
    header, [content] = pixels.encode(smooth(np.random.default_rng(0), 60, 8, 3))
    with pytest.raises(ValueError, match="images 0 to 59 are damaged; bring them once more"):
        pixels.decode(header, 0, damage(content))


def test_a_dataset_is_read_as_it_was_written(tmp_path):
    store.write(tmp_path / "digits", data.source("digits"))
    for _ in range(2):  # decoded, then as it was kept
        facts, splits = store.read(tmp_path / "digits")
        assert facts == data.info("digits")
        for split, (images, labels) in splits.items():
            expected_images, expected_labels = data.arrays("digits", split)
            np.testing.assert_array_equal(images, expected_images)
            np.testing.assert_array_equal(labels, expected_labels)


# === The plan ===
PARTS = [plan.Part("teacher", 100, 2.0), plan.Part("student", 50, 6.0)]


def test_all_runs_have_the_same_share_of_their_epochs():
    shares = plan.share(PARTS, 100.0)
    assert shares == {"teacher": pytest.approx(40.0), "student": pytest.approx(60.0)}
    assert {part.name: plan.epochs_within(shares[part.name], part.seconds) for part in PARTS} == {"teacher": 20, "student": 10}


def test_one_slow_epoch_cuts_no_schedule_and_slow_epochs_do():
    assert plan.pace(2.0, [9.0]) == 2.0
    assert plan.pace(2.0, [9.0, 2.1]) == 2.1
    assert plan.pace(2.0, [9.0, 8.0, 8.5]) == 8.0
    assert plan.pace(2.0, [9.0, 3.0, 3.1, 3.2, 3.3]) == 3.2


@pytest.mark.parametrize("seconds", [9.9, 0.0, -3.0])
def test_a_budget_that_leaves_a_run_without_an_epoch_is_refused(seconds):
    plan.check(PARTS, 10.1)
    with pytest.raises(ValueError, match=r"too short for one epoch of (student|teacher) .* it takes 0.2 minutes beyond"):
        plan.check(PARTS, seconds)


def test_the_lists_hold_recipes_whose_teachers_come_first_and_go_on_where_runs_are_finished(tmp_path):
    seen = set()
    for name, names in order.LISTS.items():
        assert order.following(tmp_path) == name
        assert name not in recipes.names(), "it would never be packed by itself"
        for recipe in map(recipes.get, names):
            assert recipe.teacher is None or recipe.teacher in seen
            seen.add(recipe.name)
            pack._check(recipe, data.source(recipe.dataset))
            run = Run(tmp_path / recipe.name)
            run.write_recipe(recipe)
            run.write_result({})
    assert order.following(tmp_path) is None
    with pytest.raises(ValueError, match="name the recipes to pack"):
        ask(runs=tmp_path)


# === What is refused ===
def ask(*words, **options):
    """`acdbit bundle` as a function call."""
    from acdbit_keras.cli import _parser

    settings = [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    parsed = _parser().parse_args(["bundle", *words, *settings])
    return parsed.run(parsed)


@pytest.mark.parametrize(
    "words, options, message",
    [
        (["digits_acd_bit"], {"minutes": 0}, "minutes must be a positive number, not 0"),
        (["digits_acd_bit"], {"part_mb": 0}, "part_mb must be an integer of at least 1, not 0"),
        (["digits_acd_bit"], {"machine": "riscv"}, "machine must be one of 'x86_64', 'aarch64', not 'riscv'"),
        (["digits_acd_bit"], {"python": "three"}, "python must be a version such as '3.12', not 'three'"),
        (["digits_acd_bt"], {}, "unknown recipe 'digits_acd_bt'.*did you mean"),
        (["digits_acd_bit"], {"set": "scheme=bit"}, "digits_acd_bit trains in stages, as the scheme 'bit' has it"),
        (["digits_acd_bit"], {"set": "scheme=fq_vit_w8a4"}, "digits_acd_bit is calibrated from its teacher, not trained"),
        (["digits_acd_bit"], {"set": "scheme=mixed16"}, "digits_acd_bit trains in float16, which needs its loss scaled"),
        (
            ["digits_acd_bit"],
            {"set": "start=cifar10_edge"},
            "digits_acd_bit cannot start from cifar10_edge: the trained model has no weight",
        ),
        (
            ["digits_acd_bit"],
            {"set": "start=ordinary.keras"},
            "along ordinary.keras: it is a Sequential, and a bundle takes networks",
        ),
        (
            ["digits_acd_bit"],
            {"set": "label_teacher=digits_acd_bit"},
            "digits_acd_bit needs digits_acd_bit; none can be trained first",
        ),
        (
            ["fashion_mnist_edge"],
            {"set": "label_teacher=fashion_mnist_edge"},
            "fashion_mnist_edge is a recipe of this bundle and a trained model that teaches in it; name the file",
        ),
        (["digits_acd_bit"], {"set": "freeze=True"}, "digits_acd_bit has freeze=True; a bundle trains all of a network"),
        (["digits_acd_bit"], {"set": "start=nowhere.keras"}, "cannot take along nowhere.keras: "),
        (
            ["digits_teacher"],
            {"set": "label_teacher=digits_cnn"},
            "label_teacher=digits_cnn, which has nothing to teach: no label",
        ),
        (
            ["digits_acd_bit"],
            {"set": "label_teacher=cifar100_edge_float32"},
            "digits_acd_bit has 10 classes, its label teacher cifar100_edge_float32 has 100",
        ),
        (
            ["digits_acd_bit"],
            {"set": "label_teacher=cifar10_vit_micro_float32"},
            "cifar10_vit_micro_float32 is no teacher for digits: it was trained on cifar10, whose pixels have the mean 0.491",
        ),
        (
            ["cifar10_teacher"],
            {},
            'cifar10_teacher augments with rand_augment=9, .* --set "augment=strong.rand_augment=0." leaves it out',
        ),
        (["imagenet_teacher"], {}, "imagenet_teacher reads the images of imagenet2012 in every epoch"),
        (
            ["cifar10_compare_teacher"],
            {"data_dir": "{folder}"},
            "dataset='cifar10' is not prepared in .*; prepare it with: acdbit data",
        ),
    ],
)
def test_what_cannot_go_is_refused_in_one_sentence(words, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "python" not in options:
        monkeypatch.setattr(wheels, "download", lambda folder, python, machine: folder.mkdir(parents=True))
    if "ordinary" in options.get("set", ""):
        import keras

        keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]).save("ordinary.keras")
    with pytest.raises(ValueError, match=message):
        ask(*words, **{key: value.format(folder=tmp_path) if isinstance(value, str) else value for key, value in options.items()})
    left = {path.name for path in tmp_path.iterdir()} - {"ordinary.keras"}
    assert not (tmp_path / "bundle").exists() and not left, "nothing is left behind"


def test_a_preset_of_ones_own_does_not_go_along(monkeypatch, tmp_path):
    from acdbit_keras.models import register_preset, sizes

    monkeypatch.setattr(sizes.registry, "registered", {})
    register_preset("mine_8", image_size=8, patch_size=2, channels=1, width=32, depth=1, num_heads=1)
    with pytest.raises(ValueError, match="needs the preset 'mine_8', which is not part of acdbit-keras"):
        ask("digits_teacher", set="preset=mine_8", out=tmp_path / "out")


def test_another_folder_is_not_overwritten(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="holds something else than a bundle"):
        ask("digits_teacher", out=tmp_path)


@pytest.mark.parametrize(
    "said, message",
    [
        (
            "ERROR: Could not find a version\nERROR: No matching distribution found for optree\n",
            r"there is no wheel of optree for Python 3\.20 on aarch64; choose another --python",
        ),
        ("WARNING: retrying\nERROR: no route\n", r"pip cannot download the wheels for Python 3\.20: ERROR: no route"),
    ],
)
def test_a_wheel_that_does_not_exist_is_named(said, message, monkeypatch, tmp_path):
    done = subprocess.CompletedProcess([], 1, "", said)
    monkeypatch.setattr(wheels.subprocess, "run", lambda command, **options: done)
    with pytest.raises(ValueError, match=message):
        wheels.download(tmp_path, "3.20", "aarch64")


# === Parts ===
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def parts(tmp_path):
    """A bundle's folder of three parts, whose content is one file."""
    import zipfile

    folder = tmp_path / "brought"
    folder.mkdir()
    with zipfile.ZipFile(tmp_path / "content.zip", "w") as file:
        file.writestr("data/noise", np.random.default_rng(0).bytes(2500))
    listed = script.split(tmp_path / "content.zip", folder, "part", 1000)
    bundle = {"format": script.FORMAT, "python": HERE, "id": "abc", "minutes": 1, "parts": listed, "recipes": []}
    (folder / "bundle.json").write_text(json.dumps(bundle))
    return folder


def test_parts_may_come_one_by_one(parts, tmp_path, capsys):
    bundle, state = script.read_bundle(parts), tmp_path / "state"
    away = tmp_path / "away"
    away.mkdir()
    for name in ("part_2.bin", "part_3.bin"):
        shutil.move(parts / name, away / name)
    assert script.take(bundle, parts, state) is None
    assert "1 taken; part_2.bin, part_3.bin of 3 parts are missing" in capsys.readouterr().out
    with pytest.raises(ValueError, match="part_2.bin, part_3.bin of 3 parts are missing; bring what is missing to"):
        script.take(bundle, parts, state)
    (parts / "part_1.bin").unlink()  # what was taken is not needed again
    shutil.move(away / "part_3.bin", parts / "part_3.bin")
    assert script.take(bundle, parts, state) is None
    shutil.move(away / "part_2.bin", parts / "part_2.bin")
    content = script.take(bundle, parts, state)
    assert (content / "data" / "noise").read_bytes() == np.random.default_rng(0).bytes(2500)
    assert script.take(bundle, parts, state) == content


def test_a_damaged_part_is_named(parts, tmp_path):
    content = bytearray((parts / "part_2.bin").read_bytes())
    content[17] ^= 1
    (parts / "part_2.bin").write_bytes(content)
    with pytest.raises(ValueError, match="part_2.bin is damaged: its checksum is wrong; bring it once more"):
        script.take(script.read_bundle(parts), parts, tmp_path / "state")


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda said: said | {"python": "3.20"},
            rf"the bundle is for Python 3\.20, this is Python {HERE}; acdbit bundle --python {HERE}",
        ),
        (lambda said: said | {"format": 2}, "has version 2 of its format, this run.py reads version 1"),
        (lambda said: {}, "bundle.json is damaged; bring it once more"),
    ],
)
def test_a_bundle_for_another_python_or_of_another_version_is_refused(parts, change, message, capsys, monkeypatch):
    path = parts / "bundle.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    monkeypatch.setattr(script, "HERE", parts)
    assert script.main(["--state", str(parts / "state")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("run.py: ") and error.count("\n") == 1
    with pytest.raises(ValueError, match=message):
        script.read_bundle(parts)


def test_a_missing_bundle_json_is_named(tmp_path):
    with pytest.raises(ValueError, match="there is no .*bundle.json; it belongs beside run.py"):
        script.read_bundle(tmp_path)


# === Results ===
@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """State of a bundle with two finished runs, one of which was best before its end, and one that failed."""
    state = tmp_path_factory.mktemp("state")
    facts = {"digits": {"facts": vars(data.info("digits")), "stored": None}}
    runs = {}
    for name in ("digits_teacher", "digits_acd_bit"):
        recipe = recipes.get(name)
        runs[name] = run = Run(state / "runs" / name)
        run.write_recipe(recipe.replace(epochs=2))
        for path, start in ((run.folder / delivery.MODEL, 0.0), (run.folder / delivery.BEST, 1.0)):
            network = build(recipe.preset, recipe.scheme, 10)
            values = {key: np.array(variable.value) for key, variable in weights.named(network).items()}
            values["classifier/bias"] = np.full(10, start, "float32")
            weights.write(path, values)
        for epoch, accuracy in enumerate((0.5, 0.25)):
            row = {"val_accuracy": accuracy, "images_per_second": 10.0, "seconds": 1.0}
            delivery.append_row(run.history_path, epoch, row)
        run.write_result({"epochs": 2, "best_epoch": 1, "accuracy": 0.25, "best_accuracy": 0.5})
    runs["broken"] = Run(state / "runs" / "broken")
    runs["broken"].write_recipe(recipes.get("digits_binary_vit"))
    (runs["broken"].folder / delivery.FAILED).write_text("the loss became nan in epoch 1\n")
    (state / delivery.LOG).write_text("00:01  a line\n")
    return state, runs, facts


def test_results_become_run_folders(finished, tmp_path, capsys):
    state, runs, facts = finished
    (tmp_path / "out").mkdir()
    assert delivery.pack(runs, facts, state, tmp_path / "out") == []
    assert main(["unbundle", str(tmp_path / "out"), "--runs", str(tmp_path / "runs")]) == 0
    said = capsys.readouterr().out
    assert "digits_acd_bit: accuracy 0.2500, 2 epochs, in" in said and "broken: failed: the loss became nan in epoch 1" in said
    assert not (tmp_path / "runs" / "broken").exists()
    run = Run(tmp_path / "runs" / "digits_acd_bit")
    assert run.is_finished and run.recipe.epochs == 2 and run.finished_epochs == 2 and (run.folder / "log.txt").exists()
    model, best = load_model(run.model_path), load_model(run.best_path)
    assert (np.asarray(best.classifier.bias.value) == 1).all() and (np.asarray(model.classifier.bias.value) == 0).all()
    kept = weights.read(runs["digits_acd_bit"].folder / delivery.MODEL)
    for name, variable in weights.named(model).items():
        np.testing.assert_array_equal(np.asarray(variable.value), kept[name])
    with pytest.raises(ValueError, match="digits_acd_bit is there already; choose another --runs"):
        delivery.unpack(tmp_path / "out", tmp_path / "runs")


def test_for_want_of_room_bits_go_as_bits_and_the_best_weights_stay_behind(finished, tmp_path):
    state, runs, facts = finished
    size = (runs["digits_teacher"].folder / delivery.MODEL).stat().st_size
    said = delivery.pack(runs, facts, state, tmp_path, room=int(1.5 * size))
    assert said == [
        "digits_acd_bit goes as a compact file, for want of room",
        "the best weights of digits_teacher stay behind, for want of room",
    ]
    came = delivery.unpack(tmp_path, tmp_path / "runs")
    assert came["digits_acd_bit"]["accuracy"] == 0.25
    images = data.normalize(data.arrays("digits", "test")[0][:20], "digits")
    original = build("vit_nano_patch2_8", "acd_bit", 10)
    weights.assign(original, weights.read(runs["digits_acd_bit"].folder / delivery.MODEL))
    model = load_model(tmp_path / "runs" / "digits_acd_bit" / "model.keras")
    np.testing.assert_array_equal(model(images, training=False), original(images, training=False))
    assert save_compact(model, tmp_path / "again.acdbit") < size / 8
    assert (tmp_path / "runs" / "digits_teacher" / "best.keras").exists(), "the last ones in their place"
    assert (
        delivery.pack(runs, facts, state, tmp_path, room=0)[-1] == "the weights of digits_acd_bit stay behind, for want of room"
    )
    assert "stayed behind" in delivery.unpack(tmp_path, tmp_path / "none")["digits_teacher"]


def test_results_are_few_files_of_limited_size_and_what_lacks_is_named(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(delivery, "FILE_BYTES", 1_000_000)
    state, runs, facts = finished
    delivery.pack(runs, facts, state, tmp_path)
    files = sorted(tmp_path.glob("results_*.bin"))
    assert len(files) == 3 and max(path.stat().st_size for path in files) == 1_000_000
    content = files[1].read_bytes()
    files[1].write_bytes(content[::-1])
    with pytest.raises(ValueError, match=r"results_\w+_2.bin is damaged: its checksum is wrong"):
        delivery.unpack(tmp_path, tmp_path / "runs")
    files[1].unlink()
    with pytest.raises(ValueError, match=r"results_\w+_2.bin is missing, one of 3 files of results"):
        delivery.unpack(tmp_path, tmp_path / "runs")
    (tmp_path / "results.json").unlink()
    with pytest.raises(ValueError, match="holds no results of a bundle: there is no results.json"):
        delivery.unpack(tmp_path, tmp_path / "runs")


@pytest.mark.parametrize("fails", ["results_*_2.bin", "results.json"])
def test_results_that_cannot_be_written_leave_those_of_before(fails, finished, tmp_path, monkeypatch):
    monkeypatch.setattr(delivery, "FILE_BYTES", 1_000_000)
    state, runs, facts = finished
    delivery.pack(runs, facts, state, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "results_1.bin").write_bytes(b"of a process that was killed")
    (tmp_path / ".results_0_1.9@host.bin").write_bytes(b"of a process that was killed")
    write = delivery.write_beside

    def full(path, each):
        if path.match(fails):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, each)

    with (state / delivery.LOG).open("a") as log:
        log.write("00:02  another line\n")
    monkeypatch.setattr(delivery, "write_beside", full)
    monkeypatch.setattr(delivery, "write_json", lambda path, value: full(path, lambda file: file.write_text(json.dumps(value))))
    with pytest.raises(OSError, match="No space left"):
        delivery.pack(runs, facts, state, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    monkeypatch.undo()
    delivery.pack(runs, facts, state, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2 and not before.keys() & set(tmp_path.glob("*.bin")), (
        "in larger parts, with the line"
    )
    assert delivery._checked(tmp_path)


# === All of it ===
MINE = """
from acdbit_keras.models.recipes import Recipe
TEACHER = Recipe("teacher", "{data}", "vit_nano_patch2_8", "float32", epochs=3, learning_rate=2e-3, batch_size=16)
LABELS = TEACHER.replace(name="labels", seed=1, epochs=1)
STUDENT = TEACHER.replace(
    name="student", scheme="acd_bit", augment="mirror", teacher="teacher", epochs=2, label_teacher="LABELS",
    start="digits_vit_nano_acd_bit", statistics_batches=4,
)
"""
# What JAX itself needs.
BARE = ("jax", "jaxlib", "numpy", "numpy.libs", "scipy", "scipy.libs", "ml_dtypes", "opt_einsum")


@pytest.mark.end_to_end
def test_a_bundle_is_trained_with_jax_and_numpy_alone_and_comes_back(jax_python, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 400)
    images = rng.integers(0, 90, (400, 8, 8), dtype=np.uint8)
    images += (80 * labels).astype(np.uint8)[:, None, None]
    np.savez("shades.npz", images=images, labels=labels)
    pathlib.Path("mine.py").write_text(MINE.format(data=tmp_path / "shades.npz"))
    version = subprocess.check_output([jax_python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], text=True).strip()
    words = ["--out", "made", "--minutes", "30", "--part-mb", "3", "--python", version, "--json"]
    assert main(["bundle", "mine.py:STUDENT", *words]) == 0, capsys.readouterr().err
    made = json.loads(capsys.readouterr().out)
    assert [recipe["name"] for recipe in made["recipes"]] == ["labels", "teacher", "student"] and len(made["parts"]) == 2
    assert made["needs"]["student"] == {"start": "start of student", "label_teacher": "labels", "teacher": "teacher"}
    assert list(made["carried"]) == ["start of student"] and not made["networks"]

    bare, there = tmp_path / "bare", tmp_path / "there"
    bare.mkdir()
    found = subprocess.check_output([jax_python, "-c", "import jax; print(jax.__file__)"], text=True)
    for path in pathlib.Path(found.strip()).parent.parent.iterdir():
        if path.name in BARE or path.name.partition("-")[0] in BARE and path.suffix == ".dist-info":
            (bare / path.name).symlink_to(path)
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path / "nowhere"),
        "PYTHONPATH": str(bare),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }
    command = [jax_python, "-S", "run.py", "--out", "out"]

    def run():
        return subprocess.run(command, cwd=there, env=environment, capture_output=True, text=True)

    there.mkdir()
    for name in ("run.py", "bundle.json", "part_1.bin"):
        shutil.copyfile(f"made/{name}", there / name)
    lacks = subprocess.run([jax_python, "-S", "-c", "import keras"], env=environment, capture_output=True, text=True)
    assert "No module named 'keras'" in lacks.stderr
    first = run()
    assert first.returncode == 0 and "1 taken; part_2.bin of 2 parts is missing" in first.stdout, first.stderr
    shutil.copyfile("made/part_2.bin", there / "part_2.bin")

    # Killed while the student is on its way, once its teacher is there.
    process = subprocess.Popen(command, cwd=there, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    teacher = there / "state" / "runs" / "teacher" / "result.json"
    while process.poll() is None and not teacher.exists():
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, process.stdout.read()
    changed = teacher.stat().st_mtime_ns
    last = run()
    assert last.returncode == 0, last.stdout + last.stderr
    assert teacher.stat().st_mtime_ns == changed and "teacher: finished" not in last.stdout
    assert "student: finished, accuracy" in last.stdout and "keras" in os.listdir(next(there.glob("state/content_*/site")))

    assert main(["unbundle", "there/out", "--runs", "runs", "--json"]) == 0
    came = json.loads(capsys.readouterr().out)
    assert came["teacher"]["epochs"] == 3 and came["student"]["epochs"] == 2 and came["student"]["backend"] == "jax"
    assert came["teacher"]["accuracy"] > 0.6
    history = Run("runs/student").history
    assert {"epoch", "loss", "label_loss", "query_key_loss", "accuracy", "val_accuracy", "val_loss"} <= set(history[0])
    for name in ("teacher", "student"):
        assert main(["evaluate", f"runs/{name}", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["accuracy"] == pytest.approx(came[name]["accuracy"], abs=1 / 70)
    assert main(["convert", "runs/student", "student.tflite", "--json"]) == 0
    assert main(["evaluate", "student.tflite", "--dataset", "runs/student", "--json"]) == 0


@pytest.mark.any_backend
@pytest.mark.parametrize("name", ["digits_vit_nano_acd_bit", "cifar10_vit_micro_float32"])
def test_a_network_that_goes_along_is_made_again_from_its_description(name, tmp_path):
    """Of signs alone, and in full precision."""
    import keras

    network = pack._loaded(name, "cannot take along")
    described = json.loads(json.dumps(pack._described(network)))
    weights.write(tmp_path / "0.npz", {key: np.asarray(value) for key, value in weights.named(network).items()})
    again = keras.saving.deserialize_keras_object(described)
    weights.assign(again, weights.read(tmp_path / "0.npz"))
    images = np.random.default_rng(0).normal(size=(3, *network.input_shape_of_images)).astype("float32")
    np.testing.assert_array_equal(np.asarray(again(images)), np.asarray(network(images)))


def test_a_recipe_of_the_name_of_a_model_may_start_from_that_model(tmp_path):
    recipe = recipes.get("cifar10_edge").replace(start="cifar10_edge")
    chosen, needs, carried = pack._with_needs([recipe], tmp_path)
    assert (chosen, needs, carried) == ([recipe], {"cifar10_edge": {"start": "cifar10_edge"}}, {"cifar10_edge": "cifar10_edge"})
