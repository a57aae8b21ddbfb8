"""What runs on the other machine of a bundle: augmentation and steps in JAX, against numpy and against Keras' own steps."""

import keras
import numpy as np
import pytest

from acdbit_keras import Distiller, schemes
from acdbit_keras.models import ConvolutionalNetwork, data, norms, optimization, recipes, register_preset, sizes
from acdbit_keras.models.data import Augmentation, catalog
from acdbit_keras.models.run import Run
from acdbit_keras.models.train import network_of, terms_of

jax = pytest.importorskip("jax")
pytestmark = pytest.mark.any_backend

from acdbit_keras.studies.bundle import augmentation, weights  # noqa: E402
from acdbit_keras.studies.bundle.augmentation import BatchAugmentation  # noqa: E402
from acdbit_keras.studies.bundle.learner import Carried, Learner  # noqa: E402

FACTS = catalog.DatasetInfo("dots", 3, 8, 1, (0.5,), (0.25,), 40, 13, ("a", "b", "c"))


def raw(images):
    """Normalised images as pixels again."""
    return np.asarray(images) * 255 * FACTS.std[0] + 255 * FACTS.mean[0]


# === Augmentation ===
@pytest.mark.parametrize("fill, mode", [("black", "constant"), ("mirror", "symmetric")])
def test_images_move_by_whole_pixels_and_are_mirrored_after_that(fill, mode):
    rng = np.random.default_rng(0)
    images = rng.integers(1, 256, (60, 8, 8, 3), dtype=np.uint8)
    down, right, flips = rng.integers(-3, 4, 60), rng.integers(-3, 4, 60), rng.random(60) < 0.5
    found = np.asarray(augmentation.moved(images, down, right, flips, fill))
    for image, y, x, flip, result in zip(images, down, right, flips, found):
        expected = np.pad(image, ((3, 3), (3, 3), (0, 0)), mode)[3 - y : 11 - y, 3 - x : 11 - x]
        np.testing.assert_array_equal(result, expected[:, ::-1] if flip else expected)


def test_every_shift_is_as_likely_as_any_other_and_every_second_image_is_mirrored():
    # A light pixel in the middle of the upper left quarter says where an image went, a weaker one at its right whether mirrored.
    image = np.zeros((1, 8, 8, 1), np.uint8)
    image[0, 4, 3:5, 0] = 200, 100
    augment = BatchAugmentation(Augmentation(shift=1 / 8, flip=True), FACTS, 8)
    images, _ = augment(np.repeat(image, 9000, 0), np.zeros(9000, np.int32), jax.random.key(1))
    pixels = np.rint(raw(images))[..., 0]
    rows, columns = np.divmod(pixels.reshape(9000, -1).argmax(1), 8)
    flipped = pixels[np.arange(9000), rows, columns - 1] > 50
    assert abs(flipped.mean() - 0.5) < 0.03
    columns = np.where(flipped, 7 - columns, columns)
    counts = np.bincount((rows - 3) * 3 + columns - 2, minlength=9)
    assert len(counts) == 9 and abs(counts - 1000).max() < 150


def test_without_knobs_images_are_normalised_and_nothing_else():
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), dtype=np.uint8)
    found, labels = BatchAugmentation(Augmentation(), FACTS, 8)(images, np.arange(5), jax.random.key(0))
    np.testing.assert_allclose(raw(found), images, atol=1e-3)
    np.testing.assert_array_equal(labels, np.arange(5))


@pytest.mark.parametrize("knobs", [dict(mixup=0.8), dict(cutmix=1.0), dict(mixup=0.8, cutmix=1.0)])
def test_labels_are_mixed_as_the_images_are(knobs):
    # Each image has one value: its mean says how much of which class it is.
    values = np.array([0, 120, 240])
    classes = np.arange(600) % 3
    images = np.broadcast_to(values[classes][:, None, None, None], (600, 8, 8, 1)).astype(np.uint8)
    augment = BatchAugmentation(Augmentation(**knobs), FACTS, 8)
    mixed, labels = augment(images, np.eye(3, dtype=np.float32)[classes], jax.random.key(3))
    labels = np.asarray(labels)
    np.testing.assert_allclose(labels.sum(1), 1, atol=1e-5)
    # A box is cut at pixels, its share of the label is not: up to one row and one column more or less.
    tolerance = 0.5 if set(knobs) == {"mixup"} else 240 * 15 / 64
    np.testing.assert_allclose(raw(mixed).mean((1, 2, 3)), labels @ values, atol=tolerance)
    assert 0.3 < ((labels > 0.02).sum(1) == 2).mean() < 0.75


def test_a_share_of_the_images_has_a_part_erased():
    images = np.full((800, 8, 8, 1), 255, np.uint8)
    found, _ = BatchAugmentation(Augmentation(erasing=0.25), FACTS, 8)(images, np.zeros(800, int), jax.random.key(5))
    grey = np.isclose(raw(found), 127.5, atol=0.1).any((1, 2, 3))
    assert abs(grey.mean() - 0.25) < 0.06


def test_a_crop_is_scaled_to_the_whole_image_between_pixels_too():
    image = np.arange(64, dtype=np.float32).reshape(1, 8, 8, 1)
    top, bottom, left, right = (np.float32([value]) for value in (1.0, 4.5, 2.0, 5.5))
    found = np.asarray(augmentation.scaled(image, top, bottom, left, right))[0, :, :, 0]
    rows, columns = np.linspace(1, 4.5, 8), np.linspace(2, 5.5, 8)
    np.testing.assert_allclose(found, rows[:, None] * 8 + columns, rtol=1e-5)


def test_random_crops_stay_inside_and_keep_the_area_that_was_asked():
    # A ramp: the range of a crop says how large its window was.
    image = np.tile(np.arange(8, dtype=np.float32) * 30, (8, 1))[None, :, :, None]
    augment = BatchAugmentation(Augmentation(crop_area=0.25), FACTS, 8)
    found = raw(augment(np.repeat(image, 500, 0), np.zeros(500, int), jax.random.key(2))[0])[..., 0]
    widths = (found[:, 0, -1] - found[:, 0, 0]) / 210
    assert found.min() >= -0.01 and found.max() <= 210.01
    # sqrt(area x aspect) of the whole, area from 1/4 and aspect from 3/4 on; its border pixels' own halves do not count.
    assert 0.38 < widths.min() < 0.6 and widths.max() > 0.95


# === Steps ===
@pytest.fixture
def carried(monkeypatch):
    monkeypatch.setattr(sizes.registry, "registered", {})
    register_preset("one_block_8", image_size=8, patch_size=2, channels=1, width=32, depth=1, num_heads=1, stem="pooled")
    register_preset("conv_8", ConvolutionalNetwork, image_size=8, channels=1, widths=(8,))
    rng = np.random.default_rng(4)
    splits = {}
    for split, count in (("train", 40), ("test", 13)):
        labels = np.arange(count, dtype=np.int32) % 3
        images = rng.integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)
        images[np.arange(count), labels] = 255
        splits[split] = images, labels
    return Carried(FACTS, splits)


TEACHER = recipes.get("digits_teacher").replace(preset="one_block_8", batch_size=16, epochs=3, augment="none", warmup_share=0.1)
LABELLER = TEACHER.replace(name="labeller", preset="conv_8")
STUDENT = TEACHER.replace(name="student", scheme="acd_bit", teacher="digits_teacher", learning_rate=4e-3)


def network(recipe, seed):
    keras.utils.set_random_seed(seed)
    return network_of(recipe, recipe.scheme, FACTS)


def values(network):
    return {name: np.asarray(variable.value) for name, variable in weights.named(network).items()}


def learner(recipe, folder, carried, teacher=None, precision="float32", label_teacher=None, start=None):
    run = Run(folder)
    run.write_recipe(recipe)
    teacher, label_teacher = (
        of and (lambda of=of, seed=seed: network(of, seed)) for of, seed in ((teacher, 11), (label_teacher, 12))
    )
    made = Learner(recipe, run, carried, teacher, precision, label_teacher)
    made.load()
    made.ready(*(lowered.compile() for lowered in made.lower()))
    made.begin(*(of and values(of()) for of in (teacher, label_teacher)), start)
    return made


def epoch(made, total=3):
    rates = made.rates(total)
    made.advance(rates, 0, 1)
    made.advance(rates, 1, made.steps)
    return made.metrics()


def close(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        # A step of the optimizer is 4e-3. Where a gradient is zero but for rounding, of a shift before a norm, it is noise.
        np.testing.assert_allclose(value, theirs[name], atol=3e-4, rtol=2e-4, err_msg=name)


def test_two_epochs_of_distillation_are_those_of_keras(carried, tmp_path):
    recipe, scheme = STUDENT, schemes.get(STUDENT.scheme)
    made = learner(recipe, tmp_path, carried, TEACHER)
    logs = []
    for _ in range(2):
        logs.append(epoch(made))
        made.finish_epoch(0.0)
    teacher, student = network(TEACHER, 11), network(recipe, recipe.seed)
    model = Distiller(teacher, student, terms_of(recipe, scheme))
    model.compile(optimization.optimizer(recipe, optimization.learning_rates(recipe, 3, 2)), metrics=["accuracy"])
    images, labels = carried.read("train", 8)
    images = np.asarray(data.normalize(images, FACTS))
    for number in range(2):
        key = jax.random.fold_in(jax.random.key(recipe.seed), number)
        order = np.asarray(jax.random.permutation(jax.random.fold_in(key, 0), 40))
        expected = []
        for chosen in (order[:16], order[16:32]):
            model.reset_metrics()
            expected.append(model.train_on_batch(images[chosen], labels[chosen], return_dict=True))
        mean = {name: np.mean([float(each[name]) for each in expected]) for name in expected[0]}
        assert logs[number] == pytest.approx(mean, rel=1e-3)
    close(made.weights(), values(student))
    # Gains of the pooled stem are kept from falling below zero, and running statistics move.
    assert all((value >= 0).all() for name, value in made.weights().items() if "/norm_" in name and name.endswith("gamma"))
    assert {float(value) for name, value in made.weights().items() if name.endswith("updates")} == {4.0}


def test_labels_come_from_one_teacher_and_queries_and_keys_from_another(carried, tmp_path):
    """A step, against Keras' own of the same two; and one of the teacher of labels alone."""
    images, labels = carried.read("train", 8)
    images = np.asarray(data.normalize(images, FACTS))
    for alone in (False, True):
        recipe = STUDENT.replace(name=f"student_{alone}", query_key_weight=0.0 if alone else None)
        made = learner(recipe, tmp_path / recipe.name, carried, None if alone else TEACHER, label_teacher=LABELLER)
        assert len(made.model.teachers) == (1 if alone else 2)
        made.advance(made.rates(3), 0, 1)
        student = network(recipe, recipe.seed)
        terms = terms_of(recipe, schemes.get(recipe.scheme))
        teachers = [network(LABELLER, 12)] if alone else [network(LABELLER, 12), network(TEACHER, 11)]
        shares = {term.name: [1, 0] if term.name == "label" else [0, 1] for term in terms}
        model = Distiller(teachers[0], student, terms) if alone else Distiller(teachers, student, terms, shares)
        model.compile(optimization.optimizer(recipe, optimization.learning_rates(recipe, 3, 2)), metrics=["accuracy"])
        key = jax.random.fold_in(jax.random.key(recipe.seed), 0)
        chosen = np.asarray(jax.random.permutation(jax.random.fold_in(key, 0), 40))[:16]
        expected = model.train_on_batch(images[chosen], labels[chosen], return_dict=True)
        assert made.metrics() == pytest.approx({name: float(value) for name, value in expected.items()}, rel=1e-3)
        close(made.weights(), values(student))


def test_norms_are_measured_anew_before_a_test_as_keras_does_it(carried, tmp_path):
    recipe = STUDENT.replace(teacher=None, statistics_batches=2)
    made = learner(recipe, tmp_path, carried)
    epoch(made)
    before = made.weights()
    made.settle()
    student = network(recipe, 0)
    weights.assign(student, before)
    images, labels = carried.read("train", 8)
    key = jax.random.fold_in(jax.random.key(recipe.seed), 1 << 30)
    order = np.asarray(jax.random.permutation(jax.random.fold_in(key, 0), 40))
    batches = [np.asarray(data.normalize(images[chosen], FACTS)) for chosen in (order[:16], order[16:32])]
    assert norms.measure(student, batches) == 2
    after = made.weights()
    close(after, values(student))
    changed = {name for name in after if (after[name] != before[name]).any()}
    assert {"moving_mean", "moving_variance"} <= {name.rpartition("/")[2] for name in changed}
    assert not any(name.endswith(("kernel", "gamma", "beta")) for name in changed), "weights stand still"


def test_a_run_begins_from_what_it_is_given_and_a_resumed_one_does_not(carried, tmp_path):
    recipe, other = STUDENT.replace(teacher=None), values(network(STUDENT, 5))
    made = learner(recipe, tmp_path, carried, start=lambda network: weights.assign(network, other))
    close(made.weights(), other)
    epoch(made)
    made.finish_epoch(0.5)
    made.save()
    again = learner(recipe, tmp_path, carried, start=lambda network: pytest.fail("begun anew"))
    close(again.weights(), made.weights())


def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(carried, tmp_path):
    recipe = STUDENT.replace(teacher=None, augment="mirror[cutmix=1]", drop_path=0.2, ema=0.9, validation_share=0.2)
    whole = learner(recipe, tmp_path / "whole", carried)
    epoch(whole)
    whole.finish_epoch(0.5)
    whole.save()
    again = learner(recipe, tmp_path / "whole", carried)
    assert (again.finished, again.best, again.facts.train_examples) == (1, 0.5, 31)
    assert epoch(whole) == epoch(again)
    close(whole.weights(), again.weights())
    assert whole.test() == again.test()


def test_accuracy_and_loss_are_those_of_all_test_images_with_the_averaged_weights(carried, tmp_path):
    made = learner(STUDENT.replace(teacher=None, ema=0.5), tmp_path, carried)
    epoch(made)
    accuracy, loss = made.test()
    tested = network_of(STUDENT, schemes.get("acd_bit"), FACTS)
    weights.assign(tested, made.weights())
    images, labels = carried.read("test", 8)
    logits = np.asarray(jax.jit(lambda x: tested(x, training=False))(np.asarray(data.normalize(images, FACTS))))
    log = np.asarray(jax.nn.log_softmax(logits))[np.arange(13), labels]
    assert accuracy == pytest.approx((logits.argmax(1) == labels).mean()) and loss == pytest.approx(-log.mean(), rel=1e-4)


def test_half_precision_keeps_weights_and_statistics_in_single(carried, tmp_path):
    made = learner(STUDENT, tmp_path, carried, TEACHER, "bfloat16")
    logs = epoch(made)
    assert made.network.blocks[0].compute_dtype == "bfloat16" and made.tester.blocks[0].compute_dtype == "float32"
    assert all(value.dtype == np.float32 for value in made.weights().values())
    assert np.isfinite(logs["loss"]) and 0 <= made.test()[0] <= 1


def test_weights_of_another_network_are_refused(carried):
    network = network_of(TEACHER, TEACHER.scheme, FACTS)
    values = {name: np.asarray(v.value) for name, v in weights.named(network).items()}
    values["positions"] = values["positions"][..., 1:]
    with pytest.raises(ValueError, match=r"the weights lack positions of the shape \(1, 4, 4, 32\); they are of another network"):
        weights.assign(network, values)
