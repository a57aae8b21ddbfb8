"""Edits of a converted flatbuffer: what the converter leaves to be done, and what `verify` wants to find again.

All functions change the model object (`flatbuffer.read`) in place.
"""

import copy
import json

import numpy as np

from . import flatbuffer
from .flatbuffer import schema

METADATA = "acdbit_keras"
BCONV = "LceBconv2d"
# Inputs of an LceBconv2d: bits, filter, and per output channel a multiplier and a bias, or a threshold.
_FILTER, _MULTIPLIER, _BIAS = 1, 2, 3
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
        node.opcodeIndex = _opcode(model, schema.BuiltinOperator.CONCATENATION)
        node.builtinOptionsType = schema.BuiltinOptions.ConcatenationOptions
        node.builtinOptions = schema.ConcatenationOptionsT()
        node.builtinOptions.axis = 0
        node.inputs = np.array([source.index], np.int32)
        node.outputs = np.array([len(graph.tensors) - 1], np.int32)
        graph.operators.insert(position, node)


def take_outputs(model, prefix):
    """Turns the outputs whose signature name starts with `prefix` into intermediate tensors.

    Returns:
        Dict from signature name to tensor index.
    """
    graph, [signature] = model.subgraphs[0], model.signatureDefs
    names = {_text(entry.name): entry for entry in signature.outputs}
    taken = {name: entry.tensorIndex for name, entry in names.items() if name.startswith(prefix)}
    signature.outputs = [entry for name, entry in names.items() if name not in taken]
    graph.outputs = np.array([entry.tensorIndex for entry in signature.outputs], np.int32)
    return taken


def set_metadata(model, value):
    """Stores a value of plain types in the file, under this package's name, in place of what was there."""
    entry = schema.MetadataT()
    entry.name = METADATA
    entry.buffer = len(model.buffers)
    model.buffers.append(schema.BufferT(data=np.frombuffer(json.dumps(value).encode(), np.uint8)))
    others = [other for other in model.metadata or [] if _text(other.name) != METADATA]
    model.metadata = [*others, entry]


def metadata(model):
    """What `set_metadata` stored, an empty dict in a file of another origin."""
    for entry in model.metadata or []:
        if _text(entry.name) == METADATA:
            return json.loads(np.asarray(model.buffers[entry.buffer].data, np.uint8).tobytes())
    return {}


def filters(model):
    """The nodes that multiply bits.

    Returns:
        List of `(Operator, int32 words (units, words))` for every LceBconv2d with a bit-packed 1x1 filter.
    """
    found = []
    for node in flatbuffer.operators(model):
        if node.name == BCONV:
            weights = node.inputs[_FILTER]
            if weights.dtype == "int32" and weights.data is not None and tuple(weights.shape[1:3]) == (1, 1):
                words = np.frombuffer(np.asarray(weights.data, np.uint8).tobytes(), "<i4")
                found.append((node, words.reshape(weights.shape[0], weights.shape[3])))
    return found


def attention_products(model):
    """Number of float matrix products between two computed tensors."""
    return sum(
        node.name in ("FULLY_CONNECTED", "BATCH_MATMUL") and node.inputs[1].data is None for node in flatbuffer.operators(model)
    )


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


def _opcode(model, builtin):
    for index, entry in enumerate(model.operatorCodes):
        if entry.builtinCode == builtin:
            return index
    entry = schema.OperatorCodeT()
    entry.builtinCode = builtin
    entry.deprecatedBuiltinCode = min(builtin, 127)
    entry.version = 1
    model.operatorCodes.append(entry)
    return len(model.operatorCodes) - 1


def _replaced(indices, old, new):
    return np.array([new if index == old else index for index in indices], np.int32)


def _text(value):
    return value.decode() if isinstance(value, bytes) else value
