"""What a recipe may ask for beside epochs and a learning rate: budgets, averages, accumulation, held-out images, warm starts."""

import json
import pathlib

import keras
import numpy as np
import pytest
from outsiders import fill

from acdbit_keras.models import budget, data, norms, optimization, recipes, sizes, views
from acdbit_keras.models import train as room
from acdbit_keras.models.data import base
from acdbit_keras.models.data.validation import HeldOut
from acdbit_keras.models.loading import load_model
from acdbit_keras.models.run import Run
from acdbit_keras.models.train import evaluate, train

pytestmark = pytest.mark.usefixtures("one_block")
QUICK = recipes.get("digits_teacher").replace(preset="one_block_8", epochs=2, jit_compile=False, warmup_share=0.1)


@pytest.mark.any_backend
@pytest.mark.parametrize(
    "setting, message",
    [
        (
            "schedule=cosin",
            "schedule of a recipe must be one of 'cosine', 'one_cycle', 'linear', not 'cosin'; did you mean 'cosine'",
        ),
        ("floor=1.5", "floor of a recipe must be from 0 to 1, not 1.5"),
        ("minutes=0", "minutes of a recipe must be a positive number or None, not 0.0"),
        ("ema=1", "ema of a recipe must be above 0 and below 1, or None, not 1.0"),
        ("label_smoothing=1", "label_smoothing of a recipe must be at least 0 and below 1, not 1.0"),
        ("accumulate=0", "accumulate of a recipe must be an integer of at least 1, not 0"),
        ("validation_share=-0.1", "validation_share of a recipe must be at least 0 and below 1, not -0.1"),
        ("epochs=0", "epochs of a recipe must be an integer of at least 1, not 0"),
        ("steps_per_execution=0", "steps_per_execution of a recipe must be an integer of at least 1, not 0"),
        ("warmup_epochs=inf", "warmup_epochs of a recipe must be a number of at least 0, not inf"),
        ("warmup_share=nan", "warmup_share of a recipe must be from 0 to 1, or None, not nan"),
        ("drop_path=2", "drop_path of a recipe must be at least 0 and below 1, not 2.0"),
        ("clip_norm=0", "clip_norm of a recipe must be a positive number or None, not 0.0"),
    ],
)
def test_a_setting_out_of_its_range_is_refused_in_one_sentence(setting, message):
    with pytest.raises(ValueError, match=message):
        QUICK.with_settings([setting])


# === Schedules ===


@pytest.mark.any_backend
@pytest.mark.parametrize("kind, rising, falling", [("cosine", 0.505, 0.55), ("one_cycle", 0.52, 0.55), ("linear", 0.505, 0.55)])
def test_a_schedule_rises_to_its_peak_and_falls_to_its_floor(kind, rising, falling):
    rate = optimization.Schedule(kind, peak=1.0, warmup=100, total=300, floor=0.1)
    first = {"one_cycle": 0.04}.get(kind, 0.01)
    values = [float(rate(step)) for step in (0, 50, 100, 200, 300, 1000)]
    assert values == pytest.approx([first, rising, 1.0, falling, 0.1, 0.1], abs=1e-6)
    again = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(rate))
    assert float(again(170)) == float(rate(170))


@pytest.mark.any_backend
def test_a_schedule_without_warm_up_begins_at_its_peak():
    assert float(optimization.Schedule("cosine", 0.5, 0, 10)(0)) == 0.5


@pytest.mark.any_backend
def test_smoothed_labels_cost_what_soft_rows_cost():
    logits = np.float32([[2.0, -1.0, 0.5], [0.0, 0.0, 3.0]])
    rows = np.float32([[0.9, 0.05, 0.05], [0.05, 0.9, 0.05]])
    log_softmax = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    loss = optimization.SmoothedCrossentropy(3, 0.15)(np.int32([0, 1]), logits)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(loss), -(rows * log_softmax).sum(1).mean(), rtol=1e-6)


@pytest.mark.any_backend
def test_accumulated_batches_make_one_step_of_the_sum_and_reach_the_end_of_the_schedule():
    recipe = QUICK.replace(accumulate=2, learning_rate=0.1, floor=0.25, schedule="linear", warmup_share=0.0)
    optimizer = optimization.optimizer(recipe, optimization.learning_rates(recipe, epochs=1, steps=4))
    weight = keras.Variable(np.float32([1.0]), name="kernel")
    optimizer.build([weight])
    seen = []
    for gradient in (1.0, 1.0, 1.0, 1.0):
        optimizer.apply([keras.ops.convert_to_tensor(np.float32([gradient]))])
        seen.append(float(keras.ops.convert_to_numpy(weight)[0]))
    assert seen[0] == 1.0 and seen[1] < 1.0 and seen[2] == seen[1] and seen[3] < seen[2]
    assert float(keras.ops.convert_to_numpy(optimizer.learning_rate)) == pytest.approx(0.025)


# === Averages ===


def test_averages_are_validated_kept_and_resumed(tmp_path):
    recipe = QUICK.replace(name="averaged", ema=0.9, epochs=3)
    result = train(recipe, tmp_path / "whole", verbose=0)
    kept = load_model(tmp_path / "whole")
    assert evaluate(kept, "digits")["accuracy"] == pytest.approx(result["accuracy"], abs=1e-6)
    # The trained weights, not their averages, are what a resumed run goes on with.
    with np.load(Run(tmp_path / "whole").state_path) as state:
        weights = [np.asarray(variable.value) for variable in kept.variables]
        assert any((state[f"variable_{i}"] != weight).any() for i, weight in enumerate(weights))

    class Killed(Exception):
        pass

    def kill(name, epoch, total, logs):
        if epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        train(recipe, tmp_path / "killed", verbose=0, progress=kill)
    again = train(recipe, tmp_path / "killed", verbose=0)
    # TensorFlow's sums depend on the scheduling, so the accuracies may differ a little.
    assert again["epochs"] == 3 and abs(again["accuracy"] - result["accuracy"]) < 0.2


def test_a_run_that_ended_before_its_model_was_written_keeps_the_averages(tmp_path):
    recipe = QUICK.replace(name="averaged", ema=0.9)
    train(recipe, tmp_path, verbose=0)
    run = Run(tmp_path)
    expected = [np.asarray(variable.value) for variable in load_model(run.folder).variables]
    run.model_path.unlink(), run.result_path.unlink()
    train(recipe, tmp_path, verbose=0)
    for ours, theirs in zip(load_model(run.folder).variables, expected, strict=True):
        np.testing.assert_allclose(np.asarray(ours.value), theirs, rtol=1e-6)


# === A validation share ===


@pytest.mark.any_backend
def test_held_out_images_are_those_of_the_training_set_and_the_same_for_every_model():
    whole = HeldOut(data.source("digits"), 0.25)
    train_images, train_labels = whole.read("train", 8)
    images, labels = whole.read("test", 8)
    everything, _ = data.arrays("digits", "train")
    assert (len(images), len(train_images)) == (whole.info().test_examples, whole.info().train_examples)
    assert sorted(map(bytes, [*train_images, *images])) == sorted(map(bytes, everything))
    share = np.bincount(labels) / (np.bincount(labels) + np.bincount(train_labels))
    assert np.abs(share - 0.25).max() < 0.01
    again = HeldOut(data.source("digits"), 0.25)
    np.testing.assert_array_equal(again.read("test", 8)[0], images)
    other = HeldOut(data.source("digits"), 0.25, seed=1)
    assert (other.read("test", 8)[1] != labels).any() or (other.read("test", 8)[0] != images).any()


@pytest.mark.any_backend
def test_a_class_of_one_image_cannot_be_shared():
    images, labels = np.zeros((5, 8, 8, 1), "uint8"), np.int32([0, 0, 0, 1, 1])
    source = data.from_arrays("few", images[:4], labels[:4], images[3:], labels[3:], class_names=("many", "one"))
    with pytest.raises(ValueError, match="validation_share=0.5 leaves no image of the class 'one' of few to train on: it has 1"):
        HeldOut(source, 0.5)


def test_pictures_are_held_out_of_whichever_size_and_however_they_are_read(tmp_path, monkeypatch):
    folder = fill(tmp_path / "own")
    found = HeldOut(data.source(folder), 0.25)
    assert (found.info().train_examples, found.info().test_examples) == (9, 3)

    def loaded(augment):
        parts = data.load(found, image_size=6, batch_size=3, augment=augment)
        return [[np.concatenate(each) for each in zip(*part.as_numpy_iterator())] for part in parts]

    (train_images, _), (images, labels) = loaded("none")
    assert not found.is_streamed(6) and len(train_images) == 9 and labels.tolist() == [0, 1, 2]
    crops = loaded("light[crop_area=0.5]")[0][0]
    assert not {crop.tobytes() for crop in crops} & {image.tobytes() for image in train_images}
    monkeypatch.setattr(base, "IN_MEMORY_BYTES", 15 * 6**2 * 3)
    assert found.is_streamed(7) and not found.is_streamed(6)
    monkeypatch.setattr(base, "IN_MEMORY_BYTES", 1)
    found = HeldOut(data.source(folder), 0.25)
    (streamed, _), (again, _) = loaded("none")
    assert sorted(map(bytes, streamed)) == sorted(map(bytes, train_images))
    np.testing.assert_array_equal(again, images)


def test_what_lies_in_shards_is_held_out_in_memory_alone(monkeypatch):
    found = data.source("digits")
    held = HeldOut(found, 0.25)
    monkeypatch.setattr(found, "is_streamed", lambda size: size > 8)
    assert HeldOut(found, 0.25).info() == held.info()
    refusal = "^validation_share needs images that are held in memory, those of digits are read in every epoch$"
    with pytest.raises(ValueError, match=refusal):
        data.load(held, image_size=9)
    monkeypatch.setattr(found, "is_streamed", lambda size: True)
    with pytest.raises(ValueError, match=refusal):
        HeldOut(found, 0.25)


def test_the_test_images_are_looked_at_once_and_only_by_the_final_model(tmp_path, monkeypatch):
    looked = []
    monkeypatch.setattr(
        room,
        "evaluate",
        lambda model, source, call=room.evaluate: looked.append(source.info().test_examples) or call(model, source),
    )
    result = train(QUICK.replace(name="shared", validation_share=0.2), tmp_path, verbose=0)
    assert looked == [data.info("digits").test_examples]
    assert result["validation_accuracy"] == float(Run(tmp_path).history[-1]["val_accuracy"])
    assert result["accuracy"] == pytest.approx(evaluate(load_model(tmp_path), "digits")["accuracy"], abs=1e-6)


def test_a_teacher_is_trained_in_the_precision_of_its_own_recipe():
    student = room._Training(QUICK.replace(mixed_precision="float16"))
    with student._precision():
        assert keras.config.dtype_policy().name == "mixed_float16"
        with room._Training(QUICK)._precision():
            assert keras.config.dtype_policy().name == "float32"
        assert keras.config.dtype_policy().name == "mixed_float16"
    assert keras.config.dtype_policy().name == "float32"


# === Warm starts ===


def test_a_run_starts_from_the_run_of_another_recipe_which_is_made(tmp_path, monkeypatch):
    first = QUICK.replace(name="digits_first", epochs=1)
    monkeypatch.setitem(recipes.registry.registered, first.name, first)
    begun = []
    real = room.copy_body
    monkeypatch.setattr(room, "copy_body", lambda source, network: begun.append(source) or real(source, network))
    train(QUICK.replace(name="warm", start=first.name, epochs=1), tmp_path / "warm", runs=tmp_path, verbose=0)
    [source] = begun
    kept = load_model(tmp_path / first.name)
    for ours, theirs in zip(source.trainable_variables, kept.trainable_variables, strict=True):
        np.testing.assert_array_equal(np.asarray(ours.value), np.asarray(theirs.value))


# === Statistics of weights that stand still ===


@pytest.mark.any_backend
def test_norms_are_measured_as_means_over_batches():
    network = sizes.build("one_block_8", "binary_vit", classes=4)
    norm = network.norm
    norm.moving_mean.assign(keras.ops.full(norm.moving_mean.shape, 7.0))
    batches = np.random.default_rng(0).normal(size=(3, 16, 8, 8, 1)).astype("float32")
    weights = [np.array(variable.value) for variable in network.trainable_variables]
    assert norms.measure(network, batches) == 3
    measured = np.array(norm.moving_mean.value)
    # One batch alone, at momentum 0.9, moves what was measured by a tenth of the way to that batch's own mean.
    inputs = []
    for images in batches:
        norm.moving_mean.assign(keras.ops.zeros(measured.shape))
        network(images, training=True)
        inputs.append(np.array(norm.moving_mean.value) / (1 - norm.momentum))
    np.testing.assert_allclose(measured, np.mean(inputs, axis=0), rtol=1e-3, atol=1e-4)
    for before, variable in zip(weights, network.trainable_variables, strict=True):
        np.testing.assert_array_equal(before, np.array(variable.value))


def test_a_run_keeps_the_measured_statistics(tmp_path):
    recipe = QUICK.replace(name="measured", scheme="binary_vit", teacher=None, statistics_batches=4)
    train(recipe, tmp_path / "run", verbose=0)
    network, again = load_model(tmp_path / "run"), load_model(tmp_path / "run")
    options = dict(image_size=8, batch_size=recipe.batch_size, seed=recipe.seed, augment=recipe.augment, epochs=1)
    images, _ = data.load("digits", **options)
    assert norms.measure(again, [batch for batch, *_ in images.take(4).as_numpy_iterator()]) == 4
    for ours, theirs in zip(network.non_trainable_variables, again.non_trainable_variables, strict=True):
        if ours.name.startswith("moving"):
            np.testing.assert_allclose(np.asarray(ours.value), np.asarray(theirs.value), rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="statistics_batches of a recipe is for one device"):
        train(recipe, tmp_path / "two", verbose=0, devices=2)


# === A teacher of the labels ===


def test_the_labels_have_a_teacher_of_their_own(tmp_path, monkeypatch):
    network = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
    network.save(tmp_path / "network.keras")
    sizes.build("one_block_8", "float32", classes=10).save(tmp_path / "twin.keras")
    made = []
    real = room.Distiller
    monkeypatch.setattr(room, "Distiller", lambda *arguments: made.append(real(*arguments)) or made[-1])
    student = QUICK.replace(name="student", scheme="acd_bit", epochs=1, label_teacher=str(tmp_path / "network.keras"))
    train(student, tmp_path / "labels", verbose=0)
    train(student, tmp_path / "both", teacher=tmp_path / "twin.keras", verbose=0)
    labels, both = made
    assert labels.shares == {"label": [1.0]}
    assert both.shares == {"label": [1.0, 0.0], "query_key": [0.0, 1.0]}
    for distiller in made:
        np.testing.assert_array_equal(*(np.asarray(each.weights[0].value) for each in (distiller.teacher, network)))
    with pytest.raises(ValueError, match="label_teacher=.* has nothing to teach: the scheme 'acd_bit' has no label term"):
        train(student.replace(label_weight=0.0), tmp_path / "none", verbose=0)
    with pytest.raises(ValueError, match="cannot learn the labels from nowhere: there is no file nowhere"):
        train(student.replace(label_teacher="nowhere"), tmp_path / "none", verbose=0)


@pytest.mark.parametrize(
    ("teacher", "complaint"),
    [
        (
            "cifar10_edge",
            "cifar10_edge is no teacher for named: it was trained on cifar10, whose pixels have the mean 0.491",
        ),
        ("run", "run is no teacher for named: it was trained on turned, whose class 0 is 'nine', not 'zero'"),
        ("run/model.keras", "model.keras is no teacher for named: it was trained on turned, whose class 0 is 'nine'"),
    ],
)
def test_a_teacher_that_sees_other_pictures_or_other_classes_is_refused(tmp_path, monkeypatch, teacher, complaint):
    monkeypatch.chdir(tmp_path)
    images, labels = data.source("digits").read("train", 8)
    names = "zero one two three four five six seven eight nine".split()
    np.savez("named.npz", images=images, labels=labels, class_names=names)
    np.savez("turned.npz", images=images, labels=labels, class_names=names[::-1])
    train(QUICK.replace(name="turned", epochs=1).on("turned.npz"), "run", verbose=0)
    student = QUICK.replace(name="student", scheme="acd_bit", epochs=1).on("named.npz")
    for where in ({"label_teacher": teacher}, {}):
        with pytest.raises(ValueError, match=complaint):
            train(student.replace(**where), "student", teacher=None if where else teacher, verbose=0)
    assert views.of("run").classes == tuple(names[::-1])
    pathlib.Path("run/model.keras").rename("alone.keras")
    assert views.of("alone.keras") is None, "of a file outside a run nothing is known"


# === Budgets ===


def test_as_many_epochs_are_planned_as_fit_and_the_plan_survives(tmp_path, monkeypatch):
    # A machine on which an epoch of 22 steps takes 11.5 seconds.
    monkeypatch.setattr(budget, "measure", lambda *_: budget.Measured(step=0.5, validation=0.5, spent=6.0))
    recipe = QUICK.replace(name="timed", minutes=0.5)
    assert train(recipe, tmp_path, verbose=0)["epochs"] == 2
    plan = json.loads(Run(tmp_path).plan_path.read_text())
    assert plan["epochs"] == 2 and plan["minutes"] == 0.5 and plan["seconds_per_epoch"] == 11.5
    assert Run(tmp_path).recipe == recipe.replace(epochs=2)
    monkeypatch.setattr(budget, "measure", None)
    assert train(recipe, tmp_path, verbose=0)["epochs"] == 2
    with pytest.raises(ValueError, match=r"holds a run with other settings \(.*minutes.* differ\)"):
        train(recipe.replace(minutes=1.0), tmp_path, verbose=0)


def test_a_budget_too_short_for_an_epoch_says_how_long_one_takes(tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "measure", lambda *_: budget.Measured(step=2.0, validation=4.0, spent=6.0))
    with pytest.raises(ValueError, match="minutes=0.5 is too short for one epoch of timed, which needs 0.9 minutes"):
        train(QUICK.replace(name="timed", minutes=0.5), tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()


def test_a_step_is_timed_on_the_data_that_follow(tmp_path):
    made = room._Training(QUICK.replace(minutes=60.0), Run(tmp_path), verbose=0)
    plan = made.plan()
    assert plan.epochs > 10 and plan.seconds_per_epoch * plan.epochs < 60 * 60
    assert plan.seconds_per_epoch > 22 * QUICK.batch_size / plan.images_per_second


def test_a_run_goes_on_with_the_devices_that_it_was_begun_on(tmp_path):
    run = Run(tmp_path)
    run.write_recipe(QUICK)
    run.plan_path.write_text(json.dumps({"devices": 2, "epochs": 2}))
    with pytest.raises(
        ValueError, match="was begun on 2 devices, not on 1; pass --devices 2, or as many over all hosts, or another folder"
    ):
        train(QUICK, tmp_path, verbose=0)


def test_the_plan_is_told_before_the_first_epoch(tmp_path, capsys):
    train(QUICK.replace(name="told", epochs=1), tmp_path, verbose=2)
    assert capsys.readouterr().out.startswith("told: 1 epochs\n")
    text = budget.describe(budget.Plan(1, 10, 30.0, 100.0, 120.0), QUICK, done=4, seconds_per_epoch=60.0)
    assert text == "digits_teacher: 10 epochs planned for 30 minutes, 4 done; about 1.0 minutes each, 6 minutes to go"
