"""What a binary model is timed against: itself and its float twin, in the files of every engine that runs on this CPU.

    acdbit bench --model vit_small_patch16_224:acd_bit:100

Each contender is given the form its engine is best at. The ONNX graph is written node by node rather than exported: the
exporters tear LayerNormalization and GELU into pieces that ONNX Runtime does not put together again.
"""

import importlib.util
import pathlib
import tempfile

import numpy as np

from acdbit_keras.convert import doors, runtime
from acdbit_keras.convert.export import to_tflite
from acdbit_keras.layers.stem import PatchEmbedding, PooledStem
from acdbit_keras.models import Backbone
from acdbit_keras.models.blocks import FloatBlock

_OPSET, _IR_VERSION = 20, 9  # the oldest with all ops used, so that no ONNX Runtime since 1.17 is too old for the file
_CALIBRATION_IMAGES = 8


def float_twin(model):
    """The float32 vision transformer of a binary one's sizes, untrained, `perturbed`.

    Raises:
        ValueError: not a `Backbone`.
    """
    if not isinstance(model, Backbone):
        raise ValueError(f"there is no float twin of a {type(model).__name__}; name a float model to compare with")
    return perturbed(type(model)(**{**model.get_config(), "scheme": "float32", "name": "float_twin"}))


def perturbed(model, seed=0):
    """Moves every weight of an untrained model a little and returns it; what must be positive stays so.

    A converter leaves out shifts that are 0 and scales that are 1, so an untrained model would be timed too fast.
    """
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        if variable.dtype == "float32":
            noise = 0.05 * rng.standard_normal(variable.shape).astype(np.float32)
            positive = any(word in variable.path for word in ("variance", "spread", "scale"))
            variable.assign(variable + (np.abs(noise) if positive else noise))
    return model


def make(model, twin, folder, engines=None):
    """Writes the files of every contender.

    Args:
        model: built Keras model with binary layers.
        twin: the float model that it is compared with.
        folder: existing folder.
        engines: names of engines, as "litert", "onnx", "openvino", "lce", "acdbit" or "acdbit:avx2"; without, all, of OpenVINO
            what is installed: the packages openvino, and nncf for its int8.

    Returns:
        `(paths, engines)`, two lists of equal length; first what all are compared with, the float twin in LiteRT.
        Full-integer files are calibrated on noise: right for their speed, not for their accuracy.

    Raises:
        ConversionError, ImportError, ValueError: as `to_tflite`; an unknown engine; a twin that is no float
            `Backbone`; the package onnx or onnxruntime is not installed.
    """
    images = np.random.default_rng(0).standard_normal((_CALIBRATION_IMAGES, *doors.of(twin).shape)).astype(np.float32)
    known = {
        "float32.tflite": (["litert"], lambda path: to_tflite(twin, path, "float32")),
        "dynamic.tflite": (["litert"], lambda path: to_tflite(twin, path, "dynamic")),
        "int8.tflite": (["litert"], lambda path: to_tflite(twin, path, "int8", calibration=images)),
        "float32.onnx": (["onnx"], lambda path: to_onnx(twin, path)),
        "dynamic.onnx": (["onnx"], lambda path: to_onnx(twin, path, "dynamic")),
        "int8.onnx": (["onnx"], lambda path: to_onnx(twin, path, "int8", images)),
        "openvino_float32.onnx": (["openvino"], lambda path: to_onnx(twin, path)),
        "openvino_int8.xml": (["openvino"], lambda path: to_openvino_int8(twin, path, images)),
        "bits_float_attention.tflite": (["lce"], lambda path: to_tflite(model, path, "bits", attention="float")),
        "bits.tflite": (
            [f"acdbit:{kernels}" for kernels in runtime.kernel_paths()],
            lambda path: to_tflite(model, path, "bits"),
        ),
        "bits_int8_stem.tflite": (["acdbit"], lambda path: to_tflite(model, path, "bits", stem="int8")),
    }
    names = [engine for engines_of_file, _ in known.values() for engine in engines_of_file]
    families = [name.partition(":")[0] for name in names]
    for engine in engines or ():
        if engine not in {*names, *families}:
            existing = ", ".join(dict.fromkeys([*families, *names]))
            raise ValueError(f"engine {engine!r} is none that a model is timed on; there are {existing}")
    chosen = {}
    for name, (engines_of_file, _) in known.items():
        if not engines and not _installed(name):
            continue
        wanted = [e for e in engines_of_file if not engines or e in engines or e.partition(":")[0] in engines]
        if wanted:
            chosen[name] = wanted
    if {"onnx", "openvino"} & {engine for wanted in chosen.values() for engine in wanted}:
        # Before the first file is written, which for a large model takes minutes.
        _check_onnx(twin)
    files = {name: pathlib.Path(folder) / name for name in chosen}
    for name, path in files.items():
        _, write = known[name]
        write(path)
    pairs = [(str(files[name]), engine) for name, wanted in chosen.items() for engine in wanted]
    return [path for path, _ in pairs], [engine for _, engine in pairs]


def _installed(name):
    """Whether the packages are there that a contender needs beyond those of the extra "bench"."""
    needed = ("openvino", "nncf") if name == "openvino_int8.xml" else ("openvino",) if name.startswith("openvino") else ()
    return all(importlib.util.find_spec(package) for package in needed)


def to_openvino_int8(model, path, calibration):
    """Writes a float vision transformer as OpenVINO's files, quantized to int8 by NNCF as it is made for transformers.

    Args:
        model: as for `to_onnx`.
        path: of the ``.xml`` file; the weights go to a ``.bin`` file beside it.
        calibration: float32 images `(N, height, width, channels)`.

    Raises:
        ImportError: the package openvino or nncf is not installed.
        ValueError: as `to_onnx`.
    """
    try:
        import nncf
        import openvino
    except ImportError as error:
        raise ImportError("OpenVINO's int8 files need the packages openvino and nncf: pip install openvino nncf") from error
    with tempfile.TemporaryDirectory() as folder:
        onnx_path = pathlib.Path(folder) / "float32.onnx"
        to_onnx(model, onnx_path)
        images = nncf.Dataset([image[None] for image in calibration])
        quantized = nncf.quantize(openvino.Core().read_model(onnx_path), images, model_type=nncf.ModelType.TRANSFORMER)
        openvino.save_model(quantized, path, compress_to_fp16=False)


def to_onnx(model, path, precision="float32", calibration=None):
    """Writes a float vision transformer as an ONNX file that takes one image, `(1, height, width, channels)`, per run.

    Of a `SequenceTransformer` it takes one recording, `(1, length, channels)`.

    Args:
        model: `Backbone` of a scheme with float blocks.
        path: where to.
        precision: "float32"; "dynamic", int8 weights and activations that are quantized when the file runs; or "int8",
            both quantized by what is measured on `calibration`.
        calibration: for "int8", float32 images `(N, height, width, channels)`.

    Raises:
        ImportError: the package onnx, or for the quantized ones onnxruntime, is not installed.
        ValueError: another model, or no images to calibrate on.
    """
    _check_onnx(model)
    try:
        import onnx

        if precision != "float32":
            from onnxruntime import quantization
    except ImportError as error:
        needed = "writing ONNX files needs the packages onnx and onnxruntime: pip install acdbit-keras[bench]"
        raise ImportError(needed) from error
    if precision == "int8" and (calibration is None or not len(calibration)):
        raise ValueError("precision 'int8' needs calibration images")
    graph = _Graph(onnx)
    graph.vision_transformer(model)
    content = graph.model(model.input_shape_of_images, model.classes)
    if precision == "float32":
        onnx.save(content, str(path))
        return
    int8 = quantization.QuantType.QInt8
    if precision == "dynamic":
        # Products with weights: the convolution of the patches is slower in integers.
        quantization.quantize_dynamic(content, str(path), op_types_to_quantize=["MatMul"], weight_type=int8)
    else:
        quantization.quantize_static(
            content, str(path), _calibration_reader(quantization, calibration), quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["MatMul"], weight_type=int8, activation_type=quantization.QuantType.QUInt8, per_channel=True,
        )  # fmt: skip


def _check_onnx(model):
    """Raises ValueError for a model that has no form as an ONNX graph here."""
    blocks = model.blocks if isinstance(model, Backbone) and not model.scheme.is_binary else [None]
    if not all(isinstance(block, FloatBlock) for block in blocks):
        raise ValueError(f"only a float vision transformer of this package is written as ONNX, and {model.name} is none")


def _calibration_reader(quantization, images):
    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self._left = iter(images)

        def get_next(self):
            image = next(self._left, None)
            return None if image is None else {"images": image[None]}

    return Reader()


class _Graph:
    """An ONNX graph under construction; tensors go by their names."""

    def __init__(self, onnx):
        self._onnx = onnx
        self._nodes, self._constants = [], []

    def model(self, image_shape, classes):
        onnx, helper = self._onnx, self._onnx.helper
        images = helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, (1, *image_shape))
        logits = helper.make_tensor_value_info(self._nodes[-1].output[0], onnx.TensorProto.FLOAT, (1, classes))
        graph = helper.make_graph(self._nodes, "model", [images], [logits], self._constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
        # The quantizer else advises a preparation of the file, of which this graph needs nothing.
        helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})
        onnx.checker.check_model(model)
        return model

    def constant(self, values):
        name = f"constant_{len(self._constants)}"
        self._constants.append(self._onnx.numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def add(self, op, *inputs, **attributes):
        """A node; inputs are names of tensors, or arrays and variables, which become constants."""
        names = [value if isinstance(value, str) else self.constant(np.asarray(value)) for value in inputs]
        output = f"tensor_{len(self._nodes)}"
        self._nodes.append(self._onnx.helper.make_node(op, names, [output], **attributes))
        return output

    def vision_transformer(self, model):
        # One image: tokens are rows of a matrix, and a linear layer is one matrix product.
        # A recording is an image of one column.
        images = "images" if len(model.input_shape_of_images) == 3 else self.add("Unsqueeze", "images", np.array([2]))
        x = self.stem(model.patch_embedding, self.add("Transpose", images, perm=[0, 3, 1, 2]))
        width, columns = model.blocks[0].width, np.broadcast_to(model.grid, 2)[1]
        x = self.add("Transpose", self.add("Reshape", x, np.array([width, -1])), perm=[1, 0])
        x = self.add("Add", x, np.reshape(model.positions, (-1, width)))
        for merging, blocks in model.stages:
            if merging is not None:
                x, columns = self.merging(merging, x, columns), columns // 2
            for block in blocks:
                x = self.block(block, x, columns)
        x = self.add("ReduceMean", x, np.array([0]), keepdims=1)
        self.dense(model.classifier, self.norm(model.norm, x))

    def stem(self, layer, x):
        if isinstance(layer, PatchEmbedding):
            return self.convolution(x, layer)
        pooled = isinstance(layer, PooledStem)
        for index, (convolution, norm) in enumerate(layer.normalised_convolutions()):
            if index and not pooled:
                x = self.add("Relu", x)
            x = self.convolution(x, convolution)
            x = self.add(
                "BatchNormalization", x, norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance, epsilon=norm.epsilon
            )
            if pooled and convolution is not layer.projection:
                # Pooled last, as in a converted file: norm and ReLU become part of the convolution.
                x = self.add("MaxPool", self.add("Relu", x), kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")
        return x

    def convolution(self, x, layer):
        kernel = np.transpose(layer.kernel, (3, 2, 0, 1))
        bias = [layer.bias] if layer.use_bias else []
        return self.add("Conv", x, kernel, *bias, strides=layer.strides, auto_pad="SAME_UPPER")

    def merging(self, layer, x, columns):
        channels = layer.dense.kernel.shape[0]
        rows = self.add("Reshape", x, np.array([-1, 2, columns // 2, channels // 2]))
        tokens = self.add("Reshape", self.add("Transpose", rows, perm=[0, 2, 1, 3]), np.array([-1, channels]))
        x = self.norm(layer.norm, self.add("MatMul", tokens, layer.dense.kernel))
        return self.add("Add", x, np.reshape(layer.positions, (-1, layer.width)))

    def average(self, x, columns, window, width):
        rows = self.add("ReduceMean", self.add("Reshape", x, np.array([-1, window, columns * width])), np.array([1]), keepdims=0)
        return self.add("ReduceMean", self.add("Reshape", rows, np.array([-1, window, width])), np.array([1]), keepdims=0)

    def block(self, block, x, columns):
        u = reduced = self.norm(block.attention_norm, x)
        if block.reduction > 1:
            reduced = self.dense(block.reduction_dense, self.average(u, columns, block.reduction, block.width))
            reduced = self.add("Gelu", self.norm(block.reduction_norm, reduced))
        head_dim = block.width // block.num_heads
        rows = np.array([-1, block.num_heads, head_dim])
        query, key, value = (
            self.add("Transpose", self.add("Reshape", self.dense(layer, source), rows), perm=axes)
            for layer, source, axes in (
                (block.query_dense, u, [1, 0, 2]),
                (block.key_dense, reduced, [1, 2, 0]),
                (block.value_dense, reduced, [1, 0, 2]),
            )
        )
        scores = self.add("MatMul", self.add("Mul", query, np.float32(head_dim**-0.5)), key)
        context = self.add("MatMul", self.add("Softmax", scores, axis=-1), value)
        context = self.add("Reshape", self.add("Transpose", context, perm=[1, 0, 2]), np.array([-1, block.width]))
        x = self.add("Add", x, self.dense(block.output_dense, context))
        hidden = self.add("Gelu", self.dense(block.mlp_dense_1, self.norm(block.mlp_norm, x)))
        return self.add("Add", x, self.dense(block.mlp_dense_2, hidden))

    def norm(self, layer, x):
        return self.add("LayerNormalization", x, layer.gamma, layer.beta, axis=-1, epsilon=layer.epsilon)

    def dense(self, layer, x):
        return self.add("Add", self.add("MatMul", x, layer.kernel), layer.bias)
