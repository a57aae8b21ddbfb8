"""tf.data pipelines that are ready for `model.fit` and `model.evaluate`.

A training batch is a pure function of (seed, epoch, step): the order of an epoch is drawn from (seed, epoch), the
augmentation of a batch from (seed, epoch, step). A run that resumes at an epoch sees what an uninterrupted one sees.
"""

from __future__ import annotations

from acdbit_keras import checks
from acdbit_keras.models.data import catalog
from acdbit_keras.models.data.augmentation import Augmentation, BatchAugmenter, fold_in, resolve
from acdbit_keras.models.data.base import check_split
from acdbit_keras.models.data.scaling import resize
from acdbit_keras.models.data.sources import DatasetLike, held, source
from acdbit_keras.quick_start import untuned
from acdbit_keras.typing import Dataset, Path

# What a key is drawn for.
_ORDER, _CROP, _AUGMENT = range(3)

_BATCHES_AHEAD = 2


def load(
    name: DatasetLike,
    image_size: int | None = None,
    batch_size: int = 128,
    data_dir: Path | None = None,
    seed: int = 0,
    augment: str | Augmentation = "light",
    epochs: int | None = None,
    initial_epoch: int = 0,
) -> tuple[Dataset, Dataset]:
    """Loads a dataset as two pipelines, for training and for testing.

    ```python
    train, test = load("cifar10")
    model.fit(train, validation_data=test, epochs=100)
    ```

    Without `epochs`, `train` is one epoch long and every iteration shuffles and augments it anew. With `epochs` it is
    the chain of the epochs from `initial_epoch` on, which is what a run that may have to resume needs:

    ```python
    train, test = load("cifar10", epochs=100, initial_epoch=40)
    model.fit(train, epochs=100, initial_epoch=40, steps_per_epoch=info("cifar10").steps_per_epoch(128))
    ```

    Images are float32 (batch, image_size, image_size, channels), normalised with the dataset's constants. Of images that are
    not square the central square is taken. Labels are int32 (batch,); where the augmentation mixes labels (MixUp, CutMix,
    thus "strong") they are float32 (batch, classes), in the test pipeline as well, so that one loss fits both. Training
    batches are all full.

    Args:
        name: a name of `names`, or your own pictures: a folder of class folders, a `.csv`, an `.npz`, a `Source`; see `source`.
        image_size: side of the images in pixels; default: the dataset's own. Images are resized where it differs.
        batch_size: images per batch; default 128.
        data_dir: folder of the prepared datasets; default: $ACDBIT_DATA_DIR or ~/tensorflow_datasets.
        seed: integer from 0 to 2**31 - 1, from which all randomness comes; default 0.
        augment: "none", "light", the default, "mirror", "strong", one of them with changes, `"mirror[cutmix=1]"`, or an
            `Augmentation`.
        epochs: total number of epochs of the run, or None, the default, for pipelines of one epoch.
        initial_epoch: first epoch of the chain, from 0, the default; it needs `epochs`.

    Returns:
        (train, test), two `tf.data.Dataset`s.

    Raises:
        ValueError: if an argument is out of its range or the dataset is not prepared. Nothing is ever downloaded.
    """
    name = source(name, data_dir)
    one_hot = resolve(augment, name.info()).mixes_labels
    common = {"image_size": image_size, "batch_size": batch_size, "data_dir": data_dir, "one_hot": one_hot}
    train = pipeline(name, "train", **common, seed=seed, augment=augment, epochs=epochs, initial_epoch=initial_epoch)
    return train, pipeline(name, "test", **common)


def pipeline(
    name: DatasetLike,
    split: str,
    image_size: int | None = None,
    batch_size: int = 128,
    data_dir: Path | None = None,
    seed: int = 0,
    augment: str | Augmentation = "light",
    epochs: int | None = None,
    initial_epoch: int = 0,
    one_hot: bool = False,
) -> Dataset:
    """One of the two pipelines of `load`.

    Args:
        split: "train", or "test" for every test image once, in order and not augmented; `seed`, `augment`, `epochs`
            and `initial_epoch` then have no effect.
        one_hot: whether labels are float32 (batch, classes) even if no augmentation mixes them; default False.

    The other arguments, and the errors, are those of `load`.

    Returns:
        `tf.data.Dataset` of (images, labels).
    """
    found = source(name, data_dir)
    check_split(split)
    # Before the facts: of pictures that have changed since they were stored it counts anew.
    found.check()
    facts = found.info()
    image_size = facts.side(image_size)
    checks.integer("image_size", image_size, 1, 4096)
    # Training batches are full; of testing there is at least one, whatever its size.
    checks.integer("batch_size", batch_size, 1, facts.train_examples if split == "train" else 2**31 - 1)
    checks.integer("seed", seed, 0, 2**31 - 1)
    if epochs is not None:
        checks.integer("epochs", epochs, 1, 2**31 - 1)
        checks.integer("initial_epoch", initial_epoch, 0, epochs - 1)
    elif initial_epoch:
        raise ValueError(f"initial_epoch={initial_epoch!r} needs epochs, the total number of epochs.")
    augmentation = resolve(augment, facts) if split == "train" else Augmentation()

    import tensorflow as tf

    is_streamed = found.is_streamed(image_size) or (augmentation.crop_area is not None and facts.varying_size)
    if is_streamed:
        images = _Streamed(found.records(split), image_size, augmentation.crop_area)
    else:
        images = _InMemory(*held(found, split, image_size), image_size)
    augmenter = BatchAugmenter(augmentation, facts, image_size)
    to_rows = one_hot or augmentation.mixes_labels

    def rows(labels):
        return tf.one_hot(labels, facts.classes) if to_rows else labels

    if split == "test":
        batches = images.in_order(batch_size).map(
            lambda pixels, labels: (catalog.standardize(pixels, facts), rows(labels)), tf.data.AUTOTUNE
        )
    else:
        key = tf.constant([seed, 0], "int32")
        if epochs is None:
            # One number per iteration, another in each: an epoch that no resumed run will ask for.
            epoch_numbers = tf.data.Dataset.random(seed, rerandomize_each_iteration=True).take(1)
        else:
            epoch_numbers = tf.data.Dataset.range(initial_epoch, epochs)

        def finish(epoch, step, pixels, labels):
            return augmenter(pixels, rows(labels), fold_in(key, _AUGMENT, epoch, step))

        batches = images.shuffled(epoch_numbers, key, batch_size).map(finish, tf.data.AUTOTUNE)
        length = facts.steps_per_epoch(batch_size) * (1 if epochs is None else epochs - initial_epoch)
        batches = batches.apply(tf.data.experimental.assert_cardinality(length))
    # What sits in memory was checked when it was read.
    if is_streamed:
        batches = checks.checked(batches, facts.classes)
    return untuned(batches.prefetch(_BATCHES_AHEAD))


def calibration(dataset: DatasetLike, image_size: int, data_dir: Path | None = None) -> Dataset:
    """Some training images, not augmented, as what calibrates an int8 file takes them: two batches of at most 128.

    Args:
        dataset: name of the dataset, or what else `source` takes.
        image_size: side of the images in pixels.
        data_dir: folder of the prepared datasets; default: $ACDBIT_DATA_DIR or ~/tensorflow_datasets.

    Returns:
        `tf.data.Dataset` of (images, labels).

    Raises:
        ValueError: as `load`.
    """
    found = source(dataset, data_dir)
    found.check()
    batch_size = min(128, found.info().train_examples)
    return pipeline(found, "train", image_size=image_size, batch_size=batch_size, augment="none").take(2)


class _InMemory:
    """Images of one size: held as uint8 and gathered a batch at a time."""

    def __init__(self, images, labels, image_size):
        import tensorflow as tf

        self.image_size = image_size
        with tf.device("CPU:0"):
            self.images, self.labels = tf.constant(images), tf.constant(labels)

    def _gather(self, indices):
        import tensorflow as tf

        images = tf.cast(tf.gather(self.images, indices), "float32")
        if self.image_size != self.images.shape[1]:
            images = resize(images, self.image_size)
        return images, tf.gather(self.labels, indices)

    def in_order(self, batch_size):
        import tensorflow as tf

        return tf.data.Dataset.range(len(self.labels)).batch(batch_size).map(self._gather, tf.data.AUTOTUNE)

    def shuffled(self, epoch_numbers, key, batch_size):
        """Batches (epoch, step, images, labels)."""
        import tensorflow as tf

        count = len(self.labels)
        steps = count // batch_size

        def order(epoch):
            indices = tf.random.experimental.stateless_shuffle(tf.range(count), fold_in(key, _ORDER, epoch))
            indices = tf.reshape(indices[: steps * batch_size], (steps, batch_size))
            return tf.data.Dataset.from_tensor_slices((tf.repeat(epoch, steps), tf.range(steps), indices))

        return epoch_numbers.flat_map(order).map(
            lambda epoch, step, indices: (epoch, step, *self._gather(indices)), tf.data.AUTOTUNE
        )


class _Streamed:
    """Images that are read and decoded in every epoch; see `acdbit_keras.models.data.records`."""

    def __init__(self, records, image_size, crop_area):
        self.records = records
        self.image_size = image_size
        self.crop_area = crop_area

    def in_order(self, batch_size):
        import tensorflow as tf

        def read(record):
            return self.records.image(record, self.image_size), self.records.label(record)

        return self.records.in_order().map(read, tf.data.AUTOTUNE).batch(batch_size)

    def shuffled(self, epoch_numbers, key, batch_size):
        """Batches (epoch, step, images, labels)."""
        import tensorflow as tf

        kept = self.records.examples // batch_size * batch_size

        def numbered(epoch):
            records = self.records.shuffled(fold_in(key, _ORDER, epoch)).take(kept).enumerate()
            return records.map(lambda position, record: (epoch, position, record))

        def read(epoch, position, record):
            if self.crop_area is None:
                image = self.records.image(record, self.image_size)
            else:
                image = self.records.crop(record, self.image_size, self.crop_area, fold_in(key, _CROP, epoch, position))
            return epoch, position, image, self.records.label(record)

        return (
            epoch_numbers.flat_map(numbered)
            .map(read, tf.data.AUTOTUNE)
            .batch(batch_size, drop_remainder=True)
            .map(lambda epochs, positions, images, labels: (epochs[0], positions[0] // batch_size, images, labels))
        )
