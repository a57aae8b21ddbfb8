"""What a network is trained towards - classes, several labels at once, or numbers - and checks of such targets.

Arrays, `tf.data` pipelines and `PyDataset`s are held to the same rules:

    classes   integers in [0, classes), `(n,)` or `(n, 1)`; or rows `(n, classes)` of shares in [0, 1], one-hot or mixed
    labels    rows `(n, classes)` in [0, 1], booleans among them; `(n,)` too where there is one output
    numbers   finite, `(n, outputs)`; `(n,)` too where there is one output
"""

from __future__ import annotations

import keras
import numpy as np

CLASSES, LABELS, NUMBERS = "classes", "labels", "numbers"
_LOSSES = {
    **dict.fromkeys(("sparse_categorical_crossentropy", "categorical_crossentropy", "categorical_focal_crossentropy"), CLASSES),
    **dict.fromkeys(("binary_crossentropy", "binary_focal_crossentropy"), LABELS),
    **dict.fromkeys(
        (
            "mean_squared_error",
            "mean_absolute_error",
            "mean_absolute_percentage_error",
            "mean_squared_logarithmic_error",
            "huber",
            "log_cosh",
            "cosine_similarity",
            "poisson",
        ),
        NUMBERS,
    ),
}


def kind_of(loss, outputs: int) -> str | None:
    """What a loss compares outputs with, one of the three kinds, or `None` for a loss that is not known here.

    Args:
        loss: what `compile` takes; `None` says classes, or numbers where there is one output.
        outputs: number of outputs of the network.
    """
    if loss is None:
        return NUMBERS if outputs == 1 else CLASSES
    if isinstance(loss, (str, dict)):
        loss = keras.losses.get(loss)
    name = type(loss).__name__ if isinstance(loss, keras.Loss) else getattr(loss, "__name__", "")
    return {_plain(known): kind for known, kind in _LOSSES.items()}.get(_plain(name))


def _plain(name):
    return name.replace("_", "").lower()


def check(targets, outputs: int, kind: str, where: str = "labels", rows: int | None = None) -> None:
    """Checks an array of targets.

    Args:
        targets: numpy array.
        outputs: number of outputs of the network.
        kind: one of the three kinds.
        where: what an error calls them.
        rows: how many there must be; default: any number.

    Raises:
        ValueError: naming the first that is wrong, and what is allowed.
    """
    targets = np.asarray(targets)
    if not targets.ndim or (rows is not None and len(targets) != rows):
        raise ValueError(f"{where} of shape {targets.shape} must be one for each of the {rows} images.")
    if is_column(targets.shape, outputs, kind):
        check_type(targets.dtype, True, where)
        good, allowed = (targets >= 0) & (targets < outputs), f"[0, {outputs})"
    else:
        check_columns(targets.shape, outputs, kind, where)
        good, allowed = (
            (np.isfinite(targets), "the finite numbers") if kind == NUMBERS else ((targets >= 0) & (targets <= 1), "[0, 1]")
        )
    if not good.all():
        index = tuple(np.argwhere(~good)[0])
        raise ValueError(f"{where}[{', '.join(map(str, index))}]={targets[index]} is outside {allowed}.")


def is_column(shape, outputs, kind) -> bool:
    """Whether targets of a shape are numbers of classes, and not rows."""
    return kind == CLASSES and (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1 and outputs != 1))


def check_type(dtype, column, where="labels"):
    """Raises ValueError for numbers of classes that are no integers."""
    if column and np.dtype(dtype).kind not in "iub":
        raise ValueError(f"{where} of type {np.dtype(dtype)} must be integers, or rows with one column for each class.")


def check_columns(shape, outputs, kind, where="labels"):
    """Raises ValueError unless rows of targets have a column for each output."""
    if len(shape) == 1 and outputs == 1:
        return
    if len(shape) != 2 or shape[1] not in (None, outputs):
        what = {CLASSES: "classes", LABELS: "labels", NUMBERS: "numbers"}[kind]
        raise ValueError(f"{where} of shape {tuple(shape)} must have one column for each of the {outputs} {what}.")


def check_inputs(inputs) -> None:
    """Raises ValueError for the first input, of any structure of arrays, that is not finite."""
    for leaf in keras.tree.flatten(inputs):
        array = np.asarray(leaf)
        if array.dtype.kind == "f" and len(array):
            broken = np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))
            if broken.size:
                raise ValueError(f"images[{broken[0]}] holds NaN or infinite values; all must be finite.")
