"""Datasets for training and evaluation: `train, test = load("cifar10")`.

TensorFlow, TensorFlow Datasets and scikit-learn are imported when data is read, not with this package.
"""

from acdbit_keras.checks import checked, validate_arrays
from acdbit_keras.models.data.augmentation import Augmentation
from acdbit_keras.models.data.catalog import DatasetInfo, info, names, normalize
from acdbit_keras.models.data.pipeline import load, pipeline, resize
from acdbit_keras.models.data.storage import arrays, class_names, prepare

__all__ = [
    "Augmentation",
    "DatasetInfo",
    "arrays",
    "checked",
    "class_names",
    "info",
    "load",
    "names",
    "normalize",
    "pipeline",
    "prepare",
    "resize",
    "validate_arrays",
]
