"""What LiteRT's own ops must look like before its interpreter may have them.

LiteRT's kernels, and XNNPACK's that take their place, do not look at everything when a file is opened: a node with too few
inputs, an addition of two types or a shape that its op would not compute ends the process. `check` knows the ops that files
of this package are made of: how many inputs and outputs, which types together, which shape follows from which. The custom
ops are not its matter, for the compiled runtime checks its own.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from acdbit_keras.convert import flatbuffer
from acdbit_keras.convert.flatbuffer import schema

_CUSTOM = ("AcdBinaryAttention", "AcdBinaryBlock", "LceBconv2d", "LceBMaxPool2d", "LceDequantize", "LceQuantize")
# Larger than any that is of use; sums and products of sizes stay far from what their types hold.
_MOST_RANK, _MOST_BYTES = 6, 2**30
_ACTIVATIONS = range(4)  # none, ReLU, ReLU to -1 and 1, ReLU6
# Quantized additions compute with scales relative to each other, in fixed point.
_SMALLEST_SCALE, _LARGEST_SCALE, _SCALE_RATIO = 1e-9, 1e6, 2.0**16


class _Unchecked(ValueError):
    """A use of an op that may be right, but is none of those known here."""


def check(model, name, untrusted=False):
    """Looks at every builtin op of a model that `flatbuffer.parse` has accepted.

    Args:
        model: a ``ModelT``.
        name: what messages call it.
        untrusted: whether to refuse what is not known here for certain as well: other ops and types, stored shapes that do not
            follow from each other, several subgraphs, activations of more than 1 GiB.

    Raises:
        ValueError: a node that is wrong, or with `untrusted` one that is not known.
    """
    try:
        if untrusted:
            _check_limits(model)
        _check_order(model)
        # Sizes that are free, but for the number of images, are stored as 1 and may fit nothing.
        signatures = [tensor.shapeSignature for tensor in model.subgraphs[0].tensors or []]
        free = not untrusted and any(sizes is not None and -1 in sizes[1:] for sizes in signatures)
        for operator in flatbuffer.operators(model):
            if operator.subgraph == 0:
                _check_node(model, operator, free, untrusted)
    except ValueError as error:
        raise ValueError(f"{name} is {'not to be trusted' if untrusted else 'corrupt'}: {error}") from error


def _check_node(model, operator, free, untrusted):
    try:
        if operator.name in _CUSTOM:
            return
        rule = _RULES.get(operator.name)
        if rule is None:
            raise _Unchecked("is none of the ops that are known here")
        _Node(model, operator).check(rule, free)
    except _Unchecked as error:
        if untrusted:
            raise ValueError(f"node {operator.index} ({operator.name}) {error}") from error
    except (ValueError, IndexError, TypeError, OverflowError) as error:
        raise ValueError(f"node {operator.index} ({operator.name}) {error}") from error


def _check_order(model):
    """Every tensor that a node reads is an input, a constant or written by a node before; none is written twice."""
    graph = model.subgraphs[0]
    known = flatbuffer.tensors(model)
    ready = {tensor.index for tensor in known if tensor.data is not None or graph.tensors[tensor.index].isVariable}
    for tensor in flatbuffer.inputs(model):
        if tensor.data is not None:
            raise ValueError(f"its input {tensor.index} is a constant")
        ready.add(tensor.index)
    for operator in flatbuffer.operators(model):
        if operator.subgraph:
            continue
        for tensor in operator.inputs:
            if tensor is not None and tensor.index not in ready:
                raise ValueError(f"node {operator.index} ({operator.name}) reads tensor {tensor.index} before it is written")
        for tensor in operator.outputs:
            if tensor.index in ready:
                raise ValueError(f"node {operator.index} ({operator.name}) writes tensor {tensor.index}, which has a value")
            ready.add(tensor.index)
    for tensor in flatbuffer.outputs(model):
        if tensor.index not in ready:
            raise ValueError(f"its output {tensor.index} is never written")


def _check_limits(model):
    if len(model.subgraphs) > 1:
        raise ValueError(f"it has {len(model.subgraphs)} subgraphs, one is allowed")
    graph = model.subgraphs[0]
    for index, (stored, tensor) in enumerate(zip(graph.tensors or [], flatbuffer.tensors(model))):
        if stored.sparsity is not None or stored.isVariable or stored.variantTensors:
            raise ValueError(f"tensor {index} is sparse, a variable or a variant")
        if len(tensor.shape) > _MOST_RANK or tensor.nbytes is None or 0 in tensor.shape:
            raise ValueError(f"tensor {index} has the shape {tensor.shape} of {tensor.dtype}")
        _check_quantization(index, stored.quantization, tensor)
    # Before they are planned, and together.
    total = sum(tensor.nbytes for tensor in flatbuffer.tensors(model) if tensor.data is None)
    if total > _MOST_BYTES:
        raise ValueError(f"its activations take {total} bytes, {_MOST_BYTES} are allowed")


def _check_quantization(index, quantization, tensor):
    if quantization is None or quantization.scale is None:
        return
    scales = np.asarray(quantization.scale, np.float64)
    zeros = np.asarray([] if quantization.zeroPoint is None else quantization.zeroPoint)
    axis = int(quantization.quantizedDimension)
    if len(scales) != 1 and not (0 <= axis < len(tensor.shape) and len(scales) == tensor.shape[axis]):
        raise ValueError(f"tensor {index} has {len(scales)} scales along axis {axis} of its shape {tensor.shape}")
    if not ((_SMALLEST_SCALE <= scales) & (scales <= _LARGEST_SCALE)).all():
        raise ValueError(f"tensor {index} has a scale outside {_SMALLEST_SCALE:g} to {_LARGEST_SCALE:g}")
    limits = np.iinfo(tensor.dtype) if tensor.dtype in ("int8", "uint8", "int32") else None
    inside = limits is not None and ((limits.min <= zeros) & (zeros <= limits.max)).all()
    if len(zeros) != len(scales) or not inside:
        raise ValueError(f"tensor {index} of {tensor.dtype} has zero points that do not belong to its {len(scales)} scales")
    if quantization.details is not None:
        raise ValueError(f"tensor {index} is quantized in blocks")


# === Nodes ===


@dataclasses.dataclass(frozen=True)
class _Rule:
    """How an op must be used.

    Attributes:
        inputs: least and greatest number; those beyond the least may be left out.
        types: what its inputs may hold and what its outputs then do; where inputs may be many, one type stands for all.
        shape: function from a `_Node` to the shape of each output, `None` if any will do.
        options: class of the options, `None` for an op without.
        required: whether there must be some; the others have defaults.
        outputs: their number, `None` for any.
    """

    inputs: tuple[int, int]
    types: tuple[tuple[tuple[str, ...], str], ...]
    shape: Callable
    options: str | None = None
    required: bool = False
    outputs: int | None = 1


class _Node:
    """A node, and what the rules ask about it."""

    def __init__(self, model, operator):
        graph = model.subgraphs[0]
        self.node = graph.operators[operator.index]
        self.inputs, self.outputs, self.options = operator.inputs, operator.outputs, self.node.builtinOptions
        self._tensors = graph.tensors

    def check(self, rule, free):
        self._check_counts(rule)
        self._check_options(rule)
        self._check_types(rule)
        if free:
            return
        shape = rule.shape(self)
        for tensor in self.outputs:
            if shape is not None and tensor.shape != tuple(shape):
                raise ValueError(f"computes the shape {tuple(shape)}, its output {tensor.index} has {tensor.shape}")

    def _check_counts(self, rule):
        least, most = rule.inputs
        if not least <= len(self.inputs) <= most or any(tensor is None for tensor in self.inputs[:least]):
            wanted = least if least == most else f"{least} to {most}"
            raise ValueError(f"has {sum(tensor is not None for tensor in self.inputs)} inputs, it must have {wanted}")
        if not self.outputs or rule.outputs not in (None, len(self.outputs)):
            raise ValueError(f"has {len(self.outputs)} outputs, it must have {rule.outputs or 'some'}")

    def _check_options(self, rule):
        if self.node.builtinOptions2 is not None or self.node.customOptions is not None:
            raise _Unchecked("has options of a kind that is not known here")
        if self.options is None and rule.required:
            raise ValueError(f"lacks its options, {rule.options}")
        expected = rule.options and getattr(schema, f"{rule.options}T")
        if self.options is not None and (expected is None or not isinstance(self.options, expected)):
            raise ValueError(f"has options of another op, {type(self.options).__name__}")
        if self.option("fusedActivationFunction") not in _ACTIVATIONS:
            raise _Unchecked("has a fused activation that is not known here")

    def _check_types(self, rule):
        inputs, output = [tensor.dtype for tensor in self.inputs if tensor is not None], self.outputs[0].dtype
        many = rule.inputs[1] == _MANY
        known = any(
            output == wanted_output and inputs == (list(wanted) * len(inputs) if many else list(wanted[: len(inputs)]))
            for wanted, wanted_output in rule.types
        )
        if not known or any(tensor.dtype != output for tensor in self.outputs):
            raise _Unchecked(f"takes {', '.join(inputs)} to {output}, which is not known here")
        for tensor in (*self.inputs, *self.outputs):
            if tensor is not None and tensor.dtype in ("int8", "uint8") and not self.scales(tensor) and output != "float32":
                raise ValueError(f"needs the scale of tensor {tensor.index}, which has none")

    def option(self, name, default=0):
        return getattr(self.options, name, default)

    def shape(self, number):
        return self.inputs[number].shape

    def scales(self, tensor):
        """The scales of a tensor, a list of floats."""
        quantization = self._tensors[tensor.index].quantization
        return [] if quantization is None or quantization.scale is None else [float(scale) for scale in quantization.scale]

    def numbers(self, number):
        """The int32 constant that is input `number`, as a list."""
        tensor = self.inputs[number]
        if tensor.data is None:
            raise _Unchecked(f"computes its input {number}, which is known here as a constant")
        if len(tensor.shape) > 1:
            raise ValueError(f"has an input {number} of the shape {tensor.shape}")
        return [int(value) for value in np.asarray(tensor.data).view("<i4")]


_MANY = 1000


def _axis(value, rank):
    if not -rank <= value < rank:
        raise ValueError(f"works along axis {value} of {rank}")
    return value % rank


# === Shapes ===


def _same(node):
    return node.shape(0)


def _broadcast(node):
    first, second = node.shape(0), node.shape(1)
    rank = max(len(first), len(second))
    pairs = list(zip((1,) * (rank - len(first)) + first, (1,) * (rank - len(second)) + second))
    if any(1 not in pair and pair[0] != pair[1] for pair in pairs):
        raise ValueError(f"combines the shapes {first} and {second}")
    if node.outputs[0].dtype == "int8":
        [out], largest = node.scales(node.outputs[0]), max(node.scales(tensor)[0] for tensor in node.inputs)
        if not largest / _SCALE_RATIO < out < largest * _SCALE_RATIO:
            raise ValueError(f"has the scales {largest:g} and {out:g}, which are too far apart")
    return tuple(max(pair) if min(pair) > 0 else 0 for pair in pairs)


def _window(node, taps):
    """Height and width of what a window of `taps` leaves of the input, after its options."""
    sizes = []
    for size, tap, axis in zip(node.shape(0)[1:3], taps, "HW"):
        stride, dilation = node.option(f"stride{axis}", 1), node.option(f"dilation{axis}Factor", 1)
        if stride < 1 or dilation < 1 or node.option("padding") not in (schema.Padding.SAME, schema.Padding.VALID):
            raise ValueError(f"has the stride {stride} and the dilation {dilation}")
        extent = (tap - 1) * dilation + 1
        places = size if node.option("padding") == schema.Padding.SAME else size - extent + 1
        if places < 1 or extent >= 2**30:
            raise ValueError(f"has a window of {extent} on {size} places")
        sizes.append(-(-places // stride))
    return sizes


def _check_weights(node, outputs, axis):
    """Scales and bias of a node that multiplies with weights, of so many outputs along an axis of them."""
    if len(node.inputs) > 2 and node.inputs[2] is not None and node.shape(2) != (outputs,):
        raise ValueError(f"has {outputs} outputs and a bias of the shape {node.shape(2)}")
    if node.inputs[1].dtype != "int8":
        return
    scales = node.scales(node.inputs[1])
    stored = node._tensors[node.inputs[1].index].quantization
    if len(scales) not in (1, outputs) or (len(scales) > 1 and int(stored.quantizedDimension) != axis):
        raise ValueError(f"has {outputs} outputs and {len(scales)} scales of its weights")
    if node.inputs[1].data is None:
        raise _Unchecked("computes its weights, which are known here as a constant")


def _convolution(node):
    image, filters = node.shape(0), node.shape(1)
    if len(image) != 4 or len(filters) != 4 or filters[3] == 0 or image[3] != filters[3]:
        raise ValueError(f"convolves the shape {image} with {filters}")
    _check_weights(node, filters[0], 0)
    return (image[0], *_window(node, filters[1:3]), filters[0])


def _depthwise(node):
    image, filters = node.shape(0), node.shape(1)
    if len(image) != 4 or len(filters) != 4 or filters[0] != 1 or filters[3] != image[3] * node.option("depthMultiplier", 1):
        raise ValueError(f"convolves the shape {image} channel by channel with {filters}")
    _check_weights(node, filters[3], 3)
    return (image[0], *_window(node, filters[1:3]), filters[3])


def _fully_connected(node):
    rows, weights = node.shape(0), node.shape(1)
    if len(weights) != 2 or 0 in weights or not rows:
        raise ValueError(f"multiplies the shape {rows} with {weights}")
    if node.option("weightsFormat"):
        raise _Unchecked("has shuffled weights")
    _check_weights(node, weights[0], 0)
    if node.option("keepNumDims"):
        if rows[-1] != weights[1]:
            raise ValueError(f"multiplies the shape {rows} with {weights}")
        return (*rows[:-1], weights[0])
    if math.prod(rows) % weights[1]:
        raise ValueError(f"multiplies the shape {rows} with {weights}")
    return (math.prod(rows) // weights[1], weights[0])


def _matrices(node):
    left, right = node.shape(0), node.shape(1)
    if min(len(left), len(right)) < 2 or max(len(left), len(right)) > 5:
        raise ValueError(f"multiplies the shapes {left} and {right}")
    left = (*left[:-2], left[-1], left[-2]) if node.option("adjX") else left
    right = (*right[:-2], right[-1], right[-2]) if node.option("adjY") else right
    if left[-1] != right[-2] or left[:-2] != right[:-2]:
        raise ValueError(f"multiplies the shapes {left} and {right}")
    return (*left[:-1], right[-1])


def _reduction(node):
    shape = node.shape(0)
    axes = {_axis(axis, len(shape)) for axis in node.numbers(1)}
    if not shape or not axes:
        raise ValueError("reduces along no axis")
    kept = [1 if axis in axes else size for axis, size in enumerate(shape)]
    return kept if node.option("keepDims") else [size for axis, size in enumerate(shape) if axis not in axes]


def _reshape(node):
    wanted = node.option("newShape", None)
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        if len(node.shape(1)) != 1:
            raise ValueError(f"has a shape of the shape {node.shape(1)}")
        wanted = node.numbers(1)
    if wanted is None:
        raise ValueError("has no shape")
    wanted, count = [int(size) for size in wanted], math.prod(node.shape(0))
    if wanted.count(-1) == 1:
        rest = math.prod(size for size in wanted if size != -1)
        wanted = [count // rest if size == -1 and rest > 0 else size for size in wanted]
    if min(wanted, default=1) < 0 or math.prod(wanted) != count:
        raise ValueError(f"makes {wanted} of the shape {node.shape(0)}")
    return wanted


def _transpose(node):
    shape, order = node.shape(0), node.numbers(1)
    if sorted(order) != list(range(len(shape))) or len(node.shape(1)) != 1:
        raise ValueError(f"puts {len(shape)} axes into the order {order}")
    return [shape[axis] for axis in order]


def _concatenation(node):
    shapes = [tensor.shape for tensor in node.inputs]
    axis = _axis(node.option("axis"), len(shapes[0]))
    others = {(*shape[:axis], *shape[axis + 1 :]) for shape in shapes}
    if len(others) != 1 or len({len(shape) for shape in shapes}) != 1:
        raise ValueError(f"joins the shapes {shapes}")
    return (*shapes[0][:axis], sum(shape[axis] for shape in shapes), *shapes[0][axis + 1 :])


def _pack(node):
    shapes = {tensor.shape for tensor in node.inputs}
    if len(shapes) != 1 or node.option("valuesCount") != len(node.inputs):
        raise ValueError(f"stacks {len(node.inputs)} tensors of the shapes {sorted(shapes)}")
    [shape] = shapes
    axis = _axis(node.option("axis"), len(shape) + 1)
    return (*shape[:axis], len(node.inputs), *shape[axis:])


def _split(node):
    shape, axes, parts = node.shape(1), node.numbers(0), len(node.outputs)
    if len(axes) != 1 or node.option("numSplits") != parts:
        raise ValueError(f"splits along the axes {axes} into {parts} parts")
    axis = _axis(axes[0], len(shape))
    if shape[axis] % parts:
        raise ValueError(f"splits the shape {shape} into {parts} parts")
    return (*shape[:axis], shape[axis] // parts, *shape[axis + 1 :])


def _prelu(node):
    shape, slope = node.shape(0), node.shape(1)
    if node.inputs[1].data is None:
        raise _Unchecked("computes its slope")
    if not shape or slope != (1,) * (len(slope) - 1) + shape[-1:]:
        raise ValueError(f"has a slope of the shape {slope} for {shape}")
    return shape


def _softmax(node):
    if not node.shape(0) or not math.isfinite(node.option("beta", 1.0)):
        raise ValueError("takes a scalar or has no finite beta")
    return node.shape(0)


# === The ops ===

_FLOAT = (("float32",) * 3, "float32")
_DYNAMIC = (("float32", "int8", "float32"), "float32")
_INT8 = (("int8",) * 2, "int8")
_WEIGHTED = (_FLOAT, _DYNAMIC, (("int8", "int8", "int32"), "int8"))
_INDEXED = ((("float32", "int32"), "float32"), (("int8", "int32"), "int8"))
_ANY = ((("float32",), "float32"), (("int8",), "int8"), (("int32",), "int32"))

_RULES = {
    "CONV_2D": _Rule((3, 3), _WEIGHTED, _convolution, "Conv2DOptions", required=True),
    "DEPTHWISE_CONV_2D": _Rule((3, 3), _WEIGHTED, _depthwise, "DepthwiseConv2DOptions", required=True),
    "FULLY_CONNECTED": _Rule((2, 3), _WEIGHTED, _fully_connected, "FullyConnectedOptions", required=True),
    "BATCH_MATMUL": _Rule((2, 2), (_FLOAT, _INT8), _matrices, "BatchMatMulOptions"),
    "MEAN": _Rule((2, 2), _INDEXED, _reduction, "ReducerOptions", required=True),
    "SUM": _Rule((2, 2), _INDEXED[:1], _reduction, "ReducerOptions", required=True),
    "RESHAPE": _Rule((1, 2), (*_INDEXED, (("int32", "int32"), "int32")), _reshape, "ReshapeOptions"),
    "TRANSPOSE": _Rule((2, 2), _INDEXED, _transpose, "TransposeOptions"),
    "CONCATENATION": _Rule((1, _MANY), _ANY[:1], _concatenation, "ConcatenationOptions", required=True),
    "PACK": _Rule((1, _MANY), _ANY[:1], _pack, "PackOptions", required=True),
    "SPLIT": _Rule((2, 2), ((("int32", "float32"), "float32"),), _split, "SplitOptions", required=True, outputs=None),
    "PRELU": _Rule((2, 2), (_FLOAT,), _prelu),
    "SOFTMAX": _Rule((1, 1), (_FLOAT, _INT8), _softmax, "SoftmaxOptions", required=True),
    "CAST": _Rule((1, 1), ((("uint8",), "float32"), (("int8",), "float32")), _same, "CastOptions"),
    "QUANTIZE": _Rule((1, 1), ((("float32",), "int8"), (("float32",), "uint8")), _same, "QuantizeOptions"),
    "DEQUANTIZE": _Rule((1, 1), tuple(((t,), "float32") for t in ("int8", "uint8", "float16")), _same, "DequantizeOptions"),
    "GELU": _Rule((1, 1), (_FLOAT, _INT8), _same, "GeluOptions"),
    "NEG": _Rule((1, 1), (_FLOAT,), _same, "NegOptions"),
    "ABS": _Rule((1, 1), (_FLOAT,), _same, "AbsOptions"),
    "RSQRT": _Rule((1, 1), (_FLOAT, _INT8), _same),
    **{name: _Rule((1, 1), (_FLOAT,), _same) for name in ("RELU", "ROUND")},
    **{name: _Rule((2, 2), (_FLOAT, _INT8), _broadcast, f"{name.title()}Options") for name in ("ADD", "SUB", "MUL")},
    "DIV": _Rule((2, 2), (_FLOAT,), _broadcast, "DivOptions"),
    "MINIMUM": _Rule((2, 2), (_FLOAT,), _broadcast, "MaximumMinimumOptions"),
    "SQUARED_DIFFERENCE": _Rule((2, 2), (_FLOAT, _INT8), _broadcast, "SquaredDifferenceOptions"),
}
