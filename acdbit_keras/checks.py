"""Checks of arguments, with one voice; and of images and labels before they reach a model.

Those of images are made on the host, so that the device is never waited for.
"""

from __future__ import annotations

import difflib
import numbers

import numpy as np
import numpy.typing as npt

from acdbit_keras.typing import Dataset


def choice(name, value, allowed):
    """Checks that an argument is one of some values.

    Args:
        name: of the argument, as whoever gave it knows it.
        value: what was given.
        allowed: iterable of the values.

    Raises:
        ValueError: it is none of them; lists them, and the nearest.
    """
    allowed = list(allowed)
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, not {value!r}{did_you_mean(value, allowed)}")


def choices(name, values, allowed):
    """Checks that an argument holds some of some values, at least one.

    Args, Raises: as `choice`.
    """
    allowed = list(allowed)
    wrong = [value for value in values if value not in allowed]
    if wrong or not len(values):
        found = f"{wrong[0]!r}{did_you_mean(wrong[0], allowed)}" if wrong else "none"
        raise ValueError(f"{name} must be some of {', '.join(map(repr, allowed))}, not {found}")


def integer(name, value, lowest, highest=None):
    """Checks that an argument is an integer, Python's or numpy's, within bounds; a bool is none.

    Args:
        name: of the argument, as whoever gave it knows it.
        value: what was given.
        lowest, highest: bounds, included; without the second there is none above.

    Raises:
        ValueError: it is not.
    """
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_integer or value < lowest or (highest is not None and value > highest):
        bounds = f"of at least {lowest}" if highest is None else f"from {lowest} to {highest}"
        raise ValueError(f"{name} must be an integer {bounds}, not {value!r}")


def did_you_mean(value, known):
    """`"; did you mean 'acd_bit'?"` for a value that is nearly one of the known texts, else `""`."""
    near = difflib.get_close_matches(str(value), [each for each in known if isinstance(each, str)], n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def validate_arrays(images: npt.ArrayLike, labels: npt.ArrayLike, classes: int) -> None:
    """Checks numpy images and labels.

    Args:
        images: (N, height, width, channels) or sequences (N, steps, channels), finite.
        labels: (N,) integers in [0, classes).
        classes: number of classes.

    Raises:
        ValueError: naming the first offence.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim not in (3, 4):
        raise ValueError(f"images of shape {images.shape} must have the shape (N, height, width, channels).")
    if labels.shape != images.shape[:1]:
        raise ValueError(f"labels of shape {labels.shape} must be one integer for each of the {len(images)} images.")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels of type {labels.dtype} must be integers.")
    outside = np.flatnonzero((labels < 0) | (labels >= classes))
    if outside.size:
        index = outside[0]
        raise ValueError(f"labels[{index}]={labels[index]} is outside [0, {classes}).")
    if not np.issubdtype(images.dtype, np.integer):
        broken = np.flatnonzero(~np.isfinite(images).reshape(len(images), -1).all(axis=1))
        if broken.size:
            raise ValueError(f"images[{broken[0]}] holds NaN or infinite values; all must be finite.")


def checked(dataset: Dataset, classes: int, kind: str = "classes") -> Dataset:
    """Adds checks to a tf.data pipeline of (images, labels) or (images, labels, weights) batches.

    Iterating the result stops with `tf.errors.InvalidArgumentError`, whose message names the batch (counted from 0),
    at the first image that is not finite and the first label that is outside the range. Labels are integers or, mixed
    or one-hot, float rows with one column per class; those of other kinds are what `acdbit_keras.targets` says. Booleans
    become float32, or int32 where they are numbers of classes.

    Args:
        dataset: a batched `tf.data.Dataset`.
        classes: number of classes, labels or numbers.
        kind: `"classes"`, the default, `"labels"` or `"numbers"`.

    Returns:
        A dataset of the same batches.

    Raises:
        ValueError: if the rows of labels do not have one column for each of them.
    """
    import tensorflow as tf

    from acdbit_keras import targets

    labels_spec = dataset.element_spec[1]
    shape = labels_spec.shape
    columns = not labels_spec.dtype.is_floating
    if shape.rank is not None:
        columns = targets.is_column(shape, classes, kind)
        targets.check_type(labels_spec.dtype.as_numpy_dtype, columns)
        if not columns:
            targets.check_columns(shape, classes, kind)

    def check(index, batch):
        images, labels = batch[0], batch[1]
        if labels.dtype == tf.bool:
            labels = tf.cast(labels, tf.int32 if columns else tf.float32)
            batch = (images, labels, *batch[2:])
        assertions = []
        floating = [leaf for leaf in tf.nest.flatten(images) if leaf.dtype.is_floating]
        if floating:
            assertions.append(
                tf.debugging.Assert(
                    tf.reduce_all([tf.reduce_all(tf.math.is_finite(leaf)) for leaf in floating]),
                    [tf.strings.format("images of batch {} hold NaN or infinite values; all must be finite", index)],
                )
            )
        if kind == targets.NUMBERS:
            good, allowed = tf.math.is_finite(tf.cast(labels, tf.float64)), "the finite numbers"
        elif not columns:
            good, allowed = (labels >= 0) & (labels <= 1), "[0, 1]"
        else:
            good, allowed = (labels >= 0) & (labels < tf.cast(classes, labels.dtype)), f"[0, {classes})"
        first = tf.boolean_mask(labels, ~good)[:1]
        assertions.append(
            tf.debugging.Assert(
                tf.reduce_all(good), [tf.strings.format("label {} of batch {} is outside " + allowed, (first, index))]
            )
        )
        with tf.control_dependencies(assertions):
            return tf.nest.map_structure(tf.identity, batch)

    return dataset.enumerate().map(check)
