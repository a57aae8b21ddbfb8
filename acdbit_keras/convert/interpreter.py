"""Running a ``.tflite`` file, or a flat one (``.acdm``), on batches of images, whichever engine can execute it.

An engine is one entry of `ENGINES`: the package it needs and how to start it. A started engine runs the model's
stored types once per call; `Interpreter` adds what users expect around it: any number of images, float32 in and out.
"""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from acdbit_keras import checks
from acdbit_keras.convert import flat_engine, flatbuffer, metadata, pictures, runtime
from acdbit_keras.typing import Path


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
        from ai_edge_litert.interpreter import Interpreter as LitertInterpreter
        from ai_edge_litert.interpreter import load_delegate

        runtime.version()  # a library that is not ours says so here
        try:
            delegate = load_delegate(runtime.library_path(), {"num_threads": num_threads, "kernels": kernels})
            self._open(LitertInterpreter(model_content=content, num_threads=num_threads, experimental_delegates=[delegate]))
        except (RuntimeError, ValueError) as error:
            # The interpreter's own message runs the delegate's sentence into others.
            raise ValueError(runtime.last_error() or str(error)) from error


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

FLAT = "flat"  # runs flat files, and these run on nothing else


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


class Answer(NamedTuple):
    """One class that a picture may belong to.

    Attributes:
        name: name of the class.
        probability: what the softmax of the logits gives it, in [0, 1].
    """

    name: str
    probability: float


class Interpreter:
    """A ``.tflite`` model, or a flat one (``.acdm``), ready to predict. Threads may share one: their calls wait for each other.

    Args:
        path_or_bytes: path of the file, or its bytes. The model takes one image per run.
        num_threads: threads the engine may use; default 1.
        engine: a name in `ENGINES`, with a variant where it has some ("acdbit:avx2"), or "auto", the default: "litert" where
            the file holds builtin ops only, otherwise "acdbit", or "lce" where that is not compiled. A flat file runs as on a
            microcontroller, with one thread, on the engine "flat".

    Attributes:
        engine: name of the engine in use.
        input_shape: shape of one image, without the batch axis.
        input_dtype: what `predict` takes, "float32" or "uint8" where the file normalises pixel values itself.
        output_names: names of the outputs, in the order `predict` returns them.
        card: what was stored in the file for whoever runs it, a dict; see `acdbit_keras.convert.metadata`.
        classes: names of the classes, `()` if the file does not say.

    Raises:
        FileNotFoundError: no such file.
        ImportError: the engine's package is not installed, or the compiled runtime is missing.
        ValueError: a damaged file, an unknown engine, or a model that does not take one image.

    Example:
        >>> import acdbit_keras as acd
        >>> interpreter = acd.convert.Interpreter("student.tflite")
        >>> interpreter.engine, interpreter.input_shape
        ('acdbit', (8, 8, 1))
        >>> interpreter.predict(images).shape
        (32, 10)
    """

    engine: str
    input_shape: tuple[int, ...]
    input_dtype: Literal["float32", "uint8"]
    output_names: list[str]
    card: dict[str, Any]
    classes: tuple[str, ...]

    def __init__(self, path_or_bytes: Path | bytes | bytearray | memoryview, num_threads: int = 1, engine: str = "auto") -> None:
        content, name = flatbuffer.contents(path_or_bytes)
        self._open(content, name, num_threads, engine)

    def _open(self, content, name, num_threads, engine):
        self._opened = (content, name, num_threads, engine)
        # LiteRT's interpreter fails, or answers wrongly, where two threads call it at once.
        self._lock = threading.Lock()
        if flat_engine.is_flat(content):
            self._open_flat(content, name, engine)
            return
        model = flatbuffer.parse(content, name)
        inputs = flatbuffer.inputs(model)
        if len(inputs) != 1 or not inputs[0].shape or inputs[0].shape[0] != 1:
            shapes = [tensor.shape for tensor in inputs]
            raise ValueError(f"{name} must have one input of shape (1, ...), one image per run; it has {shapes}")
        if inputs[0].scale is None and not inputs[0].dtype.startswith("float") and inputs[0].dtype != "uint8":
            raise ValueError(f"{name} takes unquantized {inputs[0].dtype}, not images; its input is {inputs[0].name!r}")
        try:
            self.card = metadata.card(model)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        self.classes = tuple(self.card.get("classes", ()))
        self._input = inputs[0]
        self._outputs = flatbuffer.outputs(model)
        self.engine = choose_engine(model, engine)
        self.input_shape = inputs[0].shape[1:]
        self.input_dtype = "uint8" if inputs[0].dtype == "uint8" and inputs[0].scale is None else "float32"
        self.output_names = [tensor.name for tensor in self._outputs]
        self._opened = (content, name, num_threads, self.engine)
        self._session = start_engine(self.engine, content, num_threads, name)

    def _open_flat(self, content, name, engine):
        if engine not in ("auto", FLAT):
            raise ValueError(f"{name} is a flat file, which the engine {FLAT!r} runs, not {engine!r}")
        self._session = flat_engine.FlatEngine(content, name)
        try:
            self.card = json.loads(self._session.card or b"{}")
            metadata.check_card(self.card)
        except ValueError as error:
            raise ValueError(f"{name}: its card is damaged: {error}") from error
        self.classes = tuple(self.card.get("classes", ()))
        self.engine, self.output_names = FLAT, ["logits"]
        self.input_shape, self.input_dtype = self._session.input_shape, self._session.input_dtype
        self._input = flatbuffer.Tensor(0, "images", (1, *self.input_shape), self.input_dtype)
        self._outputs = [flatbuffer.Tensor(1, "logits", (1, self._session.outputs), "float32")]

    def __reduce__(self):
        return _reopened, self._opened

    def predict(self, images: np.ndarray) -> np.ndarray | Any:
        """Runs the model on each image.

        Args:
            images: array ``(N, *input_shape)`` of `input_dtype`, N >= 0. Where the model's input is quantized, float32
                values are quantized with its own scale and zero point.

        Returns:
            For one output an array ``(N, *output shape without its batch axis of 1)``, for several a list of them in
            the order of `output_names`. Quantized outputs are returned as float32 real values, others in their
            stored type (bit-packed tensors: int32 words).

        Raises:
            ValueError: wrong shape or type, or a value that is not finite.
        """
        if not isinstance(images, np.ndarray) or images.dtype != self.input_dtype:
            found = f"{images.dtype} array" if isinstance(images, np.ndarray) else type(images).__name__
            hint = "; `classify` takes pictures as they are" if found.startswith("uint8") and "mean" in self.card else ""
            raise ValueError(f"images must be a {self.input_dtype} numpy array, got {found}{hint}")
        if images.ndim != 1 + len(self.input_shape) or images.shape[1:] != self.input_shape:
            wanted = ", ".join(["N", *map(str, self.input_shape)])
            raise ValueError(f"images must have the shape ({wanted}), got {images.shape}")
        finite = np.isfinite(images).reshape(len(images), -1).all(axis=1) if images.size else np.ones(0, bool)
        if not finite.all():
            raise ValueError(f"images must be finite; image {int(np.argmin(finite))} holds NaN or infinity")

        rows = [[] for _ in self._outputs]
        stored = quantize(np.ascontiguousarray(images), self._input)
        for i in range(len(stored)):
            with self._lock:
                values = self._session.run([stored[i : i + 1]])
            for row, tensor, value in zip(rows, self._outputs, values, strict=True):
                value = dequantize(value, tensor)
                row.append(value[0] if tensor.shape[:1] == (1,) else value)
        results = [
            np.stack(row) if row else dequantize(_nothing(tensor), tensor)
            for row, tensor in zip(rows, self._outputs, strict=True)
        ]
        return results[0] if len(results) == 1 else results

    def classify(self, picture: npt.ArrayLike, top: int | None = None) -> list[Answer]:
        """The classes of one picture, most probable first.

        Args:
            picture: uint8 `(height, width)` or `(height, width, channels)` of any size, RGB; its central square is looked at.
            top: number of classes that are returned, at least 1; default: all.

        Returns:
            List of `Answer`.

        Raises:
            ValueError: not a picture, or a file that does not say its classes and, unless it takes pixels, its normalisation.

        Example:
            >>> import acdbit_keras as acd
            >>> [best, *_] = acd.convert.Interpreter("student.tflite").classify(camera.read())
            >>> print(best.name, best.probability)
            1 0.1...
        """
        if top is not None:
            checks.integer("top", top, 1)
        self._check_classifier()
        logits = self.predict(pictures.prepare(picture, self.input_shape, self.card, self.input_dtype)[None])[0]
        probabilities = np.exp(logits - logits.max())
        probabilities /= probabilities.sum()
        best = np.argsort(-probabilities, kind="stable")[:top]
        return [Answer(self.classes[index], float(probabilities[index])) for index in best]

    def _check_classifier(self):
        name, advice = self._opened[1], "convert it from a run's folder, or with to_tflite(..., card=...)"
        missing = [key for key in ("classes", "mean") if key not in self.card and (key, self.input_dtype) != ("mean", "uint8")]
        if missing:
            what = {"classes": "its classes", "mean": "the normalisation of its images"}
            raise ValueError(f"{name} does not hold {' and '.join(what[key] for key in missing)}; {advice}")
        if len(self.input_shape) != 3:
            raise ValueError(f"{name} takes inputs of shape {self.input_shape}, no pictures")
        if "mean" in self.card and len(self.card["mean"]) not in (1, self.input_shape[2]):
            raise ValueError(f"{name} has {self.input_shape[2]} channels, its card normalises {len(self.card['mean'])}")
        sizes = [tensor.shape[1:] for tensor in self._outputs]
        if sizes != [(len(self.classes),)]:
            raise ValueError(f"{name} names {len(self.classes)} classes, but its outputs are of the sizes {sizes}")


def _reopened(content, name, num_threads, engine):
    interpreter = Interpreter.__new__(Interpreter)
    interpreter._open(content, name, num_threads, engine)
    return interpreter


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
