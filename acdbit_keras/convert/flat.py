"""Flat files (`.acdm`): a packed model without LiteRT, read where it lies, for microcontrollers and the browser.

A flat file is a list of steps with their constants, made from a `.tflite` file: a normalisation, convolutions with ReLU and
max-pooling, additions, a mean, dense layers and whole binary blocks, which is what isotropic backbones consist of. The engine
that runs it is `runtime/include/acdbit_model.h`; the layout is written down in `runtime/src/flat.h`. A sequence is to it an image
of width 1, and a patch that lies in one piece, as those of sequences do, a pixel of many channels.

In the compact form the kernels of the stem and the classifier are int8 with a scale per output, the vectors of the blocks and
the position embedding half floats, and the stem computes in integers: pixels less their mean in units of 1 / 128, int16
between convolutions. The ranges in between are bounds that follow from the weights, so that nothing is calibrated and nothing
saturates.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import struct
import tempfile
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from acdbit_keras import checks, contract, files
from acdbit_keras.convert import cards, flatbuffer, metadata, rewrite
from acdbit_keras.convert.flat_engine import MAGIC, FlatError
from acdbit_keras.typing import Path

if TYPE_CHECKING:
    import keras

SUFFIX = ".acdm"
VERSION = 1
INPUTS = ("float32", "uint8")

_HEADER, _STEP, _PARAMETERS = 64, 128, 26  # bytes, bytes, words of a step's parameters
_FLOAT32, _HALF, _INT8 = 0, 1, 2  # Storage
_NORMALISE, _CONVOLUTION, _DENSE, _ADD, _MEAN, _BLOCK = 1, 2, 3, 4, 5, 6
_PIXELS_TO_FLOAT, _PIXELS_TO_INTEGER, _FLOAT_TO_INTEGER = 0, 1, 2
_PIXEL_UNITS = 128
_LARGEST_INT8, _LARGEST_INT16 = 127, 32767
_SUM_ROOM = 2**31 - 2**28  # for a sum of products; the rest is for the bias
_WEIGHT_ORDER = (0, 2, 1, 3)
_NONE, _RELU = 0, 1  # ActivationFunctionType
_SAME = 0  # Padding
_ONE = 2.0**31  # what stands for the largest softmax weight of a row in the table of distances
_PATCHES = ["RESHAPE", "TRANSPOSE", "RESHAPE", "FULLY_CONNECTED", "RESHAPE"]


@dataclasses.dataclass(frozen=True)
class FlatConversion:
    """What `to_flat` wrote.

    Attributes:
        path: where the file is.
        bytes: its size.
        compact: whether stem, vectors and classifier are stored in 8 and 16 bits.
        input: what it takes, `"float32"` or `"uint8"`.
        steps: dict from kind of step to how many there are.
        constant_bytes: dict from kind of step to the bytes of their constants.
        tensor_bytes: bytes of the tensors between steps; the engine adds working memory of its own.
    """

    path: str
    bytes: int
    compact: bool
    input: str
    steps: dict[str, int]
    constant_bytes: dict[str, int]
    tensor_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """The report in plain types, as `json.dumps` takes them."""
        return dataclasses.asdict(self)

    def __str__(self):
        parts = ", ".join(f"{name} {size / 1e3:.1f} kB" for name, size in self.constant_bytes.items() if size)
        form = "flat, compact" if self.compact else "flat"
        return f"{self.path}: {self.bytes / 1e6:.3f} MB, {form}, {self.input} input, {sum(self.steps.values())} steps; {parts}"


@dataclasses.dataclass
class _Step:
    """A step before its constants have places.

    Attributes:
        op: kind of step.
        constants: up to four arrays, `None` for none.
        parameters: the words behind them; a float stands for its bits.
        bytes: of what it writes.
        in_place: whether it may write where it reads.
    """

    op: int
    constants: list
    parameters: list
    bytes: int
    in_place: bool = False


_NAMES = {
    _NORMALISE: "normalisation", _CONVOLUTION: "stem", _DENSE: "classifier", _ADD: "positions", _MEAN: "mean", _BLOCK: "blocks",
}  # fmt: skip


def to_flat(
    model: keras.Model,
    path: Path,
    compact: bool = False,
    card: dict[str, Any] | None = None,
    input: Literal["float32", "uint8"] = "float32",
) -> FlatConversion:
    """Converts a model and writes a flat file (`.acdm`) that takes one image, or one recording, per run.

    Args:
        model: built Keras model of an isotropic backbone, of images or sequences, in a 1-bit scheme.
        path: where the file is to be; an older one stays whole if anything fails.
        compact: whether stem, vectors, positions and classifier are stored in 8 and 16 bits, and the stem computes in integers,
            for which the card must have mean and std; default False, everything as trained.
        card: dict of plain types for whoever runs the file; keys as in `acdbit_keras.convert.metadata`. Default: none.
        input: `"float32"`, the default, normalised images, or `"uint8"`, pixels or readings of 8 bits, which the file normalises
            with the card's mean and std.

    Returns:
        `FlatConversion`.

    Raises:
        FlatError: the model has no flat form; the message names what of it has none.
        ValueError: as `to_tflite`.

    Example:
        >>> import acdbit_keras as acd
        >>> card = {"classes": [str(digit) for digit in range(10)], "mean": [0.3], "std": [0.38]}
        >>> print(acd.convert.to_flat(student, "student.acdm", compact=True, card=card, input="uint8"))
        student.acdm: 0.0... MB, flat, compact, uint8 input, ... steps; ...
    """
    from acdbit_keras.convert.export import to_tflite

    checks.choice("input", input, INPUTS)
    path = files.writable(path)
    with tempfile.TemporaryDirectory() as folder:
        exact = os.path.join(folder, "exact.tflite")
        to_tflite(model, exact, precision="bits", attention="binary", card=card)
        content, _ = flatbuffer.contents(exact)
    return _write(content, f"model {model.name!r}", path, compact, input)


def write(
    source: Path | bytes, path: Path, compact: bool = False, input: Literal["float32", "uint8"] = "float32"
) -> FlatConversion:
    """Makes a flat file of a `.tflite` file with whole blocks.

    Args:
        source: path of the `.tflite` file, or its bytes.
        path, compact, input: as for `to_flat`; mean and std are those of the file's card.

    Returns:
        `FlatConversion`.

    Raises:
        FlatError: as `to_flat`.
        ValueError: a damaged file.
    """
    checks.choice("input", input, INPUTS)
    return _write(*flatbuffer.contents(source), path, compact, input)


def _write(content, name, path, compact, input):
    steps, content = _build(content, name, compact, input)
    files.write_beside(path, lambda temporary: temporary.write_bytes(content))
    counts, sizes = {}, {}
    for step in steps:
        name = _NAMES[step.op]
        counts[name] = counts.get(name, 0) + 1
        sizes[name] = sizes.get(name, 0) + sum(constant.nbytes for constant in step.constants if constant is not None)
    [tensors] = struct.unpack_from("<I", content, 36)
    return FlatConversion(os.fspath(path), len(content), compact, input, counts, sizes, tensors)


def build(source: Path | bytes, compact: bool = False, input: Literal["float32", "uint8"] = "float32") -> bytes:
    """The bytes of the flat file that `write` writes."""
    return _build(*flatbuffer.contents(source), compact, input)[1]


def _build(content, name, compact, input):
    model = flatbuffer.parse(content, name)
    card = metadata.card(model)
    reader = _Reader(model, name)
    steps = reader.steps()
    height, width, channels = reader.size
    if reader.is_sequence:
        card = {**card, "sequence": True}
    if input == "uint8" or compact:
        if "mean" not in card:
            why = "pixels are normalised with" if input == "uint8" else "a compact file's integers are scaled by"
            raise FlatError(f"{name} does not say the mean and std that {why}: convert it with a card")
        if len(card["mean"]) not in (1, channels):
            raise FlatError(f"the card's mean must have one number for each of the {channels} channels, not {len(card['mean'])}")
        offset, factor = (np.broadcast_to(part, (channels,)) for part in cards.normalisation(card))
        size = [height, width, channels]
        if compact:
            steps = [*_integer_stem(steps, size, offset, factor, input), *_rounded(steps)]
        else:
            constants = [np.array(offset, np.float32), np.array(factor, np.float32)]
            steps.insert(0, _Step(_NORMALISE, constants, [*size, _PIXELS_TO_FLOAT], 4 * math.prod(size)))
    return steps, _packed(steps, (height, width, channels), input, reader.outputs, card)


# === From a .tflite file to steps ===


class _Reader:
    """The steps of a model object, in floats as the file has them."""

    def __init__(self, model, name):
        self._model, self._name = model, name
        self._nodes = [node for node in flatbuffer.operators(model) if node.subgraph == 0]
        inputs, outputs = flatbuffer.inputs(model), flatbuffer.outputs(model)
        if len(inputs) != 1 or len(inputs[0].shape) not in (3, 4) or inputs[0].shape[0] != 1 or inputs[0].dtype != "float32":
            raise FlatError(
                f"{name} must have one input of float32 images (height, width, channels) or sequences (steps, channels) to "
                f"become a flat file, not {', '.join(f'{tensor.shape[1:]} of {tensor.dtype}' for tensor in inputs)}"
            )
        if len(outputs) != 1:
            raise FlatError(f"{name} has {len(outputs)} outputs; a model of one output can become a flat file")
        self._output = outputs[0]
        self.is_sequence = len(inputs[0].shape) == 3
        self.size = (inputs[0].shape[1], 1, inputs[0].shape[2]) if self.is_sequence else inputs[0].shape[1:]
        self.outputs = math.prod(outputs[0].shape)
        self._constants = {}
        self._norm = None  # factor and shift in front of a dense layer, which takes them in
        self._at = inputs[0].index  # the tensor that the last step wrote

    def steps(self):
        known = {
            "CONV_2D": self._convolution, "MAX_POOL_2D": self._pooling, "FULLY_CONNECTED": self._dense, "ADD": self._add,
            "MEAN": self._mean, "MUL": self._scale, contract.BLOCK: self._block, "RESHAPE": self._view, "DEQUANTIZE": self._widen,
            "TRANSPOSE": None,
        }  # fmt: skip
        unknown = sorted({node.name for node in self._nodes} - set(known))
        if unknown:
            raise FlatError(
                f"{self._name} cannot become a flat file, whose engine lacks {', '.join(unknown)}; "
                "isotropic backbones with whole blocks (vit_*, vit1d_*) can"
            )
        steps, at = [], 0
        while at < len(self._nodes):
            if [node.name for node in self._nodes[at : at + 5]] == _PATCHES:
                steps.append(self._patches(self._nodes[at : at + 5]))
                at += 5
                continue
            node, at = self._nodes[at], at + 1
            make = known[node.name]
            if make is None:
                self._refuse(node, "stands where no patches are cut")
            if self._norm is not None and node.name not in ("MUL", "ADD", "FULLY_CONNECTED", "RESHAPE"):
                self._refuse(node, "follows a norm that is part of nothing")
            if node.name == "FULLY_CONNECTED" and not steps and math.prod(node.inputs[0].shape[:-1]) > 1:
                make = self._whole_patches
            step = make(node, steps) if node.name == "MAX_POOL_2D" else make(node)
            if step is not None:
                steps.append(step)
        if self._at != self._output.index:
            raise FlatError(f"{self._name} cannot become a flat file: its last node does not give its output")
        return steps

    def _refuse(self, node, why):
        raise FlatError(f"{self._name} cannot become a flat file: node {node.index} ({node.name}) {why}")

    def _follow(self, node, tensor=0):
        """The computed input of a node, which must be what the step before wrote."""
        if node.inputs[tensor] is None or node.inputs[tensor].index != self._at:
            self._refuse(node, "does not read what the node before it gives")
        self._at = node.outputs[0].index
        return node.inputs[tensor]

    def _values(self, tensor):
        """A constant as an array, also where a node widens it; `None` for a tensor that is computed."""
        if tensor is None:
            return None
        if tensor.index in self._constants:
            return self._constants[tensor.index]
        if tensor.data is None:
            return None
        dtype = {"float32": "<f4", "float16": "<f2", "int32": "<i4", "int8": "i1"}.get(tensor.dtype)
        if dtype is None:
            raise FlatError(f"{self._name} cannot become a flat file: constant {tensor.name!r} is of type {tensor.dtype}")
        return np.frombuffer(np.asarray(tensor.data, np.uint8).tobytes(), dtype).reshape(tensor.shape)

    def _options(self, node):
        return self._model.subgraphs[0].operators[node.index].builtinOptions

    def _view(self, node):
        # Rows stay where they are.
        self._follow(node)

    def _widen(self, node):
        [tensor], [output] = node.inputs, node.outputs
        values = self._values(tensor)
        if values is None:
            self._refuse(node, "widens what is no constant")
        stored = self._model.subgraphs[0].tensors[tensor.index]
        if tensor.dtype == "int8":
            scale = np.asarray(stored.quantization.scale, np.float32)
            axis = stored.quantization.quantizedDimension
            shape = [-1 if i == axis and scale.size > 1 else 1 for i in range(values.ndim)]
            self._constants[output.index] = values.astype(np.float32) * scale.reshape(shape)
        else:
            self._constants[output.index] = values.astype(np.float32)

    def _convolution(self, node):
        options = self._options(node)
        kernel, bias = (self._values(tensor) for tensor in (*node.inputs[1:3], None)[:2])
        x, y = self._follow(node), node.outputs[0]
        units, filter_rows, filter_columns, channels = kernel.shape
        if filter_rows != filter_columns or options.strideH != options.strideW or channels != x.shape[3]:
            self._refuse(node, "has a window or a stride that is not square, or groups of channels")
        if (options.dilationHFactor, options.dilationWFactor) != (1, 1):
            self._refuse(node, "has a dilated window")
        if options.fusedActivationFunction not in (_NONE, _RELU):
            self._refuse(node, "ends in another activation than a ReLU")
        before = [
            _before(options, size, outputs, filter_rows, options.strideH) for size, outputs in zip(x.shape[1:3], y.shape[1:3])
        ]
        relu = int(options.fusedActivationFunction == _RELU)
        return _convolution(x.shape, filter_rows, options.strideH, before, y.shape, relu, kernel, bias)

    def _patches(self, nodes):
        first, _, _, product, last = nodes
        kernel, bias = self._values(product.inputs[1]), self._values(product.inputs[2] if len(product.inputs) > 2 else None)
        x = self._follow(first)
        for node in nodes[1:]:
            self._follow(node)
        _, height, width, channels = x.shape
        _, rows, columns, units = last.outputs[0].shape
        size = height // rows
        whole = size * rows == height and size * columns == width and kernel.shape == (units, size * size * channels)
        if not whole or tuple(first.outputs[0].shape) != (rows, size, columns, size * channels):
            self._refuse(first, "cuts patches that are not square, which the engine cannot")
        return _convolution(
            x.shape, size, size, (0, 0), (1, rows, columns, units), 0, kernel.reshape(units, size, size, channels), bias
        )

    def _whole_patches(self, node):
        """The embedding of patches each of which lies in one piece: of sequences, and of rows of an image."""
        kernel, bias = self._values(node.inputs[1]), self._values(node.inputs[2] if len(node.inputs) > 2 else None)
        x = self._follow(node)
        *tokens, inputs = x.shape
        rows, channels = math.prod(tokens), self.size[2]
        if kernel is None or inputs % channels or self._options(node).fusedActivationFunction != _NONE:
            self._refuse(node, "is no embedding of patches: its kernel is computed, of another size, or has an activation")
        by_pixel = kernel.reshape(len(kernel), -1, 1, channels)
        return _convolution((1, rows, 1, inputs), 1, 1, (0, 0), (1, rows, 1, len(kernel)), 0, by_pixel, bias)

    def _pooling(self, node, steps):
        options = self._options(node)
        x, y = self._follow(node), node.outputs[0]
        if not steps or steps[-1].op != _CONVOLUTION or steps[-1].parameters[11] != 1:
            self._refuse(node, "pools what is not the output of a convolution")
        if options.filterHeight != options.filterWidth or options.strideH != options.strideW:
            self._refuse(node, "has a window or a stride that is not square")
        if options.fusedActivationFunction != _NONE:
            self._refuse(node, "ends in an activation")
        before = [
            _before(options, size, outputs, options.filterHeight, options.strideH)
            for size, outputs in zip(x.shape[1:3], y.shape[1:3])
        ]
        steps[-1].parameters[11:17] = [options.filterHeight, options.strideH, *before, *y.shape[1:3]]
        steps[-1].bytes = 4 * math.prod(y.shape)

    def _dense(self, node):
        kernel, bias = self._values(node.inputs[1]), self._values(node.inputs[2] if len(node.inputs) > 2 else None)
        x = self._follow(node)
        if kernel is None or self._options(node).fusedActivationFunction != _NONE:
            self._refuse(node, "has a kernel that is computed, or an activation")
        units, inputs = kernel.shape
        rows = math.prod(x.shape) // inputs
        if self._norm is not None:
            factor, shift = self._norm
            self._norm = None
            if len(factor) != inputs:
                self._refuse(node, "follows a norm of another size")
            moved = kernel.astype(np.float64) @ shift
            bias = (moved if bias is None else bias + moved).astype(np.float32)
            kernel = (kernel * factor).astype(np.float32)
        return _Step(_DENSE, [kernel, bias, None], [rows, inputs, units, _FLOAT32], 4 * rows * units)

    def _scale(self, node):
        factor = next((value for value in map(self._values, node.inputs) if value is not None), None)
        x = self._follow(node, 0 if self._values(node.inputs[0]) is None else 1)
        if factor is None or factor.size != x.shape[-1] or self._norm is not None:
            self._refuse(node, "multiplies by something else than a constant for each channel")
        self._norm = (factor.reshape(-1).astype(np.float64), np.zeros(factor.size))

    def _add(self, node):
        values = [self._values(tensor) for tensor in node.inputs]
        place = 0 if values[0] is None else 1
        constant = values[1 - place]
        x = self._follow(node, place)
        if self._norm is not None and constant is not None and constant.size == x.shape[-1]:
            self._norm = (self._norm[0], self._norm[1] + constant.reshape(-1))
            return None
        if constant is None or constant.size != math.prod(x.shape) or self._options(node).fusedActivationFunction != _NONE:
            self._refuse(node, "adds something else than a constant of the size of its input")
        return _Step(_ADD, [constant], [constant.size, _FLOAT32], 4 * constant.size, in_place=True)

    def _mean(self, node):
        x = self._follow(node)
        axes = sorted(int(axis) % len(x.shape) for axis in self._values(node.inputs[1]).reshape(-1))
        if axes != list(range(1, len(x.shape) - 1)):
            self._refuse(node, "is a mean over other axes than those of the grid")
        channels = x.shape[-1]
        return _Step(_MEAN, [], [math.prod(x.shape) // channels, channels], 4 * channels)

    def _block(self, node):
        options = rewrite.custom_options(self._model, node)
        if options["version"] > contract.VERSION:
            self._refuse(node, f"is of version {options['version']}")
        words, vectors = (self._values(tensor) for tensor in node.inputs[1:3])
        _, height, width, channels = self._follow(node).shape
        vectors = np.asarray(vectors, np.float32)
        names = ("key_bias", "branches", "dynamic_activation", "dynamic_hidden", "dynamic_attention")
        parameters = [
            *(height, width, channels, options["heads"], options["mlp_ratio"], options["rule"], float(options["ratio"])),
            *(int(options[name]) for name in names),
            _FLOAT32,
        ]
        constants = [words.view("<u4"), vectors, _distance_table(options, channels, vectors)]
        return _Step(_BLOCK, constants, parameters, 4 * height * width * channels)


def _before(options, size, outputs, window, stride):
    """Padding in front of an axis."""
    return max((outputs - 1) * stride + window - size, 0) // 2 if options.padding == _SAME else 0


def _convolution(shape, filter, stride, before, output_shape, relu, kernel, bias):
    _, height, width, channels = shape
    _, rows, columns, units = output_shape
    window = [height, width, channels, filter, stride, *before, rows, columns, units, relu]
    parameters = [*window, 1, 1, 0, 0, rows, columns, _FLOAT32, 0]
    return _Step(_CONVOLUTION, [kernel, bias, None], parameters, 4 * rows * columns * units)


def _distance_table(options, channels, vectors):
    """What attention looks up by distance, `(heads, head_dim + 1)`, as `attention.cc` makes it; `None` if it differs by token."""
    if options["dynamic_attention"]:
        return None
    lengths = contract.block_vectors(options, channels)
    start = sum(length for name, length in list(lengths.items())[: list(lengths).index("score_scale")])
    steps = -2.0 * vectors[start : start + options["heads"]].astype(np.float64)[:, None]
    distances = np.arange(channels // options["heads"] + 1)
    fine, coarse = np.exp(steps * (distances % 8)), np.exp(steps * (distances // 8 * 8))
    if options["key_bias"]:
        return (coarse.astype(np.float32) * fine.astype(np.float32)).view("<u4")
    rounded = np.floor(np.where(distances == 0, _ONE, coarse * _ONE * fine + 0.5))
    return np.minimum.accumulate(rounded, axis=1).astype("<u4")


# === Compact ===


def _per_output(kernel):
    """Int8 weights `(units, inputs)` of a kernel, and the scale of each output."""
    scale = np.abs(kernel).max(1) / _LARGEST_INT8
    scale = np.where(scale > 0, scale, 1.0)
    return np.rint(kernel / scale[:, None]).astype(np.int8), scale


def _integer_stem(steps, size, offset, factor, input):
    """The convolutions at the head of a model in integers, behind the normalisation that makes these."""
    height, width, channels = size
    means = np.rint(offset.astype(np.float64) * _PIXEL_UNITS)
    low, high = -means, 255.0 * _PIXEL_UNITS - means
    unit = factor.astype(np.float64) / _PIXEL_UNITS  # of a step of the integers, per channel
    if input == "uint8":
        constants, form = [means.astype("<i4"), None], _PIXELS_TO_INTEGER
    else:
        constants, form = [None, (1.0 / unit).astype(np.float32)], _FLOAT_TO_INTEGER
    converted = [_Step(_NORMALISE, constants, [*size, form], 2 * math.prod(size))]
    stem = [step for step in steps if step.op == _CONVOLUTION]
    if not stem or any(step.op != _CONVOLUTION for step in steps[: len(stem)]):
        raise FlatError("a compact flat file needs a model that begins with its convolutions, and with nothing else")
    del steps[: len(stem)]
    quantized = []
    for number, step in enumerate(stem):
        kernel, bias, _ = step.constants
        kernel = kernel.astype(np.float64) * (unit if number == 0 else 1.0)
        quantized.append(_per_output(kernel.reshape(len(kernel), -1)))
    grain = 1.0  # what a step of the input's integers is worth, beside what the first kernel has taken in
    for number, step in enumerate(stem):
        weights, scale = quantized[number]
        bias = np.zeros(len(weights)) if step.constants[1] is None else step.constants[1].astype(np.float64)
        scale = scale * grain
        parameters = [*step.parameters[:17], _INT8, 0]
        last = number + 1 == len(stem)
        if last:
            constants = [_rows(weights), bias.astype(np.float32), scale.astype(np.float32)]
        else:
            spread = weights.reshape(len(weights), -1, len(low)).astype(np.float64)
            largest = np.maximum(spread * low, spread * high).sum((1, 2)) * scale + bias
            smallest = np.minimum(spread * low, spread * high).sum((1, 2)) * scale + bias
            if parameters[10]:
                largest, smallest = np.maximum(largest, 0.0), np.maximum(smallest, 0.0)
            sums = np.abs(quantized[number + 1][0].astype(np.int64)).sum(1).max()
            levels = min(_LARGEST_INT16, _SUM_ROOM // max(int(sums), 1))
            grain = max(np.abs([largest, smallest]).max() / levels, 4.0 * scale.max())
            ratio = scale / grain
            shift = min(31, int(math.floor(-1.0 - math.log2(ratio.max()))))
            multiplier = np.minimum(np.rint(ratio * 2.0 ** (32 + shift)), 2**31 - 1).astype("<i4")
            constants = [_rows(weights), np.rint(bias / scale).astype("<i4"), multiplier]
            parameters[18] = shift
            low, high = np.floor(smallest / grain), np.ceil(largest / grain)
        size_of_value = 4 if last else 2
        converted.append(_Step(_CONVOLUTION, constants, parameters, step.bytes // 4 * size_of_value))
    return converted


def _rows(weights):
    """Rows of int8 filled up to a multiple of 4, each four in the order in which the engine takes them."""
    units, inputs = weights.shape
    padded = np.zeros((units, -(-inputs // 4), 4), np.int8)
    padded.reshape(units, -1)[:, :inputs] = weights
    return padded[:, :, list(_WEIGHT_ORDER)].reshape(units, -1)


def _rounded(steps):
    """The other steps in 8 and 16 bits."""
    for step in steps:
        if step.op == _DENSE:
            weights, scale = _per_output(step.constants[0].astype(np.float64))
            step.constants = [weights, step.constants[1], scale.astype(np.float32)]
            step.parameters[3] = _INT8
        elif step.op == _ADD:
            step.constants, step.parameters[1] = _halves(step, 0, 1)
        elif step.op == _BLOCK:
            step.constants, step.parameters[12] = _halves(step, 1, 12)
            if step.constants[2] is not None:
                names = ("key_bias", "branches", "dynamic_activation", "dynamic_hidden", "dynamic_attention")
                options = {
                    "heads": step.parameters[3],
                    "mlp_ratio": step.parameters[4],
                    **dict(zip(names, step.parameters[7:12])),
                }
                wide = step.constants[1].astype(np.float32)
                step.constants[2] = _distance_table(options, step.parameters[2], wide)
    return steps


def _halves(step, number, place):
    """The constants of a step with one of them in half precision, and how it is stored: as it was where halves cannot hold it."""
    with np.errstate(over="ignore"):
        halves = step.constants[number].astype("<f2")
    lost = ~np.isfinite(halves) | ((halves == 0) & (step.constants[number] > 0))
    if lost.any():
        return step.constants, step.parameters[place]
    constants = list(step.constants)
    constants[number] = halves
    return constants, _HALF


# === Bytes ===

_BLOCK_STORAGE = 12  # among the words of a block's parameters


def is_compact(content):
    """Whether a flat file, its bytes, which the engine has accepted, has vectors in half precision and an integer stem."""
    [steps] = struct.unpack_from("<I", content, 12)
    for number in range(steps):
        place = _HEADER + _STEP * number
        [storage] = struct.unpack_from("<i", content, place + _STEP - 4 * (_PARAMETERS - _BLOCK_STORAGE))
        if struct.unpack_from("<i", content, place)[0] == _BLOCK and storage == _HALF:
            return True
    return False


def _packed(steps, shape, input, outputs, card):
    places, tensors = _places(steps)
    content = bytearray(_HEADER + _STEP * len(steps))

    def put(data):
        content.extend(bytes(-len(content) % contract.ALIGNMENT))
        start = len(content)
        content.extend(data)
        return start

    for number, step in enumerate(steps):
        offsets = [0 if constant is None else put(np.ascontiguousarray(constant).tobytes()) for constant in step.constants]
        words = [struct.pack("<f" if isinstance(word, float) else "<i", word) for word in step.parameters]
        record = struct.pack("<2i4I", step.op, places[number], *offsets, *[0] * (4 - len(offsets)))
        record += b"".join(words) + bytes(4 * (_PARAMETERS - len(words)))
        content[_HEADER + _STEP * number : _HEADER + _STEP * (number + 1)] = record
    text = json.dumps(card, ensure_ascii=False, separators=(",", ":")).encode() if card else b""
    place = put(text) if text else 0
    content.extend(bytes(-len(content) % contract.ALIGNMENT))
    header = (VERSION, len(content), len(steps), *shape, int(input == "uint8"), outputs, tensors, place, len(text))
    content[:_HEADER] = MAGIC + struct.pack("<11I", *header) + bytes(16)
    return bytes(content)


def _places(steps):
    """Where each step writes, -1 for the last, and the bytes of all: from both ends of the memory in turns."""

    def rounded(size):
        return -(-size // contract.ALIGNMENT) * contract.ALIGNMENT

    sizes = [rounded(step.bytes) for step in steps[:-1]]
    pairs = [a if step.in_place else a + b for a, b, step in zip(sizes, [0, *sizes], steps)]
    tensors = max(pairs, default=0)
    places, low = [], False
    for number, step in enumerate(steps[:-1]):
        low = low if step.in_place and number else not low
        places.append(0 if low else tensors - sizes[number])
    return [*places, -1], tensors
