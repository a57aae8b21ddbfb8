"""What a trained model takes pictures and classes to be, against the data that it is to teach on.

The shapes of a teacher's logits fit any data with as many classes. Whether they mean the same is known where the teacher is of
the zoo or lies in a run's folder; of another file nothing is known, and nothing is checked.
"""

import math
import os
import pathlib
from typing import NamedTuple

from acdbit_keras.models import data
from acdbit_keras.models.run import Run
from acdbit_keras.models.zoo.entries import card, zoo_names

TOLERANCE = 0.02  # of means and deviations of pixels in [0, 1]: those of two parts of the same pictures differ by less


class View(NamedTuple):
    """The data that a model was trained on.

    Attributes:
        dataset: its name.
        mean, std: the normalisation, one number per channel, of pixel values divided by 255.
        classes: names in label order, or an empty tuple where they are not known.
    """

    dataset: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]


def of(model):
    """The `View` of a name of the zoo, a run's folder or a file in one; `None` where it is not known.

    Args:
        model: as `acdbit_keras.models.loading.load_model` takes it.
    """
    path = pathlib.Path(model)
    if not path.exists():
        if str(model) not in zoo_names():
            return None
        facts = card(str(model))["data"]
        return View(facts["dataset"], tuple(facts["mean"]), tuple(facts["std"]), tuple(facts["classes"]))
    run = Run.around(path)
    try:
        source = data.source(run.dataset)
        facts = source.info()
    except (ValueError, OSError):
        # No run, or its data are no longer here.
        return None
    return View(source.name, tuple(facts.mean), tuple(facts.std), tuple(facts.class_names or ()))


def check(model, facts):
    """Refuses a teacher that sees the pictures in another normalisation, or knows other classes.

    Args:
        model: as for `of`.
        facts: the `DatasetInfo` of the data that it is to teach on.

    Raises:
        ValueError: naming what differs.
    """
    view = of(model)
    if view is None:
        return
    name = os.fspath(model)
    ours, theirs = (*facts.mean, *facts.std), (*view.mean, *view.std)
    if len(ours) != len(theirs) or any(not math.isclose(a, b, abs_tol=TOLERANCE) for a, b in zip(ours, theirs)):
        raise ValueError(
            f"{name} is no teacher for {facts.name}: it was trained on {view.dataset}, whose pixels have the mean "
            f"{_numbers(view.mean)} and the deviation {_numbers(view.std)}, not {_numbers(facts.mean)} and {_numbers(facts.std)}"
        )
    if _are_names(view.classes) and _are_names(facts.class_names or ()) and view.classes != tuple(facts.class_names):
        label = next(i for i, (a, b) in enumerate(zip((*view.classes, None), (*facts.class_names, None))) if a != b)
        raise ValueError(
            f"{name} is no teacher for {facts.name}: it was trained on {view.dataset}, whose class {label} is "
            f"{_called(view.classes, label)}, not {_called(facts.class_names, label)}"
        )


def _are_names(classes):
    """Whether they are more than the labels themselves."""
    return bool(classes) and list(classes) != [str(label) for label in range(len(classes))]


def _called(classes, label):
    return repr(classes[label]) if label < len(classes) else "none"


def _numbers(values):
    return ", ".join(f"{value:.3f}" for value in values)
