"""Running a ``.tflite`` file on batches of images, whichever engine can execute it.

An engine is one entry of `ENGINES`: the package it needs and how to start it. A started engine runs the model's
stored types once per call; `Interpreter` adds what users expect around it: any number of images, float32 in and out.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from acdbit_keras import checks

from . import flatbuffer, runtime


class _LceEngine:
    """Larq Compute Engine's own interpreter.

    The indirect kernel gives the same integers as its two others, is the fastest of them off ARM, and alone with the
    reference takes grouped convolutions. Its XNNPACK option stays off: it gives up on a graph with one dynamic tensor.
    """

    def __init__(self, content, num_threads):
        from larq_compute_engine.tflite.python.interpreter import Interpreter as LceInterpreter

        self._content = content  # the interpreter reads constants in place
        self._interpreter = LceInterpreter(content, num_threads=num_threads, use_indirect_bgemm=True).interpreter

    def run(self, inputs):
        return self._interpreter.predict(list(inputs))


class _LitertEngine:
    """The stock LiteRT interpreter (builtin ops, XNNPACK by default)."""

    def __init__(self, content, num_threads):
        from ai_edge_litert.interpreter import Interpreter as LitertInterpreter

        self._open(LitertInterpreter(model_content=content, num_threads=num_threads))

    def _open(self, interpreter):
        interpreter.allocate_tensors()
        self._interpreter = interpreter
        self._inputs = [detail["index"] for detail in interpreter.get_input_details()]
        self._outputs = [detail["index"] for detail in interpreter.get_output_details()]

    def run(self, inputs):
        self.feed(inputs)
        self.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]

    def feed(self, inputs):
        """Copies the inputs into the interpreter, where they stay for any number of calls of `invoke`."""
        for index, value in zip(self._inputs, inputs, strict=True):
            self._interpreter.set_tensor(index, value)

    def invoke(self):
        """One inference, without the copies of inputs and outputs."""
        self._interpreter.invoke()


class _AcdbitEngine(_LitertEngine):
    """The stock LiteRT interpreter with this package's runtime as its delegate."""

    def __init__(self, content, num_threads, kernels="auto"):
        StockInterpreter, load_delegate = _stock_interpreter()
        runtime.version()  # a library that is not ours says so here
        try:
            delegate = load_delegate(runtime.library_path(), {"num_threads": num_threads, "kernels": kernels})
            self._open(StockInterpreter(model_content=content, num_threads=num_threads, experimental_delegates=[delegate]))
        except (RuntimeError, ValueError) as error:
            # The interpreter's own message runs the delegate's sentence into others.
            raise ValueError(runtime.last_error() or str(error)) from error


def _stock_interpreter():
    """LiteRT's `Interpreter` and `load_delegate`, of whichever package is installed."""
    try:
        from ai_edge_litert.interpreter import Interpreter, load_delegate
    except ImportError:
        from tflite_runtime.interpreter import Interpreter, load_delegate
    return Interpreter, load_delegate


@dataclasses.dataclass(frozen=True)
class Engine:
    """How to obtain an engine.

    Attributes:
        package: the distribution to install when the import fails.
        start: ``start(content, num_threads)`` -> object whose ``run(inputs)`` takes the input arrays in the model's
            order, shapes and stored types, and returns the outputs likewise. Where `variants` names any, it also takes
            the chosen one as a third argument.
        variants: function that returns the names that may follow the engine's, as in "acdbit:avx2"; None: there are none.
    """

    package: str
    start: Callable
    variants: Callable | None = None


ENGINES = {
    "acdbit": Engine("ai-edge-litert", _AcdbitEngine, runtime.kernel_paths),
    "lce": Engine("larq-compute-engine", _LceEngine),
    "litert": Engine("ai-edge-litert", _LitertEngine),
}


def choose_engine(model, engine="auto"):
    """The engine's name for a model object.

    "auto" takes "litert" where the file holds builtin ops only, otherwise "acdbit" if the compiled runtime is there,
    otherwise "lce".

    Raises:
        ImportError: "auto", the file holds ops of this package, and the compiled runtime is missing.
        ValueError: unknown name.
    """
    if engine == "auto":
        return _choose(flatbuffer.op_counts(model))
    name, separator, variant = str(engine).partition(":")
    checks.choice("engine", name, ["auto", *ENGINES])
    if separator:
        variants = ENGINES[name].variants
        if variants is None or variant not in variants():
            known = [f"{name}:{known}" for known in variants()] if variants else []
            raise ValueError(f"engine {engine!r} does not exist here; there are {[name, *known]}")
    return engine


def _choose(ops):
    own = [name for name in ops if name.startswith("Acd")]
    if not own and not any(name.startswith("Lce") for name in ops):
        return "litert"
    try:
        runtime.library_path()
    except runtime.RuntimeMissingError as error:
        if own:
            raise ImportError(f"{', '.join(own)} runs on the engine 'acdbit' only: {error}") from error
        return "lce"
    return "acdbit"


def start_engine(engine, content, num_threads=1, name="the model"):
    """Starts a named engine on a model's bytes, which `flatbuffer.read` must have accepted before.

    Args:
        engine: a name in `ENGINES`, with ":" and a variant where it has some ("acdbit:portable").
        content: bytes of the ``.tflite`` file.
        num_threads: positive int.
        name: what to call the model in messages.

    Raises:
        ImportError: the engine's package is not installed, or the compiled runtime is missing.
        ValueError: bad `num_threads`, or the engine refuses the model (an op it does not know).
    """
    checks.integer("num_threads", num_threads, 1)
    base, *variant = engine.split(":")
    entry = ENGINES[base]
    try:
        return entry.start(content, int(num_threads), *variant)
    except runtime.RuntimeMissingError:
        raise
    except ImportError as error:
        message = f"engine {engine!r} needs the package {entry.package}: pip install {entry.package}"
        raise ImportError(message) from error
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        held = ", ".join(flatbuffer.op_counts(flatbuffer.read(content)))
        raise ValueError(f"engine {engine!r} cannot run {name}, which holds the ops {held}: {reason}") from error


class Interpreter:
    """A ``.tflite`` model ready to predict.

    Args:
        path_or_bytes: path of the file, or its bytes. The model takes one image per run.
        num_threads: threads the engine may use.
        engine: a name in `ENGINES`, with a variant where it has some ("acdbit:avx2"), or "auto": "litert" where the file
            holds builtin ops only, otherwise "acdbit", or "lce" where that is not compiled.

    Attributes:
        engine: name of the engine in use.
        input_shape: shape of one image, without the batch axis.
        output_names: names of the outputs, in the order `predict` returns them.

    Raises:
        FileNotFoundError: no such file.
        ImportError: the engine's package is not installed, or the compiled runtime is missing.
        ValueError: a damaged file, an unknown engine, or a model that does not take one image.

    Example:
        >>> logits = Interpreter("student.tflite").predict(images)
    """

    def __init__(self, path_or_bytes, num_threads=1, engine="auto"):
        content, name = flatbuffer.contents(path_or_bytes)
        model = flatbuffer.parse(content, name)
        inputs = flatbuffer.inputs(model)
        if len(inputs) != 1 or not inputs[0].shape or inputs[0].shape[0] != 1:
            shapes = [tensor.shape for tensor in inputs]
            raise ValueError(f"{name} must have one input of shape (1, ...), one image per run; it has {shapes}")
        if not inputs[0].dtype.startswith("float") and inputs[0].scale is None:
            raise ValueError(f"{name} takes unquantized {inputs[0].dtype}, not images; its input is {inputs[0].name!r}")
        self._input = inputs[0]
        self._outputs = flatbuffer.outputs(model)
        self.engine = choose_engine(model, engine)
        self.input_shape = inputs[0].shape[1:]
        self.output_names = [tensor.name for tensor in self._outputs]
        self._session = start_engine(self.engine, content, num_threads, name)

    def predict(self, images):
        """Runs the model on each image.

        Args:
            images: float32 array ``(N, *input_shape)``, N >= 0. Where the model's input is quantized, the values are
                quantized with its own scale and zero point.

        Returns:
            For one output an array ``(N, *output shape without its batch axis of 1)``, for several a list of them in
            the order of `output_names`. Quantized outputs are returned as float32 real values, others in their
            stored type (bit-packed tensors: int32 words).

        Raises:
            ValueError: wrong shape or type, or a value that is not finite.
        """
        if not isinstance(images, np.ndarray) or images.dtype != np.float32:
            found = f"{images.dtype} array" if isinstance(images, np.ndarray) else type(images).__name__
            raise ValueError(f"images must be a float32 numpy array, got {found}")
        if images.ndim != 1 + len(self.input_shape) or images.shape[1:] != self.input_shape:
            wanted = ", ".join(["N", *map(str, self.input_shape)])
            raise ValueError(f"images must have the shape ({wanted}), got {images.shape}")
        finite = np.isfinite(images).reshape(len(images), -1).all(axis=1) if images.size else np.ones(0, bool)
        if not finite.all():
            raise ValueError(f"images must be finite; image {int(np.argmin(finite))} holds NaN or infinity")

        rows = [[] for _ in self._outputs]
        stored = quantize(np.ascontiguousarray(images), self._input)
        for i in range(len(stored)):
            for row, tensor, value in zip(rows, self._outputs, self._session.run([stored[i : i + 1]]), strict=True):
                value = dequantize(value, tensor)
                row.append(value[0] if tensor.shape[:1] == (1,) else value)
        results = [
            np.stack(row) if row else dequantize(_nothing(tensor), tensor)
            for row, tensor in zip(rows, self._outputs, strict=True)
        ]
        return results[0] if len(results) == 1 else results


def quantize(values, tensor):
    """float32 values in the stored type of a `flatbuffer.Tensor`: round(x / scale) + zero_point, saturated."""
    stored = np.dtype(tensor.dtype)
    if stored.kind not in "iu" or tensor.scale is None:
        return values.astype(stored, copy=False)
    limits = np.iinfo(stored)
    return np.clip(np.rint(values / tensor.scale) + tensor.zero_point, limits.min, limits.max).astype(stored)


def dequantize(values, tensor):
    """Stored values of a `flatbuffer.Tensor` as float32 reals, scale * (q - zero_point); unquantized ones unchanged."""
    if values.dtype.kind not in "iu" or tensor.scale is None:
        return values
    return np.float32(tensor.scale) * (values.astype(np.float32) - np.float32(tensor.zero_point))


def _nothing(tensor):
    shape = tensor.shape[1:] if tensor.shape[:1] == (1,) else tensor.shape
    return np.zeros((0, *shape), tensor.dtype)
