"""A float `.tflite` file for the page: its graph as JSON with the constants behind it, for `runtime/web/float_twin.mjs`.

What a float twin consists of, and no more: convolutions, products of matrices, what stands between them. It is there to be
compared with, in the same browser, and runs nowhere else.

    bytes 0 to 3    "ACDT"
    4 to 7          bytes of the JSON, which is padded with spaces to a multiple of 4
    8 to ...        {"shape": of the input, "outputs": number of logits, "card", "nodes"}
    behind it       the constants, float32, little-endian

A node is `{"op", "inputs", "shape", ...options}` and writes the tensor of its own number; an input is the number of a tensor, -1
for the image, or `{"at": place among the constants, in numbers, "shape"}`.
"""

import json
import struct

import numpy as np

from acdbit_keras.convert import flatbuffer, metadata

MAGIC = b"ACDT"
_ACTIVATIONS = {0: None, 1: "relu"}  # ActivationFunctionType
_SAME = 0  # Padding


def pack(source):
    """The bytes for the page of a float32 `.tflite` file of one image in and logits out.

    Args:
        source: path of the file, or its bytes.

    Raises:
        ValueError: it holds an op or an option that the page does not know; the message names it.
    """
    model = flatbuffer.read(source)
    [image], [logits] = flatbuffer.inputs(model), flatbuffer.outputs(model)
    numbers, constants, nodes = {image.index: -1}, [], []
    for node in flatbuffer.operators(model):
        options = model.subgraphs[0].operators[node.index].builtinOptions
        described = _OPTIONS[node.name](node, options) if node.name in _OPTIONS else None
        if described is None or node.outputs[0].dtype != "float32":
            raise ValueError(f"the page knows no {node.name} of node {node.index} as it is here; it runs float twins of the zoo")
        computed = node.inputs[: _INPUTS.get(node.name, 1)]
        inputs = [_input(tensor, numbers, constants) for tensor in computed if tensor is not None]
        numbers[node.outputs[0].index] = len(nodes)
        nodes.append({"op": node.name, "inputs": inputs, "shape": node.outputs[0].shape, **described})
    if numbers[logits.index] != len(nodes) - 1:
        raise ValueError("the logits are not what the last node gives")
    graph = {"shape": image.shape[1:], "outputs": logits.shape[-1], "card": metadata.card(model), "nodes": nodes}
    text = json.dumps(graph, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    return MAGIC + struct.pack("<I", len(text)) + text + b"".join(constants)


def _input(tensor, numbers, constants):
    if tensor.data is None:
        return numbers[tensor.index]
    at = sum(map(len, constants)) // 4
    constants.append(np.asarray(tensor.data).tobytes())
    return {"at": at, "shape": tensor.shape}


def _integers(tensor):
    return np.frombuffer(np.asarray(tensor.data).tobytes(), np.int32).tolist()


def _convolution(node, options):
    if (options.dilationHFactor, options.dilationWFactor) != (1, 1) or options.fusedActivationFunction not in _ACTIVATIONS:
        return None
    (height, width), (rows, columns) = node.inputs[0].shape[1:3], node.inputs[1].shape[1:3]
    before = [0, 0]
    if options.padding == _SAME:
        sizes = zip(node.outputs[0].shape[1:3], (options.strideH, options.strideW), (rows, columns), (height, width))
        before = [max((out - 1) * stride + filter - size, 0) // 2 for out, stride, filter, size in sizes]
    activation = _ACTIVATIONS[options.fusedActivationFunction]
    return {"stride": [options.strideH, options.strideW], "before": before, "activation": activation}


def _activated(node, options):
    known = options.fusedActivationFunction in _ACTIVATIONS
    return {"activation": _ACTIVATIONS[options.fusedActivationFunction]} if known else None


def _unactivated(node, options):
    return {} if options is None or getattr(options, "fusedActivationFunction", 0) == 0 else None


def _mean(node, options):
    rank = len(node.inputs[0].shape)
    return {"axes": sorted(axis % rank for axis in _integers(node.inputs[1]))}


def _softmax(node, options):
    return {} if options.beta == 1 else None


_OPTIONS = {
    "CONV_2D": _convolution,
    "FULLY_CONNECTED": _activated,
    "BATCH_MATMUL": lambda node, options: {"turned": [bool(options.adjX), bool(options.adjY)]},
    "ADD": _activated,
    "SUB": _activated,
    "MUL": _activated,
    "SQUARED_DIFFERENCE": _unactivated,
    "NEG": _unactivated,
    "RSQRT": _unactivated,
    "GELU": lambda node, options: {"approximate": bool(options.approximate)},
    "SOFTMAX": _softmax,
    "MEAN": _mean,
    "RESHAPE": _unactivated,
    "TRANSPOSE": lambda node, options: {"order": _integers(node.inputs[1])},
}
# How many inputs are tensors of floats; the others, axes and shapes, are options here.
_INPUTS = {"CONV_2D": 3, "FULLY_CONNECTED": 3, "BATCH_MATMUL": 2, "ADD": 2, "SUB": 2, "MUL": 2, "SQUARED_DIFFERENCE": 2}
