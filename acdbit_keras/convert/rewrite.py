"""Edits of a converted flatbuffer: what the converter leaves to be done, and what `verify` wants to find again.

All functions change the model object (`flatbuffer.read`) in place.
"""

import collections
import copy
from typing import NamedTuple

import numpy as np
from flatbuffers import flexbuffers

from acdbit_keras import contract
from acdbit_keras.convert import flatbuffer
from acdbit_keras.convert.flatbuffer import schema

BCONV = "LceBconv2d"
# Inputs of an LceBconv2d: bits, filter, and per output channel a multiplier and a bias, or a threshold.
_FILTER, _MULTIPLIER, _BIAS = 1, 2, 3
QUANTIZE, DEQUANTIZE = "LceQuantize", "LceDequantize"
WORTH_STORING = 4096  # bytes of a float32 constant; below, the additional node costs more than less of them saves
# From which version of an op on its weights may have 8 bits and a scale for each output.
_QUANTIZED_VERSIONS = {"CONV_2D": 5, "FULLY_CONNECTED": 12}
_VIEWS = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS")
_NEVER_IN_PLACE = (*_VIEWS, BCONV, "TRANSPOSE", "FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D", "CONCATENATION")


def flatten_output_transforms(model):
    """Gives every multiplier and bias of an LceBconv2d the shape `(units,)`.

    The converter folds `(1, 1, 1, units)` constants into them as they are; the kernel then refuses to prepare.
    """
    for node in flatbuffer.operators(model):
        if node.name == BCONV:
            for tensor in node.inputs[_MULTIPLIER : _BIAS + 1]:
                if tensor is not None:
                    stored = model.subgraphs[node.subgraph].tensors[tensor.index]
                    stored.shape = np.array([int(np.prod(tensor.shape))], np.int32)
                    stored.shapeSignature = None


def separate_views(model):
    """Copies what a RESHAPE looks at, where a later node might overwrite it through that view.

    The arena of Larq Compute Engine's TFLite lets a RESHAPE share the memory of its input, and an elementwise node
    that of an input without further readers. It does not see that both may be the same memory: in
    `y = reshape(x); z = y - c; w = z + x` the subtraction destroys x. A CONCATENATION of one tensor is a copy.
    """
    graph = model.subgraphs[0]
    nodes = [node for node in flatbuffer.operators(model) if node.subgraph == 0]
    readers = {}
    for node in nodes:
        for tensor in node.activations:
            readers.setdefault(tensor.index, []).append(node)
    copied = []
    for view in nodes:
        if view.name not in _VIEWS or view.inputs[0].data is not None:
            continue
        source, [target] = view.inputs[0], view.outputs
        kept = source.index in graph.outputs
        last_reading = len(nodes) if kept else max(node.index for node in readers[source.index])
        overwrites = (
            node.name not in _NEVER_IN_PLACE and node.index < last_reading and node.outputs[0].nbytes == target.nbytes
            for node in readers.get(target.index, ())
        )
        if any(overwrites):
            copied.append((view.index, source))
    for position, source in reversed(copied):
        copy_of = copy.copy(graph.tensors[source.index])
        copy_of.name = f"{source.name}/copy"
        graph.tensors.append(copy_of)
        graph.operators[position].inputs = _replaced(graph.operators[position].inputs, source.index, len(graph.tensors) - 1)
        node = schema.OperatorT()
        node.opcodeIndex = opcode(model, schema.BuiltinOperator.CONCATENATION)
        node.builtinOptionsType = schema.BuiltinOptions.ConcatenationOptions
        node.builtinOptions = schema.ConcatenationOptionsT()
        node.builtinOptions.axis = 0
        node.inputs = np.array([source.index], np.int32)
        node.outputs = np.array([len(graph.tensors) - 1], np.int32)
        graph.operators.insert(position, node)


def free_batch(model):
    """Leaves the first size of every RESHAPE to be inferred, so that an interpreter may resize the input to more images.

    The converter writes down that of one image wherever it comes from a product of sizes.
    """
    nodes = [node for node in flatbuffer.operators(model) if node.subgraph == 0]
    others = {tensor.index for node in nodes if node.name != "RESHAPE" for tensor in node.inputs if tensor is not None}
    graph = model.subgraphs[0]
    users = collections.Counter(tensor.buffer for graph_ in model.subgraphs for tensor in graph_.tensors)
    for node in nodes:
        if node.name != "RESHAPE" or node.inputs[0].data is not None or len(node.inputs) < 2 or node.inputs[1].data is None:
            continue
        shape = np.frombuffer(node.inputs[1].data, np.int32).copy()
        if node.inputs[1].index in others or not len(shape) or (shape < 1).any():
            continue
        shape[0] = -1
        tensor = graph.tensors[node.inputs[1].index]
        if users[tensor.buffer] > 1:
            # An equal constant, perhaps of another meaning, keeps the old one.
            users[tensor.buffer] -= 1
            tensor.buffer = len(model.buffers)
            model.buffers.append(schema.BufferT())
        model.buffers[tensor.buffer].data = np.frombuffer(shape.tobytes(), np.uint8)
        options = graph.operators[node.index].builtinOptions
        if options is not None and options.newShape is not None and len(options.newShape):
            options.newShape = shape


def take_outputs(model, prefix):
    """Turns the outputs whose signature name starts with `prefix` into intermediate tensors.

    Returns:
        Dict from signature name to tensor index.
    """
    graph, [signature] = model.subgraphs[0], model.signatureDefs
    names = {flatbuffer.text(entry.name): entry for entry in signature.outputs}
    taken = {name: entry.tensorIndex for name, entry in names.items() if name.startswith(prefix)}
    signature.outputs = [entry for name, entry in names.items() if name not in taken]
    graph.outputs = np.array([entry.tensorIndex for entry in signature.outputs], np.int32)
    return taken


class Filter(NamedTuple):
    """One packed kernel in a file.

    Attributes:
        node: the `flatbuffer.Operator` that multiplies with it.
        words: int32 `(units, words)`.
        product: its name in `contract.block_kernels` where the node is a whole block, else `None`.
    """

    node: flatbuffer.Operator
    words: np.ndarray
    product: str | None = None


def filters(model):
    """A `Filter` for each bit-packed 1x1 filter of an LceBconv2d and each kernel of a fused block."""
    found = []
    for node in flatbuffer.operators(model):
        if node.name == BCONV:
            weights = node.inputs[_FILTER]
            if weights.dtype == "int32" and weights.data is not None and tuple(weights.shape[1:3]) == (1, 1):
                found.append(Filter(node, _words(weights).reshape(weights.shape[0], weights.shape[3])))
        elif node.name == contract.BLOCK:
            words, start = _words(node.inputs[1]), 0
            for name, shape in contract.block_kernels(custom_options(model, node), node.inputs[0].shape[-1]).items():
                size = shape[0] * shape[1]
                found.append(Filter(node, words[start : start + size].reshape(shape), name))
                start += size
    return found


def custom_options(model, node):
    """The flexbuffer options of a custom op, a dict."""
    stored = model.subgraphs[node.subgraph].operators[node.index].customOptions
    return flexbuffers.Loads(np.asarray(stored, np.uint8).tobytes())


def feed_bits(model):
    """Lets binary attention read packed bits: drops every LceDequantize in front of it that no other node needs.

    Returns:
        Dict from the index of each float copy of bits, dropped or not, to that of its packed tensor.
    """
    graph = model.subgraphs[0]
    nodes = [node for node in flatbuffer.operators(model) if node.subgraph == 0]
    packed = {node.outputs[0].index: node.inputs[0].index for node in nodes if node.name == DEQUANTIZE}
    for node in nodes:
        if node.name == contract.ATTENTION:
            inputs = graph.operators[node.index].inputs
            bits = len(contract.ATTENTION_BITS)
            read = [packed.get(index, index) for index in inputs[:bits]]
            graph.operators[node.index].inputs = np.array([*read, *inputs[bits:]], np.int32)
    read = {index for operator in graph.operators for index in operator.inputs} | set(graph.outputs)
    unused = [node.index for node in nodes if node.name == DEQUANTIZE and node.outputs[0].index not in read]
    graph.operators = [operator for index, operator in enumerate(graph.operators) if index not in unused]
    return packed


def to_half(values):
    """Float values as half precision stores them."""
    return np.asarray(values, np.float16).astype(np.float32)


def to_int8(kernel):
    """Int8 values of a kernel `(outputs, ...)`, and the scale of each output, float32: value = scale * stored."""
    rows = np.asarray(kernel, np.float64).reshape(len(kernel), -1)
    scale = np.abs(rows).max(1) / 127
    scale = np.where(scale > 0, scale, 1.0).astype(np.float32)
    return np.rint(rows / scale[:, None]).astype(np.int8).reshape(np.shape(kernel)), scale


def to_int8_and_back(kernel):
    """A kernel as int8 stores it."""
    stored, scale = to_int8(kernel)
    return stored.astype(np.float32) * scale.reshape(-1, *[1] * (stored.ndim - 1))


def store_halves(model):
    """Rounds the large kernels of convolutions and patch embeddings to half precision, and stores them so.

    Here, where a BatchNormalization that follows is part of them: rounded before it is, they would be float again. So is what
    else is large and has values of half precision. A DEQUANTIZE widens each.
    """
    widened = []
    kernels = {index for index, is_stem in _kernels(model).items() if is_stem}
    for index, tensor in enumerate(list(model.subgraphs[0].tensors)):
        values = _large_floats(model, tensor)
        if values is None:
            continue
        with np.errstate(over="ignore"):
            halves = values.astype("<f2")
        exact = np.array_equal(halves.astype(np.float32), values)
        if exact or (index in kernels and np.isfinite(halves).all()):
            widened.append(_stored_as(model, index, halves, schema.TensorType.FLOAT16))
    _finish_storing(model, widened)


def store_compact(model):
    """Stores kernels in int8, a scale for each output, and other large constants in half precision.

    A DEQUANTIZE widens each but the vectors of a whole block, which its op reads as they are. A vector that half precision
    cannot hold stays as it is.
    """
    graph, widened = model.subgraphs[0], []
    kernels, vectors = _kernels(model), {}
    for node in flatbuffer.operators(model):
        if node.name == contract.BLOCK:
            vectors[node.inputs[2].index] = True
    for index, tensor in enumerate(list(graph.tensors)):
        values = _large_floats(model, tensor)
        if values is None:
            continue
        if index in kernels:
            stored, scale = to_int8(values.reshape(tuple(tensor.shape)))
            widened.append(_stored_as(model, index, stored, schema.TensorType.INT8, scale))
            continue
        with np.errstate(over="ignore"):
            halves = values.astype("<f2")
        if not np.isfinite(halves).all() or ((halves == 0) & (values > 0)).any():
            continue
        if index in vectors:
            tensor.type, tensor.buffer = schema.TensorType.FLOAT16, len(model.buffers)
            model.buffers.append(schema.BufferT(data=np.frombuffer(halves.tobytes(), np.uint8)))
        else:
            widened.append(_stored_as(model, index, halves, schema.TensorType.FLOAT16))
    _finish_storing(model, widened)


def _kernels(model):
    """Dict from the index of each constant kernel of floats to whether it is of a convolution or a patch embedding."""
    found, cut = {}, set()
    for node in flatbuffer.operators(model):
        if node.subgraph != 0:
            continue
        # A patch embedding: rows of pixels that were turned.
        if node.name == "TRANSPOSE" or (node.name == "RESHAPE" and node.inputs[0].index in cut):
            cut.add(node.outputs[0].index)
        if node.name in ("CONV_2D", "FULLY_CONNECTED") and node.inputs[1].data is not None:
            found[node.inputs[1].index] = node.name == "CONV_2D" or node.inputs[0].index in cut
    return found


def _large_floats(model, tensor):
    """The values of a float32 constant that is worth storing in less, else `None`."""
    data = model.buffers[tensor.buffer].data if tensor.type == schema.TensorType.FLOAT32 else None
    if data is None or len(data) < WORTH_STORING:
        return None
    return np.frombuffer(np.asarray(data, np.uint8).tobytes(), "<f4")


def _stored_as(model, index, values, kind, scale=None):
    """Puts a constant's values into the file in another type; returns the node that makes floats of them."""
    graph = model.subgraphs[0]
    tensor = graph.tensors[index]
    stored = copy.copy(tensor)
    stored.name, stored.type, stored.buffer = f"{flatbuffer.text(tensor.name)}/stored", kind, len(model.buffers)
    model.buffers.append(schema.BufferT(data=np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)))
    if scale is not None:
        stored.quantization = schema.QuantizationParametersT()
        stored.quantization.scale = scale
        stored.quantization.zeroPoint = np.zeros(len(scale), np.int64)
        stored.quantization.quantizedDimension = 0
    tensor.buffer = 0
    graph.tensors.append(stored)
    node = schema.OperatorT()
    node.opcodeIndex = opcode(model, schema.BuiltinOperator.DEQUANTIZE, version=3 if scale is None else 5)
    node.inputs, node.outputs = np.array([len(graph.tensors) - 1], np.int32), np.array([index], np.int32)
    return node


def _finish_storing(model, widened):
    """Puts the widening nodes in front, and empties the float32 originals; buffers keep their numbers."""
    graph = model.subgraphs[0]
    graph.operators = [*widened, *graph.operators]
    _empty_unused(model)


def _empty_unused(model):
    """Buffers keep their numbers, so one that nothing refers to any more is emptied."""
    used = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    used |= {entry.buffer for entry in model.metadata or []}
    for number, buffer in enumerate(model.buffers):
        if number not in used:
            buffer.data = None


def quantize_stem(model):
    """Stores the weights of the float products in front of the first product of bits in 8 bits, a scale for each output.

    LiteRT then quantizes what they are multiplied with when the file runs, and XNNPACK multiplies integers: what its dynamic
    quantization does, of which a patch embedding or a convolutional stem is the largest float part of a file.

    Returns:
        How many nodes there are.
    """
    graph, found = model.subgraphs[0], 0
    for node in flatbuffer.operators(model):
        if node.name.startswith(("Acd", "Lce")):
            break
        if node.name not in _QUANTIZED_VERSIONS or node.inputs[1].data is None or node.inputs[1].dtype != "float32":
            continue
        weights = np.asarray(node.inputs[1].data, np.uint8).view("<f4").reshape(node.inputs[1].shape)
        stored, scales = to_int8(weights)
        tensor = graph.tensors[node.inputs[1].index]
        tensor.type, tensor.buffer = schema.TensorType.INT8, len(model.buffers)
        model.buffers.append(schema.BufferT(data=stored.reshape(-1).view(np.uint8)))
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale, tensor.quantization.zeroPoint = scales, np.zeros(len(scales), np.int64)
        builtin = getattr(schema.BuiltinOperator, node.name)
        graph.operators[node.index].opcodeIndex = opcode(model, builtin, _QUANTIZED_VERSIONS[node.name])
        found += 1
    _empty_unused(model)
    return found


def add_taps(model):
    """Gives every custom op of ours its optional output of signs.

    Returns:
        Dict from the node's index to `(tensor index, sections)`; sections maps each name of `contract.block_taps`,
        for an attention only `"probabilities"`, to its first word and its shape.
    """
    graph, taps = model.subgraphs[0], {}
    for node in flatbuffer.operators(model):
        if node.name == contract.BLOCK:
            _, height, width, channels = node.inputs[0].shape
            shapes = contract.block_taps(custom_options(model, node), channels, height * width)
        elif node.name == contract.ATTENTION:
            options = custom_options(model, node)
            inputs = dict(zip(contract.attention_inputs(options), node.inputs))
            width = int(np.prod(inputs["value_scale"].shape)) // contract.WORD_BITS
            queries, keys = (int(np.prod(inputs[name].shape)) // width for name in ("query", "key"))
            shapes = {"probabilities": (options["heads"], queries, contract.words(keys))}
        else:
            continue
        sizes = [int(np.prod(shape)) for shape in shapes.values()]
        starts = np.cumsum([0, *sizes])
        tensor = schema.TensorT()
        tensor.name, tensor.type, tensor.buffer = f"{node.outputs[0].name}/taps", schema.TensorType.INT32, 0
        tensor.shape = np.array(shapes["probabilities"] if node.name == contract.ATTENTION else [starts[-1]], np.int32)
        graph.tensors.append(tensor)
        operator = graph.operators[node.index]
        operator.outputs = np.array([*operator.outputs, len(graph.tensors) - 1], np.int32)
        sections = {name: (int(start), shape) for (name, shape), start in zip(shapes.items(), starts)}
        taps[node.index] = (len(graph.tensors) - 1, sections)
    return taps


def attention_products(model):
    """Number of float matrix products between two computed tensors."""
    nodes = list(flatbuffer.operators(model))
    # A constant stored in half precision is widened by a node.
    widened = {node.outputs[0].index for node in nodes if node.name == "DEQUANTIZE" and node.inputs[0].data is not None}
    products = [node.inputs[1] for node in nodes if node.name in ("FULLY_CONNECTED", "BATCH_MATMUL")]
    return sum(right.data is None and right.index not in widened for right in products)


def pack_bits(signs):
    """Signs {-1, +1} `(..., channels)` as Larq Compute Engine packs them: int32 words `(..., ceil(channels / 32))`.

    Bit i of word w is channel 32 w + i; 1 is negative; the bits beyond the last channel are 0.
    """
    negative = np.asarray(signs) < 0
    padding = [(0, 0)] * (negative.ndim - 1) + [(0, -negative.shape[-1] % 32)]
    octets = np.packbits(np.pad(negative, padding), axis=-1, bitorder="little")
    return np.ascontiguousarray(octets).view("<i4")


def unpack_bits(words, channels):
    """The inverse of `pack_bits`: int8 signs `(..., channels)`."""
    octets = np.ascontiguousarray(words, "<i4").view(np.uint8)
    return 1 - 2 * np.unpackbits(octets, axis=-1, count=channels, bitorder="little").astype(np.int8)


def _words(tensor):
    return np.frombuffer(np.asarray(tensor.data, np.uint8).tobytes(), "<i4")


def opcode(model, builtin, version=1):
    """Index of an op code of a model object, of at least this version; added if there is none."""
    for index, entry in enumerate(model.operatorCodes):
        if entry.builtinCode == builtin and entry.version >= version:
            return index
    entry = schema.OperatorCodeT()
    entry.builtinCode = builtin
    entry.deprecatedBuiltinCode = min(builtin, 127)
    entry.version = version
    model.operatorCodes.append(entry)
    return len(model.operatorCodes) - 1


def _replaced(indices, old, new):
    return np.array([new if index == old else index for index in indices], np.int32)
