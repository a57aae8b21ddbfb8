"""`analyse` and `summary`: a model's cost, from one pass over it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import keras
from keras import ops

from acdbit_keras import execution
from acdbit_keras.cost.count import CountingExecutor, is_uncounted
from acdbit_keras.cost.file_size import KERNEL_BYTES, File
from acdbit_keras.cost.rows import Cost, LayerCost
from acdbit_keras.cost.trace import Trace
from acdbit_keras.layers import BinaryAttention, BinaryDense


def analyse(model: keras.Model, input_shape: Sequence[int] | None = None) -> Cost:
    """Counts, for one sample, what every layer computes and what it takes in the converted file.

    One MAC is one multiply-add, whatever its operands; bits get no credit. Bit-MACs: `BinaryDense` between two 1-bit
    operands, and likewise Q K^T and P V of `BinaryAttention`, heads * n * m * head_dim each. Float MACs: every other
    product with weights or of attention, a vector that an offset of the query is multiplied with (heads * m *
    head_dim), and what mixes neighbouring tokens as the depthwise convolutions it is exported as. Not counted: what
    works element by element (norms, activations, scales, the affine terms of codes), sums, and ops outside of layers.

    The file's size is that of `acd.convert.to_tflite(model, path)` with no further option: bits, and blocks as one op,
    where the model has binary layers, else float32 or what the model's scheme says. It is within 5 % for the presets and
    the schemes of bits and float32, trained or not. Estimated more coarsely, unless they are inside a block that is one
    op: statistics of each token at inference, kernels with an offset, float attention beside binary layers; and always
    files of float16 and int8, and layers of other packages.

    Args:
        model: built Keras model.
        input_shape: shape of one sample without the batch, for a model of one input that leaves sizes free.

    Returns:
        `Cost`.

    Raises:
        ValueError: not a built model, or one whose input has free sizes that `input_shape` does not give.

    Example:
        >>> from acdbit_keras import cost
        >>> cost.analyse(student).bit_macs
        819200
    """
    inputs = _inputs(model, input_shape)
    trace = Trace()
    with trace.watching(), execution.using(CountingExecutor(trace)):
        outputs = model(inputs, training=False)
    operations = list(_operations(model))
    trace.read_elsewhere = _sources(operations)
    trace.join_norms()
    trace.join_bits(outputs)
    precision = getattr(getattr(model, "scheme", None), "precision", "float32")
    in_bits = [
        r.layer for r in trace.records.values() if isinstance(r.layer, (BinaryDense, BinaryAttention)) and r.layer.is_binary
    ]
    file = File(bool(in_bits), KERNEL_BYTES[precision])
    file.nodes(len(operations))
    rows = []
    for record in trace.records.values():
        packed_bytes = file.store(record)
        parameters = sum(math.prod(weight.shape) for weight in record.weights)
        if parameters or record.bit_macs or record.float_macs:
            rows.append(_row(record, parameters, packed_bytes, 16 if precision == "float16" else 32))
    uncounted = tuple(_name(record.layer) for record in trace.records.values() if is_uncounted(record))
    return Cost(model.name, tuple(rows), file.bytes, uncounted)


def summary(model: keras.Model, input_shape: Sequence[int] | None = None) -> Cost:
    """Prints what every layer of a model computes and takes, as `analyse` counts it, and returns it.

    Args:
        model: built Keras model.
        input_shape: shape of one sample without the batch, for a model of one input that leaves sizes free; default: none.

    Returns:
        `Cost`.

    Raises:
        ValueError: as `analyse`.

    Example:
        >>> import acdbit_keras as acd
        >>> import keras
        >>> signs = dict(input_quantizer="approx_sign", kernel_quantizer="ste_sign")
        >>> model = keras.Sequential([keras.Input((64,)), acd.BinaryDense(128, **signs, name="binary")])
        >>> cost = acd.summary(model)
        layer              kind         bits w/a  output shape  parameters  packed bytes  bit-MACs  float MACs
        sequential/binary  BinaryDense  1/1       128                8,192         2,048     8,192           0
        ------------------------------------------------------------------------------------------------------
        total                                                        8,192         2,048     8,192           0
        converted file: about 0.004 MB
        >>> cost.bit_macs == 64 * 128
        True
    """
    cost = dataclasses.replace(analyse(model, input_shape), is_printed=True)
    print(cost.table())
    return cost


def _operations(model):
    """Yields the operations of a functional model, and of those in it, that are no layers: sums and the like."""
    for operation in getattr(model, "operations", ()):
        if isinstance(operation, keras.Model):
            yield from _operations(operation)
        elif not isinstance(operation, keras.layers.Layer):
            yield operation


def _sources(operations):
    """The layers whose outputs operations read, by id."""
    read = keras.tree.flatten([operation.input for operation in operations])
    return {id(tensor._keras_history.operation) for tensor in read if hasattr(tensor, "_keras_history")}


def _inputs(model, input_shape):
    """A batch of one sample of zeros, in the structure that the model takes."""
    if not isinstance(model, keras.Model):
        raise ValueError(f"model must be a keras.Model, not {type(model).__name__}")
    if not model.built:
        raise ValueError(f"model {model.name!r} is not built: call it on a batch first")
    if input_shape is not None:
        sizes = tuple(input_shape)
        if not all(isinstance(size, int) and size > 0 for size in sizes):
            raise ValueError(
                f"input_shape must hold positive integers, the shape of one sample without the batch, not {input_shape!r}"
            )
        return ops.zeros((1, *sizes))
    functional = getattr(model, "input", None) if getattr(model, "inputs", None) else None
    if functional is not None:
        return keras.tree.map_structure(lambda tensor: _zeros(model, tensor.shape, tensor.dtype), functional)
    shape = (model.get_build_config() or {}).get("input_shape")
    if shape is None or not all(size is None or isinstance(size, int) for size in shape):
        raise ValueError(f"model {model.name!r} does not know the shape of its one input: pass input_shape")
    return _zeros(model, shape, "float32")


def _zeros(model, shape, dtype):
    if None in shape[1:]:
        raise ValueError(f"model {model.name!r} has the input shape {tuple(shape)} with free sizes: pass input_shape")
    return ops.zeros((1, *shape[1:]), dtype)


def _row(record, parameters, packed_bytes, real_bits):
    layer = record.layer
    weight_bits, activation_bits = (real_bits if parameters else None), 32
    if isinstance(layer, BinaryDense):
        weight_bits, activation_bits = min(layer.kernel_quantizer.bits, real_bits), layer.input_quantizer.bits
    elif isinstance(layer, BinaryAttention):
        operands = (layer.query_quantizer, layer.key_quantizer, layer.value_quantizer, layer.probabilities_quantizer)
        weight_bits, activation_bits = None, max(operand.bits for operand in operands)
    return LayerCost(
        name=_name(layer),
        kind=type(layer).__name__,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        output_shape=record.output_shape,
        parameters=parameters,
        packed_bytes=packed_bytes,
        bit_macs=record.bit_macs,
        float_macs=record.float_macs,
    )


def _name(layer):
    return layer.path or layer.name
