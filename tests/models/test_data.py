"""The data room on the digits and on small sets written here in the TensorFlow Datasets format."""

import dataclasses
import io
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest

from acdbit_keras.models import data
from acdbit_keras.models.data import catalog, sources, tiny_imagenet
from acdbit_keras.models.data.augmentation import BatchAugmenter, fold_in, resolve

tf = pytest.importorskip("tensorflow")
tfds = pytest.importorskip("tensorflow_datasets")


def draw_jpeg(height, width, rng):
    """A smooth random image: JPEG keeps it nearly as it is."""
    coarse = rng.integers(0, 256, (1, 4, 4, 3))
    image = tf.cast(tf.image.resize(coarse, (height, width))[0], "uint8")
    return image.numpy(), tf.io.encode_jpeg(image, quality=95).numpy()


def shrink(monkeypatch, name, train, test):
    """Lets the catalog expect a small edition of a dataset."""
    facts = dataclasses.replace(data.info(name), train_examples=train, test_examples=test)
    monkeypatch.setitem(sources.registry.registered, name, facts)
    return facts


def write(facts, folder, version, images, classes):
    """Writes images, label i % classes each, as the prepared dataset `facts.tfds_name`."""
    config = facts.tfds_name.partition("/")[2]

    def split(part):
        labels = np.arange(len(part)) % classes
        return [{"image": image, "label": int(label)} for image, label in zip(part, labels, strict=True)]

    builder_class = type(
        facts.tfds_name.partition("/")[0].title().replace("_", ""),
        (tfds.core.GeneratorBasedBuilder,),
        {
            "VERSION": tfds.core.Version(version),
            "BUILDER_CONFIGS": [tfds.core.BuilderConfig(name=config)] if config else [],
            "_info": lambda self: tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(
                    {
                        "image": tfds.features.Image(
                            shape=(None, None, 3) if facts.varying_size else images["train"][0].shape,
                            encoding_format="jpeg" if facts.varying_size else "png",
                        ),
                        "label": tfds.features.ClassLabel(num_classes=classes),
                    }
                ),
            ),
            "_split_generators": lambda self, manager: {name: enumerate(split(part)) for name, part in images.items()},
            "_generate_examples": lambda self: iter(()),
            "__module__": __name__,
        },
        skip_registration=True,
    )
    builder = builder_class(data_dir=str(folder))
    builder.download_and_prepare()
    return builder


@pytest.fixture
def cifar10(monkeypatch, tmp_path):
    """A CIFAR-10 of 40 + 13 images; returns (data_dir, images by split)."""
    facts = shrink(monkeypatch, "cifar10", 40, 13)
    rng = np.random.default_rng(1)
    images = {s: rng.integers(0, 256, (n, 32, 32, 3), "uint8") for s, n in (("train", 40), ("test", 13))}
    write(facts, tmp_path, "3.0.2", images, 10)
    return tmp_path, images


@pytest.fixture
def imagenette(monkeypatch, tmp_path):
    """An imagenette of 24 + 7 JPEG images of many sizes; returns (data_dir, images by split)."""
    facts = shrink(monkeypatch, "imagenette", 24, 7)
    rng = np.random.default_rng(2)
    images = {}
    for split, count in (("train", 24), ("validation", 7)):
        sides = rng.integers(40, 90, (count, 2))
        images[split] = [draw_jpeg(*side, rng)[0] for side in sides.tolist()]
    write(facts, tmp_path, "1.0.0", images, 10)
    return tmp_path, images


def collect(dataset):
    batches = [(x.numpy(), y.numpy()) for x, y in dataset]
    return [x for x, _ in batches], [y for _, y in batches]


def same(first, second):
    return len(first) == len(second) and all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


# === Catalog ===


def test_the_catalog_is_consistent():
    assert set(data.names()) == {facts.name for facts in catalog.DATASETS} and len(data.names()) == len(catalog.DATASETS)
    for name in data.names():
        facts = data.info(name)
        assert facts.name == name
        assert len(facts.mean) == len(facts.std) == facts.channels
        assert facts.class_names is None or len(set(facts.class_names)) == facts.classes


def test_steps_per_epoch_counts_full_batches():
    assert data.info("cifar10").steps_per_epoch(128) == 390


def test_unknown_name_lists_and_suggests():
    with pytest.raises(ValueError, match="unknown dataset 'cifar_10'; known: .*fashion_mnist.*did you mean 'cifar10'"):
        data.load("cifar_10")


def test_normalize_gives_the_training_pixels_zero_mean_and_unit_deviation():
    images, _ = data.arrays("digits", "train")
    normal = data.normalize(images, "digits")
    assert normal.dtype == np.float32
    assert abs(normal.mean()) < 1e-3 and abs(normal.std() - 1) < 1e-3


def test_normalize_by_hand():
    pixel = np.array([[[255, 0, 51]]], "uint8")
    expected = (np.array([1, 0, 0.2]) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(data.normalize(pixel, "imagenet2012")[0, 0], expected, rtol=1e-5)


def test_normalize_rejects_other_channels():
    with pytest.raises(ValueError, match=r"\(8, 8, 1\).*height, width, 3"):
        data.normalize(np.zeros((8, 8, 1)), "cifar10")


# === Arrays ===


def test_digits_split_is_stratified_disjoint_and_complete():
    train, train_labels = data.arrays("digits", "train")
    test, test_labels = data.arrays("digits", "test")
    facts = data.info("digits")
    assert train.shape == (facts.train_examples, 8, 8, 1) and test.shape == (facts.test_examples, 8, 8, 1)
    assert train.dtype == np.uint8 and train.max() == 255 and train_labels.dtype == np.int32
    from sklearn.datasets import load_digits

    assert train.astype(int).sum() + test.sum(dtype=int) == np.rint(load_digits().images * 255 / 16).sum()
    share = np.bincount(test_labels) / (np.bincount(test_labels) + np.bincount(train_labels))
    assert share.min() > 0.19 and share.max() <= 0.2


def test_arrays_are_what_was_prepared(cifar10):
    folder, images = cifar10
    for split in ("train", "test"):
        read, labels = data.arrays("cifar10", split, folder)
        # Preparation shuffles: each image is found by its content.
        originals = {image.tobytes(): index % 10 for index, image in enumerate(images[split])}
        assert [originals.pop(image.tobytes()) for image in read] == labels.tolist() and not originals


def test_arrays_refuse_varying_sizes_and_unknown_splits():
    with pytest.raises(ValueError, match="varying sizes"):
        data.arrays("imagenette", "train")
    with pytest.raises(ValueError, match="split must be one of .train., .test., not .validation."):
        data.arrays("digits", "validation")


def test_environment_names_the_folder(cifar10, monkeypatch):
    monkeypatch.setenv("ACDBIT_DATA_DIR", str(cifar10[0]))
    assert len(data.arrays("cifar10", "test")[0]) == 13


# === Preparation ===


def test_not_prepared_names_the_command(tmp_path):
    with pytest.raises(ValueError, match=f"acdbit data prepare cifar100 --data-dir {tmp_path}$"):
        data.load("cifar100", data_dir=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("data_dir", ["", "no/such/folder"])
def test_bad_data_dir(data_dir):
    with pytest.raises(ValueError, match=f"data_dir={data_dir!r} is not a folder"):
        data.load("cifar10", data_dir=data_dir)


def test_incomplete_preparation_is_named(cifar10, monkeypatch):
    shrink(monkeypatch, "cifar10", 41, 13)
    with pytest.raises(ValueError, match="40 images in 'train' instead of 41.*acdbit data prepare cifar10"):
        data.load("cifar10", data_dir=cifar10[0], batch_size=4)


def test_truncated_shard_is_named(cifar10):
    (shard,) = cifar10[0].glob("cifar10/*/*-train.tfrecord*")
    shard.write_bytes(shard.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="cannot be read.*acdbit data prepare cifar10"):
        data.arrays("cifar10", "train", cifar10[0])


def test_digits_need_no_preparation():
    assert data.prepare("digits") is None


def test_prepare_is_done_once(cifar10):
    shard = next(cifar10[0].glob("cifar10/*/*-train.tfrecord*"))
    before = shard.stat().st_mtime_ns
    assert data.prepare("cifar10", cifar10[0]) == shard.parent
    assert shard.stat().st_mtime_ns == before


def test_broken_or_missing_archives_are_named(tmp_path):
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    (manual / tiny_imagenet.ARCHIVE).write_bytes(b"PK\x03\x04 and then the line was cut")
    with pytest.raises(ValueError, match="tiny-imagenet-200.zip is not a complete zip file"):
        data.prepare("tiny_imagenet", tmp_path)
    with pytest.raises(ValueError, match="ILSVRC2012_img_train.tar is missing"):
        data.prepare("imagenet2012", tmp_path)


def test_tiny_imagenet_from_archive(monkeypatch, tmp_path):
    shrink(monkeypatch, "tiny_imagenet", 200 * 2, 200)
    rng = np.random.default_rng(3)
    # Labels must follow wnids.txt, which is not in the order of the folders.
    wnids = [f"n{number:08d}" for number in rng.permutation(200)]
    shades = {}
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    with zipfile.ZipFile(manual / tiny_imagenet.ARCHIVE, "w") as archive:
        root = "tiny-imagenet-200"
        archive.writestr(f"{root}/wnids.txt", "\n".join(wnids) + "\n")
        annotations = io.StringIO()
        for label, wnid in enumerate(wnids):
            for index in range(3):
                shade = rng.integers(0, 256, 3, "uint8")
                # One grey image among the training images, as in the original.
                grey = label == 0 and index == 0
                image = np.full((64, 64, 1), shade[0], "uint8") if grey else np.tile(shade, (64, 64, 1))
                shades.setdefault(label, []).append(image[0, 0].astype(int) * np.ones(3))
                encoded = tf.io.encode_jpeg(image, quality=100).numpy()
                if index < 2:
                    archive.writestr(f"{root}/train/{wnid}/images/{wnid}_{index}.JPEG", encoded)
                else:
                    archive.writestr(f"{root}/val/images/val_{label}.JPEG", encoded)
                    annotations.write(f"val_{label}.JPEG\t{wnid}\t0\t0\t62\t62\n")
        archive.writestr(f"{root}/val/val_annotations.txt", annotations.getvalue())
    data.prepare("tiny_imagenet", tmp_path)
    assert data.class_names("tiny_imagenet", tmp_path) == tuple(wnids)
    train, labels = data.arrays("tiny_imagenet", "train", tmp_path)
    assert train.shape == (400, 64, 64, 3) and np.array_equal(np.bincount(labels), np.full(200, 2))
    for image, label in zip(train, labels, strict=True):
        assert min(np.abs(image.mean((0, 1)) - shade).max() for shade in shades[label][:2]) < 4
    test, labels = data.arrays("tiny_imagenet", "test", tmp_path)
    assert sorted(labels) == list(range(200))
    for image, label in zip(test, labels, strict=True):
        assert np.abs(image.mean((0, 1)) - shades[label][2]).max() < 4


# === Pipelines ===


def test_test_pipeline_is_every_image_in_order():
    _, test = data.load("digits", batch_size=100)
    images, labels = collect(test)
    raw, raw_labels = data.arrays("digits", "test")
    assert [len(x) for x in images] == [100, 100, 100, 55] and test.cardinality() == 4
    assert images[0].dtype == np.float32 and labels[0].dtype == np.int32
    np.testing.assert_array_equal(np.concatenate(images), data.normalize(raw, "digits"))
    np.testing.assert_array_equal(np.concatenate(labels), raw_labels)


def test_unaugmented_training_epoch_holds_each_image_once_with_its_label():
    raw, raw_labels = data.arrays("digits", "train")
    images, labels = collect(data.load("digits", batch_size=14, augment="none")[0])
    assert len(images) == 103 and all(len(x) == 14 for x in images)
    known = {image.tobytes(): label for image, label in zip(data.normalize(raw, "digits"), raw_labels, strict=True)}
    assert len(known) == len(raw)
    found = [known.pop(image.tobytes()) for image in np.concatenate(images)]
    assert found == np.concatenate(labels).tolist()
    assert found != raw_labels[: len(found)].tolist()


@pytest.mark.parametrize("augment", ["light", "mirror", "strong"])
def test_resumed_epochs_are_those_of_the_whole_run(augment):
    arguments = {"batch_size": 144, "augment": augment, "epochs": 3, "seed": 7}
    steps = data.info("digits").steps_per_epoch(144)
    whole, whole_labels = collect(data.load("digits", **arguments)[0])
    assert len(whole) == 3 * steps
    for epoch in (1, 2):
        rest, rest_labels = collect(data.load("digits", **arguments, initial_epoch=epoch)[0])
        assert same(rest, whole[epoch * steps :]) and same(rest_labels, whole_labels[epoch * steps :])
    # The epochs differ, in their order and in what is done to an image.
    assert not same(whole[:steps], whole[steps : 2 * steps])
    other, _ = collect(data.load("digits", **{**arguments, "seed": 8})[0])
    assert not same(whole, other)


def test_each_batch_of_each_epoch_is_augmented_on_its_own():
    # Erased pixels are exactly 0 and show what was drawn, whatever the images are.
    augmentation = data.Augmentation(erasing=1.0)
    images, _ = collect(data.load("digits", batch_size=480, augment=augmentation, epochs=2)[0])
    assert len({(batch == 0).tobytes() for batch in images}) == len(images) == 6


def test_plain_iteration_is_one_epoch_shuffled_anew_and_reproducible():
    def two_epochs():
        train, _ = data.load("digits", batch_size=721, seed=3)
        return collect(train)[0], collect(train)[0]

    first, second = two_epochs()
    assert len(first) == 2 and not same(first, second)
    again_first, again_second = two_epochs()
    assert same(first, again_first) and same(second, again_second)


def test_fit_resumes_on_the_same_batches():
    facts = data.info("digits")

    def run(weights, initial_epoch, epochs):
        model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
        model.set_weights(weights)
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        # The resumed run knows the length of the whole run, the interrupted one was stopped after its first epoch.
        train, _ = data.load("digits", batch_size=480, epochs=3, initial_epoch=initial_epoch, seed=5)
        steps = facts.steps_per_epoch(480)
        model.fit(train, epochs=epochs, initial_epoch=initial_epoch, steps_per_epoch=steps, verbose=0)
        return model.get_weights()

    start = [np.zeros((64, 10)), np.zeros(10)]
    whole, interrupted = run(start, 0, 3), run(start, 0, 1)
    assert same(run(interrupted, 1, 3), whole)
    # Other batches would have led elsewhere.
    assert not same(run(interrupted, 0, 2), whole)


def test_fit_and_evaluate_learn_the_digits():
    train, test = data.load("digits", batch_size=64, augment="none")
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    history = model.fit(train, validation_data=test, epochs=8, verbose=0).history
    assert len(history["loss"]) == 8 and model.evaluate(test, verbose=0)[1] > 0.9


def test_image_size_resizes_both_pipelines(cifar10):
    train, test = data.load("cifar10", image_size=48, batch_size=8, data_dir=cifar10[0], augment="none")
    assert next(iter(train))[0].shape == (8, 48, 48, 3)
    images, _ = collect(test)
    raw = data.arrays("cifar10", "test", cifar10[0])[0]
    expected = tf.image.resize(raw.astype("float32"), (48, 48), antialias=True).numpy()
    np.testing.assert_allclose(np.concatenate(images), data.normalize(expected, "cifar10"), atol=1e-4)


def test_strong_labels_are_rows_in_both_pipelines():
    train, test = data.load("digits", batch_size=144, augment="strong")
    rows = np.concatenate(collect(train)[1])
    assert rows.dtype == np.float32 and rows.shape[1] == 10
    np.testing.assert_allclose(rows.sum(1), 1, atol=1e-5)
    assert (rows.max(1) < 0.99).mean() > 0.2
    tested = np.concatenate(collect(test)[1])
    np.testing.assert_array_equal(tested.argmax(1), data.arrays("digits", "test")[1])
    assert set(np.unique(tested)) == {0, 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 0}, "image_size must be an integer from 1 to 4096, not 0"),
        ({"image_size": 32.0}, "image_size must be .*, not 32.0"),
        ({"image_size": (32, 32)}, r"image_size must be .*, not \(32, 32\)"),
        ({"batch_size": 0}, "batch_size must be .*, not 0"),
        ({"batch_size": 1443}, "batch_size must be an integer from 1 to 1442, not 1443"),
        ({"seed": -1}, "seed must be .*, not -1"),
        ({"epochs": 0}, "epochs must be .*, not 0"),
        ({"epochs": 3, "initial_epoch": 3}, "initial_epoch must be an integer from 0 to 2, not 3"),
        ({"initial_epoch": 3}, "initial_epoch=3 needs epochs"),
        ({"augment": "ligth"}, "unknown augmentation 'ligth'; known: none, light, .*strong; did you mean 'light'"),
        ({"augment": "mirror[cutmx=1]"}, "unknown field of an augmentation 'cutmx'; known: .*did you mean 'cutmix'"),
        ({"augment": "mirror[cutmix=2]"}, "cutmix=2.0 of an Augmentation must be from 0 to 1"),
        ({"augment": "mirror[flip=1]"}, "flip of an augmentation must be true or false, not '1'"),
        ({"augment": "mirror[mixup=a]"}, "mixup of an augmentation must be a number, not 'a'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.load("digits", **arguments)


def test_bad_augmentation():
    with pytest.raises(ValueError, match="fill of an Augmentation must be one of 'black', 'mirror'"):
        data.Augmentation(fill="white")
    with pytest.raises(ValueError, match="erasing=1.5.*from 0 to 1"):
        data.Augmentation(erasing=1.5)


# === Images of varying size ===


def test_streamed_evaluation_is_the_scaled_centre(imagenette):
    folder, images = imagenette
    _, test = data.load("imagenette", image_size=32, batch_size=3, data_dir=folder)
    found, labels = collect(test)
    assert [len(x) for x in found] == [3, 3, 1]
    expected = []
    for image in images["validation"]:
        height, width = image.shape[:2]
        side = round(min(height, width) * 0.875)
        top, left = (height - side) // 2, (width - side) // 2
        square = image[top : top + side, left : left + side]
        expected.append(tf.image.resize(square, (32, 32), antialias=True).numpy())
    expected = data.normalize(expected, "imagenette")
    for image, label in zip(np.concatenate(found), np.concatenate(labels), strict=True):
        # JPEG costs a few grey levels.
        errors = np.abs(expected - image).mean((1, 2, 3))
        assert errors.min() < 0.1 and errors.argmin() % 10 == label


def test_streamed_epochs_are_complete_and_resume(imagenette):
    folder, images = imagenette
    common = {"image_size": 32, "batch_size": 8, "data_dir": folder, "epochs": 2, "seed": 1}
    whole, labels = collect(data.load("imagenette", **common)[0])
    rest, rest_labels = collect(data.load("imagenette", **common, initial_epoch=1)[0])
    assert len(whole) == 6 and same(rest, whole[3:]) and same(rest_labels, labels[3:])
    for epoch in (labels[:3], labels[3:]):
        assert sorted(np.concatenate(epoch)) == sorted(np.arange(24) % 10)
    assert not same(labels[:3], labels[3:])


def test_streamed_crops_differ_between_images_and_epochs(monkeypatch, tmp_path):
    facts = shrink(monkeypatch, "imagenette", 8, 1)
    image, _ = draw_jpeg(60, 80, np.random.default_rng(4))
    write(facts, tmp_path, "1.0.0", {"train": [image] * 8, "validation": [image]}, 10)
    augmentation = data.Augmentation(crop_area=0.08)
    train, _ = data.load("imagenette", 16, batch_size=4, data_dir=tmp_path, augment=augmentation, epochs=2)
    crops = np.concatenate(collect(train)[0])
    assert len({crop.tobytes() for crop in crops}) == len(crops) == 16


# === Augmentation ===


def augment_once(augmentation, images, labels, name="digits", key=(1, 2)):
    """Runs the augmenter as the pipeline does, inside tf.data, without normalisation."""
    facts = dataclasses.replace(data.info(name), mean=(0.0,) * images.shape[-1], std=(1 / 255,) * images.shape[-1])
    augmenter = BatchAugmenter(augmentation, facts, images.shape[1])
    dataset = tf.data.Dataset.from_tensors((images.astype("float32"), labels)).map(
        lambda x, y: augmenter(x, y, tf.constant(key, "int32"))
    )
    return next(dataset.as_numpy_iterator())


def test_shift_draws_every_offset_equally_and_per_image():
    images = np.zeros((4000, 8, 8, 1))
    images[:, 4, 4] = 255
    shifted, _ = augment_once(data.Augmentation(shift=1 / 8), images, np.zeros(4000, "int32"))
    rows, columns = np.nonzero(shifted[..., 0])[1:]
    assert set(np.unique(shifted)) == {0, 255} and len(rows) == 4000
    counts = np.histogram2d(rows, columns, bins=[[3, 4, 5, 6]] * 2)[0]
    assert counts.sum() == 4000 and np.abs(counts / 4000 - 1 / 9).max() < 0.025


def test_flip_mirrors_half_of_the_images():
    images = np.random.default_rng(0).integers(0, 256, (1000, 8, 8, 1))
    flipped, _ = augment_once(data.Augmentation(flip=True), images, np.zeros(1000, "int32"))
    mirrored = (flipped == images[:, :, ::-1]).all((1, 2, 3))
    assert (mirrored | (flipped == images).all((1, 2, 3))).all() and 0.45 < mirrored.mean() < 0.55


def test_mixing_takes_images_and_labels_in_the_same_share():
    # Image i is the constant 20 i, its label is class i: the mean pixel must be 20 times the mean class.
    classes = np.arange(10)
    images = np.broadcast_to(20.0 * classes[:, None, None, None], (10, 32, 32, 1))
    for augmentation, tolerance in ((data.Augmentation(mixup=0.8), 0.01), (data.Augmentation(cutmix=1.0), 15)):
        mixed, rows = augment_once(augmentation, images, np.eye(10, dtype="float32"))
        np.testing.assert_allclose(mixed.mean((1, 2, 3)), 20 * rows @ classes, atol=tolerance)
        assert np.abs(rows - np.eye(10)).max() > 0.1


def test_mixup_and_cutmix_take_turns():
    images = tf.constant(np.broadcast_to(20.0 * np.arange(10)[:, None, None, None], (10, 16, 16, 1)), "float32")
    augmenter = BatchAugmenter(data.Augmentation(mixup=0.8, cutmix=1.0), data.info("digits"), 16)
    keys = tf.data.Dataset.range(200).map(lambda k: fold_in(tf.constant([7, 0], "int32"), k))
    mixed = keys.map(lambda key: augmenter(images, tf.eye(10), key)[0])
    # Blended images stay constant, pasted ones have an edge.
    blended = [np.ptp(x, axis=(1, 2)).max() < 1e-3 for x in mixed.as_numpy_iterator()]
    assert 0.35 < np.mean(blended) < 0.65


def test_erasing_has_its_probability():
    images = np.full((2000, 16, 16, 1), 100.0)
    erased, _ = augment_once(data.Augmentation(erasing=0.25), images, np.zeros(2000, "int32"))
    assert set(np.unique(erased)) == {0, 100}
    assert abs((erased == 0).any((1, 2, 3)).mean() - 0.25) < 0.03


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("batch", [1, 256])
def test_rand_augment_stays_in_range_and_treats_each_image_alone(channels, batch):
    rng = np.random.default_rng(0)
    # Equal images within a batch must come out differently.
    images = np.repeat(rng.integers(0, 256, (1, 16, 16, channels)), batch, axis=0)
    name = {1: "digits", 3: "cifar10"}[channels]
    changed, _ = augment_once(data.Augmentation(rand_augment=9), images, np.zeros(batch, "int32"), name)
    assert changed.shape == images.shape and np.isfinite(changed).all()
    assert changed.min() >= 0 and changed.max() <= 255.001
    assert len({image.tobytes() for image in changed}) > 0.9 * batch


def test_light_presets_follow_the_dataset():
    assert resolve("light", data.info("digits")) == data.Augmentation(shift=1 / 8)
    assert resolve("light", data.info("cifar10")) == data.Augmentation(shift=1 / 8, flip=True)
    assert resolve("light", data.info("imagenet2012")) == data.Augmentation(crop_area=0.08, flip=True)


def test_any_field_of_a_preset_may_be_changed_in_brackets():
    facts = data.info("cifar10")
    mirror = resolve("mirror", facts)
    assert resolve("mirror[cutmix=0.5, erasing=0.25]", facts) == dataclasses.replace(mirror, cutmix=0.5, erasing=0.25)
    assert resolve("strong[mixup=0,flip=false]", facts) == dataclasses.replace(resolve("strong", facts), mixup=0.0, flip=False)
    assert resolve("none[crop_area=0.5,fill=mirror]", facts) == data.Augmentation(crop_area=0.5, fill="mirror")
    assert resolve("light[crop_area=none]", data.info("imagenet2012")).crop_area is None


def test_a_random_resized_crop_of_a_batch_is_a_part_of_each_image_at_full_size():
    # Coordinates as colours: what is left of them tells which part was kept.
    side = 32
    ramp = np.broadcast_to(np.arange(side, dtype="float32"), (256, side, side))
    images = np.stack([ramp, np.swapaxes(ramp, 1, 2), np.zeros_like(ramp)], -1)
    crops, _ = augment_once(data.Augmentation(crop_area=0.25), images, np.zeros(256, "int32"), "cifar10")
    steps = crops[:, 0, 1:, 0] - crops[:, 0, :-1, 0], crops[:, 1:, 0, 1] - crops[:, :-1, 0, 1]
    width, height = (np.median(step, axis=1) for step in steps)
    for step, scale in zip(steps, (width, height)):
        # Even steps, but for what lies beyond the border's centre.
        np.testing.assert_allclose(step[:, 2:-2], np.broadcast_to(scale[:, None], step[:, 2:-2].shape), atol=1e-3)
    area, aspect = width * height, width / height
    assert 0.2 < area.min() < 0.35 and 0.8 < area.max() <= 1.0 + 1e-6
    assert 0.74 < aspect.min() < 0.85 and 1.18 < aspect.max() < 1.35
    assert abs(area.mean() - 0.6) < 0.06
    whole, _ = augment_once(data.Augmentation(crop_area=1.0), images, np.zeros(256, "int32"), "cifar10")
    assert np.abs(whole - images).max() < 0.16 * side


def test_a_shift_is_filled_with_black_or_with_the_mirrored_image():
    assert resolve("mirror", data.info("cifar10")) == data.Augmentation(shift=1 / 8, flip=True, fill="mirror")
    columns = np.broadcast_to(np.arange(1, 9, dtype="float32")[:, None], (64, 8, 8, 1))
    filled = {}
    for fill in ("black", "mirror"):
        changed, _ = augment_once(data.Augmentation(shift=1 / 4, fill=fill), columns, np.zeros(64, "int32"), "digits")
        filled[fill] = {tuple(image[4, :, 0].round().astype(int)) for image in changed}
    assert filled["black"] == {
        (*[0] * max(s, 0), *range(max(1 - s, 1), min(8 - s, 8) + 1), *[0] * max(-s, 0)) for s in range(-2, 3)
    }
    mirrored = [2, 1, *range(1, 9), 8, 7]
    assert filled["mirror"] == {tuple(mirrored[2 - s : 10 - s]) for s in range(-2, 3)}


def test_mixed_precision_leaves_the_pixels_in_float32():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        images = np.random.default_rng(0).uniform(0, 255, (8, 8, 8, 1)).astype("float32")
        flipped, _ = augment_once(data.Augmentation(flip=True), images, np.zeros(8, "int32"))
    finally:
        keras.config.set_dtype_policy("float32")
    assert flipped.dtype == np.float32 and set(np.unique(flipped)) == set(np.unique(images))


def test_keys_differ():
    key = tf.constant([0, 0], "int32")
    drawn = {tuple(fold_in(key, epoch, step).numpy()) for epoch in range(20) for step in range(20)}
    assert len(drawn) == 400


# === Checks ===


def batches(images, labels, size=4):
    return tf.data.Dataset.from_tensor_slices((images, labels)).batch(size)


def test_checked_passes_good_batches_unchanged():
    images, labels = np.random.default_rng(0).normal(size=(10, 2, 2, 1)).astype("float32"), np.arange(10, dtype="int32")
    dataset = data.checked(batches(images, labels), 10)
    assert dataset.cardinality() == 3
    np.testing.assert_array_equal(np.concatenate([x for x, _ in dataset]), images)
    weighted = data.checked(tf.data.Dataset.from_tensor_slices((images, labels, np.ones(10))).batch(5), 10)
    assert len(next(iter(weighted))) == 3


@pytest.mark.parametrize("label", [-1, 10])
def test_checked_names_the_batch_of_a_bad_label(label):
    labels = np.arange(10, dtype="int32")
    labels[9] = label
    dataset = data.checked(batches(np.zeros((10, 2, 2, 1), "float32"), labels), 10)
    iterator = iter(dataset)
    next(iterator), next(iterator)
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"label \[{label}\] of batch 2 is outside \[0, 10\)"):
        next(iterator)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_checked_names_the_batch_of_a_broken_image(value):
    images = np.zeros((10, 2, 2, 1), "float32")
    images[5, 1, 1, 0] = value
    with pytest.raises(tf.errors.InvalidArgumentError, match="images of batch 1 hold NaN or infinite"):
        collect(data.checked(batches(images, np.zeros(10, "int32")), 10))


def test_checked_float_labels():
    rows = np.eye(3, dtype="float32")
    images = np.zeros((3, 2, 2, 1), "float32")
    assert len(collect(data.checked(batches(images, rows), 3))[0]) == 1
    with pytest.raises(ValueError, match="one column for each of the 4 classes"):
        data.checked(batches(images, rows), 4)
    rows[2, 1] = np.nan
    with pytest.raises(tf.errors.InvalidArgumentError, match="of batch 0"):
        collect(data.checked(batches(images, rows), 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.array([0, 1, 3])}, r"labels\[2\]=3 is outside \[0, 3\)"),
        ({"labels": np.array([0, -1, 2])}, r"labels\[1\]=-1 is outside"),
        ({"labels": np.array([0.0, 1.0, 2.0])}, "float64 must be integers"),
        ({"labels": np.array([0, 1])}, r"labels of shape \(2,\)"),
        ({"images": np.zeros((3, 4))}, r"images of shape \(3, 4\)"),
        ({"images": np.where(np.arange(12).reshape(3, 2, 2, 1) == 5, np.nan, 0)}, r"images\[1\] holds NaN"),
    ],
)
def test_validate_arrays(change, message):
    good = {"images": np.zeros((3, 2, 2, 1)), "labels": np.array([0, 1, 2])}
    data.validate_arrays(**good, classes=3)
    with pytest.raises(ValueError, match=message):
        data.validate_arrays(**{**good, **change}, classes=3)


# === Imports ===


def test_import_needs_neither_tensorflow_nor_a_data_library():
    # Keras itself may hold TensorFlow by then; this package must not ask for it.
    code = (
        "import sys\n"
        "import keras, numpy as np\n"
        "for name in ('tensorflow', 'tensorflow_datasets', 'sklearn', 'PIL'): sys.modules[name] = None\n"
        "import acdbit_keras.models.data as data\n"
        "assert data.normalize(np.zeros((1, 2, 2, 3), 'uint8'), 'cifar10').shape == (1, 2, 2, 3)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
