"""Datasets for training and evaluation: `train, test = load("cifar10")`, `load("./my_images")`.

What may be named is listed in `acdbit_keras.models.data.sources`. TensorFlow, TensorFlow Datasets, Pillow and scikit-learn are
imported when data is read, not with this package.
"""

from acdbit_keras.checks import checked, validate_arrays
from acdbit_keras.models.data.augmentation import Augmentation
from acdbit_keras.models.data.base import Source
from acdbit_keras.models.data.catalog import DatasetInfo
from acdbit_keras.models.data.own_arrays import from_arrays
from acdbit_keras.models.data.pipeline import calibration, load, pipeline
from acdbit_keras.models.data.scaling import resize
from acdbit_keras.models.data.sources import (
    STORED,
    arrays,
    class_names,
    info,
    names,
    normalize,
    prepare,
    read_stored,
    register,
    short_name,
    source,
    write_stored,
)
from acdbit_keras.picture import read as read_picture

__all__ = [
    "STORED",
    "Augmentation",
    "DatasetInfo",
    "Source",
    "arrays",
    "calibration",
    "checked",
    "class_names",
    "from_arrays",
    "info",
    "load",
    "names",
    "normalize",
    "pipeline",
    "prepare",
    "read_picture",
    "read_stored",
    "register",
    "resize",
    "short_name",
    "source",
    "validate_arrays",
    "write_stored",
]
