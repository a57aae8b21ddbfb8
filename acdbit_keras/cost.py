"""What a model costs on a device: multiply-adds of bits and of floats, bytes of weights, size of the converted file.

The model runs once, on one sample of zeros: a wrapper around `keras.layers.Layer.__call__` notes the shapes of every
layer, an executor that only counts stands in for the products of codes. What the converter makes of each layer is
known: which blocks become one op, and of every other layer (`_STORED`) what it folds, what it drops because it adds 0
or multiplies by 1, what it stores once because it occurs twice. So the prediction follows the weights: an untrained
model really gives a smaller file than a trained one.
"""

import collections
import contextlib
import dataclasses
import functools
import inspect
import math
import threading

import keras
import numpy as np
from keras import layers, ops

from acdbit_keras import code, device_ops, execution
from acdbit_keras.device_ops import WORD_BITS
from acdbit_keras.layers import BinaryAttention, BinaryDense, LayerScale, PoolingBranches, RPReLU
from acdbit_keras.layers.pooling import SIDES
from acdbit_keras.layers.stem import PooledStem
from acdbit_keras.quantizers import AlignedSign, Comparison, Quantizer, StoredSign, WeightSign

# Bytes of a flatbuffer's structures, each measured by removing them from converted files and packing again.
# A tensor: its table and place in the list 28, shape 20, empty quantization 8, buffer 8, name cut by the converter 42.
TENSOR_BYTES = 28 + 20 + 8 + 8 + 42
# A node: table with options, lists of inputs and outputs; 32 (ReLU) to 64 (SPLIT).
NODE_BYTES = 50
# Custom ops have options in their nodes; with an attention comes metadata that names its codes, 54.
BCONV_BYTES = 220
ATTENTION_BYTES = 172 + 54
BLOCK_BYTES = 236
# A constant's length and padding to 16 bytes.
CONSTANT_BYTES = 16
# Operator codes, signature, metadata, and the shapes and axes that reshapes and transpositions share.
FILE_BYTES = 600
FLOAT_BYTES = 4
KERNEL_BYTES = {"bits": 4, "float32": 4, "float16": 2, "int8": 1}  # of one weight of a product that is not of bits

_CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
_TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
_SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
_COUNTED = (
    BinaryAttention, BinaryDense, PoolingBranches, layers.Dense, layers.EinsumDense, layers.MultiHeadAttention,
    *_CONVOLUTIONS, *_TRANSPOSED, *_DEPTHWISE, *_SEPARABLE,
)  # fmt: skip
# Products without weights, which the rule of `_is_uncounted` would not notice.
_WITHOUT_COUNT = (layers.Attention, layers.AdditiveAttention, layers.Dot, layers.GroupQueryAttention)
# These own quantizers, whose calls are part of theirs: they are one row.
_WHOLE = (BinaryAttention, BinaryDense)
# The converter folds a BatchNormalization behind them into their weights, or into multiplier and bias of the bits.
_FOLDING = (BinaryDense, layers.Dense, *_CONVOLUTIONS, *_DEPTHWISE)


@dataclasses.dataclass(frozen=True)
class LayerCost:
    """One layer.

    Attributes:
        name: its path in the model.
        kind: class.
        weight_bits: width of one stored weight; `None` without weights.
        activation_bits: width of its operands in the product; the widest of them for attention.
        output_shape: of one sample, of the first call; a tuple per output where there are several.
        parameters: weights in Keras, those of its quantizers and running statistics included.
        packed_bytes: bytes of its constants in the converted file: 1 bit per binary weight, per output channel in
            32-bit words along the input channels, and every float32 multiplier, bias, threshold or slope that is left
            after folding. What is equal in several layers is stored once and counted in the first, unless they are
            part of a block that becomes one op: there each vector belongs to the layer that it comes from.
        bit_macs: multiply-adds between two 1-bit operands, for one sample, over all calls.
        float_macs: all other multiply-adds of products.
    """

    name: str
    kind: str
    weight_bits: int | None
    activation_bits: int
    output_shape: tuple
    parameters: int
    packed_bytes: int
    bit_macs: int
    float_macs: int


@dataclasses.dataclass(frozen=True)
class Cost:
    """What `analyse` found.

    Attributes:
        model: name of the model.
        rows: `LayerCost`s of the layers with weights or products, in order of execution.
        file_bytes: predicted size of the converted `.tflite`: packed_bytes and what the graph itself takes.
        uncounted: names of layers of a class whose products are not known here; their MACs are given as 0.
    """

    model: str
    rows: tuple
    file_bytes: int
    uncounted: tuple = ()

    @property
    def parameters(self):
        return sum(row.parameters for row in self.rows)

    @property
    def packed_bytes(self):
        return sum(row.packed_bytes for row in self.rows)

    @property
    def bit_macs(self):
        return sum(row.bit_macs for row in self.rows)

    @property
    def float_macs(self):
        return sum(row.float_macs for row in self.rows)

    def to_dict(self):
        """Everything in plain types, as `json.dumps` takes them."""
        totals = ("parameters", "packed_bytes", "bit_macs", "float_macs", "file_bytes")
        return {
            "model": self.model,
            "layers": [{**dataclasses.asdict(row), "output_shape": _listed(row.output_shape)} for row in self.rows],
            "totals": {name: getattr(self, name) for name in totals},
            "uncounted": list(self.uncounted),
        }

    def table(self):
        """The rows, totals and the file's size as text without a trailing newline."""
        header = ("layer", "kind", "bits w/a", "output shape", "parameters", "packed bytes", "bit-MACs", "float MACs")
        cells = [
            (
                row.name, row.kind, f"{row.weight_bits or '-'}/{row.activation_bits}", _shape_text(row.output_shape),
                *(f"{value:,}" for value in (row.parameters, row.packed_bytes, row.bit_macs, row.float_macs)),
            )
            for row in self.rows
        ]  # fmt: skip
        totals = (f"{value:,}" for value in (self.parameters, self.packed_bytes, self.bit_macs, self.float_macs))
        cells.append(("total", "", "", "", *totals))
        widths = [max(map(len, column)) for column in zip(header, *cells)]
        aligned = [[cell.ljust(w) for cell, w in zip(line[:4], widths)] for line in (header, *cells)]
        for line, texts in zip((header, *cells), aligned):
            texts += [cell.rjust(w) for cell, w in zip(line[4:], widths[4:])]
        lines = ["  ".join(texts) for texts in aligned]
        lines.insert(-1, "-" * len(lines[0]))
        lines.append(f"converted file: about {self.file_bytes / 1e6:.3f} MB")
        if self.uncounted:
            lines.append(f"products, if any, not counted: {', '.join(self.uncounted)}")
        return "\n".join(line.rstrip() for line in lines)

    def __str__(self):
        return self.table()


def analyse(model, input_shape=None):
    """Counts, for one sample, what every layer computes and what it takes in the converted file.

    One MAC is one multiply-add, whatever its operands; bits get no credit. Bit-MACs: `BinaryDense` between two 1-bit
    operands, and likewise Q K^T and P V of `BinaryAttention`, heads * n * m * head_dim each. Float MACs: every other
    product with weights or of attention, a vector that an offset of the query is multiplied with (heads * m *
    head_dim), and pooling branches as the depthwise convolutions they are exported as. Not counted: what works element
    by element (norms, activations, scales, the affine terms of codes), sums, and ops outside of layers.

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
        >>> acd.cost.analyse(student).bit_macs
    """
    inputs = _inputs(model, input_shape)
    trace = _Trace()
    with trace.watching(), execution.using(_CountingExecutor(trace)):
        model(inputs, training=False)
    trace.join_norms()
    precision = getattr(getattr(model, "scheme", None), "precision", "float32")
    is_packed = any(isinstance(r.layer, BinaryDense) and r.layer.is_binary for r in trace.records.values())
    file = _File(is_packed, KERNEL_BYTES[precision])
    rows = []
    for record in trace.records.values():
        packed_bytes = file.store(record)
        parameters = sum(math.prod(weight.shape) for weight in record.weights)
        if parameters or record.bit_macs or record.float_macs:
            rows.append(_row(record, parameters, packed_bytes, 16 if precision == "float16" else 32))
    uncounted = tuple(_name(record.layer) for record in trace.records.values() if _is_uncounted(record))
    return Cost(model.name, tuple(rows), file.bytes, uncounted)


def summary(model, input_shape=None):
    """Prints the table of `analyse` and returns its `Cost`."""
    cost = analyse(model, input_shape)
    print(cost.table())
    return cost


# --- One pass over the model ----------------------------------------------------------------------------------------


@dataclasses.dataclass(eq=False)
class _Record:
    """A layer that was called."""

    layer: keras.layers.Layer
    output_shape: tuple = ()
    input: object = None
    children: list = dataclasses.field(default_factory=list)
    bit_macs: int = 0
    float_macs: int = 0
    norm: object = None  # the BatchNormalization that is folded into it
    folded: bool = False  # a BatchNormalization that is folded into another layer

    @property
    def weights(self):
        """Weights that belong to no layer called within."""
        nested = {id(weight) for child in self.children for weight in child.layer.weights}
        return [weight for weight in self.layer.weights if id(weight) not in nested]

    def within(self):
        """Records of all layers called within."""
        for child in self.children:
            yield child
            yield from child.within()


class _Trace:
    """Notes every layer in the order in which they are entered first."""

    _lock = threading.Lock()

    def __init__(self):
        self.records = {}
        self._stack = []
        self._tensors = []  # kept alive: tensors are told apart by their id
        self._producers = {}

    @contextlib.contextmanager
    def watching(self):
        """For its time every call of a layer in this thread is noted."""
        original, thread = layers.Layer.__call__, threading.get_ident()

        @functools.wraps(original)
        def watched(layer, *args, **kwargs):
            if threading.get_ident() != thread or self._stack and isinstance(self._stack[-1].layer, _WHOLE):
                return original(layer, *args, **kwargs)
            return self._called(layer, original, args, kwargs)

        with self._lock:
            layers.Layer.__call__ = watched
            try:
                yield
            finally:
                layers.Layer.__call__ = original

    def _called(self, layer, original, args, kwargs):
        first = id(layer) not in self.records
        record = self.records.setdefault(id(layer), _Record(layer))
        if first and self._stack:
            self._stack[-1].children.append(record)
        self._stack.append(record)
        try:
            outputs = original(layer, *args, **kwargs)
        finally:
            self._stack.pop()
        tensors = _tensors((args, kwargs))
        if first:
            record.input = tensors[0] if tensors else None
            shapes = [tuple(tensor.shape[1:]) for tensor in _tensors(outputs)]
            record.output_shape = shapes[0] if len(shapes) == 1 else tuple(shapes)
        record.float_macs += _float_macs(layer, args, kwargs, outputs)
        self._tensors += [tensors, outputs]
        for tensor in _tensors(outputs):
            self._producers.setdefault(id(tensor), record)
        return outputs

    def record(self, layer):
        return self.records[id(layer)]

    def join_norms(self):
        """Finds the norms that the converter folds into the layer before them, or into a Dense behind them."""
        for record in list(self.records.values()):
            producer = self._producers.get(id(record.input))
            if producer is None:
                continue
            if isinstance(record.layer, layers.BatchNormalization) and isinstance(producer.layer, _FOLDING):
                producer.norm, record.folded = record.layer, True
            elif (
                isinstance(record.layer, layers.Dense)
                and isinstance(producer.layer, layers.BatchNormalization)
                and not producer.folded
            ):
                record.norm, producer.folded = producer.layer, True


class _CountingExecutor(execution.KerasExecutor):
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

    def _add(self, layer, macs, *operands):
        record = self._trace.record(layer)
        if all(operand.is_binary and operand.bits == 1 for operand in operands):
            record.bit_macs += macs
        else:
            record.float_macs += macs


def _float_macs(layer, args, kwargs, outputs):
    """Multiply-adds of one call of a Keras layer; layers of this package are counted by the executor."""
    if isinstance(layer, layers.MultiHeadAttention):
        call = inspect.signature(layer.call).bind(*args, **kwargs).arguments
        n, m = (math.prod(call[name].shape[1:-1]) for name in ("query", "value"))
        return layer.num_heads * n * m * (layer.key_dim + layer.value_dim)
    outputs_size = math.prod(_tensors(outputs)[0].shape[1:]) if _tensors(outputs) else 0
    # Subclasses first: Keras derives the transposed and depthwise layers from other bases, not from Conv2D.
    if isinstance(layer, _TRANSPOSED):
        return math.prod(_tensors((args, kwargs))[0].shape[1:]) * math.prod(layer.kernel.shape[:-1])
    if isinstance(layer, _CONVOLUTIONS):
        return outputs_size * math.prod(layer.kernel.shape[:-1])
    if isinstance(layer, _DEPTHWISE):
        return outputs_size * math.prod(layer.kernel.shape[:-2])
    if isinstance(layer, _SEPARABLE):
        places = outputs_size // layer.pointwise_kernel.shape[-1]
        return places * (math.prod(layer.depthwise_kernel.shape) + math.prod(layer.pointwise_kernel.shape))
    if isinstance(layer, layers.Dense):
        return outputs_size * layer.kernel.shape[0]
    if isinstance(layer, layers.EinsumDense):
        operands, result = layer.equation.replace(" ", "").split("->")
        letters = operands.split(",")[1]
        return outputs_size * math.prod(size for letter, size in zip(letters, layer.kernel.shape) if letter not in result)
    return 0


def _is_uncounted(record):
    if isinstance(record.layer, (*_COUNTED, layers.Embedding, layers.PReLU, Quantizer)) or record.children:
        return False
    return isinstance(record.layer, _WITHOUT_COUNT) or any(len(weight.shape) > 1 for weight in record.weights)


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


def _tensors(structure):
    return [
        leaf for leaf in keras.tree.flatten(structure) if hasattr(leaf, "shape") and hasattr(leaf, "dtype") and len(leaf.shape)
    ]


# --- What the converter makes of it ---------------------------------------------------------------------------------


class _File:
    """Adds up the constants, nodes and tensors of the converted file.

    Args:
        packed: whether Larq Compute Engine converts it, which it does where there are products of bits.
        kernel_bytes: of one weight of a product that is not of bits.
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
        """Adds a layer; returns the bytes of its constants."""
        if id(record.layer) in self._fused:
            return self._fused[id(record.layer)]
        before = self._constant_bytes
        store = _COMPOSITE.get(keras.saving.get_registered_name(type(record.layer)))
        store = store or next((store for kinds, store in _STORED if isinstance(record.layer, kinds)), _store_other)
        store(self, record)
        return self._constant_bytes - before

    def fuse(self, record, shares):
        """Adds a block as one op; `shares`, a Counter, are the bytes of its two constants by the id of the layer."""
        self.bytes += BLOCK_BYTES + TENSOR_BYTES + sum(shares.values()) + 2 * (CONSTANT_BYTES + TENSOR_BYTES)
        self._fused |= {id(part.layer): shares[id(part.layer)] for part in record.within()}

    def nodes(self, count=1):
        """Nodes of one output each."""
        self.bytes += count * (NODE_BYTES + TENSOR_BYTES)

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


def _store_dense_of_bits(file, record):
    layer = record.layer
    quantizer, channels = layer.input_quantizer, layer.kernel.shape[0]
    file.quantize(quantizer, record.input)
    # An offset of the kernel needs the sum of a token's signs: one output more, with a column of ones.
    extra = isinstance(layer.kernel_quantizer, (StoredSign, WeightSign)) and layer.kernel_quantizer.restore
    file.unshared((layer.units + extra) * -(-channels // WORD_BITS) * WORD_BITS // 8)
    file.unshared(layer.units * FLOAT_BYTES)  # multiplier
    parts = [_value(layer.bias)] if layer.use_bias else []
    if record.norm is not None:
        parts += [_value(record.norm.moving_mean)] + ([_value(record.norm.beta)] if record.norm.center else [])
    file.bias([*parts, _comparison(quantizer).offset], layer.units)
    file.bytes += BCONV_BYTES - NODE_BYTES
    file.nodes()
    if len(record.output_shape) < 3:
        file.nodes(2)  # to the four dimensions of a convolution and back


def _store_binary_dense(file, record):
    if record.layer.is_binary:
        _store_dense_of_bits(file, record)
        return
    if record.layer.input_quantizer.is_binary:
        file.quantize(record.layer.input_quantizer, record.input)
    _store_dense(file, record)


def _store_dense(file, record):
    layer = record.layer
    file.nodes()
    file.unshared(math.prod(layer.kernel.shape) * file.kernel_bytes)
    parts = [_value(layer.bias)] if layer.use_bias else []
    parts += [_affine(record.norm)[1]] if record.norm is not None else []
    if any(np.any(part) for part in parts):
        file.unshared(layer.kernel.shape[-1] * FLOAT_BYTES)


def _store_convolution(file, record):
    layer = record.layer
    file.nodes()
    kernel_sizes = [math.prod(weight.shape) for weight in layer.weights if len(weight.shape) > 1]
    for size in kernel_sizes:
        file.unshared(size * file.kernel_bytes)
    parts = [_value(layer.bias)] if layer.use_bias else []
    parts += [_affine(record.norm)[1]] if record.norm is not None else []
    units = record.output_shape[-1] if layer.data_format == "channels_last" else record.output_shape[0]
    file.bias(parts, units)
    if layer.activation is not keras.activations.linear and layer.activation is not keras.activations.relu:
        file.nodes()


def _store_batch_norm(file, record):
    if not record.folded:
        multiplier, offset = _affine(record.layer)
        file.multiply(multiplier)
        file.add(offset)


def _store_layer_norm(file, record):
    # mean, negation, squared difference, variance, + epsilon, rsqrt, three products, sum
    file.nodes(9 if record.layer.scale else 8)
    if record.layer.scale:
        file.constant(_value(record.layer.gamma))
    if record.layer.center:
        file.add(_value(record.layer.beta))
    file.nodes()


def _store_rprelu(file, record):
    file.add(_value(record.layer.shift_in))
    file.nodes()
    file.constant(_value(record.layer.slope)[None, None])
    file.add(_value(record.layer.shift_out))


def _store_layer_scale(file, record):
    file.multiply(_value(record.layer.gain))
    file.add(_value(record.layer.shift))


def _store_pooling(file, record):
    # A column and a row of the cross, each a depthwise convolution with a bias, and their sum.
    channels = record.output_shape[-1]
    kernel = np.moveaxis(ops.convert_to_numpy(record.layer.kernel()), -1, 0)
    middle = kernel.shape[1] // 2
    column = kernel[:, :, middle : middle + 1].copy()
    column[:, middle] = 0.0
    file.constant(kernel[:, middle : middle + 1])
    file.constant(column)
    file.constant(_value(record.layer.shift))
    file.constant(np.zeros(channels))
    file.nodes(3)


def _store_attention(file, record):
    layer = record.layer
    heads, channels = layer.num_heads, layer.channels
    options = _options(device_ops.attention_options, layer) if file.packed else None
    if options is None:
        # Per operand reshape and transpose, two products, scale, softmax, transpose, reshape. Larq Compute Engine's
        # converter takes the products apart into heads.
        file.nodes(12 + (6 + 11 * heads) * file.packed)
        return
    for quantizer in (layer.query_quantizer, layer.key_quantizer, layer.value_quantizer):
        file.nodes()  # reshape into rows
        file.quantize(quantizer, None)
    file.nodes(2)  # itself, reshape of the context
    file.bytes += ATTENTION_BYTES - NODE_BYTES
    # Two scales per head; scale and offset of the values and the key's weights per channel.
    for size in (heads, heads, channels, channels) + (channels,) * options["key_bias"]:
        file.unshared(size * FLOAT_BYTES)


def _store_block(file, record):
    block = record.layer
    options = _options(device_ops.block_options, block)
    if options is None:
        # Sums of query, key, value, two residuals and the pooling branches; channels tiled, then averaged.
        file.nodes(5 + block.scheme.branches + (6 if block.mlp_ratio > 1 else 0))
        if block.reduction > 1:
            file.nodes(_AVERAGE_NODES + _SPREAD_NODES)
        return
    shares = collections.Counter()
    for name, shape in device_ops.block_kernels(options, block.width).items():
        shares[id(block.products[name].dense)] += math.prod(shape) * WORD_BITS // 8
    for name, length in device_ops.block_vectors(options, block.width).items():
        shares[id(_origin(block, name))] += length * FLOAT_BYTES
    file.fuse(record, shares)


def _store_float_block(file, record):
    file.nodes(3)  # two residuals, GELU
    if record.layer.reduction > 1:
        file.nodes(_AVERAGE_NODES + 1)


def _store_merging(file, record):
    file.nodes(_GATHER_NODES)
    if record.layer.has_shortcut:
        file.nodes(_AVERAGE_NODES + 3)  # and the mean's channels tiled
    file.add(_value(record.layer.positions))


def _options(options, layer):
    """The options of the op that a layer is, `None` if it has no form as one."""
    try:
        return options(layer)
    except device_ops.NotExpressibleError:
        return None


def _origin(block, name):
    """The layer of a `BinaryBlock` that a vector of `device_ops.block_vectors` comes from."""
    owner, _, part = name.rpartition(".")
    if owner == "pooling":
        return block.pooling
    if owner == "context":
        return block.context_activation if part == "slope" else block.context_norm
    if not owner:
        norms = {"1": block.attention_norm, "2": block.mlp_norm}
        return norms.get(name[-1], block.attention)
    if part == "gain":
        return block.attention_scale if owner == "output" else block.mlp_scale
    product = block.products[owner]
    return product.activation if part in ("slope", "shift") else product.dense


def _store_other(file, record):
    """A layer without a rule: one node, its own weights in float32."""
    for weight in record.weights:
        if keras.backend.is_float_dtype(weight.dtype):
            file.constant(_value(weight))
    if record.weights or not (record.children or isinstance(record.layer, _WITHOUT_NODE)):
        file.nodes()


_STORED = (
    (BinaryDense, _store_binary_dense),
    (BinaryAttention, _store_attention),
    (PoolingBranches, _store_pooling),
    (PooledStem, lambda file, record: file.nodes(len(record.layer.norms))),  # the max-poolings
    (RPReLU, _store_rprelu),
    (LayerScale, _store_layer_scale),
    (layers.BatchNormalization, _store_batch_norm),
    (layers.LayerNormalization, _store_layer_norm),
    (layers.Dense, _store_dense),
    ((*_CONVOLUTIONS, *_TRANSPOSED, *_DEPTHWISE, *_SEPARABLE), _store_convolution),
)
# Reshapes, means, products with ones and transpositions of the functions of `layers.pooling`.
_AVERAGE_NODES, _SPREAD_NODES, _GATHER_NODES = 5, 5, 3
_WITHOUT_NODE = (layers.InputLayer, layers.Dropout, layers.Identity)
# Composite layers of the rooms above, by the name they are registered under: what stands between their parts.
_COMPOSITE = {
    "acdbit>BinaryBlock": _store_block,
    "acdbit>BinaryProduct": lambda file, record: file.nodes(),  # the shortcut
    "acdbit>FloatBlock": _store_float_block,
    "acdbit>PatchMerging": _store_merging,
}


def _value(weight):
    return ops.convert_to_numpy(weight)


def _affine(norm):
    """The multiplier and offset that a BatchNormalization is at inference."""
    multiplier = 1.0 / np.sqrt(_value(norm.moving_variance) + norm.epsilon)
    if norm.scale:
        multiplier = multiplier * _value(norm.gamma)
    offset = -_value(norm.moving_mean) * multiplier
    return multiplier, offset + _value(norm.beta) if norm.center else offset


def _comparison(quantizer):
    """Its constants; none of them where it takes more than a comparison."""
    return quantizer.comparison() or Comparison()


def _offset_size(quantizer, like):
    """Size of a code's offset along its last axis; 1 where the offset is a number."""
    offset = quantizer(ops.zeros_like(like[:, :1]), training=False).offset
    return 1 if code.is_constant(offset) else offset.shape[-1]


def _dynamic_nodes(quantizer):
    """Rough number of nodes that compute statistics of each token."""
    nodes = 6 if quantizer.restore == "dynamic" or quantizer.axis == "token" else 0
    return nodes + (6 if quantizer.axis == "token" and quantizer.threshold == "median" else 0)


# --- Rows -----------------------------------------------------------------------------------------------------------


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


def _listed(shape):
    return [_listed(size) if isinstance(size, tuple) else size for size in shape]


def _shape_text(shape):
    if any(isinstance(size, tuple) for size in shape):
        return " + ".join(map(_shape_text, shape))
    return "x".join(map(str, shape))
