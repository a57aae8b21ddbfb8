"""Types that the public signatures name; loading this loads no backend."""

import os
from collections.abc import Callable
from typing import Any, TypeAlias

# What Keras' layers take and give: a tensor of the backend, an array, or a symbolic tensor.
Tensor: TypeAlias = Any
# A `tf.data.Dataset`.
Dataset: TypeAlias = Any
# Sizes of a tensor; those that are free are None.
Shape: TypeAlias = tuple[int | None, ...]
# A file or folder.
Path: TypeAlias = str | os.PathLike[str]
# A quantizer, its name, Larq's, its config, or None for real numbers.
QuantizerLike: TypeAlias = Any
# A scheme, its name, that of a variant, or its config.
SchemeLike: TypeAlias = Any
# A name, a place (folder, .csv, .npz, run), or a `Source`.
DatasetLike: TypeAlias = Any
# Called with how much is done.
Progress: TypeAlias = Callable[[int], Any]
