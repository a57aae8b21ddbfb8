"""Loading a trained model from a run's folder or a `.keras` file, with errors that say what is wrong."""

from __future__ import annotations

import importlib
import json
import pathlib
import zipfile

import keras

# Imported for what they register with Keras; `sizes` has every backbone.
from acdbit_keras import distillation, layers  # noqa: F401
from acdbit_keras.models import sizes  # noqa: F401
from acdbit_keras.models.backbone import Backbone
from acdbit_keras.models.run import Run
from acdbit_keras.models.zoo.compact import SUFFIX, load_compact
from acdbit_keras.models.zoo.entries import WEIGHTS, entry, zoo_names
from acdbit_keras.models.zoo.transfer import transfer
from acdbit_keras.typing import Path


def load_model(path: Path, classes: int | None = None, trainable: bool | None = None) -> keras.Model:
    """A model from a run's folder, a `.keras` or a compact file, or the zoo, this package's classes included.

    Args:
        path: where the file is, or the folder, of which `Run.trained_path` is taken; or a name of `zoo_names()`, where nothing
            of that name lies.
        classes: number of classes of a new, untrained head of a backbone; `None`, the default, keeps the one that it has.
        trainable: whether all of a backbone is to be trained, from a compact file too, or nothing, with `classes` the new head
            alone; see `transfer`. `None`, the default: as it was saved, with `classes` all of it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is truncated or foreign, or it holds a class that is not known here (which, is said); a new head for
            what is no backbone.
    """
    model = _load(path)
    if classes is None and trainable is None:
        return model
    if not isinstance(model, Backbone):
        raise ValueError(f"{path} holds a {type(model).__name__}; classes= and trainable= are for the backbones of this package")
    return transfer(model, classes, trainable is not False)


def _load(path):
    path = pathlib.Path(path)
    if path.is_dir():
        run = Run(path)
        if run.trained_path is None:
            names = f"no {run.model_path.name} and no {run.best_path.name}"
            raise ValueError(f"{path} holds {names}; it is no run's folder, or its first epoch is not over")
        path = run.trained_path
    if not path.exists():
        if str(path) in zoo_names():
            return load_compact(entry(str(path)) / WEIGHTS)
        raise FileNotFoundError(f"there is no file {path}; acdbit train makes a run, acdbit zoo lists what is trained already")
    if path.suffix == SUFFIX:
        return load_compact(path)
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is truncated or not a .keras file: {_first_line(error)}") from error
    unknown = sorted(set(_unknown_classes(config)))
    if unknown:
        raise ValueError(f"{path} holds a class unknown here: {', '.join(unknown)}; import the module that registers it first")
    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:  # Keras raises whatever a damaged member happens to provoke.
        raise ValueError(f"{path} cannot be loaded, it is truncated or of another version: {_first_line(error)}") from error


def _unknown_classes(config):
    if isinstance(config, dict):
        name = config.get("registered_name")
        if name and "class_name" in config and not _is_known(config):
            yield name
        config = list(config.values())
    if isinstance(config, (list, tuple)):
        for value in config:
            yield from _unknown_classes(value)


def _is_known(config):
    if keras.saving.get_registered_object(config["registered_name"]):
        return True
    try:
        return hasattr(importlib.import_module(config.get("module") or "builtins"), config["class_name"])
    except ImportError:
        return False


def _first_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
