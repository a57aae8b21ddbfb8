"""Types that the public signatures name; loading this loads no backend, whose own types only a type checker looks up."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import tensorflow as tf

    from acdbit_keras.quantizers.base import Quantizer
    from acdbit_keras.schemes.base import Scheme
    from acdbit_keras.signs import Sign

# What Keras' layers take and give: a tensor of the backend, an array, or a symbolic tensor. No Python type is all of these.
Tensor: TypeAlias = Any
# Batches of images, or of (images, labels).
Dataset: TypeAlias = "tf.data.Dataset"
# Sizes of a tensor; those that are free are None.
Shape: TypeAlias = tuple[int | None, ...]
# A file or folder.
Path: TypeAlias = str | os.PathLike[str]
# A sign, its name or config, or a quantizer of Larq's, which is called with a tensor.
SignLike: TypeAlias = "Sign | str | dict[str, Any] | Callable[..., Any]"
# A quantizer, its name or config, one of Larq's, or None for real numbers.
QuantizerLike: TypeAlias = "Quantizer | str | dict[str, Any] | Callable[..., Any] | None"
# A scheme, its name, that of a variant, or its config.
SchemeLike: TypeAlias = "Scheme | str | dict[str, Any]"
# Called with how much is done.
Progress: TypeAlias = Callable[[int], Any]
