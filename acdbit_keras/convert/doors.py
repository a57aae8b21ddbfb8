"""What goes into a Keras model and what comes out of it: names, shapes and types, one input and output or several."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np

IMAGES, LOGITS = "images", "logits"


@dataclasses.dataclass(frozen=True)
class Doors:
    """The inputs of a model, in the order in which Keras flattens them.

    Attributes:
        names: by which a file's signature calls them; a single one is `"images"`.
        shapes: of one sample each.
        dtypes: of each.
        structure: what the model is called with, in place of each tensor anything; `None` for a single one.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    structure: Any = None

    @property
    def several(self) -> bool:
        return len(self.names) > 1

    @property
    def shape(self):
        """Shape of one sample; of several inputs a dict from their names."""
        return dict(zip(self.names, self.shapes)) if self.several else self.shapes[0]

    def pack(self, tensors):
        """What the model is called with, of a list of its inputs."""
        return tensors[0] if self.structure is None else keras.tree.pack_sequence_as(self.structure, list(tensors))

    def arrays(self, samples):
        """A batch as a list of numpy arrays, of an array, or for several inputs a dict by their names or a sequence.

        Raises:
            ValueError: inputs are missing or there are too many.
        """
        if not self.several:
            samples = [samples]
        elif isinstance(samples, dict):
            if set(samples) != set(self.names):
                raise ValueError(f"the inputs must be {', '.join(self.names)}, not {', '.join(map(str, samples))}")
            samples = [samples[name] for name in self.names]
        elif not isinstance(samples, (list, tuple)) or len(samples) != len(self.names):
            raise ValueError(f"the model has the inputs {', '.join(self.names)}: give a dict of these, or as many in this order")
        return [np.asarray(sample, dtype) for sample, dtype in zip(samples, self.dtypes)]


def of(model: keras.Model) -> Doors:
    """The doors of a built Keras model.

    Raises:
        ValueError: not a Keras model, not built, several inputs of one that is no functional model, or an axis of free size.
    """
    if not isinstance(model, keras.Model):
        raise ValueError(f"model must be a keras.Model, not {type(model).__name__}")
    graph = (getattr(model, "inputs", None) or []) if model.built else []
    if len(graph) > 1:
        structure = getattr(model, "_inputs_struct", list(graph))
        keys = isinstance(structure, dict) and all(hasattr(value, "shape") for value in structure.values())
        names = sorted(structure) if keys else [tensor.name for tensor in graph]
        if len(set(names)) < len(names):
            raise ValueError(f"model {model.name!r} has inputs of one name, {', '.join(names)}; a file tells them apart by it")
        shapes = [_free(model, tensor.shape) for tensor in graph]
        return Doors(tuple(names), tuple(shapes), tuple(_dtype(tensor.dtype) for tensor in graph), structure)
    shape = None
    if model.built:
        # Functional models know it themselves, subclassed ones from their building.
        shape = getattr(model, "input_shape", None) or (model.get_build_config() or {}).get("input_shape")
    if shape is None:
        raise ValueError(f"model {model.name!r} is not built or not called on a single input: call it on a batch of images first")
    if isinstance(shape, (list, tuple)) and len(shape) == 1 and isinstance(shape[0], (list, tuple)):
        shape = shape[0]  # a functional model of a list of one
    if isinstance(shape, dict) or not all(size is None or isinstance(size, int) for size in shape):
        raise ValueError(f"model {model.name!r} has several inputs, {shape}; of such models a functional one can be converted")
    structure = getattr(model, "_inputs_struct", None) if graph else None
    structure = structure if isinstance(structure, (list, tuple, dict)) else None
    return Doors((IMAGES,), (_free(model, shape),), (_dtype(graph[0].dtype) if graph else "float32",), structure)


def outputs(model: keras.Model, value) -> dict[str, Any]:
    """What a model gave as a dict from the names of a signature; a single output is `"logits"`.

    Raises:
        ValueError: a structure within a structure, or none.
    """
    if isinstance(value, dict):
        named = value
    elif isinstance(value, (list, tuple)):
        names = list(getattr(model, "output_names", ()))
        if len(names) != len(value) or len(set(names)) < len(names):
            names = [f"output_{index}" for index in range(len(value))]
        named = dict(zip(names, value))
    else:
        named = {LOGITS: value}
    if not named or not all(hasattr(tensor, "shape") for tensor in named.values()):
        raise ValueError(
            f"model {model.name!r} gives a {type(value).__name__} that is not one of tensors; it cannot be converted"
        )
    return named


def _free(model, shape):
    if None in shape[1:]:
        raise ValueError(f"model {model.name!r} has the input shape {tuple(shape)}; only the first size, the batch, may be free")
    return tuple(shape[1:])


def _dtype(dtype):
    name = keras.backend.standardize_dtype(dtype)
    return "float32" if keras.backend.is_float_dtype(name) else name
