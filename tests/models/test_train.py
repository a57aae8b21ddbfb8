"""Recipes and the run folders they leave; the kill-and-resume run is in test_end_to_end."""

import json
import resource
import signal

import keras
import numpy as np
import pytest

from acdbit_keras.models import build, recipes
from acdbit_keras.models.callbacks import Speed, StopOnNonFinite, read_progress, restore_state, save_state
from acdbit_keras.models.loading import load_model
from acdbit_keras.models.optimization import learning_rates
from acdbit_keras.models.run import Run
from acdbit_keras.models.train import evaluate, train
from acdbit_keras.studies.speed import contenders, measure, measure_parts
from acdbit_keras.training import library

pytestmark = pytest.mark.usefixtures("one_block")
QUICK = recipes.get("digits_teacher").replace(preset="one_block_8", epochs=1, jit_compile=False)


@pytest.fixture(scope="module")
def finished(one_block, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train(QUICK, folder, verbose=0)
    return folder


def test_a_finished_run_leaves_what_the_other_commands_take(finished):
    result = json.loads((finished / "result.json").read_text())
    assert Run(finished).recipe == QUICK
    assert result["epochs"] == 1 and result["accuracy"] == result["best_accuracy"]
    model = load_model(finished)
    assert evaluate(model, "digits")["accuracy"] == pytest.approx(result["accuracy"], abs=1e-6)
    assert list((finished / "tensorboard").rglob("events*"))


def test_a_binary_network_is_trained_on_kernels_unless_the_recipe_says_no(tmp_path, monkeypatch):
    recipe = QUICK.replace(name="kernels", scheme="acd_bit", jit_compile=True)
    calls = []
    monkeypatch.setattr(library, "block", lambda *inputs, call=library.block: calls.append(1) or call(*inputs))
    train(recipe, tmp_path / "kernels", verbose=0)
    assert calls
    calls.clear()
    train(recipe.replace(kernels=False, jit_compile=False), tmp_path / "keras", verbose=0)
    assert not calls
    sets = [
        {(w.path.partition("/")[2], tuple(w.shape)) for w in load_model(tmp_path / f).variables} for f in ("kernels", "keras")
    ]
    assert sets[0] == sets[1]


def test_the_same_seed_gives_the_same_weights_and_another_does_not(finished, tmp_path):
    train(QUICK, tmp_path / "again", verbose=0)
    train(QUICK.replace(seed=1), tmp_path / "other", verbose=0)
    first, again, other = (load_model(folder).get_weights() for folder in (finished, tmp_path / "again", tmp_path / "other"))
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
    assert not np.array_equal(first[0], other[0])


def test_a_folder_of_another_recipe_is_refused(finished):
    with pytest.raises(ValueError, match="other settings .learning_rate differ"):
        train(QUICK.replace(learning_rate=0.5), finished, verbose=0)


def test_settings_change_anything_and_nothing_else():
    recipe = QUICK.with_settings(["epochs=7", "clip_norm=1.5", "jit_compile=true", "teacher=digits_teacher", "image_size=none"])
    assert (recipe.epochs, recipe.clip_norm, recipe.jit_compile, recipe.teacher) == (7, 1.5, True, "digits_teacher")
    assert recipe.image_size is None and recipe.learning_rate == QUICK.learning_rate
    with pytest.raises(ValueError, match="jit_compile must be true or false"):
        QUICK.with_settings(["jit_compile=maybe"])
    with pytest.raises(ValueError, match="unknown setting 'name'"):
        QUICK.with_settings(["name=other"])


def test_every_recipe_names_things_that_exist():
    from acdbit_keras import schemes
    from acdbit_keras.models import data, presets

    for name in recipes.names():
        recipe = recipes.get(name)
        assert recipe.preset in presets() and schemes.get(recipe.scheme) and recipe.dataset in data.names()
        assert recipe.teacher is None or recipes.get(recipe.teacher).scheme == "float32"
        assert recipe.scheme != "float32" or recipe.teacher is None


@pytest.mark.parametrize("epochs", [4, 20])
def test_a_warm_up_may_be_a_share_of_the_epochs(epochs):
    recipe = QUICK.replace(epochs=epochs, learning_rate=0.5, warmup_epochs=100.0, warmup_share=0.25)
    rate = learning_rates(recipe, epochs, steps=20)
    begin, peak, half_way_down, end = (float(rate(share * epochs * 20)) for share in (0, 0.25, 0.625, 1))
    assert (begin, peak, half_way_down, end) == pytest.approx((0.005, 0.5, 0.25, 0.0), abs=1e-6)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(tmp_path):
    with pytest.raises(FloatingPointError, match="the loss became nan at step [0-9]+ of epoch 1"):
        train(QUICK.replace(learning_rate=1e30, warmup_epochs=0.0), tmp_path / "run", verbose=0)
    assert not (tmp_path / "run" / "state.npz").exists(), "no checkpoint of a broken model"


def test_the_guard_names_the_exact_step():
    guard = StopOnNonFinite(every=4)
    guard.on_epoch_begin(2)
    for batch in range(3):
        guard.on_train_batch_end(batch, {"loss": 1.0 if batch < 2 else float("inf")})
    with pytest.raises(FloatingPointError, match="inf at step 3 of epoch 3"):
        guard.on_train_batch_end(3, {"loss": 1.0})


def test_state_survives_a_full_disk(tmp_path):
    network = build("vit_nano_patch2_8", "float32")
    optimizer = keras.optimizers.Adam()
    optimizer.build(network.trainable_variables)
    path = tmp_path / "state.npz"
    save_state(path, network, optimizer, finished_epochs=3, best=0.5)
    before = path.read_bytes()

    # A file-size limit fails the write in its middle, as a full disk does.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(OSError, match="cannot write .*state.npz: File too large; what was there before is kept"):
            save_state(path, network, optimizer, finished_epochs=4, best=0.6)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["state.npz"]
    assert read_progress(path) == (3, 0.5)


def test_state_restores_every_variable(tmp_path):
    networks = [build("vit_nano_patch2_8", "acd_bit") for _ in range(2)]
    optimizers = [keras.optimizers.Adam(1e-3) for _ in range(2)]
    for network, optimizer in zip(networks, optimizers):
        optimizer.build(network.trainable_variables)
    optimizers[0].iterations.assign(17)
    networks[0].blocks[0].query_product.dense.input_quantizer.updates.assign(5.0)
    save_state(tmp_path / "state.npz", networks[0], optimizers[0], finished_epochs=1, best=0.1)
    restore_state(tmp_path / "state.npz", networks[1], optimizers[1])
    for a, b in zip(networks[0].variables + optimizers[0].variables, networks[1].variables + optimizers[1].variables):
        assert np.array_equal(np.asarray(a.value), np.asarray(b.value)), a.path


def test_speed_counts_training_alone(monkeypatch):
    clock = iter([10.0, 12.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    speed, logs = Speed(images_per_epoch=100), {}
    speed.on_epoch_begin(0)
    speed.on_test_begin()
    speed.on_epoch_end(0, logs)
    assert logs == {"seconds": 2.0, "images_per_second": 50.0}


def test_evaluating_on_the_wrong_dataset_says_so():
    with pytest.raises(ValueError, match="the model has 7 classes and 1 image channels, digits has 10 and 1"):
        evaluate(build("vit_nano_patch2_8", "float32", classes=7), "digits")


def test_speed_compares_contenders_with_the_baseline():
    aligned = ["acd_bit, running statistics", "acd_bit, running statistics, kernels"]
    rows = measure("one_block_8", batch_size=8, steps=1, rounds=1, jit_compile=False, only=aligned)
    assert list(rows) == ["binary_vit", *aligned]
    assert rows["binary_vit"]["relative_time"] == rows["binary_vit"]["relative_cpu_time"] == 1.0
    for row in rows.values():
        assert row["images_per_second"] == pytest.approx(8e3 / row["milliseconds_per_step"])


def test_speed_compares_every_contender_on_kernels_with_its_keras_form():
    chosen = contenders()
    on_kernels = [name for name in chosen if name.endswith(", kernels")]
    assert len(on_kernels) == 4
    for name in on_kernels:
        assert chosen[name]._replace(executor=None) == chosen[name.removesuffix(", kernels")]._replace(executor=None)


def test_the_parts_of_a_step_add_up_to_it():
    rows = measure_parts("one_block_8", batch_size=8, steps=1)
    assert list(rows) == ["Keras form", "kernels"]
    for row in rows.values():
        assert row["stem"] + row["blocks"] + row["rest"] == pytest.approx(row["step"])


def test_speed_of_an_unknown_contender_says_so():
    with pytest.raises(ValueError, match="unknown contender 'acdbit'; known: float32, binary_vit, "):
        measure("vit_nano_patch2_8", only=["acdbit"])
