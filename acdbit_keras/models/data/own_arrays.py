"""Arrays of images and labels as a source: of an `.npz` file, or given in Python."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from acdbit_keras.models.data.base import Options, Source, check_split, facts_from_dict, facts_to_dict
from acdbit_keras.models.data.catalog import DatasetInfo
from acdbit_keras.models.data.split import held_out, in_order

# Under which names files have images and labels: of one set, or of training and of testing.
_PAIRS = {
    "all": (("images", "labels"), ("x", "y"), ("data", "labels")),
    "train": (("x_train", "y_train"), ("train_images", "train_labels")),
    "test": (("x_test", "y_test"), ("test_images", "test_labels"), ("x_val", "y_val"), ("val_images", "val_labels")),
}


class Arrays(Source):
    """Images and labels in memory.

    Args:
        name: how results and run folders call them.
        images: (N, height, width) or (N, height, width, 1 or 3): uint8, uint16, or float from 0 to 1 or from 0 to 255. Of images
            that are not square the central square is taken.
        labels: (N,) or (N, 1): integers, or texts.
        test_images, test_labels: the same for testing; without them a share of each class is held out.
        class_names: names of the classes, for labels that are integers from 0 on; else they are the labels themselves.
        options: `Options`.

    Raises:
        ValueError: naming what is wrong with shapes, types or values.
    """

    kind = "arrays"

    def __init__(self, name, images, labels, test_images=None, test_labels=None, class_names=None, options=None):
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"the name of arrays must be a text, not {name!r}")
        self.name = name
        self.options = options or Options()
        if (test_images is None) != (test_labels is None):
            raise ValueError(f"{name} has test {'labels' if test_images is None else 'images'} alone; both belong together")
        images, labels = _pixels(name, images), _texts(name, labels, len(images))
        self._is_given = test_images is not None
        if self._is_given:
            test_images = _pixels(f"the test images of {name}", test_images)
            test_labels = _texts(f"the test labels of {name}", test_labels, len(test_images))
            if test_images.shape[1:] != images.shape[1:]:
                raise ValueError(
                    f"{name} has training images of shape {images.shape[1:]} and test images of shape {test_images.shape[1:]}"
                )
            testing = np.repeat([False, True], [len(images), len(test_images)])
            images, labels = np.concatenate([images, test_images]), labels + test_labels
        names = _names(name, labels, class_names)
        numbers = {
            text: number for number, text in enumerate(in_order(labels) if class_names is None else map(str, range(len(names))))
        }
        labels = np.array([numbers[text] for text in labels], "int32")
        if not self._is_given:
            testing = held_out([str(place) for place in range(len(labels))], labels, self.options.holdout, self.options.seed)
        if strangers := sorted(set(labels[testing]) - set(labels[~testing])):
            raise ValueError(f"{name} has test images of the class {names[strangers[0]]!r}, of which there is none for training")
        if not testing.any():
            raise ValueError(f"{name} has no image for testing; every class needs two images at least")
        self._images, self._labels, self._testing = images, labels, testing
        training = images[~testing] / np.float32(255)
        deviation = training.std(axis=(0, 1, 2), dtype="float64")
        self._facts = DatasetInfo(
            name=name,
            classes=len(names),
            image_size=images.shape[1],
            channels=images.shape[3],
            mean=tuple(round(float(value), 4) for value in training.mean(axis=(0, 1, 2), dtype="float64")),
            std=tuple(round(max(float(value), 1 / 255), 4) for value in deviation),
            train_examples=int((~testing).sum()),
            test_examples=int(testing.sum()),
            class_names=names,
            flip=self.options.flip,
        )
        content = hashlib.sha256(images.tobytes())
        content.update(labels.tobytes() + testing.tobytes())
        self._digest = content.hexdigest()

    def info(self):
        return self._facts

    def key(self):
        return (self.kind, self.name, self.options, self._digest)

    def is_streamed(self, image_size):
        return False

    def read(self, split, image_size):
        check_split(split)
        chosen = self._testing == (split == "test")
        return self._images[chosen], self._labels[chosen]

    def report(self):
        counts = {
            name: [int(((self._labels == label) & (self._testing == testing)).sum()) for testing in (False, True)]
            for label, name in enumerate(self._facts.class_names)
        }
        return {**super().report(), "split": self._how_split(), "images_per_class": counts}

    def stored(self):
        return {
            "kind": self.kind,
            "where": self.name,
            "options": vars(self.options),
            "facts": facts_to_dict(self._facts),
            "split": self._how_split(),
            "digest": self._digest,
        }

    def _how_split(self):
        if self._is_given:
            return "as given"
        return self.options.how_held_out()


class ArrayFile(Arrays):
    """The arrays of an `.npz` file: `images` and `labels`, or `x_train`, `y_train`, `x_test`, `y_test`; perhaps `class_names`.

    Args:
        where: path of the file.
        options: `Options`.

    Raises:
        ValueError: a file that is none, arrays that are not there, and what `Arrays` raises.
    """

    kind = "npz"

    def __init__(self, where, options=None):
        self.where = pathlib.Path(where).absolute()
        try:
            with np.load(self.where, allow_pickle=False) as file:
                found = {key: file[key] for key in file.files}
        except FileNotFoundError:
            raise ValueError(f"there is no file {where}") from None
        except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
            raise ValueError(f"{where} cannot be read as arrays: {' '.join(str(error).split())}") from None
        pairs = {part: _pair(where, found, pairs) for part, pairs in _PAIRS.items()}
        main = pairs["all"] or pairs["train"]
        if main is None:
            said = ", ".join(found) or "nothing"
            raise ValueError(f"{where} must hold images and labels, or x_train, y_train, x_test and y_test; it holds {said}")
        test = pairs["test"] or (None, None)
        names = [str(name) for name in found["class_names"]] if "class_names" in found else None
        super().__init__(self.where.stem, *main, *test, class_names=names, options=options)

    def key(self):
        return (*super().key(), str(self.where))

    def report(self):
        return {**super().report(), "where": str(self.where)}

    def stored(self):
        return {**super().stored(), "where": str(self.where)}


class Absent(Source):
    """Arrays that a run was trained on and that nobody has registered in this process: their facts, and nothing to read.

    Args:
        stored: what `Arrays.stored` returned.
    """

    kind = "arrays"

    def __init__(self, stored):
        self.name = stored["where"]
        self._stored = stored
        self._facts = facts_from_dict(stored["facts"])

    def info(self):
        return self._facts

    def key(self):
        return (self.kind, self.name, self._stored["digest"])

    def stored(self):
        return self._stored

    def check(self):
        raise ValueError(
            f"the run was trained on the arrays {self.name!r}, which are not here; register them first (acd.models.data.register)"
        )


def _pixels(name, images):
    """Images as (N, side, side, channels) uint8."""
    images = np.asarray(images)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise ValueError(
            f"{name} of shape {np.shape(images)} must have the shape (N, height, width), or (N, height, width, 1 or 3)"
        )
    if images.dtype == np.uint16:
        images = (images // 257).astype("uint8")
    elif np.issubdtype(images.dtype, np.floating):
        if not np.isfinite(images).all() or images.min() < 0 or images.max() > 255:
            raise ValueError(f"{name} must have pixels from 0 to 1 or from 0 to 255, all finite")
        images = np.rint(images * (255 if images.max() <= 1 else 1)).astype("uint8")
    elif np.issubdtype(images.dtype, np.integer):
        if images.min() < 0 or images.max() > 255:
            raise ValueError(f"{name} has integers from {images.min()} to {images.max()}; pixels go from 0 to 255")
        images = images.astype("uint8")
    else:
        raise ValueError(f"{name} of type {images.dtype} must be numbers")
    height, width = images.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return np.ascontiguousarray(images[:, top : top + side, left : left + side])


def _texts(name, labels, count):
    """Labels as a list of texts."""
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (count,):
        raise ValueError(f"{name}: labels of shape {labels.shape} must be one for each of the {count} images")
    if not (np.issubdtype(labels.dtype, np.integer) or labels.dtype.kind == "U"):
        raise ValueError(f"{name}: labels of type {labels.dtype} must be integers or texts")
    return [str(label) for label in labels]


def _names(name, labels, class_names):
    if class_names is None:
        names = in_order(labels)
    else:
        names = tuple(map(str, class_names))
        known = set(map(str, range(len(names))))
        if outside := [label for label in labels if label not in known]:
            raise ValueError(
                f"{name} has the label {outside[0]!r}, which is none of the {len(names)} classes that have names, 0 on"
            )
        if len(set(names)) < len(names):
            raise ValueError(f"{name} has two classes of one name")
    if len(names) < 2:
        raise ValueError(f"{name} holds one class, {names[0]!r}; telling apart takes two at least")
    return names


def _pair(where, found, pairs):
    """Images and labels under one of the pairs of names, None if there are none."""
    for images, labels in pairs:
        if images in found:
            if labels not in found:
                raise ValueError(f"{where} has {images} but no {labels}")
            return found[images], found[labels]
    return None


def from_arrays(
    name: str,
    images: npt.ArrayLike,
    labels: npt.ArrayLike,
    test_images: npt.ArrayLike | None = None,
    test_labels: npt.ArrayLike | None = None,
    class_names: Sequence[str] | None = None,
    **options: Any,
) -> Source:
    """A dataset of arrays, to be given to `load` as it is, or to `register` so that recipes can name it.

    Args:
        name: how results and run folders call it.
        images: (N, height, width) or (N, height, width, 1 or 3): uint8, uint16, or float from 0 to 1 or from 0 to 255. Of images
            that are not square the central square is taken.
        labels: (N,) or (N, 1): integers, or texts.
        test_images, test_labels: the same for testing; without them, the default, a share of each class is held out.
        class_names: names of the classes, for labels that are integers from 0 on; by default they are the labels themselves.
        **options: `holdout`, the share (0.2), its `seed` (0), `flip`, whether training may mirror images (True).

    Returns:
        `Source`.

    Raises:
        ValueError: naming what is wrong with shapes, types or values.

    Example:
        >>> import acdbit_keras as acd
        >>> import numpy as np
        >>> x = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype="uint8")
        >>> y = ["even", "odd"] * 10
        >>> mine = acd.models.data.register(acd.models.data.from_arrays("mine", x, y, flip=False))
        >>> facts = acd.models.data.info("mine")
        >>> facts.class_names, facts.train_examples, facts.test_examples
        (('even', 'odd'), 16, 4)
        >>> acd.models.recipes.get("digits_acd_bit@mine").teacher
        'digits_teacher@mine'
    """
    known = {field.name for field in dataclasses.fields(Options)}
    if strangers := set(options) - known:
        raise TypeError(f"from_arrays() got an unexpected argument {sorted(strangers)[0]!r}")
    return Arrays(name, images, labels, test_images, test_labels, class_names, Options(**options))
