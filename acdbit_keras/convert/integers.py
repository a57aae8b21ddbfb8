"""Doors of 8 bits: what a file takes and gives as integers with a scale and a zero point, as TFLite quantizes a tensor.

    real = scale * (stored - zero_point)

A range is that of what calibration shows, widened to hold zero, in 255 steps. What lies beyond it saturates.
"""

from __future__ import annotations

import copy

import numpy as np

from acdbit_keras.convert import flatbuffer, rewrite
from acdbit_keras.convert.flatbuffer import schema
from acdbit_keras.convert.interpreter import Interpreter, dequantize, quantize

DTYPES = ("int8", "uint8")


def scale_and_zero_point(lowest, highest, dtype):
    """Scale, a float of float32, and zero point of a type of 8 bits that holds zero and all from `lowest` to `highest`."""
    limits = np.iinfo(dtype)
    low, high = min(float(lowest), 0.0), max(float(highest), 0.0)
    scale = float(np.float32((high - low) / (limits.max - limits.min))) or 1.0
    return scale, int(np.clip(np.rint(limits.min - low / scale), limits.min, limits.max))


def quantize_inputs(model, dtype, batches):
    """Lets a model object take its float inputs in 8 bits; a node makes floats of them.

    Args:
        model: changed in place.
        dtype: "int8" or "uint8".
        batches: list of dicts from the names of the inputs to float arrays `(n, ...)`.

    Raises:
        ValueError: no input is of floats.
    """
    names, _ = flatbuffer.signature_names(model)
    found = [(name, tensor) for name, tensor in zip(names, flatbuffer.inputs(model)) if tensor.dtype == "float32"]
    if not found:
        raise ValueError(f"input={dtype!r} is for a model that takes floats, and this one takes integers itself")
    for name, tensor in found:
        outside = _quantized(model, tensor, dtype, [batch[name] for batch in batches])
        node = _node(model, schema.BuiltinOperator.DEQUANTIZE, outside, tensor.index)
        model.subgraphs[0].operators.insert(0, node)
        _replace(model, "inputs", tensor.index, outside)


def quantize_outputs(model, dtype, batches):
    """Lets a model object give its float outputs in 8 bits; a last node makes these.

    Args:
        model: changed in place. It is run on what calibrates it.
        dtype: "int8" or "uint8".
        batches: list of what `Interpreter.predict` takes of this model.

    Raises:
        ValueError: no output is of floats, or one is not finite.
    """
    interpreter = Interpreter(flatbuffer.pack(model))
    given = list(zip(*(interpreter.predict_in_order(batch) for batch in batches)))
    found = [(tensor, arrays) for tensor, arrays in zip(flatbuffer.outputs(model), given) if tensor.dtype == "float32"]
    if not found:
        raise ValueError(f"output={dtype!r} is for a model that gives floats, and this one gives integers itself")
    for tensor, arrays in found:
        outside = _quantized(model, tensor, dtype, arrays)
        model.subgraphs[0].operators.append(_node(model, schema.BuiltinOperator.QUANTIZE, tensor.index, outside))
        _replace(model, "outputs", tensor.index, outside)


def doors(model):
    """Dict from the name of each input and output of 8 bits with a scale to its type, scale and zero point, in plain types."""
    return {
        name: {"dtype": tensor.dtype, "scale": tensor.scale, "zero_point": tensor.zero_point}
        for names, tensors in zip(flatbuffer.signature_names(model), (flatbuffer.inputs(model), flatbuffer.outputs(model)))
        for name, tensor in zip(names, tensors)
        if tensor.dtype in DTYPES and tensor.scale is not None
    }


class Held:
    """What tensors hold of real values, which are those of all of them side by side.

    Args:
        tensors: list of `Tensor`; one without 8 bits and a scale holds every number.

    Attributes:
        low, high: the least and the greatest number, for each value of a sample, `(n,)`.
        step: between two numbers, likewise; 0 where every one is held.
    """

    def __init__(self, tensors):
        bounds = [_bounds(tensor) for tensor in tensors]
        sizes = [int(np.prod(tensor.shape)) for tensor in tensors]
        self.low, self.high, self.step = (np.repeat(numbers, sizes) for numbers in zip(*bounds))

    def beyond(self, values):
        """Whether a sample of `(N, n)` has a value that saturates by more than rounding does, `(N,)`."""
        room = 0.501 * self.step
        return ((values < self.low - room) | (values > self.high + room)).any(axis=-1)

    def within(self, real, stored, tolerance):
        """Whether all stored values `(..., n)` are the real ones but for a tolerance, the rounding and the saturation."""
        return (np.abs(np.clip(real, self.low, self.high) - stored) <= tolerance + self.step / 2).all(axis=-1)


def rounded(values, tensor):
    """Real values as a `Tensor` of 8 bits and a scale holds them; for another one as they are."""
    return values if tensor.scale is None else dequantize(quantize(values, tensor), tensor)


def _bounds(tensor):
    if tensor.dtype not in DTYPES or tensor.scale is None:
        return -np.inf, np.inf, 0.0
    limits = np.iinfo(tensor.dtype)
    low, high = (float(dequantize(np.array(limit, tensor.dtype), tensor)) for limit in (limits.min, limits.max))
    return low, high, tensor.scale


def _quantized(model, tensor, dtype, arrays):
    """Index of a new tensor that holds another in 8 bits, with the range of some arrays."""
    values = np.concatenate([np.asarray(array, np.float32).reshape(-1) for array in arrays]) if arrays else np.zeros(0)
    if not values.size:
        raise ValueError("calibration holds no samples")
    if not np.isfinite(values).all():
        raise ValueError(f"calibration gives values of {tensor.name!r} that are not finite")
    scale, zero_point = scale_and_zero_point(values.min(), values.max(), dtype)
    graph = model.subgraphs[0]
    stored = copy.copy(graph.tensors[tensor.index])
    stored.name, stored.type, stored.buffer = f"{tensor.name}/{dtype}", getattr(schema.TensorType, dtype.upper()), 0
    stored.quantization = schema.QuantizationParametersT()
    stored.quantization.scale = np.array([scale], np.float32)
    stored.quantization.zeroPoint = np.array([zero_point], np.int64)
    graph.tensors.append(stored)
    return len(graph.tensors) - 1


def _node(model, builtin, source, target):
    node = schema.OperatorT()
    node.opcodeIndex = rewrite.opcode(model, builtin, version=2)
    node.inputs, node.outputs = np.array([source], np.int32), np.array([target], np.int32)
    return node


def _replace(model, side, old, new):
    """Another tensor at a door, also in the signatures."""
    graph = model.subgraphs[0]
    setattr(graph, side, np.array([new if index == old else index for index in getattr(graph, side)], np.int32))
    for signature in model.signatureDefs or []:
        for entry in getattr(signature, side) or []:
            if entry.tensorIndex == old:
                entry.tensorIndex = new
