"""``.tflite`` files written node by node, without a converter: what a benchmark or a test wants to run alone."""

import numpy as np
from flatbuffers import flexbuffers

from acdbit_keras.convert import flatbuffer

_schema = flatbuffer.schema
_TYPES = {"float32": 0, "int32": 2, "bool": 6, "int8": 9}
_CUSTOM = _schema.BuiltinOperator.CUSTOM
_OLD_CODES = 127  # codes of builtin ops that the schema's first field for them can hold


class Graph:
    """A model under construction.

    Tensors are referred to by their index, which every method returns. `data` of a constant may be any array; what a
    tensor declares (shape, dtype) is what the file says, right or wrong.
    """

    def __init__(self):
        self.tensors, self.operators, self.codes = [], [], []
        self.buffers = [_schema.BufferT()]
        self.inputs, self.outputs = [], []

    def tensor(self, shape, dtype, scale=None, zero_point=0, data=None):
        tensor = _schema.TensorT()
        tensor.name = f"tensor_{len(self.tensors)}".encode()
        tensor.shape = np.array(shape, np.int32)
        tensor.type = _TYPES[dtype]
        tensor.buffer = 0
        if scale is not None:
            tensor.quantization = _schema.QuantizationParametersT()
            tensor.quantization.scale = np.array([scale], np.float32)
            tensor.quantization.zeroPoint = np.array([zero_point], np.int64)
        if data is not None:
            tensor.buffer = len(self.buffers)
            content = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            self.buffers.append(_schema.BufferT(data=content))
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def constant(self, values):
        values = np.asarray(values)
        return self.tensor(values.shape, values.dtype.name, data=values)

    def input(self, shape, dtype, **quantization):
        self.inputs.append(self.tensor(shape, dtype, **quantization))
        return self.inputs[-1]

    def custom(self, name, inputs, outputs, options=None, version=1):
        """Adds a node; `options` is a dict, or the bytes themselves."""
        content = flexbuffers.Dumps(options) if isinstance(options, dict) else options or b""
        node = self._node(_CUSTOM, inputs, outputs, version, name.encode())
        node.customOptions = np.frombuffer(content, np.uint8) if content else None
        return outputs[0]

    def builtin(self, name, inputs, outputs, options=None, version=1):
        """Adds a node of one of TFLite's own ops ("SOFTMAX"); `options` is its table in the object API."""
        node = self._node(getattr(_schema.BuiltinOperator, name), inputs, outputs, version)
        if options is not None:
            node.builtinOptions = options
            node.builtinOptionsType = getattr(_schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        return outputs[0]

    def pack(self, *outputs):
        """The file's bytes; `outputs` are the model's."""
        graph = _schema.SubGraphT()
        graph.name = b"main"
        graph.tensors, graph.operators = self.tensors, self.operators
        graph.inputs, graph.outputs = np.array(self.inputs, np.int32), np.array(outputs, np.int32)
        model = _schema.ModelT()
        model.version = 3
        model.operatorCodes, model.subgraphs, model.buffers = self.codes, [graph], self.buffers
        return flatbuffer.pack(model)

    def _node(self, builtin_code, inputs, outputs, version, custom_code=None):
        code = _schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode = builtin_code, min(builtin_code, _OLD_CODES)
        code.customCode, code.version = custom_code, version
        self.codes.append(code)
        node = _schema.OperatorT()
        node.opcodeIndex = len(self.codes) - 1
        node.inputs, node.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
        self.operators.append(node)
        return node
