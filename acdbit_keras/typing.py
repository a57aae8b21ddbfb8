"""What annotations call things. Loads neither Keras nor TensorFlow, whose types are looked up by type checkers alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import tensorflow as tf

    from acdbit_keras.quantizers.base import Quantizer
    from acdbit_keras.schemes.base import Scheme
    from acdbit_keras.signs import Sign

# A tensor of the backend in force, or what `keras.ops` takes for one: a variable, a numpy array. No Python type is all of these.
Tensor: TypeAlias = Any

# Sizes of the axes; `None` where one is free.
Shape: TypeAlias = tuple[int | None, ...]

FilePath: TypeAlias = "str | os.PathLike[str]"

# Batches of images, or of (images, labels).
Pipeline: TypeAlias = "tf.data.Dataset"

# What `acdbit_keras.quantizers.get` takes: a quantizer; a name; a config; a quantizer of Larq's, which is called with a tensor;
# `None`, which leaves the tensor real.
QuantizerLike: TypeAlias = "Quantizer | str | dict[str, Any] | Callable[..., Any] | None"

# What `acdbit_keras.signs.get` takes: a sign, its name or config, a quantizer of Larq's.
SignLike: TypeAlias = "Sign | str | dict[str, Any] | Callable[..., Any]"

# What `acdbit_keras.schemes.get` takes: a scheme, its name, or its config.
SchemeLike: TypeAlias = "Scheme | str | dict[str, Any]"
