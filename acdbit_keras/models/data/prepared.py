"""Datasets in the format of TensorFlow Datasets as sources, those whose facts are known here and any other; and those without
files."""

import functools

import numpy as np

from acdbit_keras.checks import validate_arrays
from acdbit_keras.models.data import movements, storage
from acdbit_keras.models.data.base import Options, Source, check_split, facts_from_dict, facts_to_dict
from acdbit_keras.models.data.catalog import DatasetInfo
from acdbit_keras.models.data.records import ShardRecords

# Statistics of a dataset that is not known here are those of so many of its training images.
_MEASURED_IMAGES = 10_000
_MEASURED_SIDE = 64
_TEST_SPLITS = ("test", "validation")


class Known(Source):
    """A dataset whose facts are known before it is looked at.

    Args:
        facts: `DatasetInfo`.
        data_dir: folder of the prepared datasets; default: $ACDBIT_DATA_DIR or ~/tensorflow_datasets.
    """

    kind = "known"

    def __init__(self, facts, data_dir=None):
        self.name = facts.name
        self._facts = facts
        self._data_dir = data_dir

    def info(self):
        return self._facts

    def class_names(self):
        if self._facts.class_names is not None:
            return self._facts.class_names
        return tuple(self._builder().info.features["label"].names)

    def key(self):
        return (self.kind, self._facts, None if self._facts.tfds_name is None else self._folder())

    def is_streamed(self, image_size):
        return self._facts.varying_size

    def read(self, split, image_size):
        check_split(split)
        facts = self._facts
        embedded = {"digits": _digits, "movements": movements.read}
        images, labels = embedded[facts.name](split) if facts.tfds_name is None else self._read(split)
        if images.shape[1:] != facts.shape:
            raise ValueError(f"dataset={self.name!r} holds images of shape {images.shape[1:]} instead of {facts.shape}.")
        validate_arrays(images, labels, facts.classes)
        return images, labels

    def records(self, split):
        check_split(split)
        return ShardRecords(self._builder(), self._split(split), self._facts.channels, self._facts.central_share)

    def _split(self, split):
        return self._facts.test_split if split == "test" else "train"

    def _folder(self):
        return str(storage.resolve_data_dir(self._data_dir).resolve())

    def _builder(self):
        return storage.prepared_builder(self._facts, self._data_dir)

    def _read(self, split):
        import tensorflow as tf
        import tensorflow_datasets as tfds

        facts, builder = self._facts, self._builder()
        count = builder.info.splits[self._split(split)].num_examples
        images = np.empty((count, facts.image_size, facts.image_size, facts.channels), "uint8")
        labels = np.empty(count, "int32")
        try:
            dataset = builder.as_dataset(split=self._split(split), batch_size=1000, shuffle_files=False)
            filled = 0
            for batch in tfds.as_numpy(dataset):
                size = len(batch["label"])
                images[filled : filled + size] = batch["image"]
                labels[filled : filled + size] = batch["label"]
                filled += size
        except (tf.errors.OpError, OSError, ValueError) as error:
            raise ValueError(
                f"dataset={self.name!r} in {builder.data_dir} cannot be read ({type(error).__name__}); "
                f"remove that folder and prepare it again with: acdbit data prepare {self.name} --data-dir {self._folder()}"
            ) from error
        if filled != count:
            raise ValueError(f"dataset={self.name!r} in {builder.data_dir} ends after {filled} of {count} images.")
        return images, labels


class Measured(Source):
    """Any classification dataset that TensorFlow Datasets has prepared; its facts are measured.

    Args:
        tfds_name: its name there, with its config where it has one: `"stl10"`, `"oxford_flowers102"`, `"imagenette/160px-v2"`.
        data_dir: folder of the prepared datasets; default: $ACDBIT_DATA_DIR or ~/tensorflow_datasets.
        options: `Options`.
        stored: what `stored()` of an earlier source returned.

    Raises:
        ValueError: by any method: not prepared, no features `image` and `label`, no training images, labels that are hidden.
    """

    kind = "tfds"

    def __init__(self, tfds_name, data_dir=None, options=None, stored=None):
        self.tfds_name = tfds_name
        self.name = tfds_name.replace("/", "_")
        self.options = options or Options()
        self._data_dir = data_dir
        self._stored = stored
        self._facts = None if stored is None else facts_from_dict(stored["facts"])

    def info(self):
        if self._facts is None:
            self._facts = _measure(self._builder(), self.name, self.options)
        return self._facts

    def key(self):
        return (self.kind, str(self._builder().data_dir), self.options)

    def read(self, split, image_size):
        records = self.records(split)
        images = np.empty((records.examples, image_size, image_size, self.info().channels), "uint8")
        labels = np.empty(records.examples, "int32")

        import tensorflow as tf

        def decode(record):
            return records.image(record, image_size), records.label(record)

        batches = records.in_order().map(decode, tf.data.AUTOTUNE).batch(256)
        filled = 0
        for pixels, theirs in batches.as_numpy_iterator():
            images[filled : filled + len(pixels)] = np.rint(pixels)
            labels[filled : filled + len(pixels)] = theirs
            filled += len(pixels)
        try:
            validate_arrays(images, labels, self.info().classes)
        except ValueError as error:
            # Some publish the labels of one split alone.
            raise ValueError(f"the split {split!r} of {self.name} cannot be used: {error}") from None
        return images, labels

    def records(self, split):
        check_split(split)
        builder = self._builder()
        parts = dict(zip(("train", "test"), _parts(builder, self.options)))
        return ShardRecords(builder, parts[split], self.info().channels)

    def check(self):
        self._builder()

    def report(self):
        return {**super().report(), "where": str(self._builder().data_dir), "split": self._how_split()}

    def stored(self):
        return {
            "kind": self.kind,
            "where": self.tfds_name,
            "options": vars(self.options),
            "facts": facts_to_dict(self.info()),
            "split": self._how_split(),
            "data_dir": str(storage.resolve_data_dir(self._data_dir).resolve()),
        }

    def _how_split(self):
        train, test = _parts(self._builder(), self.options)
        return f"{train} for training, {test} for testing"

    def _builder(self):
        folder = storage.resolve_data_dir(self._data_dir)
        found = storage.newest(self.tfds_name, folder)
        if found is None:
            raise ValueError(f"TensorFlow Datasets has prepared no {self.tfds_name!r} in {folder}; tfds build or tfds.load does")
        return _open(str(found))


@functools.lru_cache(maxsize=8)
def _open(folder):
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(folder)
    features = builder.info.features
    known = getattr(features, "keys", dict)()
    if "image" not in known or "label" not in known:
        raise ValueError(f"{builder.info.name} has the features {', '.join(known) or 'of no names'}; image and label are needed")
    if not isinstance(features["image"], tfds.features.Image) or not isinstance(features["label"], tfds.features.ClassLabel):
        raise ValueError(f"{builder.info.name} has an image or a label that is none: {features['image']}, {features['label']}")
    if "train" not in builder.info.splits:
        raise ValueError(f"{builder.info.name} has the splits {', '.join(builder.info.splits)}; train is needed")
    return builder


def _parts(builder, options):
    """The splits for training and testing, as TensorFlow Datasets writes them."""
    test = next((name for name in _TEST_SPLITS if name in builder.info.splits), None)
    if test:
        return "train", test
    # Examples lie in a random order, in which they were written.
    kept = 100 - max(round(100 * options.holdout), 1)
    return f"train[:{kept}%]", f"train[{kept}%:]"


def _measure(builder, name, options):
    import tensorflow as tf

    features = builder.info.features
    height, width, depth = features["image"].shape
    channels = 1 if depth == 1 else 3
    train, test = _parts(builder, options)
    records = ShardRecords(builder, train, channels)
    side = min(_MEASURED_SIDE, height or _MEASURED_SIDE, width or _MEASURED_SIDE)
    total, squares, count = np.zeros(channels), np.zeros(channels), 0
    images = records.in_order().take(_MEASURED_IMAGES).map(lambda record: records.image(record, side), tf.data.AUTOTUNE)
    for batch in images.batch(256).as_numpy_iterator():
        pixels = batch.reshape(-1, channels).astype("float64") / 255
        total, squares, count = total + pixels.sum(0), squares + (pixels**2).sum(0), count + len(pixels)
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return DatasetInfo(
        name=name,
        classes=features["label"].num_classes,
        image_size=min(height, width) if height and width else 224,
        channels=channels,
        mean=tuple(round(float(value), 4) for value in mean),
        std=tuple(round(max(float(value), 1 / 255), 4) for value in deviation),
        train_examples=records.examples,
        test_examples=builder.info.splits[test].num_examples,
        class_names=tuple(features["label"].names),
        flip=options.flip,
        varying_size=not (height and height == width),
    )


def _digits(split):
    from sklearn.datasets import load_digits

    digits = load_digits()
    # Pixels count 0 to 16 dots. Every fifth image of each class is for testing.
    images = np.rint(digits.images[..., None] * (255 / 16)).astype("uint8")
    labels = digits.target.astype("int32")
    testing = np.zeros(len(labels), bool)
    for digit in range(10):
        testing[np.flatnonzero(labels == digit)[4::5]] = True
    chosen = testing if split == "test" else ~testing
    return images[chosen], labels[chosen]
