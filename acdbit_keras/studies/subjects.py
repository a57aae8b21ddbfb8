"""Trained models under examination: their names, the dataset they share, its test images as pixels, logits, gradients.

A subject takes pixels of 0 to 255, as a sensor delivers them, so that a disturbance means the same for every model.
"""

import pathlib

import keras
import numpy as np

from acdbit_keras.convert import pictures
from acdbit_keras.files import read_json
from acdbit_keras.models import data
from acdbit_keras.models.loading import load_model
from acdbit_keras.models.run import Run
from acdbit_keras.models.zoo import entries
from acdbit_keras.studies.deployed import card_of


def is_file(path):
    """Whether a model is given as a converted file, a `.tflite` or a flat one."""
    return str(path).endswith((".tflite", ".acdm"))


def names(paths):
    """A short name for each path: the run's folder or the file's stem, with the folder around it where that is not unique.

    Raises:
        ValueError: no path, or one given twice.
    """
    if not paths:
        raise ValueError("name at least one model: a run's folder, a .keras or a .tflite file")
    paths = [pathlib.Path(path) for path in paths]
    repeated = [str(path) for path in paths if sum(path.absolute() == other.absolute() for other in paths) > 1]
    if repeated:
        raise ValueError(f"{repeated[0]} is given twice")
    short = [path.stem if path.suffix in (".keras", ".tflite") else path.absolute().name for path in paths]
    return [name if short.count(name) == 1 else f"{path.absolute().parent.name}/{path.name}" for path, name in zip(paths, short)]


def dataset_of(path):
    """The dataset a model was trained on, by the recipe or the zoo's card beside it or the card in it; `None` if none says."""
    if in_zoo(path):
        return entries.card(str(path))["data"]["dataset"]
    if is_file(path):
        return card_of(path).get("dataset")
    run = Run.around(path)
    if run.exists:
        return run.dataset
    card = run.folder / entries.CARD
    return read_json(card)["data"]["dataset"] if card.exists() else None


def needed_dataset_of(path, data_dir=None):
    """`dataset_of`, for whoever needs its images.

    Raises:
        ValueError: a model that does not say, or one trained on images of which it says how they were called and not where
            they are.
    """
    dataset = dataset_of(path)
    if dataset is None:
        raise ValueError(f"{path} does not say which dataset it was trained on; pass --dataset")
    try:
        data.source(dataset, data_dir)
    except ValueError:
        if not in_zoo(path) and not is_file(path):
            raise
        raise ValueError(
            f"{path} was trained on {dataset!r}, which is not known by its name; pass --dataset with where its images are: a "
            "folder of class folders, a .csv, an .npz, or a run's folder"
        ) from None
    return dataset


def in_zoo(path):
    """Whether a model is named by an entry of the zoo, and not by a file or folder of that name."""
    return not pathlib.Path(path).exists() and str(path) in entries.zoo_names()


def shared_dataset(paths, dataset=None, data_dir=None):
    """The one dataset that all models were trained on, or the one that is asked for.

    Raises:
        FileNotFoundError: no such model.
        ValueError: an unknown dataset, a model that does not say, or models of different datasets.
    """
    for path in paths:
        if not pathlib.Path(path).exists() and not in_zoo(path):
            raise FileNotFoundError(f"there is no file or folder {path}, nor a model of the zoo of that name")
    if dataset:
        data.source(dataset, data_dir)
        return dataset
    found = {str(path): needed_dataset_of(path, data_dir) for path in paths}
    # Of images of your own a run's folder knows where they are, a file only how they are called.
    stored = [name for name in found.values() if name.endswith(data.STORED)]
    if (
        stored
        and len({data.short_name(name) for name in found.values()}) == 1
        and len({data.source(name, data_dir).key() for name in stored}) == 1
    ):
        return stored[0]
    if len(set(found.values())) > 1:
        said = ", ".join(f"{path}: {name}" for path, name in found.items())
        raise ValueError(f"the models were trained on different datasets ({said}); examine those of one dataset together")
    return next(iter(found.values()))


def pixels_of(dataset, image_size, samples=None, data_dir=None):
    """The first test images of a dataset, as pixels.

    Args:
        dataset: its name.
        image_size: side in pixels; images of another size are resized as evaluation does.
        samples: number of images; all without.
        data_dir: where the datasets are prepared.

    Returns:
        Images `(n, image_size, image_size, channels)` uint8 and labels `(n,)` int32.

    Raises:
        ValueError: `samples` below 1 or above what there is; an unknown or unprepared dataset.
    """
    found = data.source(dataset, data_dir)
    found.check()
    facts = found.info()
    if samples is not None and not 1 <= samples <= facts.test_examples:
        raise ValueError(f"samples must be from 1 to {facts.test_examples}, the test images of {facts.name}, not {samples}")
    samples = facts.test_examples if samples is None else samples
    if not facts.varying_size and facts.side(image_size) == facts.image_size:
        images, labels = data.arrays(found, "test")
        return images[:samples], labels[:samples]
    batches = data.pipeline(found, "test", image_size=image_size).unbatch().take(samples).batch(256)
    images, labels = (np.concatenate(parts) for parts in zip(*batches.as_numpy_iterator()))
    pixels = (images * np.asarray(facts.std, "float32") + np.asarray(facts.mean, "float32")) * 255
    return np.rint(np.clip(pixels, 0, 255)).astype("uint8"), labels


class KerasSubject:
    """A Keras model that takes pixels.

    Args:
        path: run folder or `.keras` file.
        name: what results call it.
        dataset: whose normalisation its images need.
        batch_size: images it takes at once; every call is padded to it, so that the model is compiled once.
        data_dir: where the datasets are prepared.

    Attributes:
        model: the backbone.
        image_size: side of its images in pixels.

    Raises:
        FileNotFoundError, ValueError: as `load_model`; classes or channels that are not the dataset's.
    """

    def __init__(self, path, name, dataset, batch_size=128, data_dir=None):
        self.name, self.path, self.dataset, self.batch_size = name, str(path), dataset, batch_size
        self.model = load_model(path)
        _check_fits(name, (self.model.classes, self.model.channels), dataset, data_dir)
        self.image_size = self.model.image_size
        self._logits, self._gradient = _COMPILERS[keras.config.backend()](self.model)

    @property
    def scheme(self):
        return self.model.scheme.name

    @property
    def is_binary(self):
        return self.model.scheme.is_binary

    def logits(self, pixels):
        """Logits `(n, classes)` of pixels `(n, height, width, channels)`, 0 to 255, of any type."""
        return self._batched(self._logits, data.normalize(pixels, self.dataset))

    def gradient(self, pixels, labels):
        """Gradient of the cross-entropy with respect to the normalised image, `(n, height, width, channels)`.

        Per image, not averaged over the batch. Normalisation scales each channel by a positive number, so the signs are
        those of the gradient with respect to the pixels. Through signs it is the straight-through estimators' gradient.
        """
        return self._batched(self._gradient, data.normalize(pixels, self.dataset), np.asarray(labels, "int32"))

    def _batched(self, function, *arrays):
        outputs = []
        for start in range(0, len(arrays[0]), self.batch_size):
            parts = [array[start : start + self.batch_size] for array in arrays]
            missing = self.batch_size - len(parts[0])
            padded = [np.pad(part, [(0, missing)] + [(0, 0)] * (part.ndim - 1)) for part in parts]
            outputs.append(np.asarray(function(*padded))[: len(parts[0])])
        return np.concatenate(outputs)


class FileSubject:
    """A `.tflite` file that takes pixels; it has no gradient.

    Args:
        path: of the file.
        name, dataset, data_dir: as for `KerasSubject`.

    Raises:
        FileNotFoundError, ImportError, ValueError: as `acdbit_keras.convert.Interpreter`; channels that are not the dataset's.
    """

    model = None

    def __init__(self, path, name, dataset, data_dir=None):
        from acdbit_keras.convert import Interpreter

        self.name, self.path, self.dataset = name, str(path), dataset
        self._interpreter = Interpreter(path)
        _check_fits(
            name,
            (self.logits(np.zeros((1, *self._interpreter.input_shape))).shape[-1], self._interpreter.input_shape[-1]),
            dataset,
            data_dir,
        )
        self.image_size = self._interpreter.input_shape[0]

    @property
    def scheme(self):
        return card_of(self.path).get("scheme")

    def logits(self, pixels):
        """As `KerasSubject.logits`."""
        return logits_of(self._interpreter, pixels, self.dataset)


def logits_of(interpreter, pixels, dataset):
    """Logits `(n, classes)` that an `Interpreter` gives for pixels `(n, height, width, channels)`, 0 to 255, of any type."""
    if interpreter.input_dtype in pictures.LEAST:
        return interpreter.predict(pictures.in_integers(pixels, interpreter.input_dtype))
    return interpreter.predict(data.normalize(pixels, dataset))


def open_all(paths, dataset=None, batch_size=128, data_dir=None):
    """The subjects behind paths, which must be of one dataset and take images of one size.

    Returns:
        `(subjects, dataset)`.

    Raises:
        ValueError: as `names`, `shared_dataset` and the subjects; images of different sizes.
    """
    called = names(paths)
    dataset = shared_dataset(paths, dataset, data_dir)
    subjects = [
        FileSubject(path, name, dataset, data_dir) if is_file(path) else KerasSubject(path, name, dataset, batch_size, data_dir)
        for path, name in zip(paths, called)
    ]
    sizes = {subject.name: subject.image_size for subject in subjects}
    if len(set(sizes.values())) > 1:
        said = ", ".join(f"{name}: {size}" for name, size in sizes.items())
        raise ValueError(f"the models take images of different sizes ({said}); examine those of one size together")
    return subjects, dataset


def correct(logits, labels):
    """Whether each image is classified rightly, `(n,)` bools; logits that are not finite are wrong."""
    finite = np.isfinite(logits).all(axis=-1)
    return finite & (np.where(finite[:, None], logits, 0.0).argmax(axis=-1) == labels)


def _check_fits(name, found, dataset, data_dir):
    facts = data.info(dataset, data_dir)
    if tuple(found) != (facts.classes, facts.channels):
        raise ValueError(
            f"{name} has {found[0]} classes and {found[1]} image channels, {facts.name} has {facts.classes} and {facts.channels}"
        )


def _compile_tensorflow(model):
    import tensorflow as tf

    def logits(images):
        return model(images, training=False)

    def gradient(images, labels):
        with tf.GradientTape() as tape:
            tape.watch(images)
            loss = tf.reduce_sum(_cross_entropy(labels, logits(images)))
        return tape.gradient(loss, images)

    logits_ = tf.function(logits, autograph=False)
    gradient_ = tf.function(gradient, autograph=False)
    return (
        lambda images: logits_(tf.constant(images)),
        lambda images, labels: gradient_(tf.constant(images), tf.constant(labels)),
    )


def _compile_jax(model):
    import jax

    trainable = [variable.value for variable in model.trainable_variables]
    fixed = [variable.value for variable in model.non_trainable_variables]

    def logits(images):
        return model.stateless_call(trainable, fixed, images, training=False)[0]

    def loss(images, labels):
        return _cross_entropy(labels, logits(images)).sum()

    return jax.jit(logits), jax.jit(jax.grad(loss))


_COMPILERS = {"tensorflow": _compile_tensorflow, "jax": _compile_jax}


def _cross_entropy(labels, logits):
    return keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
