"""What the converter makes of every layer, and so the size of its file.

The rules follow the weights, as the converter does: it folds, drops what adds 0 or multiplies by 1, and stores once what
occurs twice. So an untrained model really gives a smaller file than a trained one. Which blocks become one op, and which
constants that has, is not told here but taken from the contract, `acdbit_keras.device_ops`.

`store` knows the layers of this package and of Keras. A room above that has composite layers of its own registers what
stands between their parts: `@store.register`, as for any `functools.singledispatch`.
"""

import functools
import math

import keras
import numpy as np
from keras import layers, ops

from acdbit_keras import device_ops
from acdbit_keras.cost.count import CONVOLUTIONS, DEPTHWISE, SEPARABLE, TRANSPOSED
from acdbit_keras.device_ops import WORD_BITS
from acdbit_keras.layers import BinaryAttention, BinaryDense, DepthwiseMixing, LayerScale, PoolingBranches, RPReLU
from acdbit_keras.layers.stem import PooledStem
from acdbit_keras.quantizers import AlignedSign, Comparison, StoredSign, WeightSign

# Bytes of a flatbuffer's structures; tests/test_cost.py holds them against files that are really packed.
# A tensor: its table and place in the list 28, shape 20, empty quantization 8, buffer 8, name cut by the converter 42.
TENSOR_BYTES = 28 + 20 + 8 + 8 + 42
# A node: table with options, lists of inputs and outputs; 32 (ReLU) to 64 (SPLIT).
NODE_BYTES = 50
# Custom ops have options in their nodes.
BCONV_BYTES = 220
ATTENTION_BYTES = 172
BLOCK_BYTES = 236
# What names the codes of an attention in the file's metadata.
TAPS_BYTES = 54
# A constant's length and padding to 16 bytes.
CONSTANT_BYTES = 16
# Operator codes, signature, metadata, and the shapes and axes that reshapes and transpositions share.
FILE_BYTES = 600
FLOAT_BYTES = 4
KERNEL_BYTES = {"bits": 4, "float32": 4, "float16": 2, "int8": 1}  # of one weight of a product that is not of bits


class File:
    """Adds up the constants, nodes and tensors of the converted file.

    Args:
        packed: whether Larq Compute Engine converts it, which it does where there are products of bits.
        kernel_bytes: of one weight of a product that is not of bits.

    Attributes:
        bytes: of the file, so far.
    """

    def __init__(self, packed, kernel_bytes):
        self.packed = packed
        self.kernel_bytes = kernel_bytes
        self.bytes = FILE_BYTES + TENSOR_BYTES
        self._constant_bytes = 0
        self._known = set()
        self._quantized = set()
        self._fused = {}  # of the layers in a block that is one op, by id: bytes of their share of its constants

    def store(self, record):
        """Adds a layer that was called, a `trace.Record`; returns the bytes of its constants."""
        if id(record.layer) in self._fused:
            return self._fused[id(record.layer)]
        before = self._constant_bytes
        store(record.layer, self, record)
        return self._constant_bytes - before

    def fuse(self, record, shares):
        """Adds a block as one op.

        Args:
            record: of the block.
            shares: `collections.Counter` of the bytes of its two constants, by the id of the layer that they come from.
        """
        self.bytes += BLOCK_BYTES + TENSOR_BYTES + sum(shares.values()) + 2 * (CONSTANT_BYTES + TENSOR_BYTES)
        self._fused |= {id(part.layer): shares[id(part.layer)] for part in record.within()}

    def nodes(self, count=1):
        """Nodes of one output each."""
        self.bytes += count * (NODE_BYTES + TENSOR_BYTES)

    def custom_node(self, size):
        """A node of one output with options, of so many bytes."""
        self.bytes += size + TENSOR_BYTES

    def average_windows(self):
        """The nodes of `layers.pooling.average_windows`: reshapes and means."""
        self.nodes(5)

    def spread_windows(self):
        """The nodes of `layers.pooling.spread_windows`: reshapes and products with ones."""
        self.nodes(5)

    def gather_windows(self):
        """The nodes of `layers.pooling.gather_windows`: reshapes and a transposition."""
        self.nodes(3)

    def constant(self, values):
        """A constant of these float32 values, stored once for all that are equal."""
        values = np.asarray(values, np.float32)
        key = (values.shape, values.tobytes())
        if key not in self._known:
            self._known.add(key)
            self.unshared(values.size * FLOAT_BYTES)

    def unshared(self, size):
        """A constant of so many bytes that no other equals."""
        self._constant_bytes += size
        self.bytes += size + CONSTANT_BYTES + TENSOR_BYTES

    def bias(self, values, units):
        """A vector that other constants have been folded into; `values` are the parts, zero only if all are."""
        if any(np.any(part) for part in values):
            self.unshared(units * FLOAT_BYTES)
        else:
            self.constant(np.zeros(units))

    def add(self, values):
        """`x + values`, which is dropped for zeros."""
        if np.any(values):
            self.nodes()
            self.constant(values)

    def multiply(self, values):
        """`x * values`, which is dropped for ones."""
        if np.any(np.asarray(values) != 1.0):
            self.nodes()
            self.constant(values)

    def quantize(self, quantizer, source):
        """The sign of `source`, which layers with the same threshold share."""
        threshold = np.asarray(_comparison(quantizer).threshold, np.float32)
        key = (id(source), threshold.tobytes())
        if source is None or key not in self._quantized:
            self._quantized.add(key)
            self.add(threshold)
            if isinstance(quantizer, AlignedSign):
                self.nodes(_dynamic_nodes(quantizer))
            self.nodes()


_WITHOUT_NODE = (layers.InputLayer, layers.Dropout, layers.Identity)


@functools.singledispatch
def store(layer, file, record):
    """Adds a layer to a `File`; this is what a layer without a rule gets: one node, its own weights in float32.

    Args:
        layer: by whose class the rule is chosen.
        file: `File`.
        record: of its calls, a `trace.Record`.
    """
    for weight in record.weights:
        if keras.backend.is_float_dtype(weight.dtype):
            file.constant(value(weight))
    if record.weights or not (record.children or isinstance(layer, _WITHOUT_NODE)):
        file.nodes()


@store.register
def _(layer: BinaryDense, file, record):
    if layer.is_binary:
        _store_product_of_bits(layer, file, record)
        return
    if layer.input_quantizer.is_binary:
        file.quantize(layer.input_quantizer, record.input)
    _store_dense(layer, file, record)


def _store_product_of_bits(layer, file, record):
    quantizer, channels = layer.input_quantizer, layer.kernel.shape[0]
    if not record.reads_bits:
        file.quantize(quantizer, record.input)
    # An offset of the kernel needs the sum of a token's signs: one output more, with a column of ones.
    extra = isinstance(layer.kernel_quantizer, (StoredSign, WeightSign)) and layer.kernel_quantizer.restore
    file.unshared((layer.units + extra) * -(-channels // WORD_BITS) * WORD_BITS // 8)
    file.unshared(layer.units * FLOAT_BYTES)  # multiplier, or where only signs read it their thresholds
    parts = [value(layer.bias)] if layer.use_bias else []
    if record.norm is not None:
        parts += [value(record.norm.moving_mean)] + ([value(record.norm.beta)] if record.norm.center else [])
    if not record.writes_bits:
        file.bias([*parts, _comparison(quantizer).offset], layer.units)
    file.custom_node(BCONV_BYTES)
    if len(record.output_shape) < 3:
        file.nodes(record.enters + record.leaves)  # to the four dimensions of a convolution and back


@store.register(layers.Dense)
def _store_dense(layer, file, record):
    file.nodes()
    file.unshared(math.prod(layer.kernel.shape) * file.kernel_bytes)
    parts = [value(layer.bias)] if layer.use_bias else []
    parts += [_affine(record.norm)[1]] if record.norm is not None else []
    if any(np.any(part) for part in parts):
        file.unshared(layer.kernel.shape[-1] * FLOAT_BYTES)


def _store_convolution(layer, file, record):
    file.nodes()
    if isinstance(layer, (layers.Conv1D, layers.DepthwiseConv1D, layers.SeparableConv1D)):
        file.nodes()  # to the rows of a convolution in two dimensions
        file.unshared(16)
    kernel_sizes = [math.prod(weight.shape) for weight in layer.weights if len(weight.shape) > 1]
    for size in kernel_sizes:
        file.unshared(size * file.kernel_bytes)
    parts = [value(layer.bias)] if layer.use_bias else []
    parts += [_affine(record.norm)[1]] if record.norm is not None else []
    units = record.output_shape[-1] if layer.data_format == "channels_last" else record.output_shape[0]
    file.bias(parts, units)
    if layer.activation is not keras.activations.linear and layer.activation is not keras.activations.relu:
        file.nodes()


for _kind in (*CONVOLUTIONS, *TRANSPOSED, *DEPTHWISE, *SEPARABLE):
    store.register(_kind)(_store_convolution)


def _store_reduction(layer, file, record):
    file.nodes()
    file.unshared(4)  # its axes
    if file.packed:
        # Sequences went in the four dimensions of products of bits.
        file.nodes()
        file.unshared(12)


for _kind in (layers.GlobalAveragePooling1D, layers.GlobalMaxPooling1D):
    store.register(_kind)(_store_reduction)


@store.register
def _(layer: layers.BatchNormalization, file, record):
    if not record.folded:
        multiplier, offset = _affine(layer)
        file.multiply(multiplier)
        file.add(offset)


@store.register
def _(layer: layers.LayerNormalization, file, record):
    # mean, negation, squared difference, variance, + epsilon, rsqrt, three products, sum
    file.nodes(9 if layer.scale else 8)
    if layer.scale:
        file.constant(value(layer.gamma))
    if layer.center:
        file.add(value(layer.beta))
    file.nodes()


@store.register
def _(layer: RPReLU, file, record):
    file.add(value(layer.shift_in))
    file.nodes()
    file.constant(value(layer.slope)[None, None])
    file.add(value(layer.shift_out))


@store.register
def _(layer: LayerScale, file, record):
    file.multiply(value(layer.gain))
    file.add(value(layer.shift))


@store.register
def _(layer: PooledStem, file, record):
    file.nodes(len(layer.norms))  # the max-poolings


@store.register
def _(layer: PoolingBranches, file, record):
    # A column and a row of the cross, each a depthwise convolution with a bias, and their sum.
    channels = record.output_shape[-1]
    kernel = np.moveaxis(ops.convert_to_numpy(layer.kernel()), -1, 0)
    middle = kernel.shape[1] // 2
    column = kernel[:, :, middle : middle + 1].copy()
    column[:, middle] = 0.0
    file.constant(kernel[:, middle : middle + 1])
    file.constant(column)
    file.constant(value(layer.shift))
    file.constant(np.zeros(channels))
    file.nodes(3)


@store.register
def _(layer: DepthwiseMixing, file, record):
    file.constant(value(layer.kernel))
    file.constant(value(layer.shift))
    file.nodes()


@store.register
def _(layer: BinaryAttention, file, record):
    heads, channels = layer.num_heads, layer.channels
    options = options_of(device_ops.attention_options, layer) if file.packed else None
    if options is None:
        # Per operand reshape and transpose, two products, scale, softmax, transpose, reshape. Larq Compute Engine's
        # converter takes the products apart into heads.
        file.nodes(12 + (6 + 11 * heads) * file.packed)
        return
    for index, quantizer in enumerate((layer.query_quantizer, layer.key_quantizer, layer.value_quantizer)):
        if index not in record.reads_bits:
            file.nodes()  # reshape into rows
            file.quantize(quantizer, None)
    file.custom_node(ATTENTION_BYTES + TAPS_BYTES)
    if len(record.output_shape) > 2 or not isinstance(record.output_shape[0], int):
        file.nodes()  # reshape of the context, which is one row of tokens
    # Two scales per head; scale and offset of the values and the key's weights per channel.
    for size in (heads, heads, channels, channels) + (channels,) * options["key_bias"]:
        file.unshared(size * FLOAT_BYTES)


def options_of(options, layer):
    """The options of the op of `device_ops` that a layer is, `None` if it has no form as one.

    Args:
        options: function of `device_ops` from the layer to them.
        layer: built.
    """
    try:
        return options(layer)
    except device_ops.NotExpressibleError:
        return None


def value(weight):
    """A weight as a numpy array."""
    return ops.convert_to_numpy(weight)


def _affine(norm):
    """The multiplier and offset that a BatchNormalization is at inference."""
    multiplier = 1.0 / np.sqrt(value(norm.moving_variance) + norm.epsilon)
    if norm.scale:
        multiplier = multiplier * value(norm.gamma)
    offset = -value(norm.moving_mean) * multiplier
    return multiplier, offset + value(norm.beta) if norm.center else offset


def _comparison(quantizer):
    """Its constants; none of them where it takes more than a comparison."""
    return quantizer.comparison() or Comparison()


def _dynamic_nodes(quantizer):
    """Rough number of nodes that compute statistics of each token."""
    nodes = 6 if quantizer.restore == "dynamic" or quantizer.axis == "token" else 0
    return nodes + (6 if quantizer.axis == "token" and quantizer.threshold == "median" else 0)
