"""Multiply-adds: of this package's layers by an executor that counts instead of multiplying, of Keras' by their shapes."""

import inspect
import math

import keras
from keras import layers, ops

from acdbit_keras import code, execution
from acdbit_keras.layers import BinaryAttention, BinaryDense, DepthwiseMixing, PoolingBranches
from acdbit_keras.layers.pooling import SIDES
from acdbit_keras.quantizers import Quantizer

CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
_COUNTED = (
    BinaryAttention, BinaryDense, DepthwiseMixing, PoolingBranches, layers.Dense, layers.EinsumDense,
    layers.MultiHeadAttention, *CONVOLUTIONS, *TRANSPOSED, *DEPTHWISE, *SEPARABLE,
)  # fmt: skip
# Products without weights, which the rule of `_is_uncounted` would not notice.
_WITHOUT_COUNT = (layers.Attention, layers.AdditiveAttention, layers.Dot, layers.GroupQueryAttention)


class CountingExecutor(execution.KerasExecutor):
    """Products that are counted rather than carried out; they give zeros."""

    def __init__(self, trace):
        self._trace = trace

    def dense(self, layer, inputs, training):
        shape = (*inputs.shape[:-1], layer.units)
        self._add(layer, math.prod(shape[1:]) * inputs.shape[-1], layer.input_quantizer, layer.kernel_quantizer)
        return ops.zeros(shape, inputs.dtype)

    def attention(self, layer, query, key, value, training):
        _, n, heads, head_dim = query.shape
        m = key.shape[1]
        macs = heads * n * m * head_dim
        self._add(layer, macs, layer.query_quantizer, layer.key_quantizer)
        self._add(layer, macs, layer.probabilities_quantizer, layer.value_quantizer)
        if _offset_size(layer.query_quantizer, query) > 1:
            self._trace.record(layer).float_macs += heads * m * head_dim
        return ops.zeros_like(query), ops.zeros((query.shape[0], heads, n, m), query.dtype)

    def pooled_stem(self, layer, inputs, training):
        # In the order of the converted file, whose convolutions the norms are folded into.
        return layer.compute_pooled_last(inputs)

    def pooling(self, layer, inputs):
        self._trace.record(layer).float_macs += 2 * SIDES[-1] * math.prod(inputs.shape[1:])
        return ops.zeros_like(inputs)

    def depthwise(self, layer, inputs):
        window, channels = layer.kernel.shape[:2], inputs.shape[-1]
        self._trace.record(layer).float_macs += math.prod(window) * math.prod(inputs.shape[1:-1]) * channels
        return ops.zeros_like(inputs)

    def _add(self, layer, macs, *operands):
        record = self._trace.record(layer)
        if all(operand.is_binary and operand.bits == 1 for operand in operands):
            record.bit_macs += macs
        else:
            record.float_macs += macs


def float_macs(layer, args, kwargs, outputs):
    """Multiply-adds of one call of a Keras layer; layers of this package are counted by the executor."""
    if isinstance(layer, layers.MultiHeadAttention):
        call = inspect.signature(layer.call).bind(*args, **kwargs).arguments
        n, m = (math.prod(call[name].shape[1:-1]) for name in ("query", "value"))
        return layer.num_heads * n * m * (layer.key_dim + layer.value_dim)
    outputs_size = math.prod(tensors_of(outputs)[0].shape[1:]) if tensors_of(outputs) else 0
    # Subclasses first: Keras derives the transposed and depthwise layers from other bases, not from Conv2D.
    if isinstance(layer, TRANSPOSED):
        return math.prod(tensors_of((args, kwargs))[0].shape[1:]) * math.prod(layer.kernel.shape[:-1])
    if isinstance(layer, CONVOLUTIONS):
        return outputs_size * math.prod(layer.kernel.shape[:-1])
    if isinstance(layer, DEPTHWISE):
        return outputs_size * math.prod(layer.kernel.shape[:-2])
    if isinstance(layer, SEPARABLE):
        places = outputs_size // layer.pointwise_kernel.shape[-1]
        return places * (math.prod(layer.depthwise_kernel.shape) + math.prod(layer.pointwise_kernel.shape))
    if isinstance(layer, layers.Dense):
        return outputs_size * layer.kernel.shape[0]
    if isinstance(layer, layers.EinsumDense):
        operands, result = layer.equation.replace(" ", "").split("->")
        letters = operands.split(",")[1]
        return outputs_size * math.prod(size for letter, size in zip(letters, layer.kernel.shape) if letter not in result)
    return 0


def is_uncounted(record):
    if isinstance(record.layer, (*_COUNTED, layers.Embedding, layers.PReLU, Quantizer)) or record.children:
        return False
    return isinstance(record.layer, _WITHOUT_COUNT) or any(len(weight.shape) > 1 for weight in record.weights)


def tensors_of(structure):
    """The tensors in nested lists and dicts, but for numbers."""
    return [
        leaf for leaf in keras.tree.flatten(structure) if hasattr(leaf, "shape") and hasattr(leaf, "dtype") and len(leaf.shape)
    ]


def _offset_size(quantizer, like):
    """Size of a code's offset along its last axis; 1 where the offset is a number."""
    offset = quantizer(ops.zeros_like(like[:, :1]), training=False).offset
    return 1 if code.is_constant(offset) else offset.shape[-1]
