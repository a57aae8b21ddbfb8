"""Reading, checking and editing ``.tflite`` files as Python objects.

The model object is ``ModelT`` of the TFLite schema's object API, in the newest published form (ai-edge-litert's):
it knows every field, so what is read is written again. The runtimes trust their input - Larq Compute Engine's
interpreter checks nothing beyond the identifier - so `read` is the gate: it refuses a file in which an offset, an
index or a constant's length points outside, and only then may a runtime have it.
"""

import copy
import dataclasses
import math

import numpy as np

from acdbit_keras import checks, files
from acdbit_keras.convert import runtime
from acdbit_keras.convert.tensors import Tensor, contents

try:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema
except ImportError as error:
    if runtime.this_machine() == "armv7l":
        raise ImportError(
            "there is no LiteRT for .tflite files on 32-bit ARM; flat files run here: acdbit convert RUN out.acdm"
        ) from error
    raise ImportError("reading .tflite files needs the package ai-edge-litert: pip install acdbit-keras[device]") from error

IDENTIFIER = b"TFL3"
_CONSTANT_ALIGNMENT = 16  # bytes, as the schema demands for Buffer.data; the generated packer forgets it

_TYPE_NAMES = {value: name.lower() for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
_OP_NAMES = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}


@dataclasses.dataclass(frozen=True)
class Operator:
    """One node of a subgraph.

    Attributes:
        index: position in the subgraph's execution order.
        subgraph: index of the subgraph; 0 is the model itself.
        name: builtin name ("CONV_2D") or, for a custom op, its custom code ("LceBconv2d").
        inputs: `Tensor`s, None for an optional input left out.
        outputs: `Tensor`s.
    """

    index: int
    subgraph: int
    name: str
    inputs: tuple
    outputs: tuple

    @property
    def constant_bytes(self):
        """Bytes of constants the node reads (weights, biases, thresholds); shared constants count at each reader."""
        return sum(len(tensor.data) for tensor in self.inputs if tensor is not None and tensor.data is not None)

    @property
    def activations(self):
        """The distinct computed inputs, in order: what must be fed to run this node alone."""
        found = {tensor.index: tensor for tensor in self.inputs if tensor is not None and tensor.data is None}
        return tuple(found.values())


class _StrictBytes(bytes):
    """Bytes for the generated reader, which takes a string as a slice: a plain slice would silently shorten it.

    A string is followed by a zero byte, so its slice must end before the last byte.
    """

    def __getitem__(self, key):
        if isinstance(key, slice) and not 0 <= key.start <= key.stop < len(self):
            raise IndexError(f"a string spans bytes {key.start} to {key.stop}")
        return super().__getitem__(key)


class _AlignedBuffer(schema.BufferT):
    """A `BufferT` that packs its bytes at the schema's alignment, so kernels may load whole vectors from them."""

    def Pack(self, builder):
        if self.data is not None:
            content = np.asarray(self.data, np.uint8).tobytes()
            builder.StartVector(1, len(content), _CONSTANT_ALIGNMENT)
            builder.head -= len(content)
            builder.Bytes[builder.head : builder.head + len(content)] = content
            data = builder.EndVector()
        schema.BufferStart(builder)
        if self.data is not None:
            schema.BufferAddData(builder, data)
        return schema.BufferEnd(builder)


def read(source):
    """Reads and checks a model.

    Args:
        source: path of a ``.tflite`` file, or its bytes.

    Returns:
        A ``ModelT``. Its arrays are read-only views of the bytes; replace them, do not write into them. Constants
        kept behind the flatbuffer (files beyond 2 GB) are brought in, so every ``BufferT`` holds its own data.

    Raises:
        FileNotFoundError: no such file.
        ValueError: empty, not a TFLite flatbuffer, truncated, or inconsistent in itself.
    """
    return parse(*contents(source))


def parse(content, name):
    """`read` for bytes at hand; `name` is what messages call them."""
    if not content:
        raise ValueError(f"{name} is empty, not a TFLite flatbuffer")
    if content[4:8] != IDENTIFIER:
        raise ValueError(f"{name} is not a TFLite flatbuffer: bytes 4 to 8 are {content[4:8]!r}, they must be {IDENTIFIER!r}")
    try:
        model = schema.ModelT.InitFromPackedBuf(_StrictBytes(content), 0)
        _inline_external_data(model, content)
        _check(model)
    except Exception as error:  # the generated reader raises struct.error, TypeError, ... wherever the bytes mislead it
        raise ValueError(f"{name} is truncated or corrupt ({len(content)} bytes): {error}") from error
    return model


def pack(model):
    """The bytes of a model object, constants aligned to 16 bytes.

    Raises:
        ValueError: the result would exceed the 2 GB a flatbuffer can address.
    """
    writable = copy.copy(model)
    writable.buffers = [_AlignedBuffer(data=buffer.data) for buffer in model.buffers]
    size = sum(len(buffer.data) for buffer in model.buffers if buffer.data is not None)
    if size >= 2**31 - 2**20:
        raise ValueError(f"the model holds {size} bytes of constants; a flatbuffer takes less than 2 GB")
    builder = flatbuffers.Builder(size + 2**16)
    builder.Finish(writable.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def write(model, path):
    """Writes a model object to a ``.tflite`` file, beside it first and then renamed.

    Args:
        model: a ``ModelT``.
        path: where to; an existing file stays whole if writing fails.

    Raises:
        OSError: the folder cannot be written or the disk is full.
    """
    content = pack(model)
    files.write_beside(path, lambda temporary: temporary.write_bytes(content))


def tensors(model, subgraph=0):
    """All tensors of one subgraph as `Tensor`s, in index order."""
    return [_tensor(model, index, tensor) for index, tensor in enumerate(model.subgraphs[subgraph].tensors or [])]


def inputs(model):
    """The model's inputs as `Tensor`s."""
    known = tensors(model)
    return [known[i] for i in _indices(model.subgraphs[0].inputs)]


def outputs(model):
    """The model's outputs as `Tensor`s."""
    known = tensors(model)
    return [known[i] for i in _indices(model.subgraphs[0].outputs)]


def signature_names(model):
    """Names of the inputs and of the outputs, two lists: those of the file's signature, where it has one; else its tensors'."""
    [signature] = model.signatureDefs if len(model.signatureDefs or []) == 1 else [None]
    found = []
    for tensors_, entries in ((inputs(model), signature and signature.inputs), (outputs(model), signature and signature.outputs)):
        known = {entry.tensorIndex: text(entry.name) for entry in entries or []}
        names = [known.get(tensor.index, tensor.name) for tensor in tensors_]
        found.append(names if len(set(names)) == len(names) else [tensor.name for tensor in tensors_])
    return found


def operators(model):
    """Yields every node of every subgraph as an `Operator`, in execution order."""
    for number, graph in enumerate(model.subgraphs):
        known = tensors(model, number)
        for index, node in enumerate(graph.operators or []):
            yield Operator(
                index=index,
                subgraph=number,
                name=_op_name(model.operatorCodes[node.opcodeIndex]),
                inputs=tuple(known[i] if i >= 0 else None for i in _indices(node.inputs)),
                outputs=tuple(known[i] for i in _indices(node.outputs)),
            )


def op_counts(model):
    """How often each op occurs: a dict from op name to count, most frequent first."""
    counts = {}
    for operator in operators(model):
        counts[operator.name] = counts.get(operator.name, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def expose_tensors(model, names):
    """A copy with further outputs, so that any runtime hands out intermediate tensors.

    Args:
        model: a ``ModelT``; it stays as it is, constants are shared.
        names: tensor names, or tensor indices where a name occurs twice. Tensors that are outputs already are not
            repeated.

    Returns:
        A ``ModelT`` whose outputs are the old ones, then the named ones in order.

    Raises:
        ValueError: unknown or ambiguous name, or a constant.
    """
    known = tensors(model)
    exposed = _indices(model.subgraphs[0].outputs)
    for name in names:
        tensor = _find(known, name)
        if tensor.data is not None:
            raise ValueError(f"names: tensor {name!r} is a constant; only computed tensors can be exposed")
        if tensor.index not in exposed:
            exposed.append(tensor.index)
    graph = copy.copy(model.subgraphs[0])
    graph.outputs = np.array(exposed, np.int32)
    result = copy.copy(model)
    result.subgraphs = [graph, *model.subgraphs[1:]]
    return result


def with_fixed_shapes(model):
    """A copy of which no size is free: each is the stored one. Constants are shared."""
    result = copy.copy(model)
    result.subgraphs = [copy.copy(graph) for graph in model.subgraphs]
    for graph in result.subgraphs:
        graph.tensors = [copy.copy(tensor) for tensor in graph.tensors or []]
        for tensor in graph.tensors:
            tensor.shapeSignature = None
    return result


def single_operator(model, index):
    """A model of one node: its computed inputs are the inputs, its constants stay constants.

    Args:
        model: a ``ModelT``; it stays as it is, constants are shared.
        index: the node's index in the main subgraph.

    Returns:
        A ``ModelT`` whose inputs are `Operator.activations` in order and whose outputs are the node's.

    Raises:
        ValueError: no such node, or one that cannot stand alone (it runs a subgraph or keeps a state).
    """
    nodes = model.subgraphs[0].operators or []
    if not 0 <= index < len(nodes):
        raise ValueError(f"index must lie in 0..{len(nodes) - 1}, got {index}")
    node = copy.copy(nodes[index])
    options = [value for value in (node.builtinOptions, node.builtinOptions2) if value is not None]
    if any("subgraph" in field.lower() for value in options for field in vars(value)):
        raise ValueError(f"node {index} runs another subgraph and cannot stand alone")
    old = model.subgraphs[0].tensors
    used = dict.fromkeys(i for i in _indices(node.inputs) + _indices(node.outputs) if i >= 0)
    if any(old[i].isVariable for i in used):
        raise ValueError(f"node {index} keeps a state between runs and cannot stand alone")

    position = {old_index: new_index for new_index, old_index in enumerate(used)}
    buffers = [schema.BufferT()]  # buffer 0 means "no data" by convention
    kept = []
    for old_index in used:
        tensor = copy.copy(old[old_index])
        data = model.buffers[tensor.buffer].data
        if data is None:
            tensor.buffer = 0
        else:
            tensor.buffer = len(buffers)
            buffers.append(schema.BufferT(data=data))
        kept.append(tensor)

    graph = schema.SubGraphT()
    graph.name = model.subgraphs[0].name
    graph.tensors = kept
    fed = dict.fromkeys(i for i in _indices(node.inputs) if i >= 0 and model.buffers[old[i].buffer].data is None)
    graph.inputs = np.array([position[i] for i in fed], np.int32)
    graph.outputs = np.array([position[i] for i in _indices(node.outputs)], np.int32)
    node.inputs = np.array([position[i] if i >= 0 else -1 for i in _indices(node.inputs)], np.int32)
    node.outputs = graph.outputs
    node.intermediates = None
    code = model.operatorCodes[node.opcodeIndex]
    node.opcodeIndex = 0
    graph.operators = [node]

    result = schema.ModelT()
    result.version = model.version
    result.description = model.description
    result.operatorCodes = [code]
    result.subgraphs = [graph]
    result.buffers = buffers
    return result


def products(model):
    """Multiply-adds in one run of the builtin ops that multiply with weights or two activations, as the shapes are stored.

    Returns:
        int; ops of a delegate count nothing.
    """
    total = 0
    for operator in operators(model):
        if operator.subgraph or not operator.outputs:
            continue
        outputs = math.prod(operator.outputs[0].shape)
        shapes = [tensor.shape if tensor is not None else () for tensor in operator.inputs]
        if operator.name in ("CONV_2D", "FULLY_CONNECTED") and len(shapes) > 1:
            total += outputs * math.prod(shapes[1][1:])
        elif operator.name == "DEPTHWISE_CONV_2D" and len(shapes) > 1:
            total += outputs * math.prod(shapes[1][1:3])
        elif operator.name == "BATCH_MATMUL" and shapes:
            total += outputs * shapes[0][-1] if shapes[0] else 0
    return total


def arena_bytes(model):
    """Bytes of the activation arena, planned from the tensors' lifetimes.

    A computed tensor occupies memory from the node that writes it to the last that reads it; inputs stay for the whole
    run and outputs until its end. Offsets are given greedily, largest tensor first, into the tightest gap, 64-byte
    aligned - the plan TFLite's own arena follows. It holds for any runtime and machine; it leaves out what a
    particular runtime adds (scratch buffers of its kernels, packed copies of weights).

    Returns:
        int, bytes; 0 for a model without computed tensors of known size.
    """
    nodes = model.subgraphs[0].operators or []
    end = len(nodes)
    first, last = {}, {}
    for i in _indices(model.subgraphs[0].inputs):
        first[i], last[i] = 0, end
    for step, node in enumerate(nodes):
        for i in _indices(node.inputs):
            if i in last:
                last[i] = max(last[i], step)
        for i in _indices(node.outputs):
            first.setdefault(i, step)
            last[i] = max(last.get(i, step), step)
    for i in _indices(model.subgraphs[0].outputs):
        if i in last:
            last[i] = end

    known = tensors(model)
    computed = [i for i in first if known[i].data is None and known[i].nbytes]
    computed.sort(key=lambda i: (-(last[i] - first[i] == end), -known[i].nbytes, first[i]))
    placed = []  # (offset, size, first, last), sorted by offset
    for i in computed:
        size = known[i].nbytes
        best_offset, best_gap, cursor = None, None, 0
        for offset, length, begin, finish in placed:
            if finish < first[i] or last[i] < begin:
                continue
            gap = offset - cursor
            if gap >= size and (best_gap is None or gap < best_gap):
                best_offset, best_gap = cursor, gap
            cursor = max(cursor, -(-(offset + length) // 64) * 64)
        placed.append((cursor if best_offset is None else best_offset, size, first[i], last[i]))
        placed.sort()
    return max((offset + size for offset, size, _, _ in placed), default=0)


def _indices(array):
    return [] if array is None else [int(i) for i in array]


def text(value):
    """A string of the object API, which may be bytes or absent, as str."""
    return "" if value is None else value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _op_name(code):
    # Files older than schema 3a keep the code in the deprecated byte, newer ones in both or the larger.
    builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
    if builtin == schema.BuiltinOperator.CUSTOM:
        return text(code.customCode)
    return _OP_NAMES.get(builtin, f"BUILTIN_{builtin}")


def _tensor(model, index, tensor):
    quantization = tensor.quantization
    scale = zero_point = None
    if quantization is not None and quantization.scale is not None and len(quantization.scale) == 1:
        scale = float(quantization.scale[0])
        zero_point = 0 if quantization.zeroPoint is None else int(quantization.zeroPoint[0])
    return Tensor(
        index=index,
        name=text(tensor.name),
        shape=tuple(_indices(tensor.shape)),
        dtype=_TYPE_NAMES.get(tensor.type, f"type_{tensor.type}"),
        scale=scale,
        zero_point=zero_point,
        data=model.buffers[tensor.buffer].data,
    )


def _find(known, name):
    if not isinstance(name, str):
        if not 0 <= name < len(known):
            raise ValueError(f"names: tensor index {name} is outside 0..{len(known) - 1}")
        return known[name]
    found = [tensor for tensor in known if tensor.name == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(
            f"names: {name!r} names {len(found)} tensors; give one of the indices {[tensor.index for tensor in found]}"
        )
    hint = checks.did_you_mean(name, [tensor.name for tensor in known])
    raise ValueError(f"names: the model has no tensor named {name!r}{hint}")


def _inline_external_data(model, content):
    for buffer in model.buffers or []:
        if buffer.offset > 1:  # 0 and 1 mean "within the flatbuffer"
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
        if buffer.data is not None and not len(buffer.data):
            buffer.data = None
    for graph in model.subgraphs or []:
        for node in graph.operators or []:
            if node.largeCustomOptionsOffset > 1:
                size, offset = node.largeCustomOptionsSize, node.largeCustomOptionsOffset
                node.customOptions = np.frombuffer(content, np.uint8, size, offset)
                node.largeCustomOptionsOffset = node.largeCustomOptionsSize = 0


def _check(model):
    """Raises ValueError where an index or a length within the model points outside."""
    if not model.subgraphs:
        raise ValueError("it holds no subgraph")
    codes, buffers = len(model.operatorCodes or []), len(model.buffers or [])
    for entry in model.metadata or []:
        if not 0 <= entry.buffer < buffers:
            raise ValueError(f"metadata {text(entry.name)!r} refers to buffer {entry.buffer} of {buffers}")
    for signature in model.signatureDefs or []:
        if not 0 <= signature.subgraphIndex < len(model.subgraphs):
            raise ValueError(f"a signature is of subgraph {signature.subgraphIndex} of {len(model.subgraphs)}")
        count = len(model.subgraphs[signature.subgraphIndex].tensors or [])
        for entry in (*(signature.inputs or []), *(signature.outputs or [])):
            if not 0 <= entry.tensorIndex < count:
                raise ValueError(f"signature {text(signature.signatureKey)!r} names tensor {entry.tensorIndex} of {count}")
    for number, graph in enumerate(model.subgraphs):
        count = len(graph.tensors or [])
        for index, tensor in enumerate(graph.tensors or []):
            if not 0 <= tensor.buffer < buffers:
                raise ValueError(f"tensor {index} refers to buffer {tensor.buffer} of {buffers}")
            description = _tensor(model, index, tensor)
            if any(size < 0 for size in description.shape):
                raise ValueError(f"tensor {index} has the shape {description.shape}")
            dense = description.data is not None and description.nbytes is not None and tensor.sparsity is None
            if dense and len(description.data) != description.nbytes:
                raise ValueError(
                    f"constant {description.name!r} has {len(description.data)} bytes, "
                    f"its shape {description.shape} of {description.dtype} takes {description.nbytes}"
                )
        for what, list_of_indices in (("input", graph.inputs), ("output", graph.outputs)):
            for i in _indices(list_of_indices):
                if not 0 <= i < count:
                    raise ValueError(f"{what} {i} of subgraph {number} is none of its {count} tensors")
        for index, node in enumerate(graph.operators or []):
            if not 0 <= node.opcodeIndex < codes:
                raise ValueError(f"node {index} refers to op code {node.opcodeIndex} of {codes}")
            if not all(-1 <= i < count for i in _indices(node.inputs)):
                raise ValueError(f"node {index} reads tensors {_indices(node.inputs)} of {count}")
            if not all(0 <= i < count for i in _indices(node.outputs)):
                raise ValueError(f"node {index} writes tensors {_indices(node.outputs)} of {count}")
            for i in _indices(node.outputs):
                if i in _indices(node.inputs):
                    raise ValueError(f"node {index} writes tensor {i}, which it reads")
                if _tensor(model, i, graph.tensors[i]).data is not None:
                    raise ValueError(f"node {index} writes tensor {i}, which is a constant")
