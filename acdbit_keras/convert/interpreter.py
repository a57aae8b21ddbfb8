"""Running a ``.tflite`` file, or a flat one (``.acdm``), on batches of images, whichever engine can execute it.

An engine is one entry of `ENGINES`: the package it needs and how to start it. A started engine runs the model's
stored types once per call; `Interpreter` adds what users expect around it: any number of images, float32 in and out.
"""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from acdbit_keras import checks, lazy
from acdbit_keras.convert import cards, flat_engine, pictures, runtime
from acdbit_keras.convert.tensors import Tensor, contents
from acdbit_keras.typing import Path

# Flat files run where there is no reader of `.tflite` files.
flatbuffer, metadata, ops, rewrite = (
    lazy.module(f"acdbit_keras.convert.{name}") for name in ("flatbuffer", "metadata", "ops", "rewrite")
)


class _LceEngine:
    """Larq Compute Engine's own interpreter.

    The indirect kernel gives the same integers as its two others, is the fastest of them off ARM, and alone with the
    reference takes grouped convolutions. Its XNNPACK option stays off: it gives up on a graph with one dynamic tensor.

    Padded with zeros, a convolution whose kernel reaches over a whole map is computed wrongly by the fast kernels, which correct
    for the padding on one side only; files with such a one run on the reference kernel, which is exact.
    """

    def __init__(self, content, num_threads):
        from larq_compute_engine.tflite.python.interpreter import Interpreter as LceInterpreter

        self._content = content  # the interpreter reads constants in place
        reference = _kernel_beyond_map(flatbuffer.read(content))
        options = dict(use_reference_bconv=reference, use_indirect_bgemm=not reference)
        self._interpreter = LceInterpreter(content, num_threads=num_threads, **options).interpreter

    def run(self, inputs):
        return self._interpreter.predict(list(inputs))


def _kernel_beyond_map(model):
    """Whether a binary convolution padded with zeros has a kernel larger than the map that it goes over."""
    for node in flatbuffer.operators(model):
        if node.name == rewrite.BCONV:
            options, (image, kernel, *_) = rewrite.custom_options(model, node), node.inputs
            reach = (
                (size - 1) * options.get(f"dilation_{side}_factor", 1) + 1
                for size, side in zip(kernel.shape[1:3], ("height", "width"))
            )
            if not options.get("pad_values") and any(size < span for size, span in zip(image.shape[1:3], reach)):
                return True
    return False


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


# Multiply-adds of LiteRT's own ops, in one inference, from which on threads of its own are worth waking: 0.1 ms of a desktop's
# core, 1 ms of a Raspberry Pi's.
_SHARED_PRODUCTS = 6_000_000


class _AcdbitEngine(_LitertEngine):
    """The stock LiteRT interpreter with this package's runtime as its delegate."""

    def __init__(self, content, num_threads, kernels="auto", spin=True, untrusted=False):
        from ai_edge_litert.interpreter import Interpreter as LitertInterpreter
        from ai_edge_litert.interpreter import load_delegate

        runtime.version()  # a library that is not ours says so here
        flags = {"spin": spin, "fixed_shapes": untrusted}
        options = {"num_threads": num_threads, "kernels": kernels} | {key: "true" if on else "false" for key, on in flags.items()}
        # LiteRT has a pool of its own for its own ops, and wakes it for every one of them, however short.
        shared = num_threads > 1 and flatbuffer.products(flatbuffer.parse(content, "the model")) >= _SHARED_PRODUCTS
        try:
            delegate = load_delegate(runtime.library_path(), options)
            interpreter = LitertInterpreter(
                model_content=content, num_threads=num_threads if shared else 1, experimental_delegates=[delegate]
            )
            self._open(interpreter)
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
        own: whether it is this package's runtime; then `start` takes `spin` and `untrusted` as well, see `Interpreter`.
    """

    package: str
    start: Callable
    variants: Callable | None = None
    own: bool = False


ENGINES = {
    "acdbit": Engine("ai-edge-litert", _AcdbitEngine, runtime.kernel_paths, own=True),
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


def start_engine(engine, content, num_threads=1, name="the model", spin=True, untrusted=False):
    """Starts a named engine on a model's bytes, which `flatbuffer.read` must have accepted before.

    Args:
        engine: a name in `ENGINES`, with ":" and a variant where it has some ("acdbit:portable").
        content: bytes of the ``.tflite`` file.
        num_threads: positive int.
        name: what to call the model in messages.
        spin, untrusted: as those of `Interpreter`, which checks the ops.

    Raises:
        ImportError: the engine's package is not installed, or the compiled runtime is missing.
        ValueError: bad `num_threads`, or the engine refuses the model (an op it does not know).
    """
    checks.integer("num_threads", num_threads, 1)
    base, *variant = engine.split(":")
    entry = ENGINES[base]
    try:
        options = {"spin": bool(spin), "untrusted": bool(untrusted)} if entry.own else {}
        return entry.start(content, int(num_threads), *variant, **options)
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
        spin: whether threads of the engine "acdbit" that wait for each other within an inference may spin, for at most 0.1 ms
            before they sleep; default True. False saves energy on a battery and takes longer with several threads.
        untrusted: whether the file may come from anybody; default False. True refuses whatever `ops.check` does not know
            for certain to be safe, and engines that check nothing.

    Attributes:
        engine: name of the engine in use.
        input_names: names of the inputs, as the file's signature has them.
        input_shape: shape of one image, without the batch axis; of several inputs a dict from their names.
        input_dtype: what `predict` takes, "float32", also where the file quantizes; "uint8" where it normalises pixel values
            itself, "int8" where it does so with pixels less 128, or another integer type that the model takes; of several inputs
            a dict from their names.
        output_names: names of the outputs, as the file's signature has them, in the order `predict` returns them.
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
    input_names: list[str]
    input_shape: Any  # of one input, as nearly all files have, tuple[int, ...]
    input_dtype: Any  # of one input str
    output_names: list[str]
    card: dict[str, Any]
    classes: tuple[str, ...]

    def __init__(
        self,
        path_or_bytes: Path | bytes | bytearray | memoryview,
        num_threads: int = 1,
        engine: str = "auto",
        spin: bool = True,
        untrusted: bool = False,
    ) -> None:
        content, name = contents(path_or_bytes)
        self._open(content, name, num_threads, engine, spin, untrusted)

    def _open(self, content, name, num_threads, engine, spin, untrusted):
        self._opened = (content, name, num_threads, engine, spin, untrusted)
        # LiteRT's interpreter fails, or answers wrongly, where two threads call it at once.
        self._lock = threading.Lock()
        if flat_engine.is_flat(content):
            self._open_flat(content, name, engine)
            return
        model = flatbuffer.parse(content, name)
        inputs = flatbuffer.inputs(model)
        if not inputs or not all(tensor.shape and tensor.shape[0] == 1 for tensor in inputs):
            shapes = [tensor.shape for tensor in inputs]
            raise ValueError(f"{name} must have inputs of shape (1, ...), one sample per run; it has {shapes}")
        if strange := [tensor for tensor in inputs if not hasattr(np, tensor.dtype) and tensor.dtype != "bool"]:
            raise ValueError(f"{name} takes {strange[0].dtype}, which numpy does not have; its input is {strange[0].name!r}")
        try:
            self.card = metadata.card(model)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        self.classes = tuple(self.card.get("classes", ()))
        self._inputs = inputs
        self._outputs = flatbuffer.outputs(model)
        self._as_dict = metadata.read(model).get("outputs") == "dict"
        self.engine = choose_engine(model, engine)
        self.input_names, self.output_names = flatbuffer.signature_names(model)
        self._shapes = {key: tensor.shape[1:] for key, tensor in zip(self.input_names, inputs)}
        self._dtypes = {key: _taken(tensor) for key, tensor in zip(self.input_names, inputs)}
        several = len(inputs) > 1
        self.input_shape = self._shapes if several else inputs[0].shape[1:]
        self.input_dtype = self._dtypes if several else _taken(inputs[0])
        self._opened = (content, name, num_threads, self.engine, spin, untrusted)
        ops.check(model, name, untrusted)
        if untrusted and self.engine == "lce":
            raise ValueError(f"{name} is untrusted, and the engine 'lce' checks nothing; 'acdbit' does")
        # Written again, the bytes are a flatbuffer as any reader expects, of the shapes that were checked.
        content = flatbuffer.pack(flatbuffer.with_fixed_shapes(model)) if untrusted else content
        self._session = start_engine(self.engine, content, num_threads, name, spin, untrusted)

    def _open_flat(self, content, name, engine):
        if engine not in ("auto", FLAT):
            raise ValueError(f"{name} is a flat file, which the engine {FLAT!r} runs, not {engine!r}")
        self._session = flat_engine.FlatEngine(content, name)
        try:
            self.card = json.loads(self._session.card or b"{}")
            cards.check(self.card)
        except ValueError as error:
            raise ValueError(f"{name}: its card is damaged: {error}") from error
        self.classes = tuple(self.card.get("classes", ()))
        self.engine, self.output_names = FLAT, ["logits"]
        self.input_shape, self.input_dtype = self._session.input_shape, self._session.input_dtype
        if self.card.get("sequence"):
            self.input_shape = self.input_shape[:1] + self.input_shape[2:]
        self.input_names, self._as_dict = ["images"], False
        self._shapes, self._dtypes = {"images": self.input_shape}, {"images": self.input_dtype}
        self._inputs = [Tensor(0, "images", (1, *self.input_shape), self.input_dtype)]
        self._outputs = [Tensor(1, "logits", (1, self._session.outputs), "float32")]

    def __reduce__(self):
        return _reopened, self._opened

    def predict(self, images: npt.ArrayLike | dict[str, npt.ArrayLike] | Sequence[npt.ArrayLike]) -> np.ndarray | Any:
        """Runs the model on each image.

        Args:
            images: array ``(N, *input_shape)`` of `input_dtype`, N >= 0; floats of any width where that is "float32". Where
                the model's input is quantized, float values are quantized with its own scale and zero point. Of several
                inputs a dict by their names, or a sequence in the order of `input_names`.

        Returns:
            For one output an array ``(N, *output shape without its batch axis of 1)``, for several a list of them in
            the order of `output_names`, or a dict by these names where the Keras model gave one. Quantized outputs are
            returned as float32 real values, others in their stored type (bit-packed tensors: int32 words).

        Raises:
            ValueError: wrong shape or type, a value that is not finite, or inputs that are missing.
        """
        results = self.predict_in_order(images)
        if self._as_dict:
            return dict(zip(self.output_names, results))
        return results[0] if len(results) == 1 else results

    def predict_in_order(self, images: npt.ArrayLike | dict[str, npt.ArrayLike] | Sequence[npt.ArrayLike]) -> list[np.ndarray]:
        """As `predict`, but always a list in the order of `output_names`."""
        given = self._by_name(images)
        stored = [
            quantize(self._checked(name, given[name]), tensor)
            for name, tensor in zip(self.input_names, self._inputs, strict=True)
        ]
        if len({len(array) for array in stored}) > 1:
            sizes = ", ".join(f"{name} {len(array)}" for name, array in zip(self.input_names, stored))
            raise ValueError(f"all inputs must have as many samples, not {sizes}")
        rows = [[] for _ in self._outputs]
        for i in range(len(stored[0])):
            with self._lock:
                values = self._session.run([array[i : i + 1] for array in stored])
            for row, tensor, value in zip(rows, self._outputs, values, strict=True):
                value = dequantize(value, tensor)
                row.append(value[0] if tensor.shape[:1] == (1,) else value)
        return [
            np.stack(row) if row else dequantize(_nothing(tensor), tensor)
            for row, tensor in zip(rows, self._outputs, strict=True)
        ]

    def _by_name(self, images):
        names = self.input_names
        if isinstance(images, dict):
            if set(images) != set(names):
                raise ValueError(f"the inputs must be {', '.join(names)}, not {', '.join(map(str, images)) or 'none'}")
            return images
        if len(names) == 1:
            return {names[0]: images}
        if not isinstance(images, (list, tuple)) or len(images) != len(names):
            raise ValueError(f"the file has the inputs {', '.join(names)}: give a dict of these, or as many in this order")
        return dict(zip(names, images))

    def _checked(self, name, images):
        """One input as an array of the type that is taken, contiguous."""
        what = "images" if len(self.input_names) == 1 else f"the input {name!r}"
        shape, dtype = self._shapes[name], self._dtypes[name]
        if isinstance(images, np.ndarray) and dtype == "float32" and images.dtype.kind == "f":
            images = images.astype(np.float32, copy=False)
        if not isinstance(images, np.ndarray) or images.dtype != dtype:
            found = f"{images.dtype} array" if isinstance(images, np.ndarray) else type(images).__name__
            hint = "; `classify` takes pictures as they are" if found.startswith("uint8") and "mean" in self.card else ""
            raise ValueError(f"{what} must be a {dtype} numpy array, got {found}{hint}")
        if images.ndim != 1 + len(shape) or images.shape[1:] != shape:
            raise ValueError(f"{what} must have the shape ({', '.join(['N', *map(str, shape)])}), got {images.shape}")
        finite = np.isfinite(images).reshape(len(images), -1).all(axis=1) if images.size else np.ones(0, bool)
        if not finite.all():
            raise ValueError(f"{what} must be finite; image {int(np.argmin(finite))} holds NaN or infinity")
        return np.ascontiguousarray(images)

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
        if len(self.input_names) > 1:
            raise ValueError(f"{name} takes {', '.join(self.input_names)}, no single picture")
        needed = ("classes",) if self.input_dtype in pictures.LEAST else ("classes", "mean")
        missing = [key for key in needed if key not in self.card]
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


def _reopened(*opened):
    interpreter = Interpreter.__new__(Interpreter)
    interpreter._open(*opened)
    return interpreter


def _taken(tensor):
    """The type that `predict` takes for an input, a `Tensor`."""
    return "float32" if tensor.scale is not None or tensor.dtype.startswith("float") else tensor.dtype


def quantize(values, tensor):
    """float32 values in the stored type of a `Tensor`: round(x / scale) + zero_point, saturated."""
    stored = np.dtype(tensor.dtype)
    if stored.kind not in "iu" or tensor.scale is None:
        return values.astype(stored, copy=False)
    limits = np.iinfo(stored)
    return np.clip(np.rint(values / tensor.scale) + tensor.zero_point, limits.min, limits.max).astype(stored)


def dequantize(values, tensor):
    """Stored values of a `Tensor` as float32 reals, scale * (q - zero_point); unquantized ones unchanged."""
    if values.dtype.kind not in "iu" or tensor.scale is None:
        return values
    return np.float32(tensor.scale) * (values.astype(np.float32) - np.float32(tensor.zero_point))


def _nothing(tensor):
    shape = tensor.shape[1:] if tensor.shape[:1] == (1,) else tensor.shape
    return np.zeros((0, *shape), tensor.dtype)
